"""Where a downloaded file lands: a safe name, a temporary file first, nothing overwritten."""

from __future__ import annotations

import filecmp
import itertools
import os
import re
import uuid
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import BinaryIO, Final

from director.client.groups import OutputFile

#: Every placeholder of a name template.
PLACEHOLDERS: Final = ("index", "seed", "backend", "name", "job")
DEFAULT_TEMPLATE: Final = "{seed}_{backend}_{name}"

# What no file system, or Windows alone, allows in a name; and control characters.
_FORBIDDEN: Final = re.compile(r'[\x00-\x1f\x7f<>:"/\\|?*]')
_WINDOWS_DEVICES: Final = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
# Most file systems stop at 255 bytes; room is left for a number and the temporary suffix.
_MAX_NAME_BYTES: Final = 180


def safe_part(name: str) -> str:
    """Return ``name`` as one harmless path component on every system; never empty.

    A backend chooses its file names, so they may say anything: ``../../.bashrc``, ``NUL``, a
    megabyte of dots.
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
    """Return where below the chosen folder ``file`` belongs.

    Args:
        template: Text with ``{index}`` (number of the job in its group, from 0001), ``{seed}``,
            ``{backend}``, ``{name}`` and ``{job}``; a ``/`` in the template itself makes a folder, one
            in a value never does.

    Raises:
        ValueError: The template has another placeholder.
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
        known = ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)
        raise ValueError(f"The name template {template!r} may use {known} only.") from error
    return Path(*(safe_part(part) for part in filled.split("/") if part))


class AtomicFile:
    """One file on its way to ``target``. A context manager: what did not land is removed.

    ``write`` the content, then ``land``.
    """

    def __init__(self, target: Path) -> None:
        self._target = target
        self._temporary = target.with_name(f".{uuid.uuid4().hex}.part")
        self._file: BinaryIO | None = None

    def __enter__(self) -> AtomicFile:
        self._target.parent.mkdir(parents=True, exist_ok=True)
        # Not tempfile: its files are readable by their owner alone, and stay so once renamed.
        self._file = self._temporary.open("xb")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._close()
        self._temporary.unlink(missing_ok=True)

    def write(self, chunk: bytes) -> None:
        """Append to the temporary file."""
        if self._file is None:
            raise AssertionError("a landing is written to inside its with block")
        self._file.write(chunk)

    def commit(self) -> Path:
        """Give the content its name, and return that.

        A file of that name with the same content is left as it is and returned; with another
        content it is kept too, and this one gets a number (``name_2.png``).
        """
        self._close()
        for number in itertools.count(1):
            path = self._numbered(number)
            if self._claimed(path) or filecmp.cmp(path, self._temporary, shallow=False):
                return path
        raise AssertionError("counting never ends")

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _numbered(self, number: int) -> Path:
        if number == 1:
            return self._target
        return self._target.with_name(f"{self._target.stem}_{number}{self._target.suffix}")

    def _claimed(self, path: Path) -> bool:
        """Move the content to ``path`` unless something is there, in one step of the system."""
        try:
            os.link(self._temporary, path)
        except FileExistsError:
            return False
        except OSError:
            return self._claimed_without_links(path)
        return True

    def _claimed_without_links(self, path: Path) -> bool:
        """Do the same where the file system has no hard links (exFAT, some network shares)."""
        try:
            path.open("xb").close()
        except FileExistsError:
            return False
        self._temporary.replace(path)
        return True
