"""Runners and their leases: who is alive, and who may write about which backend.

All of it goes by the database's clock: the machines' own clocks need not agree.
"""

from __future__ import annotations

import datetime as dt
import os
import platform
from typing import Any, Final

from django.db import IntegrityError, transaction
from django.db.models import F

from backends.models import Backend
from backends.services import backend_observed
from jobgroups.models import Lease, Runner
from jobgroups.queries.leases import database_now, dead_runners
from jobgroups.services.writing import Fence, check_fence, unit_of_work

#: How long a lease holds without a renewal: what a host that vanished drove is another runner's
#: within 15 s.
LEASE_LIFE: Final = dt.timedelta(seconds=12)


@unit_of_work
def runner_started(*, name: str, instance: str, version: str) -> None:
    """Register a runner that has taken its name's lock: it is alive from now on.

    What stood in its name is free: it may be more than its share by now, and what is not driven must
    not be renewed with the rest.
    """
    with transaction.atomic():
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
        _free_all(name, moment)


def _free_all(name: str, moment: dt.datetime) -> None:
    # With the time since when each is free: see ``lease_release``.
    Lease.objects.filter(runner=name).update(runner="", expires_at=moment)


@unit_of_work
def runner_beat(*, name: str, instance: str) -> bool:
    """Renew the heartbeat and all leases of the runner; False if another took its name."""
    with transaction.atomic():
        moment = database_now()
        alive = Runner.objects.filter(name=name, instance=instance, stopped_at__isnull=True)
        if not alive.update(heartbeat_at=moment):
            return False
        Lease.objects.filter(runner=name).update(expires_at=moment + LEASE_LIFE)
        return True


@unit_of_work
def runner_stopped(*, name: str, instance: str) -> None:
    """Record an orderly end, and let go of the leases: the next runner need not wait."""
    with transaction.atomic():
        stopped = Runner.objects.filter(name=name, instance=instance, stopped_at__isnull=True)
        moment = database_now()
        if stopped.update(stopped_at=moment):
            _free_all(name, moment)


@unit_of_work
def runner_failed(*, name: str, error: str) -> None:
    """Record that a runner's service loop died of a defect and is started again."""
    Runner.objects.filter(name=name).update(
        restarts=F("restarts") + 1, last_error=error[:500], last_error_at=database_now()
    )


@unit_of_work
def backend_seen(*, fence: Fence, **seen: Any) -> None:
    """Store what the holder of a backend's lease has just seen of it, as ``backend_observed`` takes it.

    Raises:
        LeaseLost: the backend is another runner's now; nothing was written.
    """
    with transaction.atomic():
        check_fence(fence)
        backend_observed(backend_id=fence.backend_id, **seen)


@unit_of_work
def lease_release(*, fence: Fence) -> bool:
    """Hand a backend over: its lease is free from now on, with the time since when in ``expires_at``.

    Called when nothing of this runner speaks to the backend any more.

    Returns:
        Whether the lease was still ours.
    """
    with transaction.atomic():
        ours = Lease.objects.filter(backend_id=fence.backend_id, epoch=fence.epoch)
        # As a whole: whoever still writes under it is waited for.
        if ours.select_for_update().first() is None:
            return False
        return bool(ours.update(runner="", expires_at=database_now()))


def lease_take(*, backend_id: str, runner: str) -> Fence | None:
    """Take the lease on a backend: free, expired, a dead runner's, or this runner's own from before.

    The epoch moves on with every taking, so that whatever an earlier holder still writes is refused.

    Returns:
        The fence for all further writes, or None: another live runner holds it, somebody writes under
        it at this moment, or the backend is gone.
    """
    try:
        return _lease_take(backend_id, runner)
    except IntegrityError:
        # It was deleted between the look and the lease's first row.
        return None


@unit_of_work
def _lease_take(backend_id: str, runner: str) -> Fence | None:
    with transaction.atomic():
        if not Backend.objects.filter(pk=backend_id).exists():
            return None
        Lease.objects.get_or_create(backend_id=backend_id)
        # Locked: by a writer that will be done soon, or one that stands still in the middle. Neither is
        # waited for, since other backends may be free.
        rows = Lease.objects.select_for_update(skip_locked=True)
        lease = rows.filter(backend_id=backend_id).first()
        if lease is None:
            return None
        held = lease.runner not in ("", runner) and lease.expires_at is not None
        moment = database_now()
        holds = held and lease.expires_at is not None and lease.expires_at > moment
        if holds and lease.runner not in dead_runners():
            return None
        Lease.objects.filter(pk=lease.pk).update(
            runner=runner, epoch=F("epoch") + 1, expires_at=moment + LEASE_LIFE
        )
        return Fence(backend_id, lease.epoch + 1)
