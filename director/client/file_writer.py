"""Writes downloaded files: a temporary file first, nothing is overwritten."""

from __future__ import annotations

import filecmp
import itertools
import os
import uuid
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

    def __enter__(self) -> AtomicFile:
        self._temporary.parent.mkdir(parents=True, exist_ok=True)
        # Not tempfile: only their owner can read its files, also after the rename.
        self._file = self._temporary.open("xb")
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._temporary.unlink(missing_ok=True)

    def write(self, chunk: bytes) -> None:
        """Append to the temporary file."""
        self._file.write(chunk)

    def commit(self) -> Path:
        """Rename the file and return its path.

        If a file of that name exists with the same content, it stays and its path is returned. If
        it exists with other content, it stays, and this file gets another number (``name_2.png``).
        """
        self._file.close()
        # From 1: a download in another order gave this content another number.
        numbers = itertools.chain([self._name.number], itertools.count(1))
        paths = (self._folder / str(self._name._replace(number=number)) for number in numbers)
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
