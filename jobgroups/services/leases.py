"""LeaseTable: taken, released, and held by a write until its commit."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence, Set
from typing import Final

from django.db import IntegrityError, connection, transaction
from django.db.models import F

from backends.models import Backend
from jobgroups.database.retry import retry_on_conflict
from jobgroups.domain.leases import FencingToken
from jobgroups.errors import LeaseLost
from jobgroups.models import Lease
from jobgroups.queries.leases import database_now, dead_runners

#: How long a lease holds without a renewal: what a host that vanished drove is another runner's
#: within 15 s.
LEASE_TTL: Final = dt.timedelta(seconds=12)


#: How long a runner's write waits for a row that somebody else has; then it is tried again.
LOCK_TIMEOUT: Final = "3s"


def verify_fence(fence: FencingToken | None) -> None:
    """Hold the lease's row until commit and compare its epoch.

    Read, then compared here: an epoch compared inside the UPDATE's subquery would be judged on the
    row as it was before a takeover that this statement had to wait for. A takeover locks the row as a
    whole (``FOR UPDATE``), and waits for those who write under it; a renewal need not.

    Raises:
        LeaseLost: the backend is another runner's now, or it was deleted.
    """
    if fence is None:
        return
    epochs = _held_epochs([fence.backend_id])
    if epochs.get(fence.backend_id) != fence.epoch:
        raise LeaseLost(fence.backend_id, fence.epoch)


def valid_fences(fences: Set[FencingToken]) -> Set[FencingToken]:
    """Hold the rows of many leases until commit, and return the fences that are valid."""
    epochs = _held_epochs(sorted({fence.backend_id for fence in fences}))
    return {fence for fence in fences if epochs.get(fence.backend_id) == fence.epoch}


def _held_epochs(backend_ids: Sequence[str]) -> dict[str, int]:
    on_postgres = connection.vendor == "postgresql"
    # With the rows, for the rest of the transaction: one that waits for a row of a process that stands
    # still, and stands still itself, must not hold its lease's row for longer than the lease.
    limit = f", set_config('lock_timeout', '{LOCK_TIMEOUT}', true)" if on_postgres else ""
    marks = ", ".join(["%s"] * len(backend_ids))
    query = (
        f"SELECT backend_id, epoch{limit} FROM {Lease._meta.db_table}"  # noqa: S608 no input in it
        f" WHERE backend_id IN ({marks}) ORDER BY backend_id"
    )
    if not backend_ids:
        return {}
    with connection.cursor() as cursor:
        cursor.execute(query + (" FOR KEY SHARE" if on_postgres else ""), list(backend_ids))
        return {row[0]: row[1] for row in cursor.fetchall()}


@retry_on_conflict
def lease_release(*, fence: FencingToken) -> bool:
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


def lease_acquire(*, backend_id: str, runner: str) -> FencingToken | None:
    """Take the lease on a backend: free, expired, a dead runner's, or this runner's own from before.

    The epoch moves on with every taking, so that whatever an earlier holder still writes is refused.

    Returns:
        The fence for all further writes, or None: another live runner holds it, somebody writes under
        it at this moment, or the backend is gone.
    """
    try:
        return _lease_acquire(backend_id, runner)
    except IntegrityError:
        # It was deleted between the look and the lease's first row.
        return None


@retry_on_conflict
def _lease_acquire(backend_id: str, runner: str) -> FencingToken | None:
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
            runner=runner, epoch=F("epoch") + 1, expires_at=moment + LEASE_TTL
        )
        return FencingToken(backend_id, lease.epoch + 1)
