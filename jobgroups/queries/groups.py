"""The only readers of groups, children, attempts and events. Sync; none of them writes."""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast

from django.db import transaction
from django.db.models import Count, F, Q, QuerySet

from backends.models import Backend
from jobgroups import serializers
from jobgroups.database.statements import KEY, Asked, Compiled
from jobgroups.domain.clock import iso, now
from jobgroups.domain.retry_policy import LONGEST_PAUSE
from jobgroups.domain.states import CHILD_OPEN, AttemptState, ChildStatus
from jobgroups.domain.waiting_reasons import left_running
from jobgroups.errors import BackendNotFound, ChildNotFound, GroupNotFound, InvalidRequest
from jobgroups.models import (
    AbandonedPrompt,
    Attempt,
    ChildJob,
    JobEvent,
    JobGroup,
    ReportedFile,
    Runner,
)
from jobgroups.queries.leases import HEARTBEAT_LIFE, database_now
from jobgroups.queries.waiting_reasons import waiting_reasons

_CURSOR_ID: Final = re.compile(r"jg_[0-9a-f]{12}")
#: A page of the list has at most so many groups.
MAX_PAGE: Final = 200


# --- groups ---------------------------------------------------------------------------------------


def group_snapshot(group_id: str) -> dict[str, Any]:
    """Return a group's status with its children, all as of the ``seq`` in it.

    Raises:
        GroupNotFound: there is no such group.
    """
    for _ in range(5):
        group = _group(group_id)
        children: Sequence[ChildJob] = _children(group_id)
        # Read once more with them: where the log has not moved, group and children belong together.
        if all(cast(Any, one).group_seq == group.seq for one in children):
            return _snapshot(group, children)
    with transaction.atomic():
        group = JobGroup.objects.select_for_update().get(pk=group_id)
        children = list(group.children.order_by("position").select_related("current_attempt"))
    return _snapshot(group, children)


def _group(group_id: str) -> JobGroup:
    found = _groups(group_id)
    if not found:
        raise GroupNotFound(group_id)
    return found[0]


#: All of a group but what can be long and is seldom asked for.
_groups: Final = Compiled(
    lambda: JobGroup.objects.filter(pk=KEY).order_by().defer("workflow_json", "parameters_json")
)
_children: Final = Compiled(
    lambda: (
        ChildJob.objects.filter(group_id=KEY)
        .order_by("position")
        .select_related("current_attempt")
        .annotate(group_seq=F("group__seq"))
    )
)


def _snapshot(group: JobGroup, children: Sequence[ChildJob]) -> dict[str, Any]:
    waits = any(one.status in CHILD_OPEN for one in children)
    alive = waits and runner_alive()
    reasons = waiting_reasons(group, children, runner_alive=alive)
    head = serializers.group(group)
    rows = [serializers.child(one, waiting_reason=reasons.get(one.id)) for one in children]
    return {
        "job_group_id": head.pop("job_group_id"),
        "status": head.pop("status"),
        "child_jobs": rows,
        **head,
    }


def group_exists(group_id: str) -> bool:
    """Return whether there is such a group."""
    return JobGroup.objects.filter(pk=group_id).exists()


def group_workflow(group_id: str) -> str:
    """Return the workflow as it was given, as JSON text."""
    texts = JobGroup.objects.filter(pk=group_id).values_list("workflow_json", flat=True)
    if not (found := list(texts)):
        raise GroupNotFound(group_id)
    return found[0]


def file_origins(*, digests: Collection[str]) -> dict[str, str]:
    """Return the origin of the node that has written each file, where it is known."""
    rows = ReportedFile.objects.filter(digest__in=digests, executed=True).exclude(origin="")
    return dict(rows.values_list("digest", "origin"))


def group_seqs(group_ids: Sequence[str]) -> dict[str, int]:
    """Return the number of the last event of each of the groups."""
    return dict(JobGroup.objects.filter(pk__in=group_ids).values_list("id", "seq"))


def group_events(group_id: str, *, since: int, limit: int = 1_000) -> list[tuple[int, str]]:
    """Return ``(seq, frame text)`` of up to ``limit`` events after ``since``, in order."""
    rows = JobEvent.objects.filter(group_id=group_id, seq__gt=since).order_by("seq")
    return list(rows.values_list("seq", "frame")[:limit])


def group_stream_start(group_id: str, since: int | None) -> tuple[int, str | None]:
    """Return where a socket's stream starts: the last ``seq`` it is taken to know, and the snapshot.

    Args:
        group_id: the group.
        since: what the client says it knows; anything but 0 … last is taken as not said.

    Returns:
        ``(seq, None)`` where the client only needs what follows; else ``(seq, initial_state)``.
        For a finished group the snapshot is as of its last event but one: ``group_complete`` follows.

    Raises:
        GroupNotFound: there is no such group.
    """
    group = _group(group_id)
    if since is not None and 0 <= since <= group.seq:
        return since, None
    snapshot = group_snapshot(group_id)
    if snapshot["completed_at"] is not None:
        snapshot["seq"] -= 1
    frame = {"type": "initial_state", **snapshot}
    text = serializers.fitted(frame, ("error_details", "outputs", "warnings"), within="child_jobs")
    return snapshot["seq"], text


def child_detail(group_id: str, job_id: str) -> dict[str, Any]:
    """Return one child with all its attempts.

    Raises:
        GroupNotFound, ChildNotFound: there is no such group, or no such child in it.
    """
    group = _group(group_id)
    child = group.children.filter(pk=job_id).select_related("current_attempt").first()
    if child is None:
        raise ChildNotFound(job_id)
    reasons = waiting_reasons(group, [child], runner_alive=runner_alive())
    row = serializers.child(child, waiting_reason=reasons.get(child.id))
    rows = list(child.attempts.order_by("number"))
    stopping = {one.backend_id for one in rows if one.is_stopping}
    reasons_of = dict(
        Backend.objects.filter(pk__in=stopping).values_list("id", "status_reason")
        if stopping
        else ()
    )
    attempts = [
        serializers.attempt(
            one,
            left_running=left_running(
                one.state, reasons_of.get(one.backend_id, ""), stopping=one.is_stopping
            ),
        )
        for one in rows
    ]
    return {**row, "attempt_count": row["attempts"], "attempts": attempts}


# --- the list -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupFilter:
    """What a list of groups is narrowed to; None and empty mean anything."""

    status: str | None = None
    backend: str | None = None
    submitter: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    created_after: dt.datetime | None = None
    created_before: dt.datetime | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """A page of groups, newest first, and the cursors of its neighbours."""

    results: list[dict[str, Any]]
    next_cursor: str | None
    previous_cursor: str | None


def group_list(*, narrowed: GroupFilter, cursor: str | None, limit: int) -> Page:
    """Return up to ``limit`` groups, newest first, from ``cursor`` on. Counts nothing.

    Raises:
        InvalidRequest: the cursor is not one that a page gave.
    """
    rows = _narrowed(narrowed)
    backwards, place = _place(cursor)
    if place is not None:
        rows = rows.filter(_beyond(place, backwards=backwards))
    order = ("created_at", "id") if backwards else ("-created_at", "-id")
    found = list(rows.order_by(*order)[: limit + 1])
    more, found = len(found) > limit, found[:limit]
    if backwards:
        found.reverse()
    if not found:
        return Page([], None, None)
    after = _cursor(found[-1], backwards=False) if more or backwards else None
    before = _cursor(found[0], backwards=True) if (more if backwards else place) else None
    return Page([serializers.group(row) for row in found], after, before)


def _narrowed(narrowed: GroupFilter) -> QuerySet[JobGroup]:
    rows = JobGroup.objects.all()
    if narrowed.status:
        rows = rows.filter(status=narrowed.status)
    if narrowed.backend:
        with_child = ChildJob.objects.filter(backend_id=narrowed.backend).values("group_id")
        rows = rows.filter(pk__in=with_child)
    if narrowed.submitter:
        rows = rows.filter(submitter=narrowed.submitter)
    for key, value in narrowed.metadata.items():
        rows = rows.filter(labels__key=key, labels__value=value)
    if narrowed.created_after:
        rows = rows.filter(created_at__gt=narrowed.created_after)
    if narrowed.created_before:
        rows = rows.filter(created_at__lt=narrowed.created_before)
    return rows


def _beyond(place: tuple[dt.datetime, str], *, backwards: bool) -> Q:
    moment, group_id = place
    if backwards:
        return Q(created_at__gt=moment) | Q(created_at=moment, id__gt=group_id)
    return Q(created_at__lt=moment) | Q(created_at=moment, id__lt=group_id)


def _cursor(row: JobGroup, *, backwards: bool) -> str:
    text = f"{'b' if backwards else 'f'}|{iso(row.created_at)}|{row.id}"
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _place(cursor: str | None) -> tuple[bool, tuple[dt.datetime, str] | None]:
    if not cursor:
        return False, None
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        way, moment, group_id = base64.urlsafe_b64decode(padded).decode("ascii").split("|")
        if not _CURSOR_ID.fullmatch(group_id):
            raise ValueError("no group's id")
        place = dt.datetime.strptime(moment, "%Y-%m-%dT%H:%M:%S.%f%z"), group_id
    except (ValueError, binascii.Error):
        raise InvalidRequest(
            "The cursor is not one that this list gave; start without it.",
            errors=[{"field": "cursor", "message": "not a cursor of this list"}],
        ) from None
    return way == "b", place


# --- backends and runners -------------------------------------------------------------------------


def runner_alive() -> bool:
    """Return whether any runner's heartbeat is younger than 10 s."""
    return _alive.first(beaten_after=database_now() - HEARTBEAT_LIFE) is not None


_alive: Final = Compiled(
    lambda: (
        Runner.objects.filter(heartbeat_at__gt=Asked("beaten_after"), stopped_at__isnull=True)
        .only("name")
        .order_by()[:1]
    )
)


@dataclass(frozen=True, slots=True)
class BackendLoad:
    """What of ours stands at a backend."""

    running: int
    accepted: int
    waiting: int


def backend_loads(backend_ids: Sequence[str] | None = None) -> dict[str, BackendLoad]:
    """Return, for each backend with work of ours, what runs there, stands there and waits for it."""
    active = Attempt.objects.filter(ended_at__isnull=True)
    waits = ChildJob.objects.filter(status=ChildStatus.QUEUED, current_attempt__isnull=True)
    if backend_ids is not None:
        active = active.filter(backend_id__in=backend_ids)
        waits = waits.filter(backend_id__in=backend_ids)
    counted: dict[str, list[int]] = {}
    for backend_id, state, count in (
        active.order_by().values_list("backend_id", "state").annotate(Count("id"))
    ):
        slot = 0 if state == AttemptState.RUNNING else 1
        counted.setdefault(backend_id, [0, 0, 0])[slot] += count
    for backend, count in waits.order_by().values_list("backend_id").annotate(Count("id")):
        counted.setdefault(backend or "", [0, 0, 0])[2] += count
    return {backend_id: BackendLoad(*numbers) for backend_id, numbers in counted.items()}


def backend_in_use(backend_id: str) -> tuple[int, int]:
    """Return how many children are not final, and how many attempts may still run, on a backend.

    Raises:
        BackendNotFound: there is no such backend.
    """
    if not Backend.objects.filter(pk=backend_id).exists():
        raise BackendNotFound(backend_id)
    children = ChildJob.objects.filter(backend_id=backend_id, status__in=CHILD_OPEN).count()
    attempts = Attempt.objects.filter(backend_id=backend_id, ended_at__isnull=True).count()
    return children, attempts


# --- what a runner takes up -----------------------------------------------------------------------


def active_attempts(backend_id: str) -> list[Attempt]:
    """Return what may stand or run at a backend, oldest first, with child and group loaded."""
    rows = Attempt.objects.filter(backend_id=backend_id, ended_at__isnull=True)
    return list(rows.select_related("child__group").order_by("id"))


def attempt_loaded(attempt_id: int) -> Attempt:
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


_abandoned: Final = Compiled(
    lambda: (
        AbandonedPrompt.objects.filter(backend_id=KEY).select_related("attempt").order_by("since")
    )
)


def stops_owed(backend_id: str) -> set[int]:
    """Return the ids of active attempts at a backend whose stop is owed."""
    owed = Attempt.objects.filter(
        backend_id=backend_id, ended_at__isnull=True, stop_requested_at__isnull=False
    )
    return set(owed.values_list("pk", flat=True))


def work_for_sessions() -> tuple[set[str], dict[str, set[int]]]:
    """Return the backends for which a child waits, and each backend's attempts to be stopped."""
    waits = ChildJob.objects.filter(status=ChildStatus.QUEUED, current_attempt__isnull=True)
    owed = Attempt.objects.filter(ended_at__isnull=True, stop_requested_at__isnull=False)
    stops: dict[str, set[int]] = {}
    for backend_id, attempt_id in owed.order_by().values_list("backend_id", "pk"):
        stops.setdefault(backend_id, set()).add(attempt_id)
    backends = waits.order_by().values_list("backend_id", flat=True).distinct()
    return {backend_id for backend_id in backends if backend_id}, stops


def next_try_in(backend_id: str) -> float | None:
    """Return after how many seconds the pause of a child that waits for a backend ends first.

    None where no child pauses there. What is further off than any pause was said before the clock was
    set back, and is due already.
    """
    moment = now()
    longest = moment + dt.timedelta(seconds=LONGEST_PAUSE)
    first = _pauses_first.first(backend_id, moment=moment, longest=longest)
    if first is None or first.not_before is None:
        return None
    return (first.not_before - moment).total_seconds()


_pauses_first: Final = Compiled(
    lambda: (
        ChildJob.objects.filter(
            backend_id=KEY,
            status=ChildStatus.QUEUED,
            current_attempt__isnull=True,
            not_before__gt=Asked("moment"),
            not_before__lte=Asked("longest"),
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
