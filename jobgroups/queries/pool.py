"""Reads the pool's queue: open variants with their unsent jobs, and the backends."""

import datetime as dt
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
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
from jobgroups.models import (
    Attempt,
    ChildJob,
    Exclusion,
    JobGroup,
    Submitter,
    Timing,
    Variant,
    share_name,
)
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
    columns = (column.name for column in fields(TimingRow))
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
    pauses, limits = current_pauses(), dict(_limited_submitters())
    if not (rows or bound_rows or with_bound or pauses):
        return PoolSnapshot((), backends)
    prompts, taken_back = _prompts(pauses)
    groups = _Groups(pauses, limits, served_groups(prompts))
    variants = _variants(rows, groups)
    bound_jobs = _bound_jobs(bound_rows, groups)
    submitters = {jobs.turn.submitter for jobs in (*variants, *bound_jobs)}
    return PoolSnapshot(
        variants,
        backends,
        estimates=current_estimates(),
        prompts=prompts,
        bound_jobs=bound_jobs,
        # One submitter alone has the whole farm: earlier use does not count.
        shares=current_shares() if len(submitters) > 1 else Shares(),
        rooms=groups.rooms(prompts),
        held=groups.held,
        held_at=_held_at(bound_rows, groups.held),
        due_in=groups.due_in,
        taken_back=frozenset(taken_back),
    )


#: The columns of a group that count for its waiting jobs.
_OF_GROUP: Final = ("ordered_at", "max_running", "start_after", *TURN)


class _Groups:
    """The groups with waiting jobs, and the pauses, limits and times that keep these from being
    sent, as one reading finds them.
    """

    def __init__(
        self, pauses: Pauses, of_submitters: Mapping[str, int], served: Collection[str] = ()
    ) -> None:
        self._pauses: Final = pauses
        self._of_submitters: Final = of_submitters
        self._served: Final = served  #: Those of which backends have jobs.
        self.moment: Final = now()
        #: Those of which nothing is sent now, and the values of limits: as far as they were read.
        self.held: Final[dict[str, HeldGroup]] = {}
        self._limits: Final[dict[str, int]] = {}
        self._due_at: Final = {row.ends_at for row in pauses.by_target.values() if row.ends_at}

    @property
    def due_in(self) -> float:
        first = min(self._due_at, default=None)
        return inf if first is None else max((first - self.moment).total_seconds(), 0.0)

    def read(
        self, group_id: str, columns: Sequence[Any], jobs: int, queued_at: dt.datetime
    ) -> tuple[dict[str, Any], bool]:
        """Return what waiting jobs have of their group, and whether nothing of it is sent now.

        ``columns`` are the values of ``_OF_GROUP``; so many unsent ``jobs`` count as held then.
        """
        ordered_at, max_running, start_after, *turn = columns
        share = submitter_of(turn)
        limits = {group_id: max_running, target_of_submitter(share): self._of_submitters.get(share)}
        known = {name: limit for name, limit in limits.items() if limit is not None}
        self._limits.update(known)
        of_group = {
            "group_id": group_id,
            "queued_at": queued_at,
            "ordered_at": ordered_at,
            "waiting_since": turn[-1],
            "turn": turn_of(tuple(turn), is_served=group_id in self._served, moment=self.moment),
            "limits": tuple(known),
        }
        is_later = start_after is not None and start_after > self.moment
        if not jobs or not (is_later or self._pauses.of(group_id, share)):
            return of_group, False
        if is_later:
            self._due_at.add(start_after)
        jobs += self.held[group_id].jobs if group_id in self.held else 0
        level = turn_of(tuple(turn), is_served=True, moment=self.moment).level
        rank = (-level, ordered_at or queued_at, group_id)
        self.held[group_id] = HeldGroup(turn[-1], jobs, rank)
        return of_group, True

    def rooms(self, prompts: Mapping[str, Sequence[ActivePrompt]]) -> dict[str, int]:
        """Return how many more prompts each limit permits."""
        rooms = dict(self._limits)
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
    columns = (
        "backend_id",
        "id",
        "child__group_id",
        share_name("child__group__"),
        workflow,
        models,
    )
    moments = ("created_at", "started_at", "stop_requested_at")
    return rows.order_by("backend_id", "id").values_list(*columns, *moments, "variant_id")


_read_prompts: Final = PreparedValues(_active_prompts)


def _prompts(pauses: Pauses) -> tuple[dict[str, list[ActivePrompt]], set[int]]:
    """Return the prompts of each backend, and the attempts that wait there though they are paused."""
    moment, prompts = now(), defaultdict[str, list[ActivePrompt]](list)
    taken_back = set[int]()
    for backend_id, attempt_id, group_id, submitter, digest, models, *others in _read_prompts():
        created_at, started_at, stopped_at, variant_id = others
        waits = started_at is None and stopped_at is None
        if waits and pauses.of(group_id, submitter):
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
                submitter=submitter,
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
        *("id", "group_id", "number", "queued_at", "workflow_digest", "models_digest"),
        *("bypassed_at", "candidates"),
        *("group__required_capabilities", "group__uses_partner_nodes", "group__has_secret"),
        *(f"group__{column}" for column in _OF_GROUP),
        Coalesce(Subquery(jobs), 0),
    )


_read_variants: Final = PreparedValues(_with_unsent)


def open_variants() -> list[OpenVariant]:
    """Return the variants of open groups, with the numbers of their unsent jobs; a moved job is
    bound to its backend.
    """
    return _variants(_read_variants(), _Groups(Pauses(), {}))


def _variants(rows: Collection[Any], groups: _Groups) -> list[OpenVariant]:
    none = frozenset[str]()
    excluded = _excluded_backends() if rows else {}
    variants = []
    for variant_id, group_id, number, queued_at, digest, models, *others in rows:
        bypassed_at, candidates, required, is_paid, has_own_key, *columns, jobs = others
        of_group, is_held = groups.read(group_id, columns, jobs, queued_at)
        needed = needed_capabilities(required, is_paid, has_own_key=has_own_key)
        cannot = excluded.get((digest, 0), none) | excluded.get((digest, variant_id), none)
        bypassed_for = bypassed_at and (groups.moment - bypassed_at).total_seconds()
        variants.append(
            OpenVariant(
                variant_id=variant_id,
                number=number,
                needs=Needs(tuple(candidates), tuple(needed), cannot),
                workflow_digest=digest,
                models_digest=models,
                bypassed_for=bypassed_for,
                unsent=0 if is_held else jobs,
                held=jobs if is_held else 0,
                **of_group,
            )
        )
    return variants


def _excluded_backends() -> dict[tuple[str, int], frozenset[str]]:
    """Return the excluded backends by workflow digest and variant (0: all variants)."""
    excluded = defaultdict[tuple[str, int], set[str]](set)
    for digest, variant_id, backend_id in _read_exclusions(**valid_since()):
        excluded[digest, variant_id].add(backend_id)
    return {key: frozenset(backends) for key, backends in excluded.items()}


_read_exclusions: Final = PreparedValues(
    lambda: (
        Exclusion.objects.filter(ACTIVE)
        .order_by()
        .values_list("workflow_digest", "variant_id", "backend_id")
    )
)


def _with_bound() -> QuerySet[ChildJob, tuple[Any, ...]]:
    # Without a join: the literal condition names no table.
    place = ("backend_id", "queued_at", "group_id")
    waiting = unsent().filter(backend_id__gt="").values_list(*place)
    return waiting.annotate(Count("position")).order_by(*place)


_read_bound: Final = PreparedValues(_with_bound)


def _bound_jobs(rows: Collection[Any], groups: _Groups) -> list[BoundJobs]:
    unsent_jobs, first = Counter[str](), dict[str, dt.datetime]()
    for _, queued_at, group_id, jobs in rows:
        unsent_jobs[group_id] += jobs
        first[group_id] = min(queued_at, first.get(group_id, queued_at))
    of_groups = dict[str, dict[str, Any]]()
    # A group may be deleted meanwhile.
    for group_id, digest, *columns in read(_groups, unsent_jobs):
        of_group, is_held = groups.read(group_id, columns, unsent_jobs[group_id], first[group_id])
        if not is_held:
            of_groups[group_id] = {**of_group, "workflow_digest": digest, "variant_id": 0}
    return [
        BoundJobs(
            **{**of_groups[group_id], "queued_at": queued_at}, backend_id=backend_id, jobs=jobs
        )
        for backend_id, queued_at, group_id, jobs in rows
        if group_id in of_groups
    ]


@cache
def _groups(size: int) -> PreparedValues:
    columns = ("id", "workflow_digest", *_OF_GROUP)
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
    """A snapshot, with the rows of all backends."""

    snapshot: PoolSnapshot
    backends: Sequence[Backend]


class _PoolCache:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._current = CurrentPool(PoolSnapshot(), ())
        #: Monotonic: the queue is not read again before, unless a reader needs what the snapshot
        #: lacks.
        self._kept_until = float("-inf")
        #: Monotonic: and not before this time even then, so that readings take a part of the time
        #: only.
        self._rests_until = float("-inf")

    def forget(self) -> None:
        self._kept_until = self._rests_until = float("-inf")

    def _has(self, variant_ids: Iterable[int]) -> bool:
        return all(map(self._current.snapshot.variant, variant_ids))

    def get(self, variant_ids: Collection[int] = (), *, is_incomplete: bool = False) -> CurrentPool:
        """Return the pool as it was within the last second, with these variants if they have unsent
        jobs.

        ``is_incomplete``: the last snapshot lacks what the caller needs; it is kept for a part of
        the second then.
        """
        # While another thread reads, its last reading serves, but for what is not in it.
        is_usable = self._kept_until > float("-inf") and self._has(variant_ids)
        if not self._lock.acquire(blocking=not is_usable):
            return self._current
        try:
            started = time.monotonic()
            is_old = started > (self._rests_until if is_incomplete else self._kept_until)
            if is_old or not self._has(variant_ids):
                rows = list(current_backends().values())
                snapshot = pool_snapshot(_as_pooled(rows), with_bound=True)
                self._current = CurrentPool(snapshot, rows)
                ended = time.monotonic()
                self._rests_until = ended + (ended - started) / READING_PART
                self._kept_until = max(ended + _KEPT_S, self._rests_until)
            return self._current
        finally:
            self._lock.release()


_cache: Final = _PoolCache()


current_pool: Final = _cache.get


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
