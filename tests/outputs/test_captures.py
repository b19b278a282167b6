"""Outputs of completed jobs are copied into the storage, and served from there."""

import asyncio
import contextlib
import datetime as dt
import io
import logging
import os
import struct
import threading
import time
import zipfile
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from blake3 import blake3
from django.db import OperationalError
from PIL import Image
from pytest_django import Settings

from backends.models import Backend
from backends.simulator import Simulator
from backends.simulator.media import encode_webm
from jobgroups.api.answers import answers
from jobgroups.database import threads
from jobgroups.domain.clock import now
from jobgroups.domain.newest import Newest
from jobgroups.models import Capture, ChildJob, FilesProcess
from jobgroups.outputs import download
from jobgroups.outputs.media_facts import media_facts
from jobgroups.runner import captures as capturer
from jobgroups.runner.captures import Capturer
from jobgroups.runner.files import FilesService, OutOfMemory
from jobgroups.runner.intervals import Intervals
from jobgroups.services import captures, stored_files
from tests.api.conftest import error_of
from tests.harness import factories
from tests.harness.farm import in_thread, until
from tests.outputs.conftest import Gallery, body, fetched, file, picture

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("files_folder")]


@contextlib.asynccontextmanager
async def capturing(runner: str | None = "runner") -> AsyncIterator[None]:
    copies = Capturer(runner=runner, intervals=Intervals.scaled(0.01))
    running = asyncio.get_running_loop().create_task(copies.run())
    yield
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    await asyncio.to_thread(copies.close)


async def settled() -> list[Capture]:
    """Copy what is due until no capture is pending, and return all."""
    async with capturing():
        await until(in_thread(lambda: not Capture.objects.filter(due_at__isnull=False).exists()))
    return await in_thread(lambda: list(Capture.objects.select_related("file").order_by("pk")))()


def content_of(folder: Path) -> list[Path]:
    return [one for one in folder.rglob("*") if one.is_file() and one.suffix != ".lock"]


async def of_group(group: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return a group and the files of its first job."""
    found = (await fetched(f"/api/job-groups/{group}")).json()
    outputs = found["child_jobs"][0]["outputs"]
    return found, [one for key in outputs if isinstance(outputs[key], list) for one in outputs[key]]


async def test_outputs_outlive_their_backend(gallery: Gallery, files_folder: Path) -> None:
    image, page = picture(size=(640, 480)), b"<script>alert(1)</script>"
    gallery.put("a.png", image)
    gallery.put("x.html", page)
    group, (job, _) = await gallery.done({"text": [file("x.html")], "images": [file("a.png")]}, {})
    before, shown = await of_group(group)
    base = f"/api/job-groups/{group}/jobs/{job}/outputs"
    assert [(one["captured"], one["blake3"], one["file_url"]) for one in shown] == [
        (False, None, f"{base}/0"),
        (False, None, f"{base}/1"),
    ]
    assert all(one.file for one in await settled())
    await in_thread(Backend.objects.all().delete)()
    (gallery.folder / "a.png").unlink()

    after, (of_image, of_page) = await of_group(group)
    assert after["seq"] == before["seq"]
    assert after["revision"] > before["revision"]
    assert of_image == {
        **file("a.png"),
        "url": f"{gallery.sim.url}/view?filename=a.png",
        "node_id": "9",
        "file_url": f"{base}/0",
        "thumbnail_url": f"{base}/0?w=320",
        "captured": True,
        "blake3": blake3(image).hexdigest(),
        "sha256": sha256(image).hexdigest(),
        "size_bytes": len(image),
        "width": 640,
        "height": 480,
        "duration": None,
        "capture_warning": None,
    }
    assert (of_page["captured"], of_page["thumbnail_url"], of_page["size_bytes"]) == (
        True,
        None,
        len(page),
    )
    answer = await gallery.get(of_image["file_url"], Range="bytes=1-3")
    assert (answer.status_code, await body(answer)) == (206, image[1:4])
    again = await gallery.get(of_image["file_url"], If_None_Match=answer.headers["ETag"])
    assert again.status_code == 304
    assert answer.headers["Content-Disposition"].startswith('inline; filename="7_gpu-1_a.png"')
    served = await gallery.get(of_page["file_url"])
    assert (await body(served), served.headers["Content-Type"]) == (
        page,
        "application/octet-stream",
    )
    assert served.headers["Content-Disposition"].startswith("attachment;")
    assert (await gallery.get(of_image["thumbnail_url"])).status_code == 200
    with zipfile.ZipFile(
        io.BytesIO(await body(await gallery.get(f"/api/job-groups/{group}/outputs.zip")))
    ) as found:
        assert {name: found.read(name) for name in found.namelist()} == {
            "7_gpu-1_a.png": image,
            "7_gpu-1_x.html": page,
        }
    # The events are unchanged: they were stored before.
    events = (await fetched(f"/api/job-groups/{group}/events")).json()["events"]
    assert not any("captured" in str(one) for one in events)
    assert len(content_of(files_folder)) == 2


@pytest.mark.ffmpeg
async def test_captured_video_has_its_dimensions_and_a_poster(
    gallery: Gallery, files_folder: Path, settings: Any
) -> None:
    gallery.put("a.webm", encode_webm([Image.new("RGB", (64, 32), "red")] * 4, 2))
    gallery.put("a.glb", bytes(2_048))
    group, _ = await gallery.done({"images": [file("a.webm")], "3d": [file("a.glb")]})
    assert all(one.file for one in await settled())
    await in_thread(Backend.objects.all().delete)()
    _, (video, mesh) = await of_group(group)
    assert (video["width"], video["height"], video["duration"]) == (64, 32, 2.0)
    assert (await gallery.get(video["thumbnail_url"])).status_code == 200
    assert mesh["thumbnail_url"] is None
    card = (await fetched(f"/groups/{group}")).content.decode()
    assert "<span>a.webm</span><small>0:02</small>" in card
    assert "a.glb · 2.0\xa0KB</a>" in card
    settings.FFMPEG = None
    answers._kept.clear()  # as in a process that starts without ffmpeg
    _, (video, _) = await of_group(group)
    assert video["thumbnail_url"] is None


async def test_file_of_a_backend_that_is_away_is_copied_when_it_is_back(
    gallery: Gallery, files_folder: Path
) -> None:
    await gallery.one("a.png", picture())
    gallery.sim.faults.inject("reset_http", route="/view", count=2)
    gallery.sim.faults.inject("cut", route="/view", count=2)
    (row,) = await settled()
    assert row.file is not None
    assert row.tries == 4
    assert len(content_of(files_folder)) == 1


async def test_slow_and_silent_backends_delay_no_capture_of_another(
    gallery: Gallery, files_folder: Path
) -> None:
    faults = ({"name": "slow_view"}, {"name": "hang_http", "route": "/view"}) * 3
    async with contextlib.AsyncExitStack() as stack:
        sims = [
            await stack.enter_async_context(Simulator(name=f"bad-{number}"))
            for number in range(len(faults))
        ]
        for sim, fault in zip(sims, faults, strict=True):
            sim.faults.inject(**fault, count=0)
            bad = Gallery(sim, sim.output_folder, backend_id=sim.name)
            await in_thread(factories.backend)(
                sim.name, url=sim.url.replace("127.0.0.1", "localhost")
            )
            bad.put("a.png", picture())
            await bad.done(*[{"images": [file("a.png")]}] * 3)
        async with capturing():
            for sim in sims:
                await sim.wait_for("fault")
            for name in ("a.png", "b.png", "c.png"):
                await gallery.one(name, picture())
            stored = Capture.objects.filter(file__isnull=False).values_list("backend_id", flat=True)
            await until(in_thread(lambda: list(stored.all()) == ["gpu-1"] * 3))


async def test_invalid_capture_delays_no_capture_of_another_backend(
    gallery: Gallery, files_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await in_thread(factories.backend)("gpu-2", url=gallery.sim.url)
    bad = replace(gallery, backend_id="gpu-2")
    await bad.one("bad.png", picture())
    # No release wrote such a row.
    await in_thread(Capture.objects.update)(number=7)
    await gallery.one("a.png", picture())
    async with capturing():
        await until(in_thread(Capture.objects.filter(backend="gpu-1", file__isnull=False).exists))
    assert any("unexpected error" in one.message for one in caplog.records)


async def test_slow_file_delays_no_other_file_of_its_backend(
    gallery: Gallery, files_folder: Path
) -> None:
    await gallery.one("slow.png", picture())
    gallery.sim.faults.inject("slow_view")
    async with capturing():
        await gallery.sim.wait_for("fault", name="slow_view")
        gallery.put("a.png", picture())
        await gallery.done(*[{"images": [file("a.png")]}] * 40)
        await until(in_thread(lambda: Capture.objects.filter(file__isnull=False).count() == 40))


@pytest.mark.parametrize("fault", ["slow_view", "endless"])
async def test_file_that_trickles_or_never_ends_is_tried_again(
    gallery: Gallery, files_folder: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setattr(download, "_TIMEOUTS", replace(download._TIMEOUTS, slow_s=0.3))
    monkeypatch.setattr(capturer, "_MOST_UNKNOWN", 2**20)
    # Not judged by its content.
    await gallery.one("a.bin", picture())
    gallery.sim.faults.inject(fault, **({"route": "/view"} if fault == "endless" else {}))
    (row,) = await settled()
    assert (row.tries, row.file is not None, len(content_of(files_folder))) == (1, True, 1)


def test_files_that_are_copied_at_once_share_a_limited_buffer() -> None:
    copies = Capturer(runner="runner", intervals=Intervals())
    copies.close()
    assert copies._chunk() == capturer._CHUNK
    for backend in range(200):
        copies._sources[str(backend)] = capturer._Source(str(backend), tasks=2)
    assert 400 * copies._chunk() <= capturer._BUFFERED


async def test_captures_wait_while_the_disk_is_almost_full(
    gallery: Gallery, files_folder: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    await gallery.one("a.png", picture() + bytes(2**20))
    free, asked = [settings.DIRECTOR_MIN_FREE_BYTES - 1], []

    def free_bytes() -> int:
        asked.append(1)
        return free[0]

    monkeypatch.setattr(stored_files, "free_bytes", free_bytes)
    async with capturing():
        await until(lambda: len(asked) > 3)
        assert await in_thread(Capture.objects.filter(due_at__isnull=False, tries=0).count)() == 1
        # There is space, but not for this file.
        free[0] += 2**20
        await until(in_thread(Capture.objects.filter(reason__contains="MIN_FREE_BYTES").exists))
        assert content_of(files_folder) == []
        free[0] += 2**20
        await until(in_thread(Capture.objects.filter(file__isnull=False).exists))


async def test_file_that_is_gone_is_given_up(gallery: Gallery, files_folder: Path) -> None:
    url = await gallery.one("never-there.png")
    (row,) = await settled()
    assert (row.file, row.reason) == (
        None,
        "The output is gone. Its backend does not have the file any more.",
    )
    _, (shown,) = await of_group(url.split("/")[3])
    assert shown["captured"] is False
    gallery.put("never-there.png", picture())
    ended = (await in_thread(ChildJob.objects.get)()).completed_at.timestamp()
    os.utime(gallery.folder / "never-there.png", (ended, ended))
    # As `director capture` does it.
    assert await in_thread(captures.captures_request)() == 1
    (row,) = await settled()
    assert row.file is not None
    assert content_of(files_folder)


async def test_file_of_a_later_job_is_never_copied(gallery: Gallery, files_folder: Path) -> None:
    url = await gallery.one("a.png", picture())
    os.utime(gallery.folder / "a.png", (time.time() + 90,) * 2)
    (row,) = await settled()
    assert row.file is None
    assert "It was replaced" in row.reason
    _, (shown,) = await of_group(url.split("/")[3])
    assert (shown["captured"], shown["reason"]) == (False, "replaced")
    assert content_of(files_folder) == []


async def test_file_that_changes_while_it_is_read_is_not_copied(
    gallery: Gallery, files_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await gallery.one("a.png", picture())
    write = stored_files.IncomingFile.write

    def replaced(incoming: Any, chunk: bytes) -> None:
        gallery.put("a.png", picture(color="red"))
        write(incoming, chunk)

    monkeypatch.setattr(stored_files.IncomingFile, "write", replaced)
    (row,) = await settled()
    assert row.file is None
    assert content_of(files_folder) == []


async def test_file_that_is_created_when_the_runner_stops_is_removed(
    gallery: Gallery, files_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await gallery.one("a.png", picture())
    is_created, is_stopped = threading.Event(), threading.Event()

    def write(*_: Any) -> None:
        is_created.set()
        is_stopped.wait(60.0)

    monkeypatch.setattr(stored_files.IncomingFile, "write", write)
    capturer = Capturer(runner="runner", intervals=Intervals.scaled(0.01))
    running = asyncio.get_running_loop().create_task(capturer.run())
    await until(is_created.is_set)
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    is_stopped.set()
    await asyncio.to_thread(capturer.close)
    assert content_of(files_folder) == []


async def test_process_of_files_copies_renews_its_claims_and_releases_them_at_its_end(
    gallery: Gallery, files_folder: Path
) -> None:
    for name in ("a.png", "b.png"):
        await gallery.one(name, picture())
    gallery.sim.faults.inject("hang_http", route="/view", count=1)
    pace = replace(Intervals.scaled(0.01), capture_claim=0.3)
    files = FilesService(version="0", intervals=pace, captures=True)
    is_ready = asyncio.Event()
    running = asyncio.create_task(files.run(is_ready.set))
    await is_ready.wait()
    pending = Capture.objects.filter(due_at__isnull=False)
    await until(in_thread(lambda: pending.count() == 1))
    claimed_until = (await in_thread(pending.get)()).due_at
    await until(
        in_thread(pending.filter(due_at__gt=claimed_until + dt.timedelta(seconds=0.5)).exists)
    )
    assert await in_thread(
        lambda: FilesProcess.objects.get().heartbeat_at > now() - dt.timedelta(seconds=9)
    )()
    files.stop()
    await running
    assert await in_thread(pending.filter(due_at__lte=now(), tries=0).count)() == 1
    assert not await in_thread(FilesProcess.objects.exists)()
    assert [one.name for one in (files_folder / "runners").iterdir()] == []


async def test_process_of_files_ends_after_a_copy_for_which_its_memory_was_not_enough(
    gallery: Gallery, files_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await gallery.one("a.png", picture())

    def fails(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(capturer, "stored_row", fails)
    files = FilesService(version="0", intervals=Intervals.scaled(0.01), captures=True)
    with pytest.raises(OutOfMemory):
        await files.run(lambda: None)
    row = await in_thread(Capture.objects.get)()
    assert (row.tries, row.reason, content_of(files_folder)) == (1, "MemoryError", [])


def _lose(path: Path) -> None:
    path.unlink()


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("damage", [_lose, _cut])
async def test_file_that_the_storage_lost_is_served_by_its_backend(
    gallery: Gallery, files_folder: Path, damage: Callable[[Path], None]
) -> None:
    gallery.put("a.png", picture())
    gallery.put("b.png", picture(color="red"))
    group, (job, _) = await gallery.done({"images": [file("a.png")]}, {"images": [file("b.png")]})
    url, archive = (
        f"/api/job-groups/{group}/jobs/{job}/outputs/0",
        f"/api/job-groups/{group}/outputs.zip",
    )
    lost, _ = await settled()
    damage(files_folder / lost.file.stored_name)
    assert await body(await gallery.get(url)) == picture()
    with Image.open(io.BytesIO((await gallery.get(f"{url}?w=320")).content)) as thumbnail:
        assert thumbnail.format == "WEBP"
    with zipfile.ZipFile(io.BytesIO(await body(await gallery.get(archive)))) as content:
        assert sorted(map(content.read, content.namelist())) == sorted(
            [picture(), picture(color="red")]
        )
    await in_thread(Backend.objects.all().delete)()
    error_of(await gallery.get(url), 410, "output_gone")
    with zipfile.ZipFile(io.BytesIO(await body(await gallery.get(archive)))) as content:
        assert content.namelist() == ["8_gpu-1_b.png", "MISSING.txt"]


async def test_zip_has_stored_files_also_if_one_was_cut_and_its_backend_is_away(
    gallery: Gallery, files_folder: Path
) -> None:
    for name in ("a.png", "b.png"):
        gallery.put(name, name.encode() * 9)
    group, _ = await gallery.done({"images": [file("a.png")]}, {"images": [file("b.png")]})
    lost, _ = await settled()
    _cut(files_folder / lost.file.stored_name)
    gallery.sim.faults.inject("reset_http", route="/view", count=0)
    answer = await gallery.get(f"/api/job-groups/{group}/outputs.zip")
    with zipfile.ZipFile(io.BytesIO(await body(answer))) as content:
        assert content.namelist() == ["8_gpu-1_b.png", "MISSING.txt"]


@pytest.mark.parametrize("damage", [_lose, _cut])
async def test_lost_file_comes_back_with_the_next_copy_of_its_content(
    gallery: Gallery, files_folder: Path, damage: Callable[[Path], None]
) -> None:
    await gallery.one("a.png", picture())
    (row,) = await settled()
    path = files_folder / row.file.stored_name
    damage(path)
    gallery.put("b.png", picture())
    await gallery.done({"images": [file("b.png")]})
    first, second = await settled()
    assert first.file == second.file
    assert [one.name for one in path.parent.iterdir()] == [path.name]
    assert path.read_bytes() == picture()


async def test_capture_is_given_up_after_a_week(gallery: Gallery) -> None:
    await gallery.one("a.png", picture())
    old = now() - captures.GIVEN_UP_AFTER
    await in_thread(lambda: Capture.objects.update(created_at=old, reason="It does not answer."))()
    await in_thread(captures.captures_clean)()
    row = await in_thread(Capture.objects.get)()
    assert (row.due_at, row.reason) == (None, "It does not answer.")


@pytest.mark.parametrize(("side", "known"), [(9_000, 9_000), (50_000, None)])
def test_no_pixel_of_a_huge_image_is_decoded(tmp_path: Path, side: int, known: int | None) -> None:
    head = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    path = tmp_path / "huge.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + head
        + struct.pack(">II", crc32(head), 0)
        + b"IDAT"
    )
    assert media_facts(path, "huge.png") == (known, known, None)


async def test_database_that_is_away_is_no_unexpected_error_of_a_capture(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failures = iter([OperationalError("terminating connection")])
    store = capturer.captures_store

    def fails_once(*copies: Any) -> Any:
        for error in failures:
            raise error
        return store(*copies)

    monkeypatch.setattr(capturer, "captures_store", fails_once)
    await gallery.one("a.png", picture())
    (capture,) = await settled()
    assert (capture.tries, capture.file is not None) == (1, True)
    assert [one for one in caplog.records if one.levelno >= logging.ERROR] == []


async def test_captures_log_an_outage_of_the_database_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(threads, "_logged", Newest(100))
    tries = []

    def fails(**_: Any) -> list[str]:
        tries.append(1)
        raise OperationalError("the captures' database is away")

    monkeypatch.setattr(capturer, "due_backends", fails)
    async with capturing(runner=None):  # it waits for no notification
        await until(lambda: len(tries) > 3)
    assert [record.message for record in caplog.records if "is away" in record.message] == [
        "Captures: failed (the captures' database is away); tried again"
    ]
