"""Reads the pool's queue: open variants with their unsent jobs, and the backends."""

import datetime as dt
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from math import inf
from typing import Any, Final, NamedTuple

from django.conf import settings
from django.db.models import BooleanField, Count, F, OuterRef, QuerySet, Subquery, Value
from django.db.models.expressions import RawSQL
from django.db.models.functions import Coalesce

from backends.capabilities import lacks_reason, needed_capabilities
from backends.eligibility import capabilities_of, ineligible_reason, is_working, may_take_later
from backends.hours import opens_at
from backends.models import Backend
from backends.queries import backend_status, offline_for
from jobgroups.database.keys import places, read
from jobgroups.database.statements import PreparedValues
from jobgroups.domain.clock import now
from jobgroups.domain.estimates import Estimates, TimingRow
from jobgroups.domain.failures import ONLY_ELSEWHERE, FailureClass
from jobgroups.domain.pauses import Pauses, target_of_submitter
from jobgroups.domain.pool import (
    ActivePrompt,
    BoundJobs,
    HeldGroup,
    Needs,
    OpenVariant,
    PoolBackend,
    PoolSnapshot,
    is_candidate,
    served_groups,
)
from jobgroups.domain.states import AttemptState, Placement
from jobgroups.domain.turns import Shares
from jobgroups.models import Attempt, ChildJob, Exclusion, JobGroup, Submitter, Timing, Variant
from jobgroups.queries.backends import current_backends
from jobgroups.queries.exclusions import (
    ACTIVE,
    active_exclusions,
    failure_of,
    reason_of,
    valid_since,
)
from jobgroups.queries.pauses import current_pauses
from jobgroups.queries.shares import TURN, current_shares, submitter_of, turn_of

MAX_ROWS: Final = 4_000  #: The newest rows, which are read.
_MOST_HELD: Final = 8  #: Groups at a backend that are held and that its claims read past.


def current_estimates() -> Estimates:
    """Return the estimates from the newest rows; a reading takes one short query unless samples
    were stored.
    """
    newest = _read_newest_timing()
    return _estimates_of(newest[0][0] if newest else None)


_read_newest_timing: Final = PreparedValues(
    lambda: Timing.objects.order_by("-updated_at").values_list("updated_at")[:1]
)


@lru_cache(maxsize=1)
def _estimates_of(newest: dt.datetime | None) -> Estimates:  # noqa: ARG001 the key of the last reading
    columns = (
        "workflow_digest",
        "backend_id",
        "models_digest",
        "seconds",
        "load_seconds",
        "updated_at",
    )
    rows = Timing.objects.order_by("-updated_at").values_list(*columns)
    return Estimates(TimingRow(*row) for row in rows[:MAX_ROWS])


def pool_snapshot(backends: Iterable[PoolBackend], *, with_bound: bool = False) -> PoolSnapshot:
    """Return the variants of open groups with their unsent jobs, and what the backends do beside
    them.

    ``backends`` are all registered ones. ``with_bound``: prompts are read also while no group of
    the pool is open.
    """
    rows = _read_variants()
    bound_rows = _read_bound()
    restrictions = _Restrictions(current_pauses(), dict(_limited_submitters()))
    if not (rows or bound_rows or with_bound or restrictions.pauses):
        return PoolSnapshot((), backends)
    prompts, taken_back = _prompts(restrictions.pauses)
    served = served_groups(prompts)
    variants = _variants(rows, served, restrictions)
    bound_jobs = _bound_jobs(bound_rows, served, restrictions)
    submitters = {jobs.turn.submitter for jobs in (*variants, *bound_jobs)}
    return PoolSnapshot(
        variants,
        backends,
        estimates=current_estimates(),
        prompts=prompts,
        bound_jobs=bound_jobs,
        # One submitter alone has the whole farm: earlier use does not count.
        shares=current_shares() if len(submitters) > 1 else Shares(),
        rooms=restrictions.rooms(prompts),
        held=restrictions.held,
        held_at=_held_at(bound_rows, restrictions.held),
        due_in=restrictions.due_in,
        taken_back=frozenset(taken_back),
    )


class _Restrictions:
    """Pauses, limits and times that keep jobs from being sent, as one reading finds them.

    ``held``, ``limits`` and ``due_in`` are what it has found of the groups of the reading.
    """

    def __init__(self, pauses: Pauses, of_submitters: Mapping[str, int]) -> None:
        self.pauses: Final = pauses
        self._of_submitters: Final = of_submitters
        self.moment: Final = now()
        self.held: Final[dict[str, HeldGroup]] = {}
        self.limits: Final[dict[str, int]] = {}
        self._due_at: Final = {row.ends_at for row in pauses.by_target.values() if row.ends_at}

    @property
    def due_in(self) -> float:
        first = min(self._due_at, default=None)
        return inf if first is None else max((first - self.moment).total_seconds(), 0.0)

    def limits_of(
        self, group_id: str, turn: Sequence[Any], max_running: int | None
    ) -> tuple[str, ...]:
        """Return the limits that count for a group, and note their values."""
        if max_running is None and not self._of_submitters:
            return ()
        share = submitter_of(turn)
        limits = {group_id: max_running, target_of_submitter(share): self._of_submitters.get(share)}
        of_group = {name: limit for name, limit in limits.items() if limit is not None}
        self.limits.update(of_group)
        return tuple(of_group)

    def is_held(
        self,
        group_id: str,
        turn: Sequence[Any],
        start_after: dt.datetime | None,
        jobs: int,
        queued_at: dt.datetime,
    ) -> bool:
        """Return whether nothing of a group is sent now; note so many unsent jobs of it."""
        if not jobs or (start_after is None and not self.pauses):
            return False
        is_held = False
        if start_after is not None and start_after > self.moment:
            self._due_at.add(start_after)
            is_held = True
        is_held = is_held or self.pauses.of(group_id, submitter_of(turn)) is not None
        if is_held:
            jobs += self.held[group_id].jobs if group_id in self.held else 0
            level = turn_of(tuple(turn), is_served=True, moment=self.moment).level
            self.held[group_id] = HeldGroup(turn[-1], jobs, (-level, queued_at, group_id))
        return is_held

    def rooms(self, prompts: Mapping[str, Sequence[ActivePrompt]]) -> dict[str, int]:
        """Return how many more prompts each limit permits."""
        rooms = dict(self.limits)
        if not rooms:
            return rooms
        # As ``store.claims.has_room``.
        gone = set[str]()
        if any(prompt.is_stopping for of_backend in prompts.values() for prompt in of_backend):
            gone = offline_for(settings.DIRECTOR_MOVE_AFTER_SECONDS, now=self.moment)
        for backend_id, of_backend in prompts.items():
            for prompt in of_backend:
                if prompt.is_stopping and backend_id in gone:
                    continue
                for name in {prompt.group_id, target_of_submitter(prompt.submitter)} & rooms.keys():
                    rooms[name] -= 1
        return rooms


_limited_submitters: Final = PreparedValues(
    lambda: (
        Submitter.objects.filter(max_running__isnull=False)
        .order_by()
        .values_list("name", "max_running")
    )
)


def room_of(submitter: str, snapshot: PoolSnapshot) -> float:
    """Return how many prompts the limit of a submitter permits beside those that backends have and
    those that wait.
    """
    limit: int | None = dict(_limited_submitters()).get(submitter)
    if limit is None:
        return inf
    prompts = (prompt for of_backend in snapshot.prompts.values() for prompt in of_backend)
    waiting = [(variant.turn, variant.unsent) for variant in snapshot.variants]
    waiting += [(bound.turn, bound.jobs) for bound in snapshot.bound_jobs]
    jobs = sum(number for turn, number in waiting if turn.submitter == submitter)
    return limit - jobs - sum(prompt.submitter == submitter for prompt in prompts)


def _active_prompts() -> QuerySet[Attempt, tuple[Any, ...]]:
    # An uncertain prompt is found by the next lookup, or was never accepted.
    rows = Attempt.objects.filter(ended_at__isnull=True).exclude(state=AttemptState.UNCERTAIN)
    workflow = Coalesce("child__variant__workflow_digest", "child__group__workflow_digest")
    models = Coalesce("child__variant__models_digest", Value(""))
    share = ("child__group__share_of", "child__group__submitter")
    columns = ("backend_id", "id", "child__group_id", *share, workflow, models)
    moments = ("created_at", "started_at", "stop_requested_at")
    return rows.order_by("backend_id", "id").values_list(*columns, *moments, "variant_id")


_read_prompts: Final = PreparedValues(_active_prompts)


def _prompts(pauses: Pauses) -> tuple[dict[str, list[ActivePrompt]], set[int]]:
    """Return the prompts of each backend, and the attempts that wait there though they are paused."""
    moment, prompts = now(), defaultdict[str, list[ActivePrompt]](list)
    taken_back = set[int]()
    for (
        backend_id,
        attempt_id,
        group_id,
        share_of,
        submitter,
        digest,
        models,
        created_at,
        started_at,
        stopped_at,
        variant_id,
    ) in _read_prompts():
        waits = started_at is None and stopped_at is None
        if waits and pauses.of(group_id, share_of or submitter):
            taken_back.add(attempt_id)
        prompts[backend_id].append(
            ActivePrompt(
                attempt_id=attempt_id,
                group_id=group_id,
                workflow_digest=digest,
                models_digest=models,
                waited=(moment - created_at).total_seconds(),
                running_for=None if started_at is None else (moment - started_at).total_seconds(),
                variant_id=variant_id if stopped_at is None else None,
                is_stopping=stopped_at is not None,
                submitter=share_of or submitter,
            )
        )
    return prompts, taken_back


def unsent() -> QuerySet[ChildJob]:
    """Return the children that no backend has; those of the pool have no backend."""
    # Literal SQL: with parameters SQLite uses no partial index.
    condition = "status = 'queued' AND current_attempt_id IS NULL"
    return ChildJob.objects.filter(
        RawSQL(condition, (), BooleanField())  # noqa: S611 no input in it
    ).order_by()


def _with_unsent() -> QuerySet[Variant, tuple[Any, ...]]:
    unbound = unsent().filter(is_bound=False, variant_id=OuterRef("pk"))
    jobs = unbound.values("variant_id").annotate(jobs=Count("position")).values("jobs")
    is_open = Variant.objects.filter(
        group__completed_at__isnull=True, group__placement=Placement.POOL
    )
    return is_open.order_by().values_list(
        *(
            "id",
            "group_id",
            "number",
            "queued_at",
            "workflow_digest",
            "models_digest",
            "bypassed_at",
            "candidates",
        ),
        *(f"group__{column}" for column in ("ordered_at", *TURN)),
        *("group__max_running", "group__start_after"),
        *("group__required_capabilities", "group__uses_partner_nodes", "group__has_secret"),
        Coalesce(Subquery(jobs), 0),
    )


_read_variants: Final = PreparedValues(_with_unsent)


def open_variants() -> list[OpenVariant]:
    """Return the variants of open groups, with the numbers of their unsent jobs; a moved job is
    bound to its backend.
    """
    return _variants(_read_variants(), (), _Restrictions(Pauses(), {}))


def _variants(
    rows: Collection[Any], served: Collection[str], restrictions: _Restrictions
) -> list[OpenVariant]:
    moment, none = now(), frozenset[str]()
    excluded = _excluded_backends() if rows else {}
    variants = []
    for row in rows:
        (
            variant_id,
            group_id,
            number,
            queued_at,
            digest,
            models,
            bypassed_at,
            candidates,
            ordered_at,
            *others,
        ) = row
        turn, (max_running, start_after, required, is_paid, has_own_key, jobs) = (
            tuple(others[:-6]),
            others[-6:],
        )
        is_held = restrictions.is_held(group_id, turn, start_after, jobs, ordered_at or queued_at)
        needed = needed_capabilities(required, is_paid, has_own_key=has_own_key)
        cannot = excluded.get((digest, 0), none) | excluded.get((digest, variant_id), none)
        variants.append(
            OpenVariant(
                variant_id=variant_id,
                group_id=group_id,
                number=number,
                queued_at=queued_at,
                ordered_at=ordered_at,
                waiting_since=turn[-1],
                turn=turn_of(turn, is_served=group_id in served, moment=moment),
                needs=Needs(tuple(candidates), tuple(needed), cannot),
                workflow_digest=digest,
                models_digest=models,
                bypassed_for=None
                if bypassed_at is None
                else (moment - bypassed_at).total_seconds(),
                unsent=0 if is_held else jobs,
                held=jobs if is_held else 0,
                limits=restrictions.limits_of(group_id, turn, max_running),
            )
        )
    return variants


def _excluded_backends() -> dict[tuple[str, int], frozenset[str]]:
    """Return the excluded backends by workflow digest and variant (0: all variants)."""
    excluded = defaultdict[tuple[str, int], set[str]](set)
    for digest, variant_id, backend_id in _read_exclusions(**valid_since()):
        excluded[digest, variant_id].add(backend_id)
    return {key: frozenset(backends) for key, backends in excluded.items()}


def _exclusions() -> QuerySet[Exclusion, tuple[Any, ...]]:
    return (
        Exclusion.objects.filter(ACTIVE)
        .order_by()
        .values_list("workflow_digest", "variant_id", "backend_id")
    )


_read_exclusions: Final = PreparedValues(_exclusions)


def _with_bound() -> QuerySet[ChildJob, tuple[Any, ...]]:
    # Without a join: the literal condition names no table.
    place = ("backend_id", "queued_at", "group_id")
    waiting = unsent().filter(backend_id__gt="").values_list(*place)
    return waiting.annotate(Count("position")).order_by(*place)


_read_bound: Final = PreparedValues(_with_bound)


def _bound_jobs(
    rows: Collection[Any], served: Collection[str], restrictions: _Restrictions
) -> list[BoundJobs]:
    unsent_jobs, first = Counter[str](), dict[str, dt.datetime]()
    for _, queued_at, group_id, jobs in rows:
        unsent_jobs[group_id] += jobs
        first[group_id] = min(queued_at, first.get(group_id, queued_at))
    moment, of_groups = now(), dict[str, dict[str, Any]]()
    # A group may be deleted meanwhile.
    for group_id, digest, ordered_at, max_running, start_after, *turn in read(_groups, unsent_jobs):
        began_at = ordered_at or first[group_id]
        if not restrictions.is_held(group_id, turn, start_after, unsent_jobs[group_id], began_at):
            of_groups[group_id] = {
                "group_id": group_id,
                "workflow_digest": digest,
                "ordered_at": ordered_at,
                "waiting_since": turn[-1],
                "turn": turn_of(tuple(turn), is_served=group_id in served, moment=moment),
                "limits": restrictions.limits_of(group_id, turn, max_running),
            }
    return [
        BoundJobs(
            variant_id=0,
            backend_id=backend_id,
            queued_at=queued_at,
            jobs=jobs,
            **of_groups[group_id],
        )
        for backend_id, queued_at, group_id, jobs in rows
        if group_id in of_groups
    ]


@cache
def _groups(size: int) -> PreparedValues:
    columns = ("id", "workflow_digest", "ordered_at", "max_running", "start_after", *TURN)
    return PreparedValues(
        lambda: JobGroup.objects.filter(pk__in=places(size)).order_by().values_list(*columns)
    )


def _held_at(rows: Iterable[Any], held: Collection[str]) -> dict[str, list[str]]:
    """Return of each backend the groups that are held with the most bound jobs there."""
    jobs = defaultdict[str, Counter[str]](Counter)
    for backend_id, _, group_id, number in rows if held else ():
        if group_id in held:
            jobs[backend_id][group_id] += number
    return {
        backend_id: [group_id for group_id, _ in of_groups.most_common(_MOST_HELD)]
        for backend_id, of_groups in jobs.items()
    }


#: Seconds for which a snapshot serves the reasons of waiting jobs, and the part of the time for
#: readings.
_KEPT_S: Final = 1.0
READING_PART: Final = 0.1


@dataclass(frozen=True, slots=True, eq=False)
class CurrentPool:
    """A snapshot, with the rows of all backends and the bound jobs that wait for them."""

    snapshot: PoolSnapshot
    backends: Sequence[Backend]
    bound: Sequence[BoundJobs]

    def has(self, variant_ids: Iterable[int]) -> bool:
        return all(map(self.snapshot.variant, variant_ids))


class _PoolCache:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._current = CurrentPool(PoolSnapshot(), (), ())
        #: Monotonic: the queue is not read again before, unless a reader needs what the snapshot
        #: lacks.
        self._kept_until = float("-inf")
        #: Monotonic: and not before this time even then, so that readings take a part of the time
        #: only.
        self._rests_until = float("-inf")

    def forget(self) -> None:
        self._kept_until = self._rests_until = float("-inf")

    def get(self, variant_ids: Collection[int], *, is_incomplete: bool) -> CurrentPool:
        # While another thread reads, its last reading serves, but for what is not in it.
        is_usable = self._kept_until > float("-inf") and self._current.has(variant_ids)
        if not self._lock.acquire(blocking=not is_usable):
            return self._current
        try:
            started = time.monotonic()
            is_old = started > (self._rests_until if is_incomplete else self._kept_until)
            if is_old or not self._current.has(variant_ids):
                rows = list(current_backends().values())
                snapshot = pool_snapshot(_as_pooled(rows), with_bound=True)
                self._current = CurrentPool(snapshot, rows, snapshot.bound_in_order)
                ended = time.monotonic()
                self._rests_until = ended + (ended - started) / READING_PART
                self._kept_until = max(ended + _KEPT_S, self._rests_until)
            return self._current
        finally:
            self._lock.release()


_cache: Final = _PoolCache()


def current_pool(variant_ids: Collection[int] = (), *, is_incomplete: bool = False) -> CurrentPool:
    """Return the pool as it was within the last second, with these variants if they have unsent
    jobs.

    ``is_incomplete``: the last snapshot lacks what the caller needs; it is kept for a part of the
    second then.
    """
    return _cache.get(variant_ids, is_incomplete=is_incomplete)


def pool_candidates(group_id: str) -> list[str]:
    """Return the candidates of a group of the pool, sorted: ``*``, or ids and ``tag:…``."""
    rows = Variant.objects.filter(group_id=group_id).values_list("candidates", flat=True)
    return sorted({candidate for candidates in rows for candidate in candidates})


def pool_backends() -> list[PoolBackend]:
    return _as_pooled(current_backends().values())


def _as_pooled(rows: Iterable[Backend]) -> list[PoolBackend]:
    moment = now()
    return [
        PoolBackend(
            backend_id=row.id,
            capabilities=capabilities_of(row),
            name=row.name,
            works=is_working(row, now=moment),
            is_possible=may_take_later(row, now=moment),
            opens_in=_opens_in(row, moment),
        )
        for row in rows
    ]


def _opens_in(row: Backend, moment: dt.datetime) -> float | None:
    if not row.hours or not backend_status(row, now=moment).is_closed:
        return None
    at = opens_at(row.hours, row.time_zone, moment)
    is_there = row.unreachable_since is None
    return (at - moment).total_seconds() if at and is_there else None


def unplaced_variants() -> dict[int, Any]:
    rows = Variant.objects.filter(unplaced_since__isnull=False)
    return dict(rows.values_list("id", "unplaced_since").order_by())


def barring_failures(**of: Any) -> QuerySet[Attempt]:
    """Return the failures of children for which a backend does not take the child again, since it
    was queued.

    A retry by a user queues the child again, also within the run: every backend may try it once
    more.
    """
    since = {"run": F("child__run"), "created_at__gte": F("child__queued_at")}
    return Attempt.objects.filter(failure_class__in=ONLY_ELSEWHERE, **since, **of)


class PoolCandidate(NamedTuple):
    """A candidate of a variant, and why it takes none of its jobs."""

    row: Backend
    failure: FailureClass | None  #: Why it cannot execute them; None: it can.
    unfit: str | None  #: The same, as a sentence.
    reason: str  #: Why it takes none now: its state, else the same; empty: it takes them.


def candidate_reasons(
    variant: Variant, backends: Iterable[Backend] | None = None
) -> list[PoolCandidate]:
    """Return the candidates of a variant by id; without ``backends``, as the database has them now."""
    rows = active_exclusions().filter(
        workflow_digest=variant.workflow_digest, variant_id__in=[0, variant.id]
    )
    excluded, moment = {row.backend_id: row for row in rows}, now()
    candidates = []
    for row in current_backends().values() if backends is None else backends:
        if is_candidate(variant.candidates, row.id, row.tags):
            exclusion = excluded.get(row.id)
            lacks = lacks_reason(capabilities_of(row), variant.group.needed_capabilities)
            unfit = lacks if exclusion is None else reason_of(exclusion)
            failure = (
                FailureClass.NODE_OR_MODEL_MISSING if exclusion is None else failure_of(exclusion)
            )
            reason = ineligible_reason(row, (), now=moment) or unfit or ""
            candidates.append(PoolCandidate(row, failure if unfit else None, unfit, reason))
    return candidates
