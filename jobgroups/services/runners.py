"""Runners: register, heartbeat, deregister.

All times are of the database's clock: the clocks of the hosts may differ.
"""

import datetime as dt
import os
import platform

from django.db.models import F

from jobgroups.database.retry import retried_transaction, retry_on_conflict
from jobgroups.models import Lease, Runner
from jobgroups.queries.leases import database_now
from jobgroups.services.leases import LEASE_TTL
from jobgroups.services.write_start import begin_write


@retried_transaction
def runner_register(*, name: str, instance: str, version: str) -> None:
    """Register a runner that holds the lock on its name.

    Leases in its name are released: they may be more than its share now, and a lease without a
    session must not be renewed.
    """
    moment = database_now()
    Runner.objects.update_or_create(
        name=name,
        defaults={
            "instance": instance,
            "host": platform.node()[:255],
            "pid": os.getpid(),
            "version": version,
            "started_at": moment,
            "heartbeat_at": moment,
            "stopped_at": None,
        },
    )
    _release_all(name, moment)


def _release_all(name: str, moment: dt.datetime) -> None:
    # With the time since when each is free: see ``lease_release``.
    Lease.objects.filter(runner=name).update(runner="", expires_at=moment)


@retried_transaction
def runner_heartbeat(*, name: str, instance: str) -> bool:
    """Renew the heartbeat and all leases of the runner. Return False if another runner has taken
    its name.
    """
    moment = database_now()
    alive = Runner.objects.filter(name=name, instance=instance, stopped_at__isnull=True)
    if not alive.update(heartbeat_at=moment):
        return False
    Lease.objects.filter(runner=name).update(expires_at=moment + LEASE_TTL)
    return True


@retried_transaction
def heartbeat_check() -> None:
    """Store a write like a heartbeat: a runner without a recent one may be unable to store it.

    Raises the error of a database that is locked or full, or ``Overloaded``. Without a registered
    runner nothing is written.
    """
    begin_write()
    # SQLite writes no page for an equal value.
    moved = F("heartbeat_at") + dt.timedelta(microseconds=1)
    Runner.objects.filter(stopped_at__isnull=True).update(heartbeat_at=moved)


@retried_transaction
def runner_deregister(*, name: str, instance: str) -> None:
    """Record an orderly end and release the leases, so that the next runner need not wait."""
    stopped = Runner.objects.filter(name=name, instance=instance, stopped_at__isnull=True)
    moment = database_now()
    if stopped.update(stopped_at=moment):
        _release_all(name, moment)


@retry_on_conflict
def runner_failed(*, name: str, error: str) -> None:
    """Record that a runner's service ended with an unexpected error and is restarted."""
    Runner.objects.filter(name=name).update(
        restarts=F("restarts") + 1, last_error=error[:500], last_error_at=database_now()
    )
