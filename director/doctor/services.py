"""Checks of database, channel layer and runner."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from django.conf import settings
from django.db import Error as DatabaseError
from django.db import connection
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.loader import MigrationLoader

from director.doctor.findings import Finding, Level
from director.server import startup
from director.web import health
from jobgroups.domain.clock import now

_LEVELS: Final = {"ok": Level.OK, "degraded": Level.WARNING, "down": Level.PROBLEM}
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


def is_ready(found: Finding) -> bool:
    """Return whether other checks can use the database."""
    return found.level in (Level.OK, Level.WARNING)


def _where(path: Path | None) -> str:
    """Return the location of the database, without a password."""
    if path is not None:
        size = path.stat().st_size / 2**20 if path.exists() else 0
        return f"SQLite at {path} ({size:.0f} MB)"
    said = connection.settings_dict
    return f"PostgreSQL {said['NAME']} at {said['HOST'] or 'localhost'}:{said['PORT'] or 5432}"


def _tables(where: str) -> Finding:
    executor = MigrationExecutor(connection)
    if executor.migration_plan(executor.loader.graph.leaf_nodes()):
        said = f"{where}: its tables are of an older release."
        return Finding("Database", Level.PROBLEM, said, "director serve migrates them at its start.")
    if newer := sorted(_unknown(executor.loader)):
        said = f"{where}: a newer release has used it ({', '.join(newer)})."
        return Finding("Database", Level.PROBLEM, said, "Install that release again.")
    if (skew := _clock_skew()) > _CLOCK_S:
        todo = "Synchronize both clocks by NTP: heartbeats of runners depend on them."
        said = f"{where}: its clock and this machine's differ by {skew:.0f} s."
        return Finding("Database", Level.WARNING, said, todo)
    return Finding("Database", Level.OK, f"{where} opens; its tables are of this release.")


def _unknown(loader: MigrationLoader) -> Iterator[str]:
    for label, name in loader.applied_migrations:
        if label in loader.migrated_apps and (label, name) not in loader.disk_migrations:
            yield f"{label} {name}"


def _clock_skew() -> float:
    """Return the difference of the database server's clock in seconds."""
    if settings.DIRECTOR_ON_SQLITE:
        return 0.0
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        row: Any = cursor.fetchone()
    return float(abs((now() - row[0]).total_seconds()))


def channel_layer_and_runner() -> list[Finding]:
    """Check channel layer and runner, as ``/api/health`` does."""
    layer = health.channel_layer_check(settings.DIRECTOR_REDIS_URL)
    runner = health.run_checks()["checks"]["runner"]
    return [
        Finding(
            "Channel layer",
            _LEVELS[layer.status],
            layer.detail,
            "" if layer.status == "ok" else "Check DIRECTOR_REDIS_URL, and that Redis runs.",
        ),
        Finding(
            "Runner",
            _LEVELS[runner["status"]],
            runner["detail"],
            "" if runner["status"] == "ok" else "Start one: director serve, or director runner.",
        ),
    ]
