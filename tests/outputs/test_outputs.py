"""Outputs over HTTP, and files that a later job has replaced."""

import contextlib
import dataclasses
import io
import json
import os
import time
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from django.test import AsyncClient

from backends.models import Backend
from backends.services import backend_update
from jobgroups.domain import media_types
from jobgroups.models import Attempt, ChildJob, JobGroup, ReportedFile
from tests.api.conftest import error_of
from tests.harness.farm import Farm, in_thread
from tests.harness.graphs import text_to_image
from tests.outputs.conftest import Gallery, body, fetched, picture

pytestmark = pytest.mark.django_db(transaction=True)


async def test_image_is_served_unchanged_to_get_and_head_and_304_to_a_client_that_has_it(
    gallery: Gallery,
) -> None:
    original = picture()
    url = await gallery.one("a b.png", original)
    answer = await gallery.get(url)
    assert answer.status_code == 200
    assert await body(answer) == original
    assert answer.headers["Content-Type"] == "image/png"
    assert answer.headers["Content-Length"] == str(len(original))
    assert answer.headers["Content-Disposition"].startswith('inline; filename="7_gpu-1_a b.png"')
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "sandbox" in answer.headers["Content-Security-Policy"]
    again = await gallery.get(url, If_None_Match=answer.headers["ETag"])
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["ETag"] == answer.headers["ETag"]
    other = await gallery.get(url, If_Match='"other"')
    assert error_of(other, 412, "precondition_failed")
    assert (await gallery.get(url, If_Match=answer.headers["ETag"])).status_code == 200
    changed = await gallery.get(url, If_None_Match='"other"')
    assert changed.status_code == 200
    assert await body(changed) == original
    head = await gallery.client.head(url)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["Content-Length"] == str(len(original))
    refused = await gallery.client.post(url)
    error_of(refused, 405, "method_not_allowed")
    assert "GET" in refused.headers["Allow"]


async def test_only_reported_files_are_served(gallery: Gallery) -> None:
    gallery.put("secret.png", picture())
    url = await gallery.one("mine.png", picture())
    for path in ("-1", "secret.png", "0x0"):
        assert (await gallery.get(url[:-1] + path)).status_code == 404, path
    error_of(await gallery.get(url[:-1] + "1"), 404, "output_not_found")
    error_of(await gallery.get(f"{url}?filename=secret.png"), 400, "invalid_request")
    group, job = url.split("/")[3], url.split("/")[5]
    error_of(await gallery.get(url.replace(group, "jg_nobody")), 404, "group_not_found")
    error_of(await gallery.get(url.replace(job, "j_nobody")), 404, "job_not_found")


async def test_file_that_a_browser_executes_is_downloaded(gallery: Gallery) -> None:
    evil = b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>"
    answer = await gallery.get(await gallery.one("x.svg", evil))
    assert await body(answer) == evil
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert answer.headers["Content-Disposition"].startswith("attachment;")
    assert "sandbox" in answer.headers["Content-Security-Policy"]
    for name in ("x.html", "x.xhtml", "x.js", "x.xml", "x", "x.png.htm"):
        assert media_types.media_type(name) == "application/octet-stream"
        assert media_types.disposition(name, named_as=name).startswith("attachment;")


@pytest.mark.parametrize(
    ("name", "key", "way"), [("a.mp4", "gifs", "inline"), ("a.glb", "3d", "attachment")]
)
async def test_file_is_saved_with_its_seed_and_backend(
    gallery: Gallery, name: str, key: str, way: str
) -> None:
    url = await gallery.one(name, b"content", key=key)
    answer = await gallery.get(url)
    await body(answer)
    named = f"7_gpu-1_{name}"
    assert answer.headers["Content-Disposition"].startswith(f'{way}; filename="{named}"')
    page = await fetched(url.partition("/jobs/")[0].removeprefix("/api").replace("job-", ""))
    assert f'download="{named}"' in page.content.decode()


@pytest.mark.parametrize("name", ["a.mp4", "a.flac", "a.txt", "a.png", "a.html", "a.svg"])
def test_no_file_may_run_scripts_or_load_other_files(name: str) -> None:
    policy = media_types.guard_headers(name)["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; ")
    assert "sandbox" in policy
    assert "script" not in policy
    # Only what a browser shows in a page that it makes itself keeps its origin.
    assert ("allow-same-origin" in policy) == (name in ("a.mp4", "a.flac", "a.txt"))
    shown = media_types.disposition(name, named_as=name).startswith("inline;")
    assert shown == (name not in ("a.html", "a.svg"))


def test_file_name_cannot_end_its_header() -> None:
    value = media_types.disposition("a.png", named_as='a"; x=\r\nSet-Cookie: b\\é.png')
    assert "\r" not in value
    assert "\n" not in value
    assert value.count('"') == 2
    assert value.isascii()
    assert "%C3%A9" in value


async def test_range_of_a_file_is_served(gallery: Gallery) -> None:
    url = await gallery.one("clip.mp4", bytes(range(200)), key="gifs")
    part = await gallery.get(url, Range="bytes=10-19")
    assert part.status_code == 206
    assert await body(part) == bytes(range(10, 20))
    assert part.headers["Content-Range"] == "bytes 10-19/200"
    error_of(await gallery.get(url, Range="bytes=500-"), 416, "range_not_satisfiable")
    several = await gallery.get(url, Range="bytes=0-1,5-6")
    assert several.status_code == 200
    assert len(await body(several)) == 200


async def test_file_is_read_at_the_present_address_of_its_backend(gallery: Gallery) -> None:
    error_of(await gallery.get(await gallery.one("never-there.png")), 410, "output_gone")
    url = await gallery.one("a.png", picture())
    backend = Backend.objects.filter(pk="gpu-1")
    await in_thread(backend.update)(url="http://localhost:9")
    offline = error_of(await gallery.get(url), 502, "backend_unreachable")
    assert "gpu-1" in offline["detail"]
    await in_thread(backend_update)(backend_id="gpu-1", url=gallery.sim.url)
    assert await body(await gallery.get(url)) == picture()
    await in_thread(backend.delete)()
    error_of(await gallery.get(url), 410, "output_gone")


async def test_file_above_the_limit_is_redirected_to_its_backend(
    gallery: Gallery, settings: Any
) -> None:
    settings.DIRECTOR_PROXY_MAX_BYTES = 100
    url = await gallery.one("big one.mp4", bytes(101), key="gifs")
    answer = await gallery.get(url)
    assert answer.status_code == 307
    port = gallery.sim.url.rsplit(":", 1)[1]
    assert answer.headers["Location"] == f"http://localhost:{port}/view?filename=big%20one.mp4"
    said = error_of(await gallery.get(f"{url}?redirect=no"), 413, "output_too_large")
    assert (said["bytes"], said["backend_id"]) == (101, "gpu-1")
    assert said["url"] == answer.headers["Location"]
    part = await gallery.get(url, Range="bytes=0-49")
    assert (part.status_code, len(await body(part))) == (206, 50)


NAME = "shot_00001_.png"


class Studio:
    """One backend with a folder of its own, a runner, and a client of the Director."""

    def __init__(self, farm: Farm, folder: Path) -> None:
        self.farm = farm
        self.folder = folder
        self.client = AsyncClient(headers={"host": "localhost"})

    async def render(self, seed: int, *, workflow: Any = None, backend_id: str = "gpu-1") -> str:
        group = await self.farm.submit(
            backend_id, base_seed=seed, workflow=workflow or text_to_image(prefix="shot")
        )
        done = await self.farm.finished(group)
        assert done.status == "completed"
        return f"/api/job-groups/{group.id}"

    async def job(self, group: str) -> dict[str, Any]:
        answer: dict[str, Any] = (await fetched(group)).json()
        return answer["child_jobs"][0]

    async def output(self, group: str, query: str = "") -> Any:
        job = await self.job(group)
        return await self.client.get(f"{group}/jobs/{job['job_id']}/outputs/0{query}")

    async def status(self, group: str) -> int:
        """Return the status of the answer for the first file of a group, once it was read."""
        answer = await self.output(group)
        await body(answer)
        return int(answer.status_code)

    async def zipped(self, group: str) -> dict[str, bytes]:
        content = await body(await self.client.get(f"{group}/outputs.zip"))
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return {name: archive.read(name) for name in archive.namelist()}

    def empty(self) -> None:
        """Remove every output, as a user does who needs the space."""
        for one in self.folder.rglob("*.png"):
            one.unlink()


@pytest.fixture
async def studio(transactional_db: None, tmp_path: Path) -> AsyncIterator[Studio]:
    async with contextlib.AsyncExitStack() as stack:
        farm = Farm(stack)
        await farm.backend(output_dir=tmp_path / "comfy", seconds=0.05)
        stack.push_async_callback(farm.stop_all)
        await farm.runner()
        yield Studio(farm, tmp_path / "comfy" / "output")


async def test_a_replaced_file_is_never_served_for_the_earlier_job(studio: Studio) -> None:
    first = await studio.render(1)
    original = await body(await studio.output(first))
    small = (await studio.output(first, "?w=320")).content
    studio.empty()
    second = await studio.render(2)
    images = [(await studio.job(one))["outputs"]["images"] for one in (first, second)]
    assert [one["filename"] for shown in images for one in shown] == [NAME, NAME]

    refused = error_of(await studio.output(first), 410, "output_gone")
    assert refused["reason"] == "replaced"
    assert NAME in refused["detail"]
    shown = (await studio.job(first))["outputs"]["images"][0]
    assert (shown["missing"], shown["reason"]) == (True, "replaced")
    job = await studio.job(first)
    attempts = (await fetched(f"{first}/jobs/{job['job_id']}")).json()["attempts"]
    assert attempts[0]["outputs"]["images"][0]["reason"] == "replaced"
    # The thumbnail that was made before is the only picture left; a new one would be a wrong one.
    assert (await studio.output(first, "?w=320")).content == small
    error_of(await studio.output(first, "?w=640"), 410, "output_gone")
    entries = await studio.zipped(first)
    assert list(entries) == ["MISSING.txt"]
    assert f"1_gpu-1_{NAME}: The output is gone. It was replaced".encode() in entries["MISSING.txt"]

    page = (await fetched(first.replace("/api/job-groups", "/groups"))).content.decode()
    assert f"{NAME} was replaced: a later file on gpu-1 has the same name." in page
    assert "A thumbnail, if there is one, shows the old image" in page
    assert 'class="picture old"' in page
    assert 'download="1_gpu-1' not in page

    new = await studio.output(second)
    assert new.status_code == 200
    assert await body(new) not in (b"", original)
    assert "missing" not in (await studio.job(second))["outputs"]["images"][0]
    assert list(await studio.zipped(second)) == [f"2_gpu-1_{NAME}"]


async def test_a_file_written_after_the_end_of_its_job_is_not_its_own(studio: Studio) -> None:
    group = await studio.render(1)
    attempt = await in_thread(Attempt.objects.get)()
    ended = attempt.backend_ended_at.timestamp()
    for seconds, status in ((1, 200), (4, 410), (1, 410)):
        # Once it is known it stays so: the file that the job wrote does not come back by its date.
        os.utime(studio.folder / NAME, (ended + seconds, ended + seconds))
        assert await studio.status(group) == status
    assert (await studio.job(group))["outputs"]["images"][0]["reason"] == "replaced"
    assert list(await studio.zipped(group)) == ["MISSING.txt"]


async def test_a_zip_marks_the_replaced_files_that_it_meets(studio: Studio) -> None:
    group = await studio.render(1)
    later = (await in_thread(Attempt.objects.get)()).backend_ended_at.timestamp() + 60
    os.utime(studio.folder / NAME, (later, later))
    assert list(await studio.zipped(group)) == ["MISSING.txt"]
    assert (await studio.job(group))["outputs"]["images"][0]["reason"] == "replaced"


async def test_a_file_server_whose_clock_is_ahead_replaces_nothing(
    studio: Studio, tmp_path: Path
) -> None:
    folder = tmp_path / "served"
    await studio.farm.backend("gpu-2", output_dir=folder, file_clock=30.0)
    studio.farm.wake()
    for seed in (1, 2):
        group = await studio.render(seed, backend_id="gpu-2")
        assert await studio.status(group) == 200
    (file,) = (folder / "output").glob("shot_00002_.png")
    late = file.stat().st_mtime + 5
    os.utime(file, (late, late))
    assert await studio.status(group) == 410


async def test_clock_that_changes_while_a_backend_restarts_replaces_nothing(
    studio: Studio, tmp_path: Path
) -> None:
    sim = await studio.farm.backend("gpu-2", output_dir=tmp_path / "served")
    studio.farm.wake()
    assert await studio.status(await studio.render(1, backend_id="gpu-2")) == 200
    sim.config = dataclasses.replace(sim.config, file_clock=30.0)
    await sim.restart()
    for seed in (2, 3):
        assert await studio.status(await studio.render(seed, backend_id="gpu-2")) == 200


async def test_a_cached_node_does_not_show_the_file_that_another_node_wrote(studio: Studio) -> None:
    """ComfyUI's cache names a file that was removed, and then the file that has its name."""
    workflow = {
        "1": {"class_type": "VAEDecode", "inputs": {"samples": ["5", 0], "vae": ["4", 2]}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "shot"}},
        **text_to_image(prefix="shot"),
    }

    async def shown(group: str) -> list[tuple[str, str | None, int]]:
        job = await studio.job(group)
        found = []
        for number, one in enumerate(job["outputs"]["images"]):
            answer = await studio.client.get(f"{group}/jobs/{job['job_id']}/outputs/{number}")
            await body(answer)
            found.append((one["filename"], one.get("reason"), answer.status_code))
        return found

    shared = [await studio.render(seed, workflow=workflow) for seed in (1, 2)]
    assert [await shown(group) for group in shared] == [
        [(NAME, None, 200), ("shot_00002_.png", None, 200)],
        [(NAME, None, 200), ("shot_00003_.png", None, 200)],
    ]
    studio.empty()
    third, fourth = [await studio.render(seed, workflow=workflow) for seed in (3, 4)]
    assert await shown(third) == [(NAME, "replaced", 410), (NAME, None, 200)]
    assert await shown(fourth) == [(NAME, "replaced", 410), ("shot_00002_.png", None, 200)]
    job = await studio.job(third)
    shown_small = []
    for number in (1, 0):
        output = f"{third}/jobs/{job['job_id']}/outputs/{number}"
        shown_small.append((await studio.client.get(f"{output}?w=320")).status_code)
    assert shown_small == [200, 410]
    warnings = (await studio.job(fourth))["warnings"]
    assert warnings == [f"{NAME} was replaced: another file has its name."]


async def test_an_old_row_is_judged_by_both_clocks(gallery: Gallery) -> None:
    """Its attempt has no time by the backend's clock, and no record of its files."""
    url = await gallery.one("a.png", picture())
    await in_thread(ReportedFile.objects.all().delete)()
    child = await in_thread(ChildJob.objects.get)()
    ended = child.completed_at.timestamp()
    for seconds, status in ((30, 200), (90, 410)):
        os.utime(gallery.folder / "a.png", (ended + seconds, ended + seconds))
        answer = await gallery.get(url)
        await body(answer)
        assert answer.status_code == status
    outputs = json.loads((await in_thread(ChildJob.objects.get)()).outputs_json)
    assert outputs["images"][0]["reason"] == "replaced"
    assert (await in_thread(JobGroup.objects.get)()).seq == 4


async def test_a_replaced_file_is_no_redirect_and_has_no_thumbnail(
    gallery: Gallery, settings: Any
) -> None:
    settings.DIRECTOR_PROXY_MAX_BYTES = 10
    for name, query in (("a.png", ""), ("b.png", "?w=160")):
        url = await gallery.one(name, picture())
        os.utime(gallery.folder / name, (time.time() + 90,) * 2)
        error_of(await gallery.get(f"{url}{query}"), 410, "output_gone")
        (child,) = (await fetched(url.partition("/jobs/")[0])).json()["child_jobs"]
        assert child["outputs"]["images"][0]["missing"]
