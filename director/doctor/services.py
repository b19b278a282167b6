"""The database, the doorbell and the runner."""

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
#: Seconds that the database's clock may differ from this machine's: heartbeats live ten.
_CLOCK_S: Final = 5.0


def database() -> Finding:
    """Whether the database opens, and its tables are those of this release."""
    path = Path(connection.settings_dict["NAME"]) if settings.DIRECTOR_ON_SQLITE else None
    # Looking must not make it: SQLite creates what it opens.
    if path is not None and not path.exists():
        said = f"{path} is not there yet: serve makes it."
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
    todo = "See DIRECTOR_DATABASE_URL and DIRECTOR_DATA_DIR; is it running?"
    said = f"{_where(path)} does not open: {reason}"
    return Finding("Database", Level.PROBLEM, said, todo)


def is_ready(found: Finding) -> bool:
    """Whether the database can be asked further."""
    return found.level in (Level.OK, Level.WARNING)


def _where(path: Path | None) -> str:
    """Return where the database is, without a password."""
    if path is not None:
        size = path.stat().st_size / 2**20 if path.exists() else 0
        return f"SQLite at {path} ({size:.0f} MB)"
    said = connection.settings_dict
    return f"PostgreSQL {said['NAME']} at {said['HOST'] or 'localhost'}:{said['PORT'] or 5432}"


def _tables(where: str) -> Finding:
    executor = MigrationExecutor(connection)
    if executor.migration_plan(executor.loader.graph.leaf_nodes()):
        said = f"{where}: its tables are of an older release."
        return Finding(
            "Database", Level.PROBLEM, said, "director serve brings them up to date, at its start."
        )
    if newer := sorted(_unknown(executor.loader)):
        said = f"{where}: a newer release has used it ({', '.join(newer)})."
        return Finding("Database", Level.PROBLEM, said, "Install that release again.")
    if (skew := _clock_skew()) > _CLOCK_S:
        todo = "Set both clocks by NTP: a runner's sign of life is judged by them."
        said = f"{where}: its clock and this machine's differ by {skew:.0f} s."
        return Finding("Database", Level.WARNING, said, todo)
    return Finding("Database", Level.OK, f"{where} opens; its tables are of this release.")


def _unknown(loader: MigrationLoader) -> Iterator[str]:
    for label, name in loader.applied_migrations:
        if label in loader.migrated_apps and (label, name) not in loader.disk_migrations:
            yield f"{label} {name}"


def _clock_skew() -> float:
    """Return by how many seconds the database server's clock differs."""
    if settings.DIRECTOR_ON_SQLITE:
        return 0.0
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        row: Any = cursor.fetchone()
    return float(abs((now() - row[0]).total_seconds()))


def channel_layer_and_runner() -> list[Finding]:
    """Whether messages pass, and somebody does the work, as ``/api/health`` judges it."""
    bell = health.channel_layer_check(settings.DIRECTOR_REDIS_URL)
    runner = health.run_checks()["checks"]["runner"]
    return [
        Finding(
            "Channel layer",
            _LEVELS[bell.status],
            bell.detail,
            "" if bell.status == "ok" else "See DIRECTOR_REDIS_URL; is that Redis running?",
        ),
        Finding(
            "Runner",
            _LEVELS[runner["status"]],
            runner["detail"],
            "" if runner["status"] == "ok" else "Start one: director serve, or director runner.",
        ),
    ]
