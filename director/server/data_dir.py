"""The data folder: made once, with the secret key in it, readable by its owner only."""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

from django.conf import settings

#: Names in a data folder that the Director makes itself: with another one, the folder may be shared.
_OWN: Final = re.compile(
    r"secret-key|\.writable-\d+|serve(-\d+)?\.lock|director\.sqlite3.*|thumbnails|static"
)


class DataFolderUnusable(Exception):
    """The data folder cannot be made or written; the message says which and why."""


def prepare(say: Callable[[str], None] = lambda _: None) -> Path:
    """Make the data folder and keep the secret key in it, if that was not done before.

    Args:
        say: takes a sentence for the person who started this, where other users can read the folder.

    Returns:
        The folder.

    Raises:
        DataFolderUnusable: it cannot be made, or not be written.
    """
    folder: Path = settings.DIRECTOR_DATA_DIR
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        probe = folder / f".writable-{os.getpid()}"
        probe.touch()
        probe.unlink()
        _close_to_others(folder, say)
        _keep_secret_key(settings.DIRECTOR_SECRET_KEY_FILE)
    except OSError as error:
        raise DataFolderUnusable(_why_unusable(folder, error)) from error
    return folder


def permission_problem(folder: Path) -> str:
    """Return what is wrong with a data folder that other users of the machine can enter or read; "" if none.

    POSIX only: elsewhere the mode says nothing.
    """
    mode = stat.S_IMODE(folder.stat().st_mode)
    if os.name != "posix" or not mode & stat.S_IRWXO:
        return ""
    readable = sorted(entry.name for entry in folder.iterdir() if _is_readable(entry))
    files = f", among them {', '.join(readable)}" if readable else ""
    return f"Other users of this machine can read what is in {folder} (mode {mode:04o}){files}."


def _is_readable(entry: Path) -> bool:
    """Whether a file of the Director can be read by other users; another process may just remove it."""
    if not _OWN.fullmatch(entry.name):
        return False
    with contextlib.suppress(FileNotFoundError):
        return bool(entry.lstat().st_mode & stat.S_IROTH)
    return False


def _close_to_others(folder: Path, say: Callable[[str], None]) -> None:
    """Take other users' permissions from a folder that is ours alone; warn of any other one."""
    wrong = permission_problem(folder)
    if not wrong:
        return
    mode = stat.S_IMODE(folder.stat().st_mode)
    if folder.stat().st_uid == os.geteuid() and all(
        _OWN.fullmatch(entry.name) for entry in folder.iterdir()
    ):
        folder.chmod(0o700)
        say(f"Other users of this machine could read {folder} (mode {mode:04o}); it is 0700 now.")
        return
    say(
        f"{wrong} It is not the Director's alone, so its mode stays: set DIRECTOR_DATA_DIR to a folder"
        " of its own, or take the permissions away."
    )


def _why_unusable(folder: Path, error: OSError) -> str:
    if isinstance(error, FileExistsError | NotADirectoryError):
        for path in (folder, *folder.parents):
            if path.is_file():
                return (
                    f"The data folder {folder} cannot be used: {path} is a file;"
                    " set DIRECTOR_DATA_DIR to a folder."
                )
    return (
        f"The data folder {folder} cannot be used: {error.strerror or error}."
        " Make it writable, or set DIRECTOR_DATA_DIR to another folder."
    )


def _keep_secret_key(path: Path) -> None:
    """Write this process's key where none is kept; where another process was first, take its key."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        kept = path.read_text(encoding="ascii").strip()
        if kept and not os.environ.get("DIRECTOR_SECRET_KEY"):  # noqa: TID251 whether the key was given
            settings.SECRET_KEY = kept
        return
    with os.fdopen(handle, "w", encoding="ascii") as file:
        file.write(settings.SECRET_KEY)
        file.flush()
        os.fsync(file.fileno())
