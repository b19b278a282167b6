import io
import zipfile

import pytest

from backends.models import Backend
from director.client.downloads import names_of
from director.client.groups import parse_group
from jobgroups.models import ChildJob, JobGroup
from tests.api.conftest import error_of, wrong_fields
from tests.harness.farm import in_thread
from tests.outputs.conftest import Gallery, body, file

pytestmark = pytest.mark.django_db(transaction=True)


async def _unzipped(gallery: Gallery, path: str) -> dict[str, bytes]:
    answer = await gallery.get(path)
    assert answer.status_code == 200, answer.content
    assert answer.headers["Content-Type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(await body(answer))) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist()}


async def test_zip_has_every_file(gallery: Gallery) -> None:
    for name in ("a.png", "b.png", "c.mp4"):
        gallery.put(name, name.encode() * 100_000)
    group, _ = await gallery.done(
        {"images": [file("a.png"), file("b.png")]},
        {"images": [file("a.png")], "gifs": [file("c.mp4")]},
    )
    found = await _unzipped(gallery, f"/api/job-groups/{group}/outputs.zip")
    assert found == {
        "7_gpu-1_a.png": b"a.png" * 100_000,
        "7_gpu-1_b.png": b"b.png" * 100_000,
        "8_gpu-1_a.png": b"a.png" * 100_000,
        "8_gpu-1_c.mp4": b"c.mp4" * 100_000,
    }


async def test_zip_of_chosen_files_of_several_groups(gallery: Gallery) -> None:
    for name in ("a.png", "b.png"):
        gallery.put(name, name.encode())
    _, (one,) = await gallery.done({"images": [file("a.png"), file("b.png")]})
    _, (two,) = await gallery.done({"images": [file("a.png")]})
    path = "/api/outputs.zip?files="
    found = await _unzipped(gallery, f"{path}{two}-0,{one}-1,{two}-0")
    assert list(found.values()) == [b"a.png", b"b.png"]
    error_of(await gallery.get(f"{path}{one}-2"), 404, "output_not_found")
    error_of(await gallery.get(f"{path}{one}-0,j_000000000000-0"), 404, "job_not_found")
    many = ",".join(f"{one}-{number}" for number in range(201))
    for wrong in ("x", f"{one}", f"{one}-0,", many):
        assert "one to 200 files" in wrong_fields(await gallery.get(path + wrong))["files"]


async def test_template_names_files_in_the_zip_as_in_the_client(gallery: Gallery) -> None:
    for name in ("a.png", "b.webp"):
        gallery.put(name, name.encode())
    group, jobs = await gallery.done(
        {"gifs": [file("b.webp")], "images": [file("a.png")]}, {"images": [file("a.png")]}
    )
    for number, job in enumerate(jobs):
        own = {
            "variation_json": f'{{"3.cfg": {number + 5}}}',
            "metadata_json": '{"shot": "a/b"}' if number else None,
        }
        await in_thread(ChildJob.objects.filter(pk=job).update)(**own)
    await in_thread(JobGroup.objects.filter(pk=group).update)(
        metadata_json='{"scene": "s", "shot": "x"}'
    )
    path, template = f"/api/job-groups/{group}", "{scene}/{index:02}_{number}_{shot}_{cfg:.1f}.png"
    found = await _unzipped(gallery, f"{path}/outputs.zip?name={template}")
    assert list(found) == ["s/01_1_x_5.0.png", "s/01_2_x_5.0.webp", "s/02_1_a_b_6.0.png"]
    files = parse_group((await gallery.get(path)).json()).files
    for one in (template, "{scene}"):
        in_zip = await _unzipped(gallery, f"{path}/outputs.zip?name={one}")
        assert list(in_zip) == [str(name) for name in names_of(files, one)]
    for wrong, message in (
        ("{nope}", "{index}, {number}, "),
        ("{seed.x}", "plain name"),
        ("x" * 501, "500 characters"),
    ):
        assert (
            message in wrong_fields(await gallery.get(f"{path}/outputs.zip?name={wrong}"))["name"]
        )


async def test_zip_of_starred_jobs(gallery: Gallery) -> None:
    gallery.put("a.png", b"a")
    group, jobs = await gallery.done(*[{"images": [file("a.png")]}] * 2)
    path = f"/api/job-groups/{group}/outputs.zip?which=starred"
    error_of(await gallery.get(path), 404, "no_outputs")
    starred = await gallery.client.put(f"/api/job-groups/{group}/jobs/{jobs[1]}/star")
    assert starred.json() == {"job_id": jobs[1], "starred": True}
    assert list(await _unzipped(gallery, path)) == ["8_gpu-1_a.png"]
    assert "all, starred" in wrong_fields(await gallery.get(path + "s"))["which"]


async def test_missing_file_is_listed(gallery: Gallery) -> None:
    gallery.put("a.png", b"a")
    group, _ = await gallery.done({"images": [file("a.png"), file("gone.png")]})
    found = await _unzipped(gallery, f"/api/job-groups/{group}/outputs.zip")
    assert list(found) == ["7_gpu-1_a.png", "MISSING.txt"]
    assert b"7_gpu-1_gone.png: The output is gone." in found["MISSING.txt"]


async def test_offline_backend_is_requested_once(gallery: Gallery) -> None:
    group, _ = await gallery.done(*[{"images": [file("a.png")]}] * 3)
    await in_thread(Backend.objects.filter(pk="gpu-1").update)(url="http://localhost:9")
    found = await _unzipped(gallery, f"/api/job-groups/{group}/outputs.zip")
    assert list(found) == ["MISSING.txt"]
    lines = found["MISSING.txt"].decode().splitlines()
    assert len(lines) == 3
    assert sum("for an earlier file" in line for line in lines) == 2


async def test_group_without_files_and_unknown_group_are_404(gallery: Gallery) -> None:
    group, _ = await gallery.done({"images": []})
    error_of(await gallery.get(f"/api/job-groups/{group}/outputs.zip"), 404, "no_outputs")
    error_of(await gallery.get("/api/job-groups/jg_none/outputs.zip"), 404, "group_not_found")


async def test_star_can_be_removed_and_is_not_an_event(gallery: Gallery) -> None:
    group, (job,) = await gallery.done({"images": []})
    star = f"/api/job-groups/{group}/jobs/{job}/star"
    before = (await gallery.get(f"/api/job-groups/{group}")).json()
    for _ in range(2):
        assert (await gallery.client.put(star)).status_code == 200
    after = (await gallery.get(f"/api/job-groups/{group}")).json()
    assert [one["starred"] for one in after["child_jobs"]] == [True]
    assert after["seq"] == before["seq"]
    assert (await gallery.client.delete(star)).json() == {"job_id": job, "starred": False}
    assert not await in_thread(ChildJob.objects.filter(starred=True).exists)()
    error_of(await gallery.client.put(star.replace(job, "j_none")), 404, "job_not_found")
    error_of(await gallery.client.put(star.replace(group, "jg_none")), 404, "group_not_found")
