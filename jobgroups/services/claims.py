"""Claims: store the intent to send a queued child before anything is sent.

Holds are checked under the fence: a user's pause locks the lease, so no claim is stored after the pause.
"""

from __future__ import annotations

import datetime as dt
import uuid
from dataclasses import dataclass
from typing import Final

from django.db import connection
from django.db.models import Exists, OuterRef, Q, QuerySet

from jobgroups.database.retry import retry_on_conflict
from jobgroups.database.statements import KEY, Parameter, PreparedQuery, insert_returning_id, update_where
from jobgroups.domain.clock import now
from jobgroups.domain.failures import OVERTAKEN
from jobgroups.domain.leases import FencingToken
from jobgroups.domain.retry_policy import LONGEST_PAUSE
from jobgroups.domain.states import AttemptState, ChildStatus
from jobgroups.events import log
from jobgroups.models import Attempt, ChildJob
from jobgroups.services.group_transaction import GroupTransaction
from jobgroups.services.slots import has_free_slot
from jobgroups.services.transactions import group_transaction


@dataclass(frozen=True, slots=True)
class Claim:
    """What the runner needs to send a child, committed as an intent before anything is sent."""

    attempt_id: int
    number: int
    prompt_id: str
    client_id: str
    group_id: str
    child_id: str
    seed: int
    timeout_seconds: int
    workflow_json: str
    parameters_json: str


@retry_on_conflict
def child_claim(*, fence: FencingToken, client_id: str, depth: int) -> Claim | None:
    """Claim the backend's oldest queued child: store the intent to send it.

    Args:
        fence: the lease on the backend.
        client_id: of the socket that will receive the prompt's events.
        depth: slots of the backend; each prompt without a seen end uses one.

    Returns:
        The claim, or None: no child is queued, no slot is free, the backend is disabled, held or quarantined, or a
        running prompt there is being stopped (ComfyUI's interrupt flag is process-wide and could stop a second prompt).
    """
    # Check for queued children first: most of a farm's backends have none, and this runs often.
    candidate = _oldest_waiting(fence.backend_id)
    if candidate is None or not has_free_slot(fence.backend_id, depth):
        return None
    while candidate is not None:
        try:
            claim = _claim(candidate, fence, client_id, depth)
        except _NoFreeSlot:
            return None
        if claim is not None:
            return claim
        candidate = _oldest_waiting(fence.backend_id)
    return None


def stored_intents(*, fence: FencingToken) -> set[int]:
    """Return the ids of the attempts that were claimed under a lease and are still intents.

    An intent that the lease's holder does not know was not sent: its claim was committed, but the response was lost.
    """
    intents = Attempt.objects.filter(
        backend_id=fence.backend_id, epoch=fence.epoch, ended_at__isnull=True, state=AttemptState.INTENT
    )
    return set(intents.values_list("id", flat=True))


class _NoFreeSlot(Exception):
    """The backend takes no prompt now. Rolls the claim's transaction back."""


def _claimable() -> QuerySet[ChildJob]:
    due = (
        Q(not_before__isnull=True)
        | Q(not_before__lte=Parameter("moment"))
        # A longer delay was stored before the clock was set back.
        | Q(not_before__gt=Parameter("longest"))
    )
    # Two prompts of one child never run at once, but where the older one hangs, is out of reach or cannot
    # be followed elsewhere, and its end may never be seen. What stands at this backend is settled first.
    older = Attempt.objects.filter(child=OuterRef("pk"), ended_at__isnull=True)
    overtaken = Q(failure_class__in=OVERTAKEN)
    return ChildJob.objects.filter(
        due,
        ~Exists(older.exclude(overtaken & ~Q(backend_id=KEY))),
        backend_id=KEY,
        status=ChildStatus.QUEUED,
        current_attempt__isnull=True,
    )


_oldest: Final = PreparedQuery(lambda: _claimable().order_by("queued_at", "group_id", "position").only("group_id")[:1])
_still_waiting: Final = PreparedQuery(
    lambda: _claimable().filter(pk=Parameter("child_id")).select_for_update(of=("self",)).order_by()
)


def _time_parameters() -> dict[str, dt.datetime]:
    moment = now()
    return {"moment": moment, "longest": moment + dt.timedelta(seconds=LONGEST_PAUSE)}


def _oldest_waiting(backend_id: str) -> tuple[str, str] | None:
    oldest = _oldest.first(backend_id, **_time_parameters())
    return None if oldest is None else (oldest.id, oldest.group_id)


def _claim(candidate: tuple[str, str], fence: FencingToken, client_id: str, depth: int) -> Claim | None:
    child_id, group_id = candidate
    with group_transaction(group_id, fence=fence) as tx:
        # Under the fence: who holds the backend back has its lease, and was before this or comes
        # after it.
        if not has_free_slot(fence.backend_id, depth, locked=True):
            raise _NoFreeSlot
        # It may have been reassigned or delayed since the first query.
        child = _still_waiting.first(fence.backend_id, child_id=child_id, **_time_parameters())
        if child is None:
            return None
        attempt = Attempt(
            child=child,
            number=1 + _last_number(child.id),
            run=tx.group.run,
            backend_id=fence.backend_id,
            prompt_id=str(uuid.uuid4()),
            client_id=client_id,
            epoch=fence.epoch,
            created_at=now(),
        )
        insert_returning_id(attempt)
        update_where(ChildJob, child.pk, {"current_attempt": attempt.pk})
        if not tx.group.has_claimed_child:
            _first_claim(tx)
        return Claim(
            attempt_id=attempt.pk,
            number=attempt.number,
            prompt_id=attempt.prompt_id,
            client_id=client_id,
            group_id=group_id,
            child_id=child_id,
            seed=child.seed,
            timeout_seconds=tx.group.timeout_seconds,
            workflow_json=tx.group.workflow_json,
            parameters_json=tx.group.parameters_json,
        )


def _last_number(child_id: str) -> int:
    with connection.cursor() as cursor:
        cursor.execute(_LAST_NUMBER, [child_id])
        return cursor.fetchone()[0] or 0


#: Written out, as the events' statement is.
_LAST_NUMBER: Final = f"SELECT MAX(number) FROM {Attempt._meta.db_table} WHERE child_id = %s"  # noqa: S608 a name of ours


def _first_claim(tx: GroupTransaction) -> None:
    tx.group.has_claimed_child = True
    if tx.group.accepted_without_runner:
        tx.add_event(log.group_started(tx.group))
    tx.mark_changed()
