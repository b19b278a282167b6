"""What a runner reads: the attempts, stops and waiting children of its backends."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Collection
from typing import Final

from jobgroups.database.statements import KEY, Parameter, PreparedQuery
from jobgroups.domain.clock import now
from jobgroups.domain.retry_policy import LONGEST_PAUSE
from jobgroups.domain.states import AttemptState, ChildStatus
from jobgroups.models import AbandonedPrompt, Attempt, ChildJob, ReportedFile


def active_attempts(backend_id: str) -> list[Attempt]:
    """Return what may stand or run at a backend, oldest first, with child and group loaded."""
    rows = Attempt.objects.filter(backend_id=backend_id, ended_at__isnull=True)
    return list(rows.select_related("child__group").order_by("id"))


def attempt_with_group(attempt_id: int) -> Attempt:
    """Return one attempt with child and group loaded."""
    return Attempt.objects.select_related("child__group").get(pk=attempt_id)


def was_unconfirmed_before(attempt_id: int) -> bool:
    """Return whether an earlier prompt of an attempt's child got an answer that did not confirm it.

    Counted at the same backend and in the same run. The answer stands in the details of the attempt,
    which was never accepted.
    """
    this = Attempt.objects.only("child_id", "run", "backend_id", "number").get(pk=attempt_id)
    earlier = Attempt.objects.filter(
        child_id=this.child_id,
        run=this.run,
        backend_id=this.backend_id,
        number__lt=this.number,
        state=AttemptState.NEVER_ACCEPTED,
        error_details_json__isnull=False,
    )
    texts = earlier.values_list("error_details_json", flat=True)
    return any(json.loads(text or "{}").get("unconfirmed") is True for text in texts)


def abandoned_prompts(backend_id: str) -> list[AbandonedPrompt]:
    """Return the prompt ids that may yet turn up at a backend, oldest first."""
    return _abandoned(backend_id)


_abandoned: Final = PreparedQuery(
    lambda: (
        AbandonedPrompt.objects.filter(backend_id=KEY)
        .select_related("attempt")
        .order_by("created_at")
    )
)


def pending_stops(backend_id: str) -> set[int]:
    """Return the ids of active attempts at a backend whose stop is owed."""
    owed = Attempt.objects.filter(
        backend_id=backend_id, ended_at__isnull=True, stop_requested_at__isnull=False
    )
    return set(owed.values_list("pk", flat=True))


def pending_work() -> tuple[set[str], dict[str, set[int]]]:
    """Return the backends for which a child waits, and each backend's attempts to be stopped."""
    waits = ChildJob.objects.filter(status=ChildStatus.QUEUED, current_attempt__isnull=True)
    owed = Attempt.objects.filter(ended_at__isnull=True, stop_requested_at__isnull=False)
    stops: dict[str, set[int]] = {}
    for backend_id, attempt_id in owed.order_by().values_list("backend_id", "pk"):
        stops.setdefault(backend_id, set()).add(attempt_id)
    backends = waits.order_by().values_list("backend_id", flat=True).distinct()
    return {backend_id for backend_id in backends if backend_id}, stops


def next_due_in(backend_id: str) -> float | None:
    """Return after how many seconds the pause of a child that waits for a backend ends first.

    None where no child pauses there. What is further off than any pause was said before the clock was
    set back, and is due already.
    """
    moment = now()
    longest = moment + dt.timedelta(seconds=LONGEST_PAUSE)
    first = _next_due.first(backend_id, moment=moment, longest=longest)
    if first is None or first.not_before is None:
        return None
    return (first.not_before - moment).total_seconds()


_next_due: Final = PreparedQuery(
    lambda: (
        ChildJob.objects.filter(
            backend_id=KEY,
            status=ChildStatus.QUEUED,
            current_attempt__isnull=True,
            not_before__gt=Parameter("moment"),
            not_before__lte=Parameter("longest"),
        )
        .only("not_before")
        .order_by("not_before")[:1]
    )
)


def backends_with_prompts() -> set[str]:
    """Return the backends at which prompts of ours may stand, or turn up, or for which children wait."""
    active = Attempt.objects.filter(ended_at__isnull=True).order_by()
    abandoned = AbandonedPrompt.objects.order_by()
    waits = ChildJob.objects.filter(status=ChildStatus.QUEUED).order_by()
    found: set[str | None] = set(active.values_list("backend_id", flat=True).distinct())
    found |= set(abandoned.values_list("backend_id", flat=True).distinct())
    found |= set(waits.values_list("backend_id", flat=True).distinct())
    return {backend_id for backend_id in found if backend_id}


def file_origins(*, digests: Collection[str]) -> dict[str, str]:
    """Return the origin of the node that has written each file, where it is known."""
    rows = ReportedFile.objects.filter(digest__in=digests, executed=True).exclude(origin="")
    return dict(rows.values_list("digest", "origin"))
