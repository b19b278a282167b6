"""The data folder: created with the secrets in it, readable by its owner only."""

import contextlib
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

from django.conf import settings

#: Names of the Director's own files. A folder with other files may be shared with other programs.
_OWN: Final = re.compile(
    r"secret-key|webhook-secret|\.writable-\d+|serve(-\d+|-processes)?\.lock|director\.sqlite3.*|thumbnails|static|files|metrics"
)


class DataFolderUnusable(Exception):
    """The data folder cannot be created or written; the message has the path and the cause."""


def prepare(say: Callable[[str], None] = lambda _: None) -> Path:
    """Create the data folder, and in it the secret key and the secret of webhooks, if they do not
    exist; return the folder.

    ``say`` prints a warning if other users can read it. Raises ``DataFolderUnusable`` if it cannot
    be created or written.
    """
    folder: Path = settings.DIRECTOR_DATA_DIR
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        probe = folder / f".writable-{os.getpid()}"
        probe.touch()
        probe.unlink()
        _close_to_others(folder, say)
        with contextlib.suppress(OSError):  # of a share that is away: the health has it
            settings.DIRECTOR_FILES_DIR.mkdir(mode=0o700, parents=True, exist_ok=True)
        key, signing = settings.SECRET_KEY, " ".join(settings.DIRECTOR_WEBHOOK_SECRETS)
        settings.SECRET_KEY = _kept_secret(
            settings.DIRECTOR_SECRET_KEY_FILE, "DIRECTOR_SECRET_KEY", key
        )
        signing = _kept_secret(
            settings.DIRECTOR_WEBHOOK_SECRET_FILE, "DIRECTOR_WEBHOOK_SECRET", signing
        )
        settings.DIRECTOR_WEBHOOK_SECRETS = signing.split()
    except OSError as error:
        raise DataFolderUnusable(_why_unusable(folder, error)) from error
    return folder


def permission_problem(folder: Path) -> str:
    """Return a warning if other users of the machine can enter or read the data folder, else "".

    On POSIX only: other systems do not use the mode.
    """
    mode = stat.S_IMODE(folder.stat().st_mode)
    if os.name != "posix" or not mode & stat.S_IRWXO:
        return ""
    readable = sorted(entry.name for entry in folder.iterdir() if _is_readable(entry))
    files = f", including {', '.join(readable)}" if readable else ""
    return f"Other users of this machine can read {folder} (mode {mode:04o}){files}."


def _is_readable(entry: Path) -> bool:
    """Return whether other users can read a file of the Director. Another process may remove the
    file.
    """
    if not _OWN.fullmatch(entry.name):
        return False
    with contextlib.suppress(FileNotFoundError):
        return bool(entry.lstat().st_mode & stat.S_IROTH)
    return False


def _close_to_others(folder: Path, say: Callable[[str], None]) -> None:
    """Set a folder that has only the Director's files to 0700; warn about a shared folder."""
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
        f"{wrong} Its mode is not changed because it contains other files: set DIRECTOR_DATA_DIR "
        "to a"
        " separate folder, or remove the permissions."
    )


def _why_unusable(folder: Path, error: OSError) -> str:
    if isinstance(error, FileExistsError | NotADirectoryError):
        for path in (folder, *folder.parents):
            if path.is_file():
                return (
                    f"The data folder {folder} cannot be used: {path} is a file; set "
                    "DIRECTOR_DATA_DIR to a folder."
                )
    return (
        f"The data folder {folder} cannot be used: {error.strerror or error}."
        " Make it writable, or set DIRECTOR_DATA_DIR to another folder."
    )


def _kept_secret(path: Path, variable: str, secret: str) -> str:
    """Store this process's secret if it has no file; else return the stored one, unless the
    variable gives it.
    """
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        kept = path.read_text(encoding="ascii").strip()
        return kept if kept and not os.environ.get(variable) else secret  # noqa: TID251 whether it was given
    with os.fdopen(handle, "w", encoding="ascii") as file:
        file.write(secret)
        file.flush()
        os.fsync(file.fileno())
    return secret
