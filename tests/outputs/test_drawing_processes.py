"""Processes that draw: they crash, hang, take all memory, are killed, and lose their parent."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from backends.simulator.media import encode_webm
from jobgroups.api.views.outputs import thumbnails
from jobgroups.errors import OutputGone
from jobgroups.outputs import drawing_processes
from jobgroups.outputs.drawing_processes import DrawingFailed, Lane, draw_picture
from jobgroups.outputs.resize import NotAnImage, TooLarge, draw
from tests.api.conftest import error_of
from tests.harness.graphs import black_png
from tests.harness.processes import ROOT
from tests.harness.waits import until
from tests.outputs import drawings
from tests.outputs.conftest import Gallery, picture

db = pytest.mark.django_db(transaction=True)
posix_only = pytest.mark.skipif(sys.platform == "win32", reason="signals and limits of POSIX")


@pytest.fixture
async def lane() -> AsyncIterator[Lane]:
    made = Lane()
    yield made
    await asyncio.to_thread(made._end)


async def process_of(lane: Lane) -> int:
    return int(await lane.draw(drawings.number))


def is_there(process: int) -> bool:
    """Return whether a process runs; one that has ended and that no parent has read is none."""
    try:
        return (
            Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
            != "Z"
        )
    except FileNotFoundError:
        return False


async def test_errors_of_a_picture_come_from_the_process_which_draws_the_next_one(
    lane: Lane, tmp_path: Path
) -> None:
    process = await process_of(lane)
    with pytest.raises(NotAnImage, match="too many pixels"):
        await lane.draw(draw, black_png(9_000, 9_000), 320, True)
    with pytest.raises(TooLarge):
        await lane.draw(draw, black_png(3_000, 3_000), 320, False)
    with pytest.raises(OutputGone):
        await lane.draw(draw, str(tmp_path / "none.png"), 320, False)
    assert await lane.draw(drawings.print_first) == b"drawn"
    assert await process_of(lane) == process


@posix_only
@pytest.mark.parametrize(
    "fails", [drawings.crash, drawings.hang, drawings.hoard], ids=["crash", "hang", "bomb"]
)
async def test_decoder_that_fails_ends_its_process_alone_within_a_bound(
    lane: Lane, fails: Callable[[], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    process = await process_of(lane)
    with monkeypatch.context() as patched:
        patched.setattr(drawing_processes, "_WITHIN", 3)
        drawing_one = asyncio.create_task(lane.draw(fails))
        await asyncio.wait([drawing_one], timeout=20.0)
    assert drawing_one.done()
    with pytest.raises(DrawingFailed, match="memory or time"):
        drawing_one.result()
    assert not is_there(process)
    assert await process_of(lane) != process


@posix_only
async def test_process_that_was_killed_costs_no_picture(lane: Lane) -> None:
    process = await process_of(lane)
    os.kill(process, signal.SIGKILL)
    assert await lane.draw(draw, picture(), 160, False)
    assert not is_there(process)


@posix_only
async def test_process_ends_without_work_and_begins_again(
    lane: Lane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drawing_processes, "_IDLE", 0.1)
    process = await process_of(lane)
    await asyncio.to_thread(until, lambda: not is_there(process))
    assert await process_of(lane) != process


@posix_only
async def test_process_has_no_secrets(lane: Lane) -> None:
    names = set((await lane.draw(drawings.variables)).decode().split())
    assert names - {"LC_CTYPE"} == {"PYTHONPATH"}


@posix_only
@pytest.mark.parametrize("is_busy", [False, True])
def test_process_ends_with_its_parent(is_busy: bool, tmp_path: Path) -> None:
    program = f"""
import asyncio, django
django.setup()
from jobgroups.outputs import drawing_processes
from tests.outputs import drawings
drawing_processes._WITHIN = 2
drawing_processes._TICK = 60.0  # of the parent, which is not to end it; a slow start takes longer
async def main():
    lane = drawing_processes.Lane()
    print((await lane.draw(drawings.number)).decode(), flush=True)
    files = {str(tmp_path / "at work")!r}, {str(tmp_path / "never")!r}
    await (lane.draw(drawings.write_until, *files) if {is_busy} else asyncio.sleep(60))
asyncio.run(main())
"""
    environment = {
        "DJANGO_SETTINGS_MODULE": "director.settings",
        "PYTHONPATH": str(ROOT),
        "HOME": str(tmp_path),
    }
    parent = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    with parent:
        assert parent.stdout is not None
        process = int(parent.stdout.readline())
        until(lambda: not is_busy or (tmp_path / "at work").exists())
        assert is_there(process)
        parent.kill()
    until(lambda: not is_there(process))


async def test_large_pictures_are_drawn_one_at_a_time_and_delay_no_small_one(
    tmp_path: Path,
) -> None:
    path, end = tmp_path / "large", tmp_path / "end"
    large = [
        asyncio.create_task(drawing_processes.draw_large(drawings.write_until, str(path), str(end)))
        for _ in range(2)
    ]
    await asyncio.to_thread(until, path.exists)
    assert await draw_picture(picture(), 160)
    assert path.read_text(encoding="ascii") == "begins\n"
    end.touch()
    await asyncio.gather(*large)
    assert path.read_text(encoding="ascii").split() == ["begins", "ends"] * 2


@db
@posix_only
@pytest.mark.ffmpeg
@pytest.mark.parametrize("name", ["a.png", "a.webm"])
async def test_picture_whose_decoder_hangs_gets_an_error_and_the_next_one_its_thumbnail(
    gallery: Gallery, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image

    content = picture() if name == "a.png" else encode_webm([Image.new("RGB", (64, 32), "red")], 1)
    url = await gallery.one(name, content)
    os.kill(await process_of(drawing_processes._small), signal.SIGSTOP)
    with monkeypatch.context() as patched:
        patched.setattr(drawing_processes, "_WITHIN", 1)
        patched.setattr(thumbnails()._failed, "seconds", 0.0)
        body = error_of(await gallery.get(f"{url}?w=160"), 404, "no_thumbnail")
    assert "memory or time" in body["detail"]
    assert (await gallery.get(f"{url}?w=160")).status_code == 200


@db
async def test_captured_picture_is_drawn_from_where_it_is_stored(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.outputs.test_captures import settled

    url = await gallery.one("a.png", picture())
    await settled()

    def opened(*_: Any, **__: Any) -> None:
        raise AssertionError("read by this process")

    monkeypatch.setattr("jobgroups.outputs.download.open_file", opened)
    assert (await gallery.get(f"{url}?w=160")).status_code == 200
