"""The data folder: made once, with the secret key in it, readable by its owner only."""

from __future__ import annotations

import os
from pathlib import Path

from django.conf import settings


class DataFolderUnusable(Exception):
    """The data folder cannot be made or written; the message says which and why."""


def prepare() -> Path:
    """Make the data folder and keep the secret key in it, if that was not done before.

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
        _keep_secret_key(settings.DIRECTOR_SECRET_KEY_FILE)
    except OSError as error:
        raise DataFolderUnusable(_why_unusable(folder, error)) from error
    return folder


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
