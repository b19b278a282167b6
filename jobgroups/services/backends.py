"""What becomes of a backend while groups may stand in its way: held while submitted to, forgotten."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from django.db import connection, transaction

from backends import discovery
from backends.models import Backend
from backends.services import backend_observed, backend_update, is_other_address
from jobgroups.database.retry import unit_of_work
from jobgroups.domain.clock import now
from jobgroups.domain.leases import Fence
from jobgroups.domain.states import CHILD_OPEN, AttemptState
from jobgroups.domain.text import counted
from jobgroups.errors import BackendInUse, BackendNotFound, Conflict
from jobgroups.models import Attempt, ChildJob, Lease
from jobgroups.services.leases import check_fence


def hold_backends(backend_ids: Collection[str]) -> None:
    """Keep backends from being forgotten or emptied until the caller's transaction ends.

    Raises:
        Conflict: one was forgotten or disabled since it was chosen: nobody would render for it.
    """
    wanted = sorted(set(backend_ids))
    # KEY SHARE: submissions do not wait for one another, nor for what is observed meanwhile.
    lock = " FOR KEY SHARE" if connection.vendor == "postgresql" else ""
    places = ", ".join(["%s"] * len(wanted))
    table = Backend._meta.db_table
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT id, enabled FROM {table} WHERE id IN ({places}) ORDER BY id{lock}",  # noqa: S608 ids are bound
            wanted,
        )
        found = {row[0]: bool(row[1]) for row in cursor.fetchall()}
    for backend_id in wanted:
        if backend_id not in found:
            raise Conflict(f"Backend {backend_id} was removed a moment ago; submit again.")
        if not found[backend_id]:
            raise Conflict(f"Backend {backend_id} was disabled a moment ago; submit again.")


@unit_of_work
def backend_forget(*, backend_id: str) -> None:
    """Forget a backend for which nothing waits and on which nothing of ours may run.

    Prompts that were to be stopped on a machine that is away stand in nobody's way: they are lost
    with it.

    Raises:
        BackendNotFound: there is none with this id.
        BackendInUse: children are not final, or prompts may still run there.
    """
    with transaction.atomic():
        # Every claim holds the lease's row, every submission the backend's.
        Lease.objects.select_for_update().filter(pk=backend_id).first()
        row = Backend.objects.select_for_update().filter(pk=backend_id).first()
        if row is None:
            raise BackendNotFound(backend_id)
        children = ChildJob.objects.filter(backend_id=backend_id, status__in=CHILD_OPEN).count()
        if children:
            them = "it" if children == 1 else "them"
            raise BackendInUse(f"{_jobs(children)} not final; cancel {them} or wait for {them}.")
        active = Attempt.objects.filter(backend_id=backend_id, ended_at__isnull=True)
        if active.exists() and row.unreachable_since is None:
            raise BackendInUse("Prompts of ours may still run there; wait until they were stopped.")
        active.update(state=AttemptState.LOST, ended_at=now())
        row.delete()
        discovery.adoption_end()


@unit_of_work
def adopted_depart(*, backend_id: str) -> bool:
    """Take a backend off the list that discovery registered and that has left.

    Returns:
        Whether this call removed it: no person has changed it, and no job was ever bound to it.
    """
    with transaction.atomic():
        Lease.objects.select_for_update().filter(pk=backend_id).first()
        rows = Backend.objects.select_for_update()
        row = rows.filter(pk=backend_id, adopted_at__isnull=False).first()
        if row is None or row.unreachable_since is None:
            return False
        children = ChildJob.objects.filter(backend_id=backend_id)
        if children.exists() or Attempt.objects.filter(backend_id=backend_id).exists():
            return False
        discovery.backend_depart(row=row)
        return True


def backend_change(*, backend_id: str, url: str | None = None, **changes: Any) -> Backend:
    """Change a backend as ``backend_update`` does; its address only while no prompt of ours may be there.

    Raises:
        BackendNotFound: there is none with this id.
        BackendInUse: prompts may still run at the present address.
    """
    with transaction.atomic():
        # Every claim locks the lease's row: no prompt is sent between the check and the change.
        Lease.objects.select_for_update().filter(pk=backend_id).first()
        backend = Backend.objects.filter(pk=backend_id).first()
        if backend is None:
            raise BackendNotFound(backend_id)
        if url is not None and is_other_address(backend, url):
            prompts = Attempt.objects.filter(backend_id=backend_id, ended_at__isnull=True).count()
            if prompts:
                raise BackendInUse(
                    f"{counted(prompts, 'prompt', 'prompts')} of ours may still run at the present address; "
                    "disable the backend and change it when they have ended."
                )
        changed = backend_update(backend_id=backend_id, url=url, **changes)
        if changed is None:
            raise BackendNotFound(backend_id)
        return changed


def _jobs(number: int) -> str:
    return f"{number} job is" if number == 1 else f"{number} jobs are"


@unit_of_work
def backend_seen(*, fence: Fence, **seen: Any) -> None:
    """Store what the holder of a backend's lease has just seen of it, as ``backend_observed`` takes it.

    Raises:
        LeaseLost: the backend is another runner's now; nothing was written.
    """
    with transaction.atomic():
        check_fence(fence)
        backend_observed(backend_id=fence.backend_id, **seen)
