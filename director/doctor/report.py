"""All checks of ``director doctor``, in order."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from director import __version__
from director.doctor import backends, host, installation, services
from director.doctor.findings import SEVERITY, Finding, Level
from jobgroups.domain.clock import iso


def run_checks(port: int) -> list[Finding]:
    """Run all checks.

    Args:
        port: of the Director.
    """
    database = services.database()
    found = [
        installation.python(),
        installation.packages(),
        installation.variables(),
        host.data_folder(),
        host.port(port),
        database,
    ]
    if services.is_ready(database):
        found += [*services.channel_layer_and_runner(), *backends.backends()]
    return found


def worst(found: Sequence[Finding]) -> Level:
    """Return the worst level."""
    return max((one.level for one in found), key=SEVERITY.index, default=Level.OK)


def as_json(found: Sequence[Finding]) -> dict[str, Any]:
    """Return the report as JSON."""
    return {
        "version": __version__,
        "created_at": iso(dt.datetime.now(dt.UTC)),
        "status": worst(found),
        "findings": [asdict(one) for one in found],
    }
