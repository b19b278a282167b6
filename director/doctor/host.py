"""Checks of the data folder, the port and the programs of this machine."""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Final

from django.conf import settings

from director import __version__
from director.client import Director, DirectorError, Unreachable
from director.doctor.findings import Finding, Level
from director.server import listen
from director.server.data_dir import permission_problem

#: Free bytes for a warning and for a problem: with a full disk every write fails.
_LOW_SPACE: Final = 2**30
_NO_SPACE: Final = 2**26
#: File systems on which SQLite's locks and shared memory do not work between machines.
_REMOTE: Final = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "fuse.sshfs", "afs", "9p"})
_MOUNTS: Final = Path("/proc/self/mounts")
_ANSWER_TIMEOUT_S: Final = 3.0  #: Timeout in seconds for the response of a Director on this machine.


def data_folder() -> Finding:
    """Check that the data folder exists, is writable, and has free space."""
    folder: Path = settings.DIRECTOR_DATA_DIR
    if not folder.exists():
        return _not_made(folder)
    if not folder.is_dir():
        todo = "Set DIRECTOR_DATA_DIR to a folder."
        return Finding("Data folder", Level.PROBLEM, f"{folder} is not a folder.", todo)
    if why := _why_unwritable(folder):
        todo = "Make it writable for this user, or set DIRECTOR_DATA_DIR to another folder."
        return Finding("Data folder", Level.PROBLEM, f"{folder} cannot be written: {why}.", todo)
    if any(folder.iterdir()) and (wrong := permission_problem(folder)):
        return Finding("Data folder", Level.WARNING, wrong, f"chmod 700 {folder}")
    return _room(folder)


def _not_made(folder: Path) -> Finding:
    above = next(one for one in folder.parents if one.exists())
    why = _why_unwritable(above) if above.is_dir() else "it is not a folder"
    if not why:
        return Finding("Data folder", Level.NOTE, f"{folder} does not exist yet: serve makes it.")
    todo = "Set DIRECTOR_DATA_DIR to a folder that can be created."
    said = f"{folder} does not exist and cannot be made: {above} cannot be written ({why})."
    return Finding("Data folder", Level.PROBLEM, said, todo)


def _why_unwritable(folder: Path) -> str:
    """Return why a folder is not writable; empty if it is.

    A temporary file is written: permissions do not show a full or read-only disk.
    """
    try:
        with tempfile.TemporaryFile(dir=folder, prefix=".writable-") as probe:
            probe.write(b"x")
            probe.flush()
    except OSError as error:
        return error.strerror or str(error)
    return "" if os.access(folder, os.R_OK | os.X_OK) else "Its files cannot be read"


def _room(folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free
    said = f"{folder}, {free / 2**30:.1f} GB free."
    if free < _LOW_SPACE:
        level = Level.PROBLEM if free < _NO_SPACE else Level.WARNING
        todo = "Free disk space: director purge --older-than 90d deletes old groups."
        return Finding("Data folder", level, said, todo)
    kind = file_system(folder)
    if kind in _REMOTE and settings.DIRECTOR_ON_SQLITE:
        todo = "Set DIRECTOR_DATA_DIR to a local disk, or use PostgreSQL (DIRECTOR_DATABASE_URL)."
        said = f"{said} It is on a network file system ({kind}), where SQLite may lose data."
        return Finding("Data folder", Level.WARNING, said, todo)
    return Finding("Data folder", Level.OK, said)


def file_system(folder: Path, mounts: Path = _MOUNTS) -> str:
    """Return the type of a folder's file system, ``""`` if it is unknown."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    place, found = folder.resolve(), (0, "")
    for words in (line.split() for line in lines):
        # Blanks in a mount point are written \040.
        point = Path(words[1].replace("\\040", " "))
        if place.is_relative_to(point) and len(point.parts) >= found[0]:
            found = (len(point.parts), words[2])
    return found[1]


def port(number: int) -> Finding:
    """Check which program answers on the port."""
    subject = f"Port {number}"
    try:
        url, token = f"http://localhost:{number}", settings.DIRECTOR_TOKEN or None
        with Director(url, token, timeout=_ANSWER_TIMEOUT_S) as director:
            health = director.health()
    except Unreachable:
        return _no_response(subject, number)
    except DirectorError as error:
        if error.code == "sign_in_required":
            todo = "Set the same DIRECTOR_TOKEN here for a full check."
            said = "A Director answers and requires its token."
            return Finding(subject, Level.NOTE, said, todo)
        todo = f"End it, or use another port: director serve --port {number + 1}"
        return Finding(subject, Level.WARNING, "Another program than a Director answers.", todo)
    failed = [(name, one) for name, one in health.checks.items() if one.get("status") != "ok"]
    details = "".join(f" {name}: {one.get('detail')}" for name, one in failed)
    said = f"A Director {health.version} answers and is {health.status}.{details}"
    if health.version != __version__:
        todo = f"This is version {__version__}. Restart the other one, or run its own `director doctor`."
        return Finding(subject, Level.WARNING, said, todo)
    level = {"ok": Level.OK, "down": Level.PROBLEM}.get(health.status, Level.WARNING)
    return Finding(subject, level, said)


def _no_response(subject: str, number: int) -> Finding:
    try:
        listen.listen_addresses("localhost", number)
    except listen.CannotListen:
        todo = f"Find the program that uses it, or use another port: director serve --port {number + 1}"
        said = "It is in use, and the program does not answer."
        return Finding(subject, Level.PROBLEM, said, todo)
    todo = "director serve; for a Director on another port: director doctor --port PORT"
    return Finding(subject, Level.NOTE, "No Director runs on this port.", todo)
