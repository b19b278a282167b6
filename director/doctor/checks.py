"""Checks of Python, packages, settings, data folder, port, database, channel layer, runner and
storage.
"""

import os
import platform
import shutil
import sys
import tempfile
import tomllib
import uuid
from collections.abc import Iterator
from dataclasses import asdict
from enum import StrEnum
from importlib import metadata
from pathlib import Path
from typing import Any, Final, NamedTuple

from django.conf import settings
from django.core import checks
from django.core.files.base import ContentFile
from django.db import Error as DatabaseError, connection
from packaging.requirements import Requirement

from backends.comfyui.address import normalise_url
from backends.comfyui.destinations import check_url
from director import __version__
from director.apps import START
from director.client import Director, DirectorError, Unreachable
from director.server import listen, startup
from director.server.data_dir import permission_problem
from director.settings import env
from director.web import health
from director.web.tables import is_migrated
from jobgroups.domain.clock import now
from jobgroups.errors import StorageAway
from jobgroups.models import WebhookDelivery
from jobgroups.queries.leases import READ_ONLY, is_read_only
from jobgroups.services import stored_files


class Level(StrEnum):
    OK = "ok"
    NOTE = "note"  #: Information; no action is needed.
    WARNING = "warning"  #: It works with limits, or may soon fail.
    PROBLEM = "problem"  #: Jobs cannot be processed, or may be lost.


SEVERITY: Final = tuple(Level)  #: The levels, the worst last.


class Finding(NamedTuple):
    """Result of one check."""

    level: Level
    said: str  #: The result, without secrets.
    todo: str = ""  #: Remedies, one in a line; empty if none is needed.


_PACKAGE: Final = "comfyui-director"


def python() -> Finding:
    return Finding(
        Level.OK,
        f"{platform.python_version()} at {sys.executable}, {platform.platform(terse=True)}.",
    )


def packages() -> Finding:
    """Check that all requirements are installed in a supported version."""
    todo = f"In the folder of the source: {sys.executable} -m pip install -r requirements.txt ."
    needed = list(_requirements())
    if missing := [
        requirement.name for requirement in needed if _version(requirement.name) is None
    ]:
        return Finding(Level.PROBLEM, f"Missing: {', '.join(missing)}.", todo)
    versions = {requirement.name: _version(requirement.name) or "" for requirement in needed}
    odd = [
        f"{requirement.name} is {versions[requirement.name]}; the Director requires {requirement.specifier}."
        for requirement in needed
        if not requirement.specifier.contains(versions[requirement.name], prereleases=True)
    ]
    if odd:
        return Finding(Level.WARNING, " ".join(odd), todo)
    samples = ", ".join(f"{name} {_version(name)}" for name in ("Django", "channels", "aiohttp"))
    return Finding(Level.OK, f"All requirements are installed: {samples} …")


def _requirements() -> Iterator[Requirement]:
    """Yield the requirements without extras: of the source tree, else of the installed package."""
    project = Path(settings.BASE_DIR) / "pyproject.toml"
    if project.is_file():
        listed = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["dependencies"]
    else:
        listed = metadata.requires(_PACKAGE) or []
    for text in listed:
        needed = Requirement(text)
        if needed.marker is None or needed.marker.evaluate({"extra": ""}):
            yield needed


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def variables() -> Finding:
    """List the names of all set variables, and check for misspelt ones. Values are not shown."""
    if warned := [message.msg for message in checks.run_checks(tags=[START])]:
        return Finding(Level.WARNING, " ".join(warned), "Correct the variable's name, or unset it.")
    if wrong := _malformed_backend():
        return Finding(Level.PROBLEM, wrong, "Correct it: serve and runner do not start with it.")
    made = sorted(
        name for name in settings.DIRECTOR_SETTINGS if str(env.str(name, default="")).strip()
    )
    return Finding(Level.OK, f"Set: {', '.join(made)}." if made else "All have their defaults.")


def ffmpeg() -> Finding:
    """Check for the optional program that makes the posters of videos."""
    if settings.FFMPEG is not None:
        return Finding(Level.OK, f"{settings.FFMPEG}.")
    sentence = (
        "It is not on the PATH: videos have no poster, and width, height and duration of videos "
        "are not known."
    )
    return Finding(
        Level.NOTE, sentence, "Install ffmpeg with ffprobe, and restart serve and runners."
    )


def _malformed_backend() -> str:
    """Return the error of an address in ``DIRECTOR_BACKENDS``, without the address: it may contain
    a password.
    """
    for number, word in enumerate(settings.DIRECTOR_BACKENDS, start=1):
        try:
            check_url(normalise_url(word).url)
        except ValueError as error:
            return f"DIRECTOR_BACKENDS: address {number}: {error}"
    return ""


#: Free bytes for a warning and for a problem: with a full disk every write fails.
_LOW_SPACE: Final = 2**30
_NO_SPACE: Final = 2**26
#: File systems on which SQLite's locks and shared memory do not work between machines.
_REMOTE: Final = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "fuse.sshfs", "afs", "9p"})
_MOUNTS: Final = Path("/proc/self/mounts")
#: Timeout in seconds for the response of a Director on this machine.
_ANSWER_TIMEOUT_S: Final = 3.0


def data_folder() -> Finding:
    """Check that the data folder exists, is writable, and has free space."""
    folder: Path = settings.DIRECTOR_DATA_DIR
    if not folder.exists():
        return _not_made(folder)
    if not folder.is_dir():
        return Finding(
            Level.PROBLEM, f"{folder} is not a folder.", "Set DIRECTOR_DATA_DIR to a folder."
        )
    if why := _why_unwritable(folder):
        todo = "Make it writable for this user, or set DIRECTOR_DATA_DIR to another folder."
        return Finding(Level.PROBLEM, f"{folder} cannot be written: {why}.", todo)
    if any(folder.iterdir()) and (wrong := permission_problem(folder)):
        return Finding(Level.WARNING, wrong, f"chmod 700 {folder}")
    return _room(folder)


def _not_made(folder: Path) -> Finding:
    above = next(parent for parent in folder.parents if parent.exists())
    why = _why_unwritable(above) if above.is_dir() else "it is not a folder"
    if not why:
        return Finding(Level.NOTE, f"{folder} does not exist yet: serve makes it.")
    sentence = f"{folder} does not exist and cannot be made: {above} cannot be written ({why})."
    return Finding(
        Level.PROBLEM, sentence, "Set DIRECTOR_DATA_DIR to a folder that can be created."
    )


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
    sentence = f"{folder}, {free / 2**30:.1f} GB free."
    if free < _LOW_SPACE:
        level = Level.PROBLEM if free < _NO_SPACE else Level.WARNING
        todo = "Free disk space: director purge --older-than 90d deletes old groups."
        return Finding(level, sentence, todo)
    kind = file_system(folder)
    if kind in _REMOTE and settings.DIRECTOR_ON_SQLITE:
        todo = "Set DIRECTOR_DATA_DIR to a local disk, or use PostgreSQL (DIRECTOR_DATABASE_URL)."
        sentence = (
            f"{sentence} It is on a network file system ({kind}), where SQLite may lose data."
        )
        return Finding(Level.WARNING, sentence, todo)
    return Finding(Level.OK, sentence)


def file_system(folder: Path, mounts: Path = _MOUNTS) -> str:
    """Return the type of a folder's file system, ``""`` if it is unknown."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    place, mount = folder.resolve(), (0, "")
    for words in (line.split() for line in lines):
        # Blanks in a mount point are written \040.
        point = Path(words[1].replace("\\040", " "))
        if place.is_relative_to(point) and len(point.parts) >= mount[0]:
            mount = (len(point.parts), words[2])
    return mount[1]


def remote(url: str, token: str | None) -> dict[str, Finding]:
    """Return what a Director elsewhere reports of itself, and whether it accepts the token."""
    try:
        with Director(url, token, timeout=_ANSWER_TIMEOUT_S) as director:
            health = director.health()
            account = director.whoami()
    except ValueError as error:
        return {"Director": Finding(Level.PROBLEM, str(error), "Write it like http://host:9820.")}
    except DirectorError as error:
        todo = "Is it running, and is this its address? Does it need another DIRECTOR_TOKEN?"
        return {"Director": Finding(Level.PROBLEM, str(error), todo)}
    name = f", and knows you as {account.name} ({account.role})" if account.name else ""
    said = f"Version {health.version} answers{name}."
    is_same = health.version == __version__
    todo = "" if is_same else f"This is version {__version__}: install the same one here."
    return {"Director": Finding(Level.OK if is_same else Level.NOTE, said, todo)} | {
        part.capitalize(): Finding(
            _LEVELS.get(check.get("status"), Level.WARNING), str(check.get("detail", ""))
        )
        for part, check in health.checks.items()
    }


def port(number: int) -> Finding:
    """Check which program answers on the port."""
    try:
        url, token = f"http://localhost:{number}", settings.DIRECTOR_TOKEN or None
        with Director(url, token, timeout=_ANSWER_TIMEOUT_S) as director:
            health = director.health()
    except Unreachable:
        return _no_response(number)
    except DirectorError as error:
        if error.code == "sign_in_required":
            sentence = "A Director answers and requires its token."
            return Finding(
                Level.NOTE, sentence, "Set the same DIRECTOR_TOKEN here for a full check."
            )
        todo = f"End it, or use another port: director serve --port {number + 1}"
        return Finding(Level.WARNING, "Another program than a Director answers.", todo)
    failed = [(name, check) for name, check in health.checks.items() if check.get("status") != "ok"]
    details = "".join(f" {name}: {check.get('detail')}" for name, check in failed)
    sentence = f"A Director {health.version} answers and is {health.status}.{details}"
    if health.version != __version__:
        todo = (
            f"This is version {__version__}. Restart the other one, or run its own `director "
            "doctor`."
        )
        return Finding(Level.WARNING, sentence, todo)
    return Finding(_LEVELS.get(health.status, Level.WARNING), sentence)


def _no_response(number: int) -> Finding:
    try:
        listen.check_free(number)
    except listen.CannotListen:
        todo = (
            "Find the program that uses it, or use another port: director serve --port "
            f"{number + 1}"
        )
        return Finding(Level.PROBLEM, "It is in use, and the program does not answer.", todo)
    todo = "director serve; for a Director on another port: director doctor --port PORT"
    return Finding(Level.NOTE, "No Director runs on this port.", todo)


_LEVELS: Final = {"ok": Level.OK, "degraded": Level.WARNING, "down": Level.PROBLEM}
_STORAGE_TODO: Final = (
    "Check DIRECTOR_FILES_DIR and DIRECTOR_FILES_STORAGE, and free some space: director purge."
)
#: Maximum difference in seconds between the database's clock and this machine's: a heartbeat is
#: valid for 10 s.
_CLOCK_S: Final = 5.0


def database() -> Finding:
    """Check that the database opens and is migrated to this release."""
    path = Path(connection.settings_dict["NAME"]) if settings.DIRECTOR_ON_SQLITE else None
    # SQLite would create the file.
    if path is not None and not path.exists():
        return Finding(Level.NOTE, f"{path} does not exist yet: serve makes it.", "director serve")
    try:
        if path is None and (reason := startup.database_error()) is not None:
            return _closed_finding(path, reason)
        return _tables(_where(path))
    except startup.CannotStart as refusal:
        return _closed_finding(path, str(refusal))
    except DatabaseError as error:
        return _closed_finding(path, str(error).strip().splitlines()[0])


def _closed_finding(path: Path | None, reason: str) -> Finding:
    todo = "Check DIRECTOR_DATABASE_URL and DIRECTOR_DATA_DIR, and that the server runs."
    return Finding(Level.PROBLEM, f"{_where(path)} does not open: {reason}", todo)


def _where(path: Path | None) -> str:
    if path is not None:
        size = path.stat().st_size / 2**20 if path.exists() else 0
        return f"SQLite at {path} ({size:.0f} MB)"
    server = connection.settings_dict
    return (
        f"PostgreSQL {server['NAME']} at {server['HOST'] or 'localhost'}:{server['PORT'] or 5432}"
    )


def _tables(where: str) -> Finding:
    if is_read_only():
        return Finding(Level.PROBLEM, f"{where}: {READ_ONLY}", health.READ_ONLY_TODO)
    if not connection.introspection.table_names():
        return Finding(
            Level.NOTE, f"{where}: it has no tables yet: serve makes them.", "director serve"
        )
    if not is_migrated():
        sentence = f"{where}: its tables are of an older release."
        return Finding(Level.PROBLEM, sentence, "director serve migrates them at its start.")
    if newer := startup.unknown_migrations():
        sentence = f"{where}: a newer release has used it ({', '.join(newer)})."
        return Finding(Level.PROBLEM, sentence, "Install that release again.")
    if (skew := _clock_skew()) > _CLOCK_S:
        sentence = f"{where}: its clock and this machine's differ by {skew:.0f} s."
        return Finding(
            Level.WARNING,
            sentence,
            "Synchronize both clocks by NTP: heartbeats of runners depend on them.",
        )
    return Finding(Level.OK, f"{where} opens; its tables are of this release.")


def _clock_skew() -> float:
    """Return the difference of the database server's clock in seconds."""
    if settings.DIRECTOR_ON_SQLITE:
        return 0.0
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        row: Any = cursor.fetchone()
    return float(abs((now() - row[0]).total_seconds()))


def webhooks() -> dict[str, Finding]:
    """Check that all machines of a farm with webhooks have one secret: each would make its own."""
    is_used = bool(settings.DIRECTOR_WEBHOOK_URLS) or WebhookDelivery.objects.exists()
    if (
        settings.DIRECTOR_ON_SQLITE
        or not is_used
        or str(env.str("DIRECTOR_WEBHOOK_SECRET", default="")).strip()
    ):
        return {}
    sentence = "DIRECTOR_WEBHOOK_SECRET is not set: each machine signs with a secret of its own."
    todo = "Set it, the same for every process: the file webhook-secret in a data folder has one."
    return {"Webhooks": Finding(Level.WARNING, sentence, todo)}


def other_parts() -> dict[str, Finding]:
    """Check channel layer, runner and storage, as ``/api/health`` does."""
    layer = health.channel_layer_check(settings.DIRECTOR_REDIS_URL)
    checks = health.run_checks()["checks"]
    parts = (
        ("Channel layer", asdict(layer), "Check DIRECTOR_REDIS_URL, and that Redis runs."),
        ("Runner", checks["runner"], "Start one: director serve, or director runner."),
        ("Storage", _storage(checks["storage"]), _STORAGE_TODO),
    )
    return {
        name: Finding(
            _LEVELS[check["status"]], check["detail"], "" if check["status"] == "ok" else todo
        )
        for name, check, todo in parts
    }


def _storage(check: dict[str, str]) -> dict[str, str]:
    """Return the check of the storage with its place, and down if a file cannot be written there."""
    files, folder = stored_files.storage(), settings.DIRECTOR_FILES_DIR
    if stored_files.is_local() and not folder.exists():
        return check  # serve makes the folder
    where = f"folder {folder}" if stored_files.is_local() else str(files)
    try:
        files.delete(files.save(f"probe-{uuid.uuid4().hex}", ContentFile(b"x")))
    except (OSError, StorageAway) as error:
        return {"status": "down", "detail": f"The {where} cannot be written: {error}"}
    return {**check, "detail": f"The {where} can be written. {check['detail']}"}
