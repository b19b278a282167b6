"""What a runner reads: the attempts, stops and waiting children of its backends."""

import datetime as dt
import json
from collections.abc import Collection
from typing import Any, Final

from django.db.models import Exists, OuterRef, Q, QuerySet

from backends.capabilities import lacks_reason, needed_capabilities
from backends.eligibility import capabilities_of
from backends.models import Backend
from jobgroups.database.statements import KEY, Parameter, PreparedQuery, PreparedValues
from jobgroups.domain.clock import now
from jobgroups.domain.retry_policy import LONGEST_PAUSE
from jobgroups.domain.states import AttemptState, ChildStatus
from jobgroups.models import UNREAD, AbandonedPrompt, Attempt, ChildJob, JobGroup, ReportedFile
from jobgroups.queries.exclusions import was_refused


def active_attempts(backend_id: str) -> list[Attempt]:
    rows = Attempt.objects.filter(backend_id=backend_id, ended_at__isnull=True)
    return list(_with_group(rows).order_by("id"))


def attempt_with_group(attempt_id: int) -> Attempt:
    return _with_group(Attempt.objects.all()).get(pk=attempt_id)


def _with_group(rows: QuerySet[Attempt]) -> QuerySet[Attempt]:
    return rows.select_related("child__group", "child__variant").defer(
        *(f"child__group__{name}" for name in UNREAD)
    )


def was_unconfirmed_before(attempt_id: int, workflow_digest: str, is_500: bool) -> bool:
    """Return whether ComfyUI left an earlier prompt of an attempt's child unconfirmed, by a 500 or
    by other answers.

    Only attempts of the same run at the same backend count. Their state is ``never_accepted``, and
    their details have the response. A 500 counts also after that of another child with the
    workflow.
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
    for text in earlier.values_list("error_details_json", flat=True):
        details = json.loads(text or "{}")
        if details.get("unconfirmed") is True and (details["status"] == 500) is is_500:
            return True
    return is_500 and workflow_digest != "" and was_refused(this.backend_id, workflow_digest)


#: The abandoned prompts that may still arrive at a backend, oldest first.
abandoned_prompts: Final = PreparedQuery(
    lambda: (
        AbandonedPrompt.objects.filter(backend_id=KEY)
        .select_related("attempt")
        .order_by("created_at")
    )
)


def pending_stops(backend_id: str) -> set[int]:
    pending = Attempt.objects.filter(
        backend_id=backend_id, ended_at__isnull=True, stop_requested_at__isnull=False
    )
    return set(pending.values_list("pk", flat=True))


def pending_work() -> tuple[set[str], dict[str, set[int]]]:
    """Return the backends with queued children, and each backend's attempts with a pending stop."""
    stops: dict[str, set[int]] = {}
    for backend_id, attempt_id in _all_pending_stops():
        stops.setdefault(backend_id, set()).add(attempt_id)
    return {backend_id for (backend_id,) in _with_queued_children()}, stops


def _queued_children() -> QuerySet[ChildJob]:
    return ChildJob.objects.filter(
        backend_id=OuterRef("pk"), status=ChildStatus.QUEUED, current_attempt__isnull=True
    )


# One access to an index for each backend: DISTINCT reads all queued children.
_with_queued_children: Final = PreparedValues(
    lambda: Backend.objects.filter(Exists(_queued_children())).order_by().values_list("pk")
)
_all_pending_stops: Final = PreparedValues(
    lambda: (
        Attempt.objects.filter(ended_at__isnull=True, stop_requested_at__isnull=False)
        .order_by()
        .values_list("backend_id", "pk")
    )
)


def next_due_in(backend_id: str) -> float | None:
    """Return the seconds until the first delayed retry at a backend is due, None without any.

    A time further ahead than the longest delay was stored before the clock was set back; it counts
    as due.
    """
    moment = now()
    longest = moment + dt.timedelta(seconds=LONGEST_PAUSE)
    first = _next_due.first(backend_id, moment=moment, longest=longest)
    if first is None or first.not_before is None:
        return None
    return (first.not_before - moment).total_seconds()


def _delayed_children() -> QuerySet[ChildJob]:
    later = {"not_before__gt": Parameter("moment"), "not_before__lte": Parameter("longest")}
    waits = ChildJob.objects.filter(
        backend_id=KEY, status=ChildStatus.QUEUED, current_attempt__isnull=True
    )
    return waits.filter(**later).only("not_before").order_by("not_before")[:1]


_next_due: Final = PreparedQuery(_delayed_children)


def partner_refusal(backend_id: str, url: str, version: str, *, has_own_key: bool) -> str | None:
    """Return why the ComfyUI of a session gets no key for partner nodes now, as a sentence; None:
    it gets the key.

    ``has_own_key``: the key is that of the job's submitter, not the installation's.
    """
    row = Backend.objects.filter(pk=backend_id, url=url).first()
    if row is None:
        return "The address of the backend was changed."
    row.comfyui_version = version
    return lacks_reason(
        capabilities_of(row), needed_capabilities((), True, has_own_key=has_own_key)
    )


def groups_over(group_ids: Collection[str]) -> set[str]:
    """Return which of some groups have ended, without a prompt that is still followed, or do not
    exist.
    """
    groups = JobGroup.objects.filter(pk__in=group_ids).order_by()
    followed = Attempt.objects.filter(child__group=OuterRef("pk"), ended_at__isnull=True)
    active = groups.filter(Q(completed_at__isnull=True) | Exists(followed))
    return set(group_ids) - set(active.values_list("pk", flat=True))


def backends_with_prompts() -> set[str]:
    return {backend_id for rows in _with_prompts for (backend_id,) in rows() if backend_id}


def _backends_of(rows: QuerySet[Any]) -> PreparedValues:
    return PreparedValues(lambda: rows.order_by().values_list("backend_id").distinct())


_with_prompts: Final = (
    _backends_of(Attempt.objects.filter(ended_at__isnull=True)),
    _backends_of(AbandonedPrompt.objects.all()),
    _backends_of(ChildJob.objects.filter(status=ChildStatus.QUEUED, backend_id__gt="")),
)


def file_origins(*, digests: Collection[str]) -> dict[str, str]:
    """Return the known origins of files: digests of the nodes that wrote them."""
    rows = ReportedFile.objects.filter(digest__in=digests, executed=True).exclude(origin="")
    return dict(rows.values_list("digest", "origin"))
