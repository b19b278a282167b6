"""All checks of ``director doctor``, in order."""

import datetime as dt
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from director import __version__
from director.doctor import backends, host, installation, services
from director.doctor.findings import SEVERITY, Finding, Level
from jobgroups.domain.clock import iso


def run_checks(port: int) -> list[Finding]:
    """Run all checks of a Director that listens on ``port``."""
    database = services.database()
    found = [
        installation.python(),
        installation.packages(),
        installation.variables(),
        installation.ffmpeg(),
        host.data_folder(),
        host.port(port),
        database,
    ]
    # The other checks need a database that is open and migrated.
    if database.level in (Level.OK, Level.WARNING):
        found += [*services.other_parts(), *backends.backends()]
    return found


def worst(found: Sequence[Finding]) -> Level:
    return max((one.level for one in found), key=SEVERITY.index, default=Level.OK)


def as_json(found: Sequence[Finding]) -> dict[str, Any]:
    return {
        "version": __version__,
        "created_at": iso(dt.datetime.now(dt.UTC)),
        "status": worst(found),
        "findings": [asdict(one) for one in found],
    }
