"""What is not the file of a job is never kept as its picture, and a doubtful copy is replaced by a
proven one.
"""

import datetime as dt
import io
import json
import os
import zipfile
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from django.core.management import call_command
from PIL import Image, PngImagePlugin

from jobgroups.domain.bodies import Body
from jobgroups.domain.outputs import file_digest
from jobgroups.models import Attempt, Capture, ReportedFile
from jobgroups.runner import recaptures
from tests.api.conftest import error_of
from tests.harness.farm import in_thread, until
from tests.outputs.conftest import Gallery, body, fetched, file, picture
from tests.outputs.test_captures import capturing, of_group, settled

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("files_folder")]

PAGE = {"name": "html", "route": "/view", "method": "GET"}
HALF = {"name": "truncate", "route": "/view", "method": "GET"}


def large() -> bytes:
    """A picture of several chunks."""
    buffer = io.BytesIO()
    Image.effect_noise((500, 500), 90).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("fault", "said"),
    [(PAGE, "The body is a web page"), (HALF, "The file is truncated")],
    ids=["page", "half"],
)
async def test_wrong_body_is_tried_again_and_the_card_says_so(
    gallery: Gallery, fault: Any, said: str
) -> None:
    url = await gallery.one("a.png", content := large())
    group, base = url.split("/")[3], "gpu-1 did not send the file."
    gallery.sim.faults.inject(**fault, count=0)
    before, _ = await of_group(group)
    async with capturing():
        await until(in_thread(Capture.objects.filter(tries__gte=2, file=None).exists))
    row = await in_thread(Capture.objects.get)()
    assert row.reason.startswith(f"Backend {base} {said}")
    failed, (shown,) = await of_group(group)
    assert (shown["captured"], shown["capture_warning"]) == (
        False,
        f"a.png is not captured: {row.reason}",
    )
    assert failed["revision"] > before["revision"]
    assert base in (await fetched(f"/groups/{group}")).content.decode()
    gallery.sim.faults.clear()
    await in_thread(Capture.objects.update)(due_at=row.created_at)
    (row,) = await settled()
    assert row.file is not None
    assert (row.file.blake3, row.reason) == (blake3(content).hexdigest(), "")
    assert (await of_group(group))[1][0]["capture_warning"] is None


async def test_wrong_body_delays_no_other_file_of_its_backend(gallery: Gallery) -> None:
    gallery.put("a.png", picture()[:-9])
    gallery.put("b.png", picture())
    await gallery.done({"images": [file("a.png"), file("b.png")]})
    async with capturing():
        await until(in_thread(Capture.objects.filter(number=1, file__isnull=False).exists))
        await until(in_thread(Capture.objects.filter(number=0, tries__gte=3).exists))


async def test_file_without_a_length_is_kept_with_a_warning_if_nothing_proves_its_end(
    gallery: Gallery,
) -> None:
    """And nothing proves that it was not written meanwhile."""
    contents = {"a.png": picture(), "b.gif": picture("GIF"), "c.txt": b""}
    for name, content in contents.items():
        gallery.put(name, content)
    group, _ = await gallery.done({"images": [file(name) for name in contents]})
    # Neither the body nor its HEAD has a length, a date or a tag.
    gallery.sim.faults.inject("truncate", route="/view", part=1.0, count=0)
    assert all(one.file for one in await settled())
    end = "Its end may be missing: the backend did not send its length."
    other = "Another prompt may have written to it meanwhile: the backend did not send its date."
    _, shown = await of_group(group)
    warnings = [f"a.png: {other}", f"b.gif: {end} {other}", f"c.txt: {end} {other}"]
    assert [one["capture_warning"] for one in shown] == warnings


async def test_file_without_a_length_is_compared_with_that_of_its_head(gallery: Gallery) -> None:
    await gallery.one("a.gif", content := picture("GIF"))
    gallery.sim.faults.inject(**HALF)
    (row,) = await settled()
    assert (row.tries, row.reason) == (1, "")
    assert row.file is not None
    assert row.file.size_bytes == len(content)


async def test_file_of_another_kind_is_kept_with_a_warning(gallery: Gallery) -> None:
    url = await gallery.one("a.png", picture("JPEG"))
    (row,) = await settled()
    assert row.file is not None
    warning = "a.png: Its content is image/jpeg, not image/png as its name says."
    _, (shown,) = await of_group(url.split("/")[3])
    assert shown["capture_warning"] == warning


async def test_proxied_file_and_thumbnail_are_no_page_and_no_half(gallery: Gallery) -> None:
    url = await gallery.one("a.png", content := large())
    for path, status, code in (
        (url, 502, "backend_unreachable"),
        (f"{url}?w=160", 404, "no_thumbnail"),
    ):
        gallery.sim.faults.inject(**PAGE)
        assert "a web page" in error_of(await gallery.get(path), status, code)["detail"]
    gallery.sim.faults.inject(**HALF)
    error_of(await gallery.get(f"{url}?w=160"), 404, "no_thumbnail")
    gallery.sim.faults.inject(**HALF)
    answer = await gallery.get(url)
    with pytest.raises(Exception, match="truncated"):
        await body(answer)
    assert await body(await gallery.get(url)) == content
    assert (await gallery.get(f"{url}?w=160")).status_code == 200


async def test_truncated_file_is_sent_short_of_its_length(gallery: Gallery) -> None:
    """The client notices it, although the backend's length is that of the half."""
    url = await gallery.one("a.png", large()[:-20])
    answer = await gallery.get(url)
    received = bytearray()
    with pytest.raises(Exception, match="truncated"):
        async for chunk in answer.streaming_content:
            received += chunk
    assert len(received) < int(answer.headers["Content-Length"])


@pytest.mark.parametrize(
    "wrong", [large()[:-20], picture()[:-20], b"<html>"], ids=["large", "small", "page"]
)
async def test_zip_lists_a_wrong_body_and_has_no_part_of_it(gallery: Gallery, wrong: bytes) -> None:
    gallery.put("a.png", wrong)
    gallery.put("b.png", picture())
    group, _ = await gallery.done({"images": [file("a.png"), file("b.png")]})
    answer = await gallery.get(f"/api/job-groups/{group}/outputs.zip")
    with zipfile.ZipFile(io.BytesIO(await body(answer))) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["7_gpu-1_b.png", "MISSING.txt"]
        assert b"7_gpu-1_a.png: Backend gpu-1 did not send the file." in archive.read("MISSING.txt")


def marked(job: str, group: str) -> bytes:
    text, buffer = PngImagePlugin.PngInfo(), io.BytesIO()
    text.add_text("director", json.dumps({"group": group, "job": job, "attempt": 1}))
    Image.new("RGB", (64, 48), "teal").save(buffer, "PNG", pnginfo=text)
    return buffer.getvalue()


async def _captured_as(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes
) -> Capture:
    """Capture a job's file as an earlier release did, which judged nothing."""
    url = await gallery.one(name, content)
    with monkeypatch.context() as patch:
        patch.setattr(Body, "add", lambda *_: None)
        patch.setattr(Body, "end", lambda *_: None)
        (row,) = await settled()
    assert row.file is not None
    assert (row.file.size_bytes, url.split("/")[5]) == (len(content), row.child_id)
    return row


async def _again(*group: str) -> dict[str, int]:
    out = StringIO()
    await in_thread(call_command)("capture", *group, again=True, json=True, stdout=out)
    found: dict[str, int] = json.loads(out.getvalue())
    return found


async def _dated(gallery: Gallery, name: str, *, after_end: float = 0.0) -> None:
    """Date a file, and its job's end by the clock of its backend."""
    attempt = await in_thread(Attempt.objects.get)()
    ended = attempt.ended_at or dt.datetime.now(dt.UTC)
    await in_thread(Attempt.objects.update)(backend_ended_at=ended)
    os.utime(gallery.folder / name, (ended.timestamp() + after_end,) * 2)


@pytest.mark.parametrize(
    "wrong", [b"<html>Please sign in</html>", picture()[:-40]], ids=["page", "half"]
)
async def test_wrong_copy_is_replaced_by_the_marked_file_of_its_job(
    gallery: Gallery, files_folder: Path, monkeypatch: pytest.MonkeyPatch, wrong: bytes
) -> None:
    row = await _captured_as(gallery, monkeypatch, "a.png", wrong)
    group = await in_thread(lambda: row.child.group_id)()
    before, _ = await of_group(group)
    gallery.put("a.png", good := marked(row.child_id, group))
    await _dated(gallery, "a.png")
    assert await _again(group) == {"replaced": 1, "kept": 0}
    after, (shown,) = await of_group(group)
    assert (shown["blake3"], shown["width"]) == (blake3(good).hexdigest(), 64)
    assert shown["capture_warning"] is None
    assert after["revision"] > before["revision"]
    assert await body(await gallery.get(shown["file_url"])) == good
    assert await _again() == {"replaced": 0, "kept": 0}


async def test_wrong_copy_is_replaced_by_a_file_that_its_job_wrote_last(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = await _captured_as(gallery, monkeypatch, "a.webp", b"<html>")
    gallery.put("a.webp", picture("WEBP"))
    await _dated(gallery, "a.webp")
    await in_thread(ReportedFile.objects.all().delete)()
    assert await _again() == {"replaced": 0, "kept": 1}
    attempt, digest = await in_thread(Attempt.objects.get)(), file_digest("gpu-1", file("a.webp"))
    await in_thread(ReportedFile.objects.create)(attempt=attempt, digest=digest, executed=True)
    assert await _again() == {"replaced": 1, "kept": 0}
    row = await in_thread(Capture.objects.select_related("file").get)(pk=row.pk)
    assert row.file is not None
    assert row.file.blake3 == blake3(picture("WEBP")).hexdigest()


UNPROVEN = {
    "another job's mark": (marked("j_5b8f0a6c21de", "jg_0c1d9a77e3f2"), 0.0, "Nothing proves"),
    "younger than the job": (picture(), 90.0, "It was replaced"),
    "a page again": (b"<html>Sign in again</html>", 0.0, "a web page"),
    "the same content": (None, 0.0, "image/jpeg, not image/png as its name says."),
}


@pytest.mark.parametrize(("content", "after_end", "said"), UNPROVEN.values(), ids=UNPROVEN.keys())
async def test_doubtful_copy_stays_with_a_warning_unless_a_good_one_is_proven(
    gallery: Gallery,
    monkeypatch: pytest.MonkeyPatch,
    content: bytes | None,
    after_end: float,
    said: str,
) -> None:
    old = picture("JPEG")
    row = await _captured_as(gallery, monkeypatch, "a.png", old)
    if content is not None:
        gallery.put("a.png", content)
    await _dated(gallery, "a.png", after_end=after_end)
    assert await _again() == {"replaced": 0, "kept": 1}
    _, (shown,) = await of_group(await in_thread(lambda: row.child.group_id)())
    assert (shown["blake3"], shown.get("missing")) == (blake3(old).hexdigest(), None)
    warning = shown["capture_warning"]
    assert warning.startswith(
        "a.png: Its content is image/jpeg, not image/png as its name says. The copy stays"
    )
    assert said in warning


@pytest.mark.parametrize("left", [None, 0, 100])
async def test_copy_that_the_storage_lost_is_read_again(
    gallery: Gallery, files_folder: Path, left: int | None
) -> None:
    await gallery.one("a.png", picture())
    (row,) = await settled()
    path = files_folder / row.file.stored_name
    path.unlink() if left is None else path.write_bytes(picture()[:left])
    assert await _again() == {"replaced": 1, "kept": 0}
    assert path.read_bytes() == picture()
    assert await _again() == {"replaced": 0, "kept": 0}


async def test_good_copies_are_not_read_again(gallery: Gallery) -> None:
    await gallery.one("a.png", picture())
    await settled()
    requests = len(gallery.sim.audit_log.entries)
    gallery.sim.faults.inject("reset_http", route="/view", count=0)
    assert await _again() == {"replaced": 0, "kept": 0}
    assert len(gallery.sim.audit_log.entries) == requests


async def test_reading_again_ends_at_a_backend_that_sends_a_byte_from_time_to_time(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recaptures, "_COPIED_WITHIN", 0.2)
    row = await _captured_as(gallery, monkeypatch, "a.png", b"<html>")
    gallery.sim.faults.inject("trickle", route="/view", bytes_per_second=20.0)
    assert await _again() == {"replaced": 0, "kept": 1}
    await in_thread(row.refresh_from_db)()
    assert row.reason.endswith("Its backend did not send the whole file within 0.2 s.")
