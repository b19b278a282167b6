"""Outputs as a zip that is written while it is sent; no file is held completely on disk or in
memory.
"""

import datetime as dt
import zipfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from jobgroups.errors import BackendAway, OutputGone, OutputReplaced, StorageAway, WrongBody
from jobgroups.outputs import download
from jobgroups.queries.outputs import OutputFile


class _Sink:
    """A file that cannot seek; holds the bytes of the archive until they are sent."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._parts.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Do nothing; ``zipfile`` requires this method."""

    def take(self) -> bytes:
        data, self._parts = b"".join(self._parts), []
        return data


async def iter_zip(
    files: Sequence[OutputFile], replaced: Callable[[OutputFile], Awaitable[None]]
) -> AsyncIterator[bytes]:
    """Yield a zip of the files without compression: images and videos are compressed already.

    A file that is gone, or whose backend or storage is offline or sends another body, is listed in
    ``MISSING.txt`` instead. ``replaced`` is called with each file that a later job has replaced.
    Raises ``BackendAway`` or ``StorageAway`` in the middle of a file; the zip is incomplete then.
    """
    sink, missing = _Sink(), list[str]()
    away: set[str] = set()
    # zipfile needs only write and flush of a file that cannot seek; the stubs require more.
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as archive:  # type: ignore[call-overload]
        for file in files:
            name = file.saved_as
            source = file.backend_id if file.stored is None else ""
            try:
                if source in away:
                    sentence = "It did not answer for an earlier file."
                    raise (
                        BackendAway(source, sentence)
                        if source
                        else StorageAway("it did not answer for an earlier file")
                    )
                async with download.open_file(file) as answer:
                    with archive.open(_info(name, answer.length), "w") as entry:
                        async for chunk in answer.chunks():
                            entry.write(chunk)
                            yield sink.take()
            except OutputGone as error:
                if isinstance(error, OutputReplaced):
                    await replaced(file)
                missing.append(f"{name}: {error.detail}")
            except WrongBody as error:
                _remove(archive, name)
                missing.append(f"{name}: {error.detail}")
            except (BackendAway, StorageAway) as error:
                if name in archive.namelist():
                    raise
                away.add("" if isinstance(error, StorageAway) else file.backend_id)
                missing.append(f"{name}: {error.detail}")
            yield sink.take()
        if missing:
            archive.writestr(_info("MISSING.txt", None), "\n".join(missing) + "\n")
    yield sink.take()


def _remove(archive: zipfile.ZipFile, name: str) -> None:
    """Remove a file whose beginning may have been sent: without an entry in the directory it is
    none of the zip.
    """
    if (entry := archive.NameToInfo.pop(name, None)) is not None:
        archive.filelist.remove(entry)


def _info(name: str, length: int | None) -> zipfile.ZipInfo:
    moment = dt.datetime.now(dt.UTC)
    info = zipfile.ZipInfo(name, date_time=moment.timetuple()[:6])
    # Selects the Zip64 format for files above 4 GiB.
    info.file_size = length or 0
    return info
