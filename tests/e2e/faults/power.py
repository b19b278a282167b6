"""The power goes: what of a data folder is found afterwards, taken at one instant under load.

How far this goes. The process is stopped, so what is taken is of one instant. ``durable.c`` keeps,
beside the data folder, what was synced of each file of it (its content when ``fsync`` returned); what
differs between the two is what a power cut may lose. Three outcomes are made of them:

- ``kept``: all of it was written in time, as after a SIGKILL;
- ``dropped``: nothing of it was, the worst that an honest disk does;
- ``torn``: each sector of 512 bytes was or was not, by the dice, in whatever order.

Not covered: a disk that tells of a sync before it has synced, and a file system that loses the name
of a file whose content was synced. The shared-memory file is left out: SQLite never syncs it and
builds it anew.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.harness.director import Director

SECTOR = 512
#: A WAL's header, and the header and page of each of its frames, in bytes.
WAL_HEADER = 32
WAL_FRAME = 24 + 4096


@dataclass(frozen=True, slots=True)
class Instant:
    """A data folder at one instant, in two conditions, and the groups that were promised by then."""

    written: Path
    synced: Path
    promised: frozenset[str]


@contextmanager
def _held(durable: Path) -> Iterator[None]:
    with (durable / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _wait_stopped(pid: int) -> None:
    end = time.monotonic() + 5.0
    while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        assert time.monotonic() < end, "it does not stop"
        time.sleep(0.001)


def take(director: Director, durable: Path, place: Path, promised: frozenset[str]) -> Instant:
    """Stop a Director for a moment and copy what is written and what is synced.

    Args:
        director: with ``durable.c`` loaded.
        durable: where that keeps what was synced.
        place: a new folder for the two copies.
        promised: the groups for which a 201 had come before this was called.
    """
    assert director.process is not None
    pid = director.process.pid
    with _held(durable):
        os.kill(pid, signal.SIGSTOP)
        try:
            _wait_stopped(pid)
            shutil.copytree(director.data, place / "written", ignore=_passing)
            shutil.copytree(durable, place / "synced", ignore=_passing)
        finally:
            os.kill(pid, signal.SIGCONT)
    return Instant(place / "written", place / "synced", promised)


def _passing(_folder: str, names: list[str]) -> set[str]:
    return {one for one in names if one.endswith(("-shm", ".lock")) or one.startswith(".")}


def kept(instant: Instant, data: Path) -> None:
    """Lay out a folder of which all was written."""
    shutil.copytree(instant.written, data)


def dropped(instant: Instant, data: Path) -> None:
    """Lay out a folder of which only what was synced is left."""
    shutil.copytree(instant.synced, data)


def torn(instant: Instant, data: Path, dice: random.Random) -> int:
    """Lay out a folder of which each unsynced sector was written or not; how many were in doubt."""
    data.mkdir()
    doubtful = 0
    for name in {one.name for one in (*instant.written.iterdir(), *instant.synced.iterdir())}:
        new, old = (
            place.read_bytes() if place.exists() else b"" for place in (instant.written / name, instant.synced / name)
        )
        sectors = []
        for at in range(0, max(len(new), len(old)), SECTOR):
            choice = [part[at : at + SECTOR] for part in (new, old)]
            doubtful += choice[0] != choice[1]
            sectors.append(dice.choice(choice))
        (data / name).write_bytes(_joined(sectors))
    return doubtful


def _joined(sectors: list[bytes]) -> bytes:
    """Join sectors; one that was never written within the file is zeros."""
    while sectors and not sectors[-1]:
        sectors.pop()
    return b"".join(one.ljust(SECTOR, b"\0") for one in sectors[:-1]) + b"".join(sectors[-1:])


def cut(instant: Instant, data: Path, length: int) -> None:
    """Lay out a folder whose log ends after so many bytes: a disk that lied about what was synced."""
    kept(instant, data)
    os.truncate(data / "director.sqlite3-wal", length)


def frames(instant: Instant) -> list[int]:
    """Return the places in the log at which a frame ends."""
    size = (instant.written / "director.sqlite3-wal").stat().st_size
    return list(itertools.takewhile(lambda at: at <= size, itertools.count(WAL_HEADER, WAL_FRAME)))
