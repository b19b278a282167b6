import io
import json
import subprocess
import sys
import time

import pytest
from PIL import Image

from backends.models import Backend
from jobgroups.api.views import outputs as sheet_view
from jobgroups.domain.sheet import axes_of, pages
from jobgroups.models import ChildJob, JobGroup
from tests.api.conftest import error_of, wrong_fields
from tests.harness.farm import in_thread
from tests.harness.processes import ROOT
from tests.outputs.conftest import Gallery, file, picture

db = pytest.mark.django_db(transaction=True)

_SWEEP = {
    "mode": "product",
    "axes": [
        {"input": "3.cfg", "values": [5, 7]},
        {"input": "4.ckpt_name", "values": ["a.ckpt", "日本", "c" * 300]},
    ],
}
_COLORS = {"red": (255, 0, 0), "lime": (0, 255, 0), "blue": (0, 0, 255), "black": (0, 0, 0)}
_FAILED, _EMPTY = (254, 226, 226), (228, 228, 231)


async def _group(gallery: Gallery) -> str:
    """Return a group with four jobs of one colour each, one that failed, and one that is queued."""
    for name in _COLORS:
        gallery.put(f"{name}.png", picture(size=(640, 640), color=name))
    made = [{"images": [file(f"{name}.png")]} for name in _COLORS]
    group, _ = await gallery.done(*made[:2], None, *made[2:], queued=1)
    return group


def _close(found: object, color: tuple[int, int, int]) -> bool:
    assert isinstance(found, tuple)
    return all(abs(one - other) < 16 for one, other in zip(found, color, strict=True))


def _middles(content: bytes, cells: dict[int, tuple[int, int]]) -> list[object]:
    with Image.open(io.BytesIO(content), formats=["WEBP"]) as image:
        return [image.getpixel((x + 160, y + 130)) for _, (x, y) in sorted(cells.items())]


@db
@pytest.mark.parametrize("axes", [None, "", "ckpt_name,3.cfg"])
async def test_sheet_has_each_picture_in_its_cell(gallery: Gallery, axes: str | None) -> None:
    group = await _group(gallery)
    sweep = None if axes is None else _SWEEP
    await in_thread(JobGroup.objects.filter(pk=group).update)(
        sweep_json=json.dumps(sweep) if sweep else None
    )
    await in_thread(ChildJob.objects.filter(group=group).update)(
        variation_json='{"3.cfg": 5, "4": {"text": "ä日\\n"}}'
    )
    path = f"/api/job-groups/{group}/sheet.webp" + (f"?axes={axes}" if axes else "")
    answer = await gallery.get(path)
    assert answer.status_code == 200, answer.content
    assert (answer.headers["Content-Type"], answer.headers["X-Sheet-Pages"]) == ("image/webp", "1")
    [page] = pages(6, axes_of(sweep, axes.split(",") if axes else ()))
    wanted = [*list(_COLORS.values())[:2], _FAILED, *list(_COLORS.values())[2:], _EMPTY]
    found = _middles(answer.content, page.cells)
    assert all(map(_close, found, wanted)), found
    tag = answer.headers["ETag"]
    assert (await gallery.get(path, If_None_Match=tag)).status_code == 304
    job = await in_thread(ChildJob.objects.filter(group=group).first)()
    assert job is not None
    await gallery.client.put(f"/api/job-groups/{group}/jobs/{job.pk}/star")
    assert (await gallery.get(path, If_None_Match=tag)).status_code == 200


@db
async def test_dead_backend_costs_little_time_and_no_kept_picture(gallery: Gallery) -> None:
    group = await _group(gallery)
    path = f"/api/job-groups/{group}/sheet.webp"
    [page] = pages(6, [])
    jobs = await in_thread(
        lambda: list(ChildJob.objects.filter(group=group).order_by("position"))
    )()
    await gallery.get(f"/api/job-groups/{group}/jobs/{jobs[1].pk}/outputs/0?w=320")
    await in_thread(Backend.objects.filter(pk="gpu-1").update)(url="http://localhost:9")
    began = time.monotonic()
    answer = await gallery.get(path)
    assert time.monotonic() - began < 10
    found = _middles(answer.content, page.cells)
    assert all(map(_close, found, [_EMPTY, _COLORS["lime"], _FAILED, _EMPTY, _EMPTY, _EMPTY])), (
        found
    )
    assert "ETag" not in answer.headers


@db
async def test_wrong_axes_and_pages_are_refused(gallery: Gallery) -> None:
    group, _ = await gallery.done(queued=2)
    path = f"/api/job-groups/{group}/sheet.webp"
    assert "it has none" in wrong_fields(await gallery.get(f"{path}?axes=3.cfg"))["axes"]
    assert "has 1 page" in wrong_fields(await gallery.get(f"{path}?page=2"))["page"]
    assert wrong_fields(await gallery.get(f"{path}?page=0")).keys() == {"page"}
    sweep = {"mode": "product", "axes": [{"input": "3.cfg", "values": [5, 7]}]}
    await in_thread(JobGroup.objects.filter(pk=group).update)(sweep_json=json.dumps(sweep))
    assert (
        "its axes are 3.cfg" in wrong_fields(await gallery.get(f"{path}?axes=3.cfg,seed"))["axes"]
    )
    assert (await gallery.get(f"{path}?axes=3.cfg")).status_code == 200
    error_of(await gallery.get("/api/job-groups/jg_none/sheet.webp"), 404, "group_not_found")


@db
async def test_request_waits_for_other_sheets_within_a_bound(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    group, _ = await gallery.done(queued=1)
    monkeypatch.setattr(sheet_view, "_SLOT_WITHIN", 0.2)
    async with sheet_view._slots, sheet_view._slots:
        error_of(await gallery.get(f"/api/job-groups/{group}/sheet.webp"), 429, "too_many_sheets")
    assert (await gallery.get(f"/api/job-groups/{group}/sheet.webp")).status_code == 200


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="the peak of the memory is read by getrusage")
def test_sheet_of_200_jobs_takes_bounded_time_and_memory() -> None:
    command = [sys.executable, "-m", "tests.outputs.measure_sheet"]
    ended = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert found["memory"] <= 256, found
    # Decoding the thumbnails and encoding the sheet is what cannot be saved.
    assert found["seconds"] <= 2.5 * found["codec"], found
