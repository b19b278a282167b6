"""Files on their way into the storage, and out of it. The storage is a folder, or a :mod:`bucket
<.bucket>`.

Order of storing: temporary file, fsync, rename or upload, row. Of a deletion: row, then file. So
each row has its whole file. A killed process leaves its folder of received files; in it are marks
of the files that may have no row any more. A call that the storage failed leaves a mark too.
:func:`clean` removes all of them.
"""

import contextlib
import hashlib
import logging
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final, TypeVar

from django.conf import settings
from django.core.files import File
from django.core.files.base import ContentFile
from django.core.files.storage import FileSystemStorage, storages
from django.db import IntegrityError
from django.db.models import Manager

from backends.errors import RequestError
from jobgroups.database.locks import FileLock
from jobgroups.domain.marked_png import MarkedPng
from jobgroups.domain.text import gibibytes
from jobgroups.errors import StorageAway, StorageFull
from jobgroups.models import Asset, StoredFile

logger = logging.getLogger(__name__)
Row = TypeVar("Row", Asset, StoredFile)

_MARK: Final = ".mark"
#: The rows of the files in each folder of the storage. A file's name ends with the key of its row,
#: a UUID.
_ROWS: Final[dict[str, Manager[Any]]] = {"assets": Asset.objects, "results": StoredFile.objects}
_KEY_LENGTH: Final = 36


def storage() -> Any:
    """Return where files are stored: a ``FileSystemStorage`` or a ``Bucket``."""
    return storages["files"]


def is_local() -> bool:
    """Return whether the storage is a folder."""
    return isinstance(storage(), FileSystemStorage)


def require_storage() -> None:
    """Raise ``StorageAway`` if the storage does not answer."""
    storage().exists("runners")


def read_file(name: str, first: int, length: int) -> bytes:
    """Return a part of a stored file; raise ``FileNotFoundError`` or ``StorageAway``."""
    if not is_local():
        return bytes(storage().read(name, first, length))
    with storage().open(name) as file:
        file.seek(first)
        return bytes(file.read(length))


def has_file(name: str, size: int) -> bool:
    """Return whether the storage has a file. In a folder, one of another size is none: a failure of
    the file system or a user has cut it.
    """
    if not is_local():
        return bool(storage().exists(name))
    try:
        return bool(storage().size(name) == size)
    except FileNotFoundError:
        return False


def media_source(file: StoredFile) -> str | None:
    """Return the URL from which ffmpeg reads a stored file; None if there is no such file."""
    name = file.stored_name
    if not has_file(name, file.size_bytes):
        return None
    return f"file:{storage().path(name)}" if is_local() else str(storage().url(name))


def incoming_folder() -> Path:
    """Return this process's folder for files that are being received."""
    return _incoming()[0]


@cache
def _incoming() -> tuple[Path, FileLock]:
    """Create the folder, with a lock beside it: while it is held, no other process removes the
    folder.
    """
    parent = settings.DIRECTOR_FILES_DIR / "incoming"
    parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder: Path = parent / uuid.uuid4().hex
    lock = _lock_of(folder)
    lock.acquire()
    folder.mkdir(mode=0o700)
    return folder, lock


def _lock_of(folder: Path) -> FileLock:
    return FileLock(folder.with_suffix(".lock"), "Another process uses this folder.")


def free_bytes() -> int:
    """Return how much of the disk for received files is free."""
    folder: Path = settings.DIRECTOR_FILES_DIR
    return shutil.disk_usage(
        next(parent for parent in (folder, *folder.parents) if parent.exists())
    ).free


def require_space(size: int = 0) -> None:
    """Raise ``StorageFull`` if less than the minimum would be free after so many bytes."""
    free, floor = free_bytes() - size, settings.DIRECTOR_MIN_FREE_BYTES
    if free < floor:
        raise StorageFull(
            f"less than {gibibytes(floor)} of the disk would be free (DIRECTOR_MIN_FREE_BYTES)"
        )


def marker_write(*, runner: str, instance: str) -> None:
    """Store which instance of a runner, or process of `files`, uses this storage, so that other
    processes can see that they share it.
    """
    name = _marker_of(runner)
    storage().delete(name)
    storage().save(name, ContentFile(instance.encode()))


def marker_delete(*, runner: str) -> None:
    """Delete the marker of a process that has ended."""
    storage().delete(_marker_of(runner))


def marker_exists(*, runner: str, instance: str) -> bool:
    """Return whether an instance of a runner uses this storage."""
    try:
        return read_file(_marker_of(runner), 0, len(instance) + 1) == instance.encode()
    except FileNotFoundError:
        return False


def _marker_of(runner: str) -> str:
    return f"runners/{hashlib.sha256(runner.encode()).hexdigest()[:32]}"


class IncomingFile:
    """A file that is being received. Its methods block for the disk, and raise ``OSError`` or
    ``StorageFull``.

    ``hashes`` are objects of ``hashlib`` and the like, which receive the content too, as does
    ``check``. ``most``: bytes of the beginning that are written; None: all are.
    """

    def __init__(
        self, *hashes: Any, check: MarkedPng | None = None, most: int | None = None
    ) -> None:
        require_space()
        self._most = most
        self.path = incoming_folder() / uuid.uuid4().hex
        self.size_bytes = 0
        self.hashes, self._receivers = hashes, hashes if check is None else (*hashes, check)
        self._file = self.path.open("xb")

    def write(self, chunk: bytes | bytearray) -> None:
        require_space(len(chunk))
        part = chunk
        if self._most is not None and self.size_bytes + len(chunk) > self._most:
            part = chunk[: max(0, self._most - self.size_bytes)]
        self._file.write(part)
        self.size_bytes += len(chunk)
        for receiver in self._receivers:
            receiver.update(chunk)

    def close(self) -> None:
        self._file.close()

    def sync(self) -> None:
        """Write what was received to the disk: files of several threads are synced at once."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def discard(self) -> None:
        """Remove the file, unless it was moved into the storage."""
        with contextlib.suppress(OSError):
            self._file.close()
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)


def linked(name: str) -> Path | None:
    """Return a second name of a stored file, in the folder of received files; None if there is no
    such file, or its storage has no second names.
    """
    path = incoming_folder() / uuid.uuid4().hex
    if is_local():
        with contextlib.suppress(OSError):
            os.link(storage().path(name), path)
            return path
    return None


class _Movable(File):  # type: ignore[type-arg]  # generic in the stubs alone
    """A file that a storage renames or reads by its name, unopened: Windows renames no open file."""

    def temporary_file_path(self) -> str:
        return str(self.name)


def move_into_storage(names: Mapping[Path, str], *, are_synced: bool = False) -> None:
    """Sync received files, and move them to names in one folder of the storage."""
    for path, name in names.items():
        if not are_synced:
            with path.open("r+b") as file:
                os.fsync(file.fileno())
        storage().save(name, _Movable(None, str(path)))
    if os.name == "posix" and is_local():
        folder = os.open(Path(storage().path(name)).parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def take_back(name: str, path: Path, *, has_row: bool = False) -> None:
    """Move a file out of a storage that is a folder, if it is there; copy one that has a row."""
    stored = Path(storage().path(name))
    with contextlib.suppress(FileNotFoundError):
        shutil.copyfile(stored, path) if has_row else stored.replace(path)


def content_store(
    path: Path, new: Row, *, known: Callable[[], Row | None], keep: Callable[[Row, bool], bool]
) -> Row:
    """Store a received file with a new row, unless ``known`` finds a row with its content; return
    the row that is used.

    ``keep`` stores that a row is used, and the row itself if it is new (``True``). It returns False
    if the known row is gone, or nothing needs the file any more.
    """
    if (row := known()) is not None:
        if not has_file(row.stored_name, row.size_bytes):
            # One that was cut would keep its name.
            storage().delete(row.stored_name)
            move_into_storage({path: row.stored_name})
        if keep(row, False):
            return row
        if not path.exists():
            # It replaced the lost file of a row that is gone, or that nothing refers to any more.
            take_back(row.stored_name, path, has_row=known() is not None)
    with mark_files(new.stored_name):
        move_into_storage({path: new.stored_name})
        try:
            if keep(new, True):
                return new
        except IntegrityError:
            # The same content was stored at the same moment, or ``keep`` refused the new row.
            if (row := known()) is None:
                delete_file(new.stored_name)
                raise
            keep(row, False)
        delete_file(new.stored_name)
    return row or new


def delete_file(name: str) -> None:
    """Delete a file whose row is gone, else leave it to :func:`clean`."""
    try:
        storage().delete(name)
    except (OSError, StorageAway) as error:
        # On Windows a file that is being read stays. A bucket has logged its own errors.
        if isinstance(error, OSError):
            logger.warning("Stored file %s: not deleted yet (%s)", name, error)
        (incoming_folder().parent / f"{uuid.uuid4().hex}{_MARK}").write_text(name, encoding="ascii")


@contextlib.contextmanager
def mark_files(*names: str) -> Iterator[None]:
    """Mark files whose rows are being stored or deleted. After an unknown outcome the mark stays."""
    if not names:
        yield
        return
    mark = _mark(*names)
    try:
        yield
    except StorageAway:
        # No row was stored.
        release_mark(mark)
        raise
    except RequestError:
        mark.unlink()
        raise
    mark.unlink()


def _mark(*names: str) -> Path:
    mark = incoming_folder() / f"{uuid.uuid4().hex}{_MARK}"
    mark.write_text("\n".join(names), encoding="ascii")
    return mark


def move_marked(path: Path, name: str) -> Path:
    """Move a received file into the storage before its row is stored; return its mark, for
    :func:`release_mark`.
    """
    mark = _mark(name)
    try:
        move_into_storage({path: name})
    except BaseException:
        release_mark(mark)
        raise
    return mark


def release_mark(mark: Path) -> None:
    """Have :func:`clean` delete the marked files that have no row: none is being stored any more."""
    mark.replace(mark.parent.parent / mark.name)


def clean() -> None:
    """Remove what killed processes and failed calls left: partly received files, and files without
    a row.
    """
    incoming = settings.DIRECTOR_FILES_DIR / "incoming"
    _delete_marked(incoming)
    for lock_file in incoming.glob("*.lock"):
        lock = _lock_of(lock_file)
        if not lock.try_acquire():
            continue
        try:
            _delete_marked(lock_file.with_suffix(""))
            shutil.rmtree(lock_file.with_suffix(""), ignore_errors=True)
        finally:
            lock.release()
        lock_file.unlink(missing_ok=True)


def _delete_marked(folder: Path) -> None:
    for mark in folder.glob(f"*{_MARK}"):
        for name in mark.read_text(encoding="ascii").splitlines():
            if not _has_row(name):
                storage().delete(name)
        mark.unlink()


def _has_row(name: str) -> bool:
    rows = _ROWS.get(name.partition("/")[0])
    # The last name of a mark may be incomplete after a power failure.
    return rows is None or rows.filter(pk=name[-_KEY_LENGTH:]).exists()
