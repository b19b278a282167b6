"""Returns the waiting reason of each queued child and of each running child whose backend is
offline, and their ends.

The number of queries does not depend on the number of children.
"""

import datetime as dt
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple

from django.conf import settings
from django.db.models import Count, F, OuterRef, Q, Subquery
from django.db.models.functions import Coalesce

from backends.eligibility import is_working
from backends.models import Backend
from backends.queries import backend_status, is_offline
from jobgroups.database.statements import KEY, PreparedQuery, PreparedValues
from jobgroups.domain.clock import now
from jobgroups.domain.failures import OVERTAKEN, FailureClass
from jobgroups.domain.places import Place, place_reason
from jobgroups.domain.pool import BoundJobs, PoolSnapshot
from jobgroups.domain.states import (
    CHILD_OPEN,
    VOID_ONCE_STARTED,
    AttemptState,
    ChildStatus,
    RetryScope,
    StopReason,
)
from jobgroups.domain.text import first_of
from jobgroups.domain.waiting_reasons import (
    PoolQueue,
    QueueBackend,
    QueuedChild,
    RunningNow,
    held_reason,
    limit_reason,
    offline_reason,
    pool_reason,
    waiting_reason,
)
from jobgroups.models import AssetOwner, Attempt, ChildJob, JobGroup
from jobgroups.queries import pool
from jobgroups.queries.etas import Etas, current_etas
from jobgroups.queries.leases import halt_reason
from jobgroups.queries.pauses import group_pause_now


class Outlook(NamedTuple):
    waiting_reason: str | None = None
    eta_seconds: float | None = None  #: Seconds until its end; None: not known.


def outlooks(group: JobGroup, children: Sequence[ChildJob]) -> dict[str, Outlook]:
    """Return the outlook of each open child, by its id.

    ``children`` are all or some children of the group, with their current attempts loaded.
    """
    waiting = [child for child in children if child.status in CHILD_OPEN]
    if not waiting:
        return {}
    if halt := halt_reason():
        return {
            child.id: Outlook(halt if child.status == ChildStatus.QUEUED else None)
            for child in waiting
        }
    moment = now()
    known = _backends_now({child.backend_id for child in waiting if child.backend_id}, moment)
    running = [child for child in waiting if child.status == ChildStatus.RUNNING]
    reasons = _offline_reasons(group, running, known, moment)
    queued = [child for child in waiting if child.status == ChildStatus.QUEUED]
    etas = current_etas({child.variant_id for child in waiting if child.variant_id}, [group.id])
    queue: Sequence[Any] = (
        queued
        if not queued or len(children) == group.total_count
        else [_Unsent(*row) for row in _unsent(group.id)]
    )
    positions = _positions([child for child in queue if child.current_attempt_id is None], etas)
    reasons |= _queued_reasons(group, queued, known, etas, positions, moment=moment)
    return {
        child.id: Outlook(reasons.get(child.id), etas.of_job(child, positions.get(child.id)))
        for child in waiting
    }


def _offline_reasons(
    group: JobGroup,
    running: Sequence[ChildJob],
    known: Mapping[str, QueueBackend],
    moment: dt.datetime,
) -> dict[str, str]:
    offline = {key for key, backend in known.items() if backend.is_offline}
    lost = [child for child in running if child.backend_id in offline]
    if not lost:
        return {}
    policy = group.retry_policy
    counted = Attempt.objects.filter(child__in=lost, run=group.run, is_counted=True).order_by()
    charged = dict(counted.values_list("child_id").annotate(Count("id")))
    limit = None if group.time_limit is None else dt.timedelta(seconds=group.time_limit)
    reasons: dict[str, str] = {}
    for child in lost:
        is_retried = policy.allows(FailureClass.BACKEND_LOST, charged.get(child.id, 0))
        reasons[child.id] = offline_reason(
            RunningNow(
                time_is_up=None if limit is None else (child.started_at or moment) + limit,
                stall_seconds=group.stall_seconds,
                is_retried=is_retried,
                goes_elsewhere=is_retried and policy.elsewhere is not RetryScope.NEVER,
            ),
            known[child.backend_id or ""],
            now=moment,
        )
    return reasons


def _file_name(group: JobGroup) -> Any:
    """Return the name of an asset that a group uses, as the account of the group gave it."""
    own = AssetOwner.objects.filter(asset=OuterRef("asset"), owner=group.owner_id)
    return Coalesce(Subquery(own.values("name")[:1]), F("asset__name"))


def _queued_reasons(
    group: JobGroup,
    queued: Sequence[ChildJob],
    known: Mapping[str, QueueBackend],
    etas: Etas,
    positions: dict[str, int],
    *,
    moment: dt.datetime,
) -> dict[str, str]:
    """Return the sentence for each queued child. The position is removed of each one that no
    working backend may take.
    """
    unsent = [child for child in queued if child.current_attempt_id is None]
    in_pool = [child for child in unsent if not child.is_bound]
    queues = _pool_queues(group, etas.current, moment) if in_pool else {}
    failed = _queues_of_failed(in_pool, queues)
    for child_id, queue in failed.items():
        if not queue.workers:
            # It waits for a backend of which nothing is known.
            positions.pop(child_id, None)
    stopping = _stopping_attempts(group) if unsent else {}
    place = _place_text(group, etas) if unsent else ""
    limit = dt.timedelta(seconds=settings.DIRECTOR_QUEUED_LIMIT_SECONDS)
    states = {
        child.id: child.current_attempt.state
        for child in queued
        if child.current_attempt is not None
    }
    is_sent = AttemptState.INTENT in states.values()
    held = held_reason(group_pause_now(group), group.start_after, now=moment)
    held = held or _limit_text(group.id, etas.current.snapshot)
    files = (
        list(group.asset_uses.order_by("id").values_list(_file_name(group), flat=True))
        if is_sent
        else []
    )

    def reason(row: ChildJob) -> str:
        attempt = row.current_attempt
        if held and row.current_attempt_id is None and row.id not in stopping:
            positions.pop(row.id, None)
            return held
        stopping_at, stopping_name, stop_reason = stopping.get(row.id, ("", "", ""))
        child = QueuedChild(
            state=states.get(row.id),
            input_files=files,
            queue_position=positions.get(row.id),
            place=place,
            not_before=row.not_before,
            stopping_at=stopping_at,
            stopping_name=stopping_name,
            is_removed=stop_reason in VOID_ONCE_STARTED,
            goes_elsewhere=group.retry_elsewhere != RetryScope.NEVER,
            ends_at=max(row.queued_at, group.start_after or row.queued_at) + limit
            if row.attempt_count == 0
            else None,
            partly_refused=attempt is not None and attempt.stop_reason == StopReason.PARTLY_REFUSED,
        )
        if row.current_attempt_id is None and not row.is_bound:
            queue = failed.get(row.id) or queues[row.variant_id]
            return pool_reason(child, queue, now=moment)
        backend = known.get(row.backend_id or "")
        return waiting_reason(child, backend, now=moment)

    return {child.id: reason(child) for child in queued}


def _place_text(group: JobGroup, etas: Etas) -> str:
    """Return the place of a group in the queue with its reason, as a clause; empty: groups of its
    own submitter alone come before it, or none does.
    """
    snapshot = etas.current.snapshot
    place = snapshot.places.get(group.id)
    if place is None or place.has_only_own_before:
        return ""
    reason = place_reason(place, snapshot.use, with_names=not settings.DIRECTOR_PRIVATE)
    return f"place {place.number} in the queue: {reason}"


def _limit_text(group_id: str, snapshot: PoolSnapshot) -> str | None:
    """Return which limit of prompts a group has reached, as a sentence; None: none."""
    limits = snapshot.limits.get(group_id, ())
    reached = next((name for name in limits if snapshot.rooms[name] <= 0), None)
    return reached and limit_reason(reached, group_id)


def group_reason(place: Place, group: JobGroup, current: pool.CurrentPool) -> str:
    """Return why the first waiting job of a group waits, as a sentence.

    ``group`` is read only if no backend takes the job now.
    """
    snapshot, jobs, moment = current.snapshot, place.first, now()
    if isinstance(jobs, BoundJobs):
        name = jobs.backend_id
        if name not in snapshot.working:
            return waiting_reason(
                QueuedChild(), _backends_now({name}, moment).get(name), now=moment
            )
        next_free = ""
    else:
        variant_id = jobs.variant_id
        if snapshot.working.isdisjoint(snapshot.able_of(variant_id)):
            queues = _pool_queues(group, current, moment)
            if variant_id in queues:
                return pool_reason(QueuedChild(), queues[variant_id], now=moment)
        next_free = snapshot.next_free(variant_id) if place.number == 1 else ""
    if limit := _limit_text(group.id, snapshot):
        return limit
    with_names = not settings.DIRECTOR_PRIVATE
    reason = place_reason(place, snapshot.use, with_names=with_names) or next_free or "next"
    return f"Place {place.number}: {reason}."


def _positions(unsent: Iterable[ChildJob], etas: Etas) -> dict[str, int]:
    """Return the place of each unsent child of a group in its backend's queue or in that of the
    pool, from 1, if it is known.

    The children that were queued for one backend at one time, and those of a variant, follow each
    other.
    """
    places: dict[object, int | None] = {}
    positions: dict[str, int] = {}
    for child in sorted(unsent, key=lambda child: child.position):
        queue = (child.backend_id, child.queued_at) if child.is_bound else child.variant_id
        before = places[queue] if queue in places else etas.ahead_of(child)
        places[queue] = None if before is None else before + 1
        if before is not None:
            positions[child.id] = before + 1
    return positions


def _pool_queues(
    group: JobGroup, current: pool.CurrentPool, moment: dt.datetime
) -> dict[int | None, PoolQueue]:
    """Return what is known of the candidates of each variant of a group, by its id."""
    gives_up_after = dt.timedelta(seconds=settings.DIRECTOR_GIVE_UP_SECONDS)
    queues: dict[int | None, PoolQueue] = {}
    for variant in group.variants.all():
        candidates = pool.candidate_reasons(variant, current.backends)
        fit = [candidate.row for candidate in candidates if candidate.unfit is None]
        since = variant.unplaced_since
        unfit: dict[str, list[str]] = defaultdict(list)
        for candidate in candidates:
            if candidate.unfit:
                unfit[candidate.unfit].append(candidate.row.name)
        queues[variant.id] = PoolQueue(
            workers={row.id: row.name for row in fit if is_working(row, now=moment)},
            held=[
                # One candidate that is away ends nothing: see ``gives_up_at``.
                replace(_backend_now(row, moment), give_up_after=None)
                for row in fit
                if not is_working(row, now=moment)
            ],
            unfit=[f"{first_of(some)}: {reason}" for reason, some in unfit.items()],
            gives_up_at=None if since is None else since + gives_up_after,
            next_free=current.snapshot.next_free(variant.id),
        )
    return queues


def _queues_of_failed(
    unsent: Iterable[ChildJob], queues: Mapping[int | None, PoolQueue]
) -> dict[str, PoolQueue]:
    """Return the candidates of each job of the pool that some of them do not take again, by its id."""
    variants = {child.id: child.variant_id for child in unsent if child.attempt_count}
    failed_at: defaultdict[str, dict[str, str]] = defaultdict(dict)
    if variants:
        failures = pool.barring_failures(child__in=variants).order_by("backend_id").distinct()
        for child_id, key, name in failures.values_list("child_id", "backend_id", _NAME):
            failed_at[child_id][key] = name
    queues_by_child = {}
    for child_id, backends in failed_at.items():
        queue = queues[variants[child_id]]
        held = [backend for backend in queue.held if backend.backend_id not in backends]
        queues_by_child[child_id] = replace(
            queue,
            workers={key: name for key, name in queue.workers.items() if key not in backends},
            held=held,
            gives_up_at=_given_up_without(held) or queue.gives_up_at,
            unfit=[f"{first_of(list(backends.values()))}: This job failed there.", *queue.unfit],
            next_free="",
        )
    return queues_by_child


def _given_up_without(held: Sequence[QueueBackend]) -> dt.datetime | None:
    """Return when a job that every other candidate failed ends if these stay away; None: one of them
    may take it.
    """
    away = [backend.away_since for backend in held if backend.away_since is not None]
    if not away or len(away) < len(held):
        return None
    return max(away) + dt.timedelta(seconds=settings.DIRECTOR_GIVE_UP_SECONDS)


def _backends_now(backend_ids: Collection[str], moment: dt.datetime) -> dict[str, QueueBackend]:
    # Of three backends Django takes as long to write the query as the database to read all of a
    # farm.
    rows = (
        Backend.objects.filter(pk__in=backend_ids)
        if len(backend_ids) > _FEW
        else map(_backend.first, backend_ids)
    )
    return {row.id: _backend_now(row, moment) for row in rows if row is not None}


_FEW: Final = 8  #: Backends that are read one by one.
_backend: Final = PreparedQuery(lambda: Backend.objects.filter(pk=KEY).order_by())


def _backend_now(row: Backend, moment: dt.datetime) -> QueueBackend:
    return QueueBackend(
        backend_id=row.id,
        name=row.name,
        status=backend_status(row, now=moment),
        away_since=row.unreachable_since,
        away_reason=row.status_reason,
        give_up_after=dt.timedelta(seconds=settings.DIRECTOR_GIVE_UP_SECONDS),
        move_after=dt.timedelta(seconds=settings.DIRECTOR_MOVE_AFTER_SECONDS),
        is_offline=is_offline(row, moment),
        quarantine_until=row.quarantine_until,
        foreign=row.queue_foreign,
    )


def _stopping_attempts(group: JobGroup) -> dict[str, tuple[str, str, str]]:
    """Return backend, its name and stop reason of the earlier attempt that delays each child, by
    the child's id.
    """
    return {child_id: (key, name, reason) for child_id, key, name, reason in _stopping(group.id)}


#: Of the backend of an attempt.
_NAME: Final = Coalesce("backend__name", "backend_id")


_stopping: Final = PreparedValues(
    lambda: (
        Attempt.objects.filter(
            child__group=KEY, child__current_attempt__isnull=True, ended_at__isnull=True
        )
        # As in services.claims: a hanging or unreachable attempt does not block a child at another
        # backend.
        .exclude(Q(failure_class__in=OVERTAKEN) & ~Q(backend_id=F("child__backend_id")))
        .order_by()
        .values_list("child_id", "backend_id", _NAME, "stop_reason")
    )
)


class _Unsent(NamedTuple):
    """What the queue needs of an unsent child: of 10,000 children Django makes instances in 0.22 s."""

    id: str
    group_id: str
    backend_id: str | None
    queued_at: dt.datetime
    position: int
    is_bound: bool
    variant_id: int | None
    current_attempt_id: int | None


_unsent: Final = PreparedValues(
    lambda: (
        ChildJob.objects.filter(group=KEY, status=ChildStatus.QUEUED, current_attempt__isnull=True)
        .order_by()
        .values_list(*_Unsent._fields)
    )
)
