"""Runners and their leases: who is alive, and who may write about which backend."""

from __future__ import annotations

import datetime as dt
import os
import platform
from typing import Any, Final

from django.db import IntegrityError, transaction
from django.db.models import F

from backends.models import Backend
from backends.services import backend_observed
from jobgroups.clock import now
from jobgroups.models import Lease, Runner
from jobgroups.services.writing import Fence, check_fence, unit_of_work

#: How long a lease holds without a renewal.
LEASE_LIFE: Final = dt.timedelta(seconds=15)


@unit_of_work
def runner_started(*, name: str, instance: str, version: str) -> None:
    """Register a runner that has taken its name's lock: it is alive from now on."""
    moment = now()
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


@unit_of_work
def runner_beat(*, name: str, instance: str) -> bool:
    """Renew the heartbeat and all leases of the runner; False if another took its name."""
    with transaction.atomic():
        moment = now()
        alive = Runner.objects.filter(name=name, instance=instance, stopped_at__isnull=True)
        if not alive.update(heartbeat_at=moment):
            return False
        Lease.objects.filter(runner=name).update(until=moment + LEASE_LIFE)
        return True


@unit_of_work
def runner_stopped(*, name: str, instance: str) -> None:
    """Record an orderly end, and let go of the leases: the next runner need not wait."""
    with transaction.atomic():
        stopped = Runner.objects.filter(name=name, instance=instance, stopped_at__isnull=True)
        if stopped.update(stopped_at=now()):
            Lease.objects.filter(runner=name).update(runner="", until=None)


@unit_of_work
def runner_failed(*, name: str, error: str) -> None:
    """Record that a runner's service loop died of a defect and is started again."""
    Runner.objects.filter(name=name).update(
        restarts=F("restarts") + 1, last_error=error[:500], last_error_at=now()
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


def lease_take(*, backend_id: str, runner: str) -> Fence | None:
    """Take the lease on a backend: free, expired, or this runner's own from before.

    The epoch moves on with every taking, so that whatever an earlier holder still writes is refused.

    Returns:
        The fence for all further writes, or None: another live runner holds it, or the backend is
        gone.
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
        lease = Lease.objects.select_for_update().get(backend_id=backend_id)
        held = lease.runner not in ("", runner) and lease.until is not None
        if held and lease.until is not None and lease.until > now():
            return None
        Lease.objects.filter(pk=lease.pk).update(
            runner=runner, epoch=F("epoch") + 1, until=now() + LEASE_LIFE
        )
        return Fence(backend_id, lease.epoch + 1)
