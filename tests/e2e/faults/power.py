"""A power failure, imitated: what of a data folder may be left, copied at one instant under load.

The process is stopped, so that the copies are of one instant. ``durable.c`` keeps, beside the data
folder, the synced content of each file; the difference between the two may be lost. Not covered: a
disk that reports a sync before it has synced, and a file system that loses the name of a file whose
content was synced. The shared-memory file is left out: SQLite never syncs it and rebuilds it.
"""

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
    """A data folder at one instant, written and synced, and the groups that were accepted by then."""

    written: Path
    synced: Path
    accepted: frozenset[str]


@contextmanager
def _locked(durable: Path) -> Iterator[None]:
    with (durable / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _wait_stopped(pid: int) -> None:
    end = time.monotonic() + 5.0
    while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        assert time.monotonic() < end, "it does not stop"
        time.sleep(0.001)


def take(director: Director, durable: Path, folder: Path, accepted: frozenset[str]) -> Instant:
    """Stop a Director that has ``durable.c`` for a moment; copy what is written and what is synced."""
    pid = director.process.pid
    with _locked(durable):
        os.kill(pid, signal.SIGSTOP)
        try:
            _wait_stopped(pid)
            shutil.copytree(director.data, folder / "written", ignore=_temporary)
            shutil.copytree(durable, folder / "synced", ignore=_temporary)
        finally:
            os.kill(pid, signal.SIGCONT)
    return Instant(folder / "written", folder / "synced", accepted)


def _temporary(_folder: str, names: list[str]) -> set[str]:
    # The files of metrics are those of one process.
    return {
        one for one in names if one.endswith(("-shm", ".lock", "metrics")) or one.startswith(".")
    }


def kept(instant: Instant, data: Path) -> None:
    """Make a folder of all that was written, as after SIGKILL."""
    shutil.copytree(instant.written, data)


def dropped(instant: Instant, data: Path) -> None:
    """Make a folder of only what was synced: the worst that a correct disk does."""
    shutil.copytree(instant.synced, data)


def torn(instant: Instant, data: Path, seed: int) -> int:
    """Make a folder of which each unsynced sector was written or not; return their number."""
    dice = random.Random(seed)
    data.mkdir()
    unsynced = 0
    for name in {one.name for one in (*instant.written.iterdir(), *instant.synced.iterdir())}:
        new, old = (
            file.read_bytes() if file.exists() else b""
            for file in (instant.written / name, instant.synced / name)
        )
        sectors = []
        for at in range(0, max(len(new), len(old)), SECTOR):
            choice = [part[at : at + SECTOR] for part in (new, old)]
            unsynced += choice[0] != choice[1]
            sectors.append(dice.choice(choice))
        (data / name).write_bytes(_joined(sectors))
    return unsynced


def _joined(sectors: list[bytes]) -> bytes:
    """Join sectors; a sector within the file that was never written is zeros."""
    while sectors and not sectors[-1]:
        sectors.pop()
    return b"".join(one.ljust(SECTOR, b"\0") for one in sectors[:-1]) + b"".join(sectors[-1:])


def cut(instant: Instant, data: Path, length: int) -> None:
    """Make a folder whose log ends after so many bytes: the disk reported a sync too early."""
    kept(instant, data)
    os.truncate(data / "director.sqlite3-wal", length)


def frame_ends(instant: Instant) -> list[int]:
    """Return the positions in the log at which a frame ends, in bytes."""
    size = (instant.written / "director.sqlite3-wal").stat().st_size
    return list(itertools.takewhile(lambda at: at <= size, itertools.count(WAL_HEADER, WAL_FRAME)))
