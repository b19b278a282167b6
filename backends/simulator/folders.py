"""The folders of one server: output, temp and input, with ComfyUI's naming of saved files."""

# Names are judged as text here, as ComfyUI does it; a Path would change them.
# ruff: noqa: PTH100, PTH103, PTH110, PTH118, PTH208
import os
import re
import shutil
import time
from pathlib import Path
from typing import Any

KINDS = ("output", "temp", "input")
_SUFFIXES = {f"[{kind}]": kind for kind in KINDS}


class OutsideFolder(Exception):
    """A name leads out of the folder it belongs to."""


class Folders:
    """Three folders below a root. Paths are plain text here, as they are in every answer."""

    def __init__(self, root: Path) -> None:
        self.root = os.path.abspath(root)
        self._last: dict[tuple[str, str], int] = {}  # folder, prefix: highest counter written
        for kind in KINDS:
            os.makedirs(self.of(kind), exist_ok=True)

    def of(self, kind: str) -> str:
        """The folder of a kind. Raises KeyError for another word."""
        if kind not in KINDS:
            raise KeyError(kind)
        return os.path.join(self.root, kind)

    def wipe_temp(self) -> None:
        shutil.rmtree(self.of("temp"), ignore_errors=True)
        os.makedirs(self.of("temp"), exist_ok=True)
        self._last.clear()

    def uploads(self) -> list[str]:
        with os.scandir(self.of("input")) as entries:
            return sorted(entry.name for entry in entries if entry.is_file())

    def path(self, name: Any) -> str:
        """The path of an annotated file name ("job1/b.png", "x.png [temp]"), there or not.

        Raises AttributeError for what is no text.
        """
        name, kind = split_annotated(name)
        return os.path.join(self.of(kind or "input"), name)

    def exists(self, name: Any) -> bool:
        """Whether something is there; also a folder, as for "". Raises AttributeError."""
        return os.path.exists(self.path(name))

    def next_file(
        self, kind: str, prefix: str, width: int, height: int, ending: str = "_.png"
    ) -> tuple[str, str]:
        """The next free (file name, subfolder) of a prefix: one above the highest that is there.

        So the name of a removed last file is used again (comfyui-protocol.md, trap 9). Raises
        OutsideFolder.
        """
        prefix = os.path.normpath(_fill_in(prefix, width, height))
        subfolder, base = os.path.split(prefix)
        folder = os.path.join(self.of(kind), subfolder)
        if not is_within(self.of(kind), folder):
            raise OutsideFolder("Saving image outside the output folder is not allowed.")
        os.makedirs(folder, exist_ok=True)
        counter = self._counter(folder, base, ending)
        self._last[folder, base] = counter
        return f"{base}_{counter:05}{ending}", subfolder

    def _counter(self, folder: str, base: str, ending: str) -> int:
        """One above the last counter; the folder is read only if the last one isn't as we left it."""
        last = self._last.get((folder, base), 0)
        here = os.path.exists(os.path.join(folder, f"{base}_{last:05}{ending}"))
        beyond = os.path.exists(os.path.join(folder, f"{base}_{last + 1:05}{ending}"))
        if last and here and not beyond:
            return last + 1
        counter = re.compile(rf"{re.escape(base)}_(\d+)(?:_|\.|\Z)")
        matches = map(counter.match, os.listdir(folder))
        return 1 + max((int(match[1]) for match in matches if match), default=0)


def split_annotated(name: str) -> tuple[str, str | None]:
    """("x.png", "temp") of "x.png [temp]" (ComfyUI keeps the space); no kind: None."""
    for suffix, kind in _SUFFIXES.items():
        if name.endswith(suffix):
            return name.removesuffix(suffix), kind
    return name, None


def is_within(folder: str, path: str) -> bool:
    """Return whether the path is in the folder (both absolute)."""
    return os.path.commonpath((folder, os.path.abspath(path))) == folder


def _fill_in(prefix: str, width: int, height: int) -> str:
    names = ("width", "height", "year", "month", "day", "hour", "minute", "second")
    parts = (str(width), str(height), *time.strftime("%Y %m %d %H %M %S").split())
    for name, value in zip(names, parts, strict=True):
        prefix = prefix.replace(f"%{name}%", value)
    return prefix
