"""Attempts at a backend that went offline: their jobs move to other backends, or fail as lost.

An outage is no proof that a prompt has ended: a broken network looks like a crash. The attempt stays open
until the backend answers again, and its late result is adopted while its job waits.
"""

from __future__ import annotations

import datetime as dt
from typing import Final

from django.db.models import F, QuerySet

from backends.models import Backend
from jobgroups.domain.clock import now
from jobgroups.domain.failures import FailureClass
from jobgroups.domain.states import CHILD_OPEN, Elsewhere
from jobgroups.domain.text import clock_time
from jobgroups.models import Attempt, ChildJob
from jobgroups.services.candidates import others_for
from jobgroups.services.outcomes import Failure, leave_offline
from jobgroups.services.writing import Fence, group_transaction, unit_of_work

#: A longer gap between the last answer and the first failed probe: no runner probed meanwhile.
_UNPROBED_AFTER: Final = dt.timedelta(minutes=1)


def lost_in_render(backend_id: str) -> Failure:
    """Return the failure of a job whose backend does not answer while it renders the job."""
    row = Backend.objects.filter(pk=backend_id).first()
    moment = now()
    away_since = None if row is None else row.unreachable_since
    heard_at = None if row is None else row.last_seen_at
    # A backend that answered and was unfit went offline after it answered for the last time.
    since = max((one for one in (away_since, heard_at) if one is not None), default=moment)
    at = f"at {clock_time(since, moment)}"
    if away_since and heard_at and away_since - heard_at > _UNPROBED_AFTER:
        at = f"between {clock_time(heard_at, moment)} and {clock_time(away_since, moment)}"
    message = f"{backend_id} went offline {at}, while it rendered this job"
    return Failure(kind=FailureClass.BACKEND_LOST, message=message)


def attempts_move(*, fence: Fence, reason: str) -> set[int]:
    """Retry the jobs that an offline backend has, on other backends, if their groups allow it.

    Jobs without another backend that works stay: they may be moved later.

    Args:
        fence: the lease on the backend.
        reason: since when and why it does not answer, as a sentence.

    Returns:
        Ids of the attempts whose stop is pending by this call.
    """
    moved: set[int] = set()
    rows = _movable(fence).select_related("child__group").order_by("id")
    # The check without locks comes first: it is repeated every few seconds while the backend is offline.
    for row in rows.defer("child__group__workflow_json", "child__group__parameters_json"):
        group = row.child.group
        elsewhere = Elsewhere(group.retry_elsewhere)
        is_open = others_for(group, elsewhere, besides={fence.backend_id})
        if is_open and _move(row.pk, group.id, fence, reason):
            moved.add(row.pk)
    return moved


@unit_of_work
def _move(attempt_id: int, group_id: str, fence: Fence, reason: str) -> bool:
    with group_transaction(group_id, fence=fence) as write:
        child = ChildJob.objects.select_for_update(of=("self",)).get(attempts=attempt_id)
        attempt = Attempt.objects.select_for_update().get(pk=attempt_id)
        if not _movable(fence).filter(pk=attempt_id).exists():
            return False
        unsent = Failure(kind=FailureClass.UNREACHABLE, message=reason)
        return leave_offline(write, child, attempt, lost_in_render(fence.backend_id), unsent)


def _movable(fence: Fence) -> QuerySet[Attempt]:
    return Attempt.objects.filter(
        backend_id=fence.backend_id,
        ended_at__isnull=True,
        stop_requested_at__isnull=True,
        child__current_attempt=F("pk"),
        child__status__in=CHILD_OPEN,
    ).exclude(child__group__retry_elsewhere=Elsewhere.NEVER)
