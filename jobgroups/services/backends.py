"""Backends with groups: locked for a submission, created, changed, deleted, observed."""

from collections.abc import Collection, Mapping
from typing import Any

from django.db import connection
from django.db.models import QuerySet

from backends import discovery, services
from backends.models import Backend, FoundBackend
from backends.queries import name_of
from jobgroups.database.retry import retried_transaction
from jobgroups.domain.audit import Action
from jobgroups.domain.clock import now
from jobgroups.domain.leases import FencingToken
from jobgroups.domain.states import AttemptState
from jobgroups.domain.text import pluralize
from jobgroups.errors import BackendInUse, BackendNotFound, Conflict
from jobgroups.events import log
from jobgroups.models import Attempt, ChildJob, JobGroup, Lease
from jobgroups.queries.backends import active_attempts, open_children
from jobgroups.queries.groups import group_names
from jobgroups.services import exclusions
from jobgroups.services.audit import record
from jobgroups.services.leases import verify_fence


def lock_backends(backend_ids: Collection[str]) -> None:
    """Prevent the deletion and the disabling of backends until the caller's transaction ends.

    Raises ``Conflict`` if a backend was deleted or disabled since it was selected.
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
        enabled_by_id = {row[0]: bool(row[1]) for row in cursor.fetchall()}
    for backend_id in wanted:
        if backend_id not in enabled_by_id:
            raise Conflict(f"Backend {backend_id} was removed a moment ago; submit again.")
        if not enabled_by_id[backend_id]:
            raise Conflict(
                f"Backend {name_of(backend_id)} was disabled a moment ago; submit again."
            )


@retried_transaction
def backend_create(**values: Any) -> Backend:
    """Register a backend, as ``backends.services.backend_create`` does, and notify the runners."""
    row = services.backend_create(**values)
    record(Action.BACKEND_ADDED, row.id, url=row.url)
    log.notify_runners_on_commit()
    return row


@retried_transaction
def backend_update(*, backend_id: str, url: str | None = None, **values: Any) -> Backend:
    """Change a backend, as ``backends.services.backend_update`` does, and notify the runners.

    Raises:
        FieldInvalid, BackendExists: as ``backends.services`` raises them.
        BackendInUse: the address is to change, and prompts may still run at the present one.
        BackendNotFound: there is no such backend.
    """
    # A claim locks the lease, too: none is stored between this check and the change.
    Lease.objects.select_for_update().filter(pk=backend_id).first()
    moves = url is not None and _check_address_change(backend_id, url)
    row = services.backend_update(backend_id=backend_id, url=url, **values)
    if row is None:
        raise BackendNotFound(backend_id)
    if moves or values.get("partner_nodes_allowed"):
        exclusions.forget(backend_id)
    changed = {"url": url, **values}
    record(
        Action.BACKEND_CHANGED,
        backend_id,
        # Their values may be secrets.
        fields=sorted(name for name, value in changed.items() if value is not None),
        enabled=values.get("enabled"),
        extensions_allowed=values.get("extensions_allowed"),
    )
    log.notify_runners_on_commit()
    return row


def _check_address_change(backend_id: str, url: str) -> bool:
    """Return whether the address changes."""
    row = Backend.objects.filter(pk=backend_id).first()
    if row is None or services.normalise_address(url).url == row.url:
        return False
    if active := active_attempts(backend_id).count():
        raise BackendInUse(
            f"{pluralize(active, 'prompt')} of ours may still run at the present address; "
            "disable the backend and change it when they have ended."
        )
    return True


@retried_transaction
def found_add(*, url: str) -> Backend:
    """Register a found ComfyUI, as ``backends.discovery.found_add`` does, and notify the runners."""
    row = discovery.found_add(url=url)
    record(Action.BACKEND_ADDED, row.id, url=row.url)
    log.notify_runners_on_commit()
    return row


@retried_transaction
def found_ignore(*, url: str, ignored: bool) -> FoundBackend:
    """Stop or resume offering a found ComfyUI, as ``backends.discovery.found_ignore`` does."""
    row = discovery.found_ignore(url=url, ignored=ignored)
    record(Action.BACKEND_IGNORED if ignored else Action.BACKEND_UNIGNORED, row.url)
    return row


@retried_transaction
def backend_delete(*, backend_id: str) -> None:
    """Delete a backend without queued jobs, on which no prompt of ours may run.

    Prompts with a pending stop at an offline backend do not prevent it: they count as lost.

    Raises:
        BackendNotFound: there is none with this id.
        BackendInUse: children are not final, or prompts may still run there.
    """
    # Every claim holds the lease's row, every submission the backend's.
    Lease.objects.select_for_update().filter(pk=backend_id).first()
    row = Backend.objects.select_for_update().filter(pk=backend_id).first()
    if row is None:
        raise BackendNotFound(backend_id)
    jobs, prompts = open_children(backend_id), active_attempts(backend_id)
    if children := jobs.count():
        them = "it" if children == 1 else "them"
        raise BackendInUse(
            f"{pluralize(children, 'job is', 'jobs are')} not final, of "
            f"{_names(jobs.values('group'))}; cancel {them} or wait for {them}."
        )
    if row.unreachable_since is None and prompts.exists():
        raise BackendInUse(
            f"Prompts of ours may still run there, of {_names(prompts.values('child__group'))}; wait "
            "until they were stopped."
        )
    prompts.update(state=AttemptState.LOST, ended_at=now())
    row.delete()
    record(Action.BACKEND_REMOVED, backend_id)
    discovery.adoption_end()
    log.notify_runners_on_commit()


def _names(group_ids: QuerySet[Any, Any]) -> str:
    return group_names(JobGroup.objects.filter(pk__in=group_ids))


@retried_transaction
def adopted_depart(*, backend_id: str) -> bool:
    """Delete a backend that discovery registered and that no longer responds; return whether this
    call deleted it.

    It stays if a user has changed it, or a job was ever assigned to it.
    """
    Lease.objects.select_for_update().filter(pk=backend_id).first()
    row = (
        Backend.objects.select_for_update().filter(pk=backend_id, adopted_at__isnull=False).first()
    )
    if row is None or row.unreachable_since is None:
        return False
    if any(model.objects.filter(backend_id=backend_id).exists() for model in (ChildJob, Attempt)):
        return False
    discovery.backend_depart(row=row)
    return True


@retried_transaction
def backends_probed(observations: Collection[Mapping[str, Any]]) -> None:
    """Store what probes of a request observed, in one write: each would wait for all other writers."""
    for seen in sorted(observations, key=lambda seen: str(seen["backend_id"])):
        services.backend_observed(**seen)


@retried_transaction
def backend_observed(*, fence: FencingToken, **seen: Any) -> None:
    """Store an observation by the holder of a backend's lease; see
    ``backends.services.backend_observed``.

    Raises ``LeaseLost`` if another runner has acquired the backend; nothing was written.
    """
    verify_fence(fence)
    services.backend_observed(backend_id=fence.backend_id, **seen)
    if not seen["reachable"]:
        # When it comes back, it may have restarted with what it lacked.
        exclusions.forget(fence.backend_id)
