"""Writes downloaded files: a temporary file first, nothing is overwritten."""

from __future__ import annotations

import contextlib
import filecmp
import hashlib
import itertools
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from jobgroups.domain.file_names import FileName


class AtomicFile:
    """A temporary file that ``commit`` renames to ``name`` below ``folder``.

    A context manager: without ``commit`` the file is removed.
    """

    def __init__(self, folder: Path, name: FileName) -> None:
        self._folder = folder
        self._name = name
        self._temporary = (folder / str(name)).with_name(f".{uuid.uuid4().hex}.part")
        self._file: BinaryIO
        self._hash = hashlib.sha256()
        self._error: OSError | None = None  #: Of a disk that is full.

    def __enter__(self) -> AtomicFile:
        self._temporary.parent.mkdir(parents=True, exist_ok=True)
        # Not tempfile: only their owner can read its files, also after the rename.
        self._file = self._temporary.open("xb")
        return self

    def __exit__(self, *_: object) -> None:
        # It stores what is still in its buffer, for which a full disk has no space.
        with contextlib.suppress(OSError):
            self._file.close()
        self._temporary.unlink(missing_ok=True)

    def write(self, chunk: bytes) -> None:
        """Append to the temporary file. On a full disk the content is only compared, if a file of
        the name exists.
        """
        self._hash.update(chunk)
        if self._error is None:
            with self._full_disk():
                self._file.write(chunk)

    @contextlib.contextmanager
    def _full_disk(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if not (self._folder / str(self._name)).exists():
                raise
            self._error = error

    def commit(self) -> Path:
        """Rename the file and return its path.

        If a file of that name exists with the same content, it stays and its path is returned. If
        it exists with other content, it stays, and this file gets another number (``name_2.png``).
        On a full disk there is no other number, but the error.
        """
        with self._full_disk():
            self._file.close()
        # From 1: a download in another order gave this content another number.
        numbers = itertools.chain([self._name.number], itertools.count(1))
        paths = (self._folder / str(self._name._replace(number=number)) for number in numbers)
        if self._error is not None:
            for path in itertools.takewhile(Path.exists, paths):
                if _sha256(path) == self._hash.digest():
                    return path
            raise self._error
        return next(
            path
            for path in paths
            if self._claim(path) or filecmp.cmp(path, self._temporary, shallow=False)
        )

    def _claim(self, path: Path) -> bool:
        """Rename to ``path`` unless it exists, in one system call; return whether it did not exist."""
        try:
            os.link(self._temporary, path)
        except FileExistsError:
            return False
        except OSError:
            return self._claimed_without_links(path)
        return True

    def _claimed_without_links(self, path: Path) -> bool:
        """Rename on a file system without hard links (exFAT, some network shares)."""
        try:
            path.open("xb").close()
        except FileExistsError:
            return False
        self._temporary.replace(path)
        return True


def _sha256(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
