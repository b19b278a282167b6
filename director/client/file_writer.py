"""Writes downloaded files: a safe name, a temporary file first, nothing is overwritten."""

from __future__ import annotations

import filecmp
import os
import re
import uuid
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Final

from director.client.groups import OutputFile

DEFAULT_TEMPLATE: Final = "{seed}_{backend}_{name}"

# Characters that a file system does not allow in a name, and control characters.
_FORBIDDEN: Final = re.compile(r'[\x00-\x1f\x7f<>:"/\\|?*]')
_WINDOWS_DEVICES: Final = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
# Most file systems allow 255 bytes; a number and the temporary suffix are added.
_MAX_NAME_BYTES: Final = 180


def safe_part(name: str) -> str:
    """Return ``name`` as one harmless path component on every system; never empty.

    A backend chooses its file names: ``../../.bashrc``, ``NUL`` or a megabyte of dots is possible.
    """
    printable = name.encode("utf-8", "replace").decode("utf-8")
    part = _FORBIDDEN.sub("_", printable).strip(" .")
    if _WINDOWS_DEVICES.fullmatch(part):
        part = f"_{part}"
    return _shortened(part) or "file"


def _shortened(part: str) -> str:
    """Cut to the limit in front of the extension, never inside a character."""
    path = PurePosixPath(part)
    suffix = path.suffix if len(path.suffix.encode()) <= 20 else ""
    stem = part.removesuffix(suffix).encode()
    kept = stem[: _MAX_NAME_BYTES - len(suffix.encode())].decode("utf-8", "ignore")
    return f"{kept}{suffix}"


def relative_path(file: OutputFile, template: str) -> Path:
    """Return the path of ``file`` below the chosen folder.

    The template has ``{index}`` (number of the job in its group, from 0001), ``{seed}``, ``{backend}``, ``{name}`` and
    ``{job}``; another placeholder raises ``ValueError``. A ``/`` in the template makes a folder, one in a value never
    does.
    """
    values = {
        "index": "" if file.index is None else f"{file.index:04}",
        "seed": "" if file.seed is None else str(file.seed),
        "backend": safe_part(file.backend_id or "backend"),
        "name": safe_part(file.filename),
        "job": safe_part(file.job_id or "job"),
    }
    try:
        filled = template.format_map(values)
    except (KeyError, IndexError, AttributeError, ValueError) as error:
        known = ", ".join(f"{{{name}}}" for name in values)
        raise ValueError(f"The name template {template!r} may use {known} only.") from error
    return Path(*(safe_part(part) for part in filled.split("/") if part))


class AtomicFile:
    """A temporary file that ``commit`` renames to ``target``. A context manager: without ``commit`` it is removed."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self._temporary = target.with_name(f".{uuid.uuid4().hex}.part")
        self._file: BinaryIO

    def __enter__(self) -> AtomicFile:
        self._target.parent.mkdir(parents=True, exist_ok=True)
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

        If ``target`` exists with the same content, it stays and its path is returned. If it exists with other
        content, it stays, and this file gets a number (``name_2.png``).
        """
        self._file.close()
        path, number = self._target, 1
        while not (self._claimed(path) or filecmp.cmp(path, self._temporary, shallow=False)):
            number += 1
            path = path.with_name(f"{self._target.stem}_{number}{self._target.suffix}")
        return path

    def _claimed(self, path: Path) -> bool:
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
