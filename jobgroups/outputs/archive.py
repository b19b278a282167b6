"""Many originals as one zip, made while it is sent: no file of it is held whole, on disk or in memory."""

from __future__ import annotations

import datetime as dt
import zipfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import PurePosixPath
from typing import Final

from jobgroups.errors import BackendAway, OutputGone, OutputReplaced
from jobgroups.outputs import download
from jobgroups.queries.outputs import OutputFile

_LONGEST: Final = 180


class _Sink:
    """Takes what the archive writes until it is sent."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._parts.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Do nothing: there is nothing behind it."""

    def take(self) -> bytes:
        taken, self._parts = b"".join(self._parts), []
        return taken


def entry_names(files: Sequence[OutputFile]) -> list[str]:
    """Return ``{seed}_{backend}_{name}`` of each file; a name that is taken gets a number."""
    taken: set[str] = set()
    names = []
    for file in files:
        path = PurePosixPath(file.download_name)
        stem, name, number = path.stem[:_LONGEST], f"{path.stem[:_LONGEST]}{path.suffix[:20]}", 1
        while name.casefold() in taken:
            number += 1
            name = f"{stem}_{number}{path.suffix[:20]}"
        taken.add(name.casefold())
        names.append(name)
    return names


async def iter_zip(
    files: Sequence[OutputFile], replaced: Callable[[OutputFile], Awaitable[None]]
) -> AsyncIterator[bytes]:
    """Yield a zip of the files, uncompressed: pictures and videos are so already.

    One that is gone, or whose backend is away, is left out and named in ``MISSING.txt``.

    Args:
        files: in this order.
        replaced: called with each file that turns out to be a later job's.

    Raises:
        BackendAway: a backend went away in the middle of a file; the zip cannot be completed.
    """
    sink, missing = _Sink(), list[str]()
    away: set[str] = set()
    # Any: zipfile asks for write and flush only, where nothing is seekable.
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as archive:  # type: ignore[call-overload]
        for file, name in zip(files, entry_names(files), strict=True):
            try:
                if file.backend_id in away:
                    raise BackendAway(file.backend_id, "It did not answer for an earlier file.")
                async with download.open_file(file) as answer:
                    with archive.open(_info(name, answer.length), "w") as entry:
                        async for chunk in answer.chunks():
                            entry.write(chunk)
                            yield sink.take()
            except OutputGone as error:
                if isinstance(error, OutputReplaced):
                    await replaced(file)
                missing.append(f"{name}: {error.detail}")
            except BackendAway as error:
                if name in archive.namelist():
                    raise
                away.add(file.backend_id)
                missing.append(f"{name}: {error.detail}")
            yield sink.take()
        if missing:
            archive.writestr(_info("MISSING.txt", None), "\n".join(missing) + "\n")
    yield sink.take()


def _info(name: str, length: int | None) -> zipfile.ZipInfo:
    moment = dt.datetime.now(dt.UTC)
    info = zipfile.ZipInfo(name, date_time=moment.timetuple()[:6])
    # Decides whether the entry is written in the form that goes beyond 4 GiB.
    info.file_size = length or 0
    return info
