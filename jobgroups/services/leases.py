"""Leases: acquired, released, and locked by a write until its commit."""

import datetime as dt
from collections.abc import Set
from typing import Final

from django.db import IntegrityError, connection
from django.db.models import F

from backends.models import Backend
from jobgroups.database.retry import retried_transaction
from jobgroups.domain.leases import FencingToken
from jobgroups.errors import LeaseLost
from jobgroups.models import Lease
from jobgroups.queries.leases import database_now, dead_runners

#: How long a lease holds without a renewal: what a host that vanished drove is another runner's
#: within 15 s.
LEASE_TTL: Final = dt.timedelta(seconds=12)
#: How long a runner's write waits for a locked row before it is retried.
LOCK_TIMEOUT: Final = "3s"


def verify_fence(fence: FencingToken | None) -> None:
    """Lock the lease's row until commit and compare its epoch, as :func:`valid_fences` does.

    Raises ``LeaseLost`` if another runner has acquired the backend, or it was deleted.
    """
    if fence is not None and not valid_fences({fence}):
        raise LeaseLost(fence.backend_id, fence.epoch)


def valid_fences(fences: Set[FencingToken]) -> Set[FencingToken]:
    """Lock the rows of many leases until commit, and return the valid fencing tokens.

    The epochs are read and then compared here. A subquery of the UPDATE would see the row as it was
    before a takeover for which the statement had to wait. A takeover locks the row with ``FOR
    UPDATE`` and waits for current writers; a renewal need not wait.
    """
    if not fences:
        return fences
    backend_ids = sorted({fence.backend_id for fence in fences})
    on_postgres = connection.vendor == "postgresql"
    # Set the lock timeout for the rest of the transaction. Otherwise two suspended processes could
    # hold a lease row longer than the lease lasts.
    limit = f", set_config('lock_timeout', '{LOCK_TIMEOUT}', true)" if on_postgres else ""
    marks = ", ".join(["%s"] * len(backend_ids))
    query = (
        f"SELECT backend_id, epoch{limit} FROM {Lease._meta.db_table}"  # noqa: S608 no input in it
        f" WHERE backend_id IN ({marks}) ORDER BY backend_id"
    )
    with connection.cursor() as cursor:
        cursor.execute(query + (" FOR KEY SHARE" if on_postgres else ""), backend_ids)
        epochs = {row[0]: row[1] for row in cursor.fetchall()}
    return {fence for fence in fences if epochs.get(fence.backend_id) == fence.epoch}


@retried_transaction
def lease_release(*, fence: FencingToken) -> bool:
    """Hand a backend over: its lease is unclaimed from now on, which ``expires_at`` records.

    Called after this runner has closed all connections to the backend. Returns whether this runner
    still held the lease.
    """
    ours = Lease.objects.filter(backend_id=fence.backend_id, epoch=fence.epoch)
    # Wait for writes in progress under this lease.
    if ours.select_for_update().first() is None:
        return False
    return bool(ours.update(runner="", expires_at=database_now()))


def lease_acquire(*, backend_id: str, runner: str) -> FencingToken | None:
    """Acquire the lease on a backend: unclaimed, expired, a dead runner's, or this runner's own
    from before.

    Every acquisition increments the epoch, so that later writes of earlier holders are rejected.
    Returns the fencing token, or None: another live runner holds the lease, a write under it is in
    progress, or the backend was deleted.
    """
    try:
        return _lease_acquire(backend_id, runner)
    except IntegrityError:
        # The backend was deleted between the check and the insert of the lease.
        return None


@retried_transaction
def _lease_acquire(backend_id: str, runner: str) -> FencingToken | None:
    if not Backend.objects.filter(pk=backend_id).exists():
        return None
    Lease.objects.get_or_create(backend_id=backend_id)
    # Do not wait for a locked lease: other backends may be free.
    lease = Lease.objects.select_for_update(skip_locked=True).filter(backend_id=backend_id).first()
    if lease is None:
        return None
    moment = database_now()
    is_held = (
        lease.runner not in ("", runner)
        and lease.expires_at is not None
        and lease.expires_at > moment
    )
    if is_held and lease.runner not in dead_runners():
        return None
    Lease.objects.filter(pk=lease.pk).update(
        runner=runner, epoch=F("epoch") + 1, expires_at=moment + LEASE_TTL
    )
    return FencingToken(backend_id, lease.epoch + 1)
