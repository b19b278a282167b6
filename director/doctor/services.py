"""Checks of database, channel layer and runner."""

import uuid
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from django.conf import settings
from django.core.files.base import ContentFile
from django.db import Error as DatabaseError
from django.db import connection

from director.doctor.findings import Finding, Level
from director.server import startup
from director.web import health
from jobgroups.domain.clock import now
from jobgroups.errors import StorageAway
from jobgroups.services import stored_files

_LEVELS: Final = {"ok": Level.OK, "degraded": Level.WARNING, "down": Level.PROBLEM}
_STORAGE_TODO: Final = "Check DIRECTOR_FILES_DIR and DIRECTOR_FILES_STORAGE, and free some space: director purge."
#: Maximum difference in seconds between the database's clock and this machine's: a heartbeat is valid for 10 s.
_CLOCK_S: Final = 5.0


def database() -> Finding:
    """Check that the database opens and is migrated to this release."""
    path = Path(connection.settings_dict["NAME"]) if settings.DIRECTOR_ON_SQLITE else None
    # SQLite would create the file.
    if path is not None and not path.exists():
        said = f"{path} does not exist yet: serve makes it."
        return Finding("Database", Level.NOTE, said, "director serve")
    try:
        if path is None and (reason := startup.database_error()) is not None:
            return _closed(path, reason)
        return _tables(_where(path))
    except startup.CannotStart as refusal:
        return _closed(path, str(refusal))
    except DatabaseError as error:
        return _closed(path, str(error).strip().splitlines()[0])


def _closed(path: Path | None, reason: str) -> Finding:
    todo = "Check DIRECTOR_DATABASE_URL and DIRECTOR_DATA_DIR, and that the server runs."
    said = f"{_where(path)} does not open: {reason}"
    return Finding("Database", Level.PROBLEM, said, todo)


def _where(path: Path | None) -> str:
    if path is not None:
        size = path.stat().st_size / 2**20 if path.exists() else 0
        return f"SQLite at {path} ({size:.0f} MB)"
    said = connection.settings_dict
    return f"PostgreSQL {said['NAME']} at {said['HOST'] or 'localhost'}:{said['PORT'] or 5432}"


def _tables(where: str) -> Finding:
    if not connection.introspection.table_names():
        return Finding("Database", Level.NOTE, f"{where}: it has no tables yet: serve makes them.", "director serve")
    if not startup.is_migrated():
        said = f"{where}: its tables are of an older release."
        return Finding("Database", Level.PROBLEM, said, "director serve migrates them at its start.")
    if newer := startup.unknown_migrations():
        said = f"{where}: a newer release has used it ({', '.join(newer)})."
        return Finding("Database", Level.PROBLEM, said, "Install that release again.")
    if (skew := _clock_skew()) > _CLOCK_S:
        todo = "Synchronize both clocks by NTP: heartbeats of runners depend on them."
        said = f"{where}: its clock and this machine's differ by {skew:.0f} s."
        return Finding("Database", Level.WARNING, said, todo)
    return Finding("Database", Level.OK, f"{where} opens; its tables are of this release.")


def _clock_skew() -> float:
    """Return the difference of the database server's clock in seconds."""
    if settings.DIRECTOR_ON_SQLITE:
        return 0.0
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        row: Any = cursor.fetchone()
    return float(abs((now() - row[0]).total_seconds()))


def other_parts() -> list[Finding]:
    """Check channel layer, runner and storage, as ``/api/health`` does."""
    layer = health.channel_layer_check(settings.DIRECTOR_REDIS_URL)
    checks = health.run_checks()["checks"]
    found = (
        ("Channel layer", asdict(layer), "Check DIRECTOR_REDIS_URL, and that Redis runs."),
        ("Runner", checks["runner"], "Start one: director serve, or director runner."),
        ("Storage", _storage(checks["storage"]), _STORAGE_TODO),
    )
    return [
        Finding(name, _LEVELS[one["status"]], one["detail"], "" if one["status"] == "ok" else todo)
        for name, one, todo in found
    ]


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
