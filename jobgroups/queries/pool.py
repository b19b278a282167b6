"""Reads the pool's line: open variants with their unsent jobs, and the backends."""

import datetime as dt
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, NamedTuple

from django.db.models import BooleanField, Count, F, Min, OuterRef, QuerySet, Subquery
from django.db.models.expressions import RawSQL
from django.db.models.functions import Coalesce

from backends.capabilities import lacks_reason, needed_capabilities
from backends.eligibility import capabilities_of, ineligible_reason, is_working, may_take_later
from backends.models import Backend
from jobgroups.domain.clock import now
from jobgroups.domain.estimates import Estimates, TimingRow
from jobgroups.domain.exclusions import ExclusionKind
from jobgroups.domain.failures import ONLY_ELSEWHERE
from jobgroups.domain.pool import ActivePrompt, Line, Needs, OpenVariant, PoolBackend, is_candidate
from jobgroups.domain.states import Placement
from jobgroups.models import Attempt, ChildJob, JobGroup, Timing, Variant
from jobgroups.queries.exclusions import active_exclusions, reason_of

MAX_ROWS: Final = 4_000  #: The newest rows, which are read.


def current_estimates() -> Estimates:
    """Return the estimates from the newest rows; a reading takes one short query unless samples were stored."""
    return _estimates_of(Timing.objects.order_by("-updated_at").values_list("updated_at", flat=True).first())


@lru_cache(maxsize=1)
def _estimates_of(newest: dt.datetime | None) -> Estimates:  # noqa: ARG001 the key of the last reading
    columns = ("workflow_digest", "backend_id", "models_digest", "seconds", "load_seconds", "updated_at")
    rows = Timing.objects.order_by("-updated_at").values_list(*columns)
    return Estimates(TimingRow(*row) for row in rows[:MAX_ROWS])


#: The variants of open groups; up to so many of them are read by the ids of their groups.
_OPEN: Final = {"group__completed_at__isnull": True, "group__placement": Placement.POOL}
_MOST_NAMED: Final = 500
_COUNTED_AT_ONCE: Final = 500  #: Variants whose jobs are counted by one statement.
#: The number of a group's children that are not final.
_UNENDED: Final = F("total_count") - F("completed_count") - F("failed_count") - F("cancelled_count")


class LineReader:
    """Reads the line, and keeps what does not change of a group's run from one reading to the next."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int], list[dict[str, Any]]] = {}  #: By group and run.
        self._bound: dict[int, tuple[str, str]] = {}  #: Groups and workflows of the active attempts of bound children.

    def read(
        self,
        backends: Iterable[PoolBackend],
        overlooked: frozenset[tuple[int, str]] = frozenset(),
        *,
        with_bound: bool = False,
    ) -> Line:
        """Return the variants of open groups that may have unsent jobs, and what the backends do beside them.

        ``backends`` are all registered ones; for ``overlooked`` see :class:`Line`. ``with_bound``: prompts are read also
        while no group of the pool is open.
        """
        # Groups before attempts: a job that is claimed between the two is counted as sent.
        groups = list(
            JobGroup.objects.filter(completed_at__isnull=True, placement=Placement.POOL)
            .order_by("created_at", "id")
            .values_list("id", "run", _UNENDED)
        )
        if not groups and not with_bound:
            self._known.clear()
            return Line((), backends)
        self._learn([(group_id, run) for group_id, run, _ in groups])
        active = list(
            Attempt.objects.filter(ended_at__isnull=True)
            .order_by("backend_id", "id")
            .only("backend_id", "variant_id", "created_at", "started_at", "stop_requested_at")
        )
        sent = Counter(one.variant_id for one in active if not one.is_stopping)
        excluded, bypassed = _excluded_backends(), self._bypassed()
        unsent_of = _unsent_by_variant([row["id"] for some in self._known.values() if len(some) > 1 for row in some])
        variants = [
            _open_variant(
                row, unsent_of.get(row["id"], max(left - sent[row["id"]], 0)), excluded, bypassed.get(row["id"])
            )
            for group_id, run, left in groups
            for row in self._known[group_id, run]
        ]
        newest = max((one.queued_at for one in variants), default=None)
        return Line(
            variants,
            backends,
            estimates=current_estimates(),
            prompts=self._prompts(active),
            bound={} if newest is None else _bound_waiting(newest),
            overlooked=overlooked,
        )

    def _bypassed(self) -> dict[int, dt.datetime | None]:
        """Return since when backends take later variants; they do only for the sake of models."""
        rows = [row for rows in self._known.values() for row in rows]
        if len({row["models_digest"] for row in rows}) < 2:
            return {}
        marked = Variant.objects.filter(bypassed_at__isnull=False, **_OPEN)
        return dict(marked.values_list("id", "bypassed_at").order_by())

    def _prompts(self, active: Sequence[Attempt]) -> dict[str, list[ActivePrompt]]:
        moment = now()
        of_variant = {row["id"]: row for rows in self._known.values() for row in rows}
        bound = [one.pk for one in active if one.variant_id not in of_variant]
        self._bound = {key: self._bound[key] for key in bound if key in self._bound}
        if unknown := [key for key in bound if key not in self._bound]:
            rows = Attempt.objects.filter(pk__in=unknown).order_by()
            its_digest = Coalesce("child__variant__workflow_digest", "child__group__workflow_digest")
            self._bound |= {
                pk: (group, own) for pk, group, own in rows.values_list("pk", "child__group_id", its_digest)
            }
        found = defaultdict[str, list[ActivePrompt]](list)
        for one in active:
            variant = of_variant.get(one.variant_id)
            # A group that was deleted meanwhile has no row.
            group_id, digest = self._bound.get(one.pk, ("", ""))
            started = one.started_at
            prompt = ActivePrompt(
                attempt_id=one.pk,
                group_id=variant["group"] if variant else group_id,
                workflow_digest=variant["workflow_digest"] if variant else digest,
                models_digest=variant["models_digest"] if variant else "",
                waited=(moment - one.created_at).total_seconds(),
                running_for=None if started is None else (moment - started).total_seconds(),
                variant_id=None if one.is_stopping else one.variant_id,
            )
            found[one.backend_id].append(prompt)
        return found

    def _learn(self, keys: list[tuple[str, int]]) -> None:
        unknown = {group_id for group_id, run in keys if (group_id, run) not in self._known}
        self._known = {key: self._known.get(key, []) for key in keys}
        if not unknown:
            return
        # A statement of SQLite takes 32,766 values.
        which = {"group__in": unknown} if len(unknown) <= _MOST_NAMED else _OPEN
        for row in _variant_rows(**which):
            if row["group"] in unknown:
                self._known.setdefault((row["group"], row["run"]), []).append(row)


def _unsent_by_variant(variant_ids: Sequence[int]) -> dict[int, int]:
    """Return the number of unsent jobs of variants; the counts of a group do not have it if it has several variants."""
    found = dict.fromkeys(variant_ids, 0)
    for first in range(0, len(variant_ids), _COUNTED_AT_ONCE):
        some = unsent().filter(is_bound=False, variant_id__in=variant_ids[first : first + _COUNTED_AT_ONCE])
        found |= dict(some.values_list("variant_id").annotate(Count("position")))
    return found


def _bound_waiting(before: dt.datetime) -> dict[str, int]:
    """Return the number of unsent bound children that were queued before a time, by backend."""
    waiting = count_by_backend(unsent().filter(queued_at__lt=before))
    rows = Backend.objects.order_by().annotate(jobs=waiting).values_list("id", "jobs")
    return {backend_id: jobs for backend_id, jobs in rows if jobs}


def count_by_backend(children: QuerySet[ChildJob]) -> Subquery:
    """Return the number of some children of each backend, as an annotation of backends; null: there is none.

    For each backend the database reads the range of an index. A GROUP BY reads all queued children in SQLite, also those
    of the pool.
    """
    # A column of the index, so that no row is read.
    counted = children.filter(backend_id=OuterRef("pk")).values("backend_id").annotate(jobs=Count("position"))
    return Subquery(counted.values("jobs"))


def unsent() -> QuerySet[ChildJob]:
    """Return the children that no backend has; those of the pool have no backend."""
    # Literal SQL: with parameters SQLite uses no partial index.
    condition = "status = 'queued' AND current_attempt_id IS NULL"
    return ChildJob.objects.filter(
        RawSQL(condition, (), BooleanField())  # noqa: S611 no input in it
    ).order_by()


def _variant_rows(**which: Any) -> list[dict[str, Any]]:
    rows = Variant.objects.filter(**which).order_by("group", "number")
    fields = ("id", "group", "number", "queued_at", "candidates", "workflow_digest", "models_digest")
    of_group = ("run", "required_capabilities", "uses_partner_nodes", "has_secret")
    joined = {name: F(f"group__{name}") for name in of_group}
    return [dict(row) for row in rows.values(*fields, **joined)]


def _excluded_backends() -> dict[tuple[str, int], frozenset[str]]:
    """Return the excluded backends by workflow digest and variant (0: all variants)."""
    found = defaultdict[tuple[str, int], set[str]](set)
    rows = active_exclusions().values_list("workflow_digest", "variant_id", "backend_id")
    for digest, variant_id, backend_id in rows:
        found[digest, variant_id].add(backend_id)
    return {key: frozenset(backends) for key, backends in found.items()}


def _open_variant(
    row: dict[str, Any],
    unsent: int,
    excluded: dict[tuple[str, int], frozenset[str]],
    bypassed_at: dt.datetime | None = None,
) -> OpenVariant:
    digest, none = row["workflow_digest"], frozenset[str]()
    needed = needed_capabilities(row["required_capabilities"], row["uses_partner_nodes"], has_own_key=row["has_secret"])
    cannot = excluded.get((digest, 0), none) | excluded.get((digest, row["id"]), none)
    return OpenVariant(
        variant_id=row["id"],
        group_id=row["group"],
        number=row["number"],
        queued_at=row["queued_at"],
        needs=Needs(tuple(row["candidates"]), tuple(needed), cannot),
        workflow_digest=digest,
        models_digest=row["models_digest"],
        bypassed_for=None if bypassed_at is None else (now() - bypassed_at).total_seconds(),
        unsent=unsent,
    )


class BoundJobs(NamedTuple):
    """The unsent bound jobs of one group that wait for one backend."""

    backend_id: str
    group_id: str
    workflow_digest: str
    jobs: int


def _bound_jobs() -> list[BoundJobs]:
    """Return what waits for each backend, in the order of claims."""
    # Without a join: the literal condition names no table.
    grouped = unsent().filter(backend_id__gt="").values("backend_id", "group_id")
    ordered = grouped.annotate(since=Min("queued_at"), jobs=Count("position")).order_by(
        "backend_id", "since", "group_id"
    )
    counted = list(ordered.values_list("backend_id", "group_id", "jobs"))
    # A group may be deleted meanwhile.
    groups = JobGroup.objects.only("workflow_digest").in_bulk({group_id for _, group_id, _ in counted})
    return [
        BoundJobs(backend_id or "", group_id, groups[group_id].workflow_digest, jobs)
        for backend_id, group_id, jobs in counted
        if group_id in groups
    ]


#: Seconds for which a reading of the line serves the reasons of waiting jobs, and the part of the time for readings.
_LINE_KEPT: Final = 1.0
READING_PART: Final = 0.1


@dataclass(frozen=True, slots=True, eq=False)
class CurrentLine:
    """A reading of the line, with the rows of all backends and the bound jobs that wait for them."""

    line: Line
    backends: Sequence[Backend]
    bound: Sequence[BoundJobs]


class _LineCache:
    """The line of this process, for readers."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reader = LineReader()
        self._current = CurrentLine(Line(), (), ())
        #: Monotonic: the line is not read again before, unless a reader needs what the reading lacks.
        self._kept_until = float("-inf")
        #: Monotonic: and not before this time even then, so that readings take a part of the time only.
        self._rests_until = float("-inf")

    def forget(self) -> None:
        self._kept_until = float("-inf")

    def get(self, variant_ids: Collection[int], *, is_incomplete: bool) -> CurrentLine:
        # While another thread reads, its last reading serves, but for what is not in it.
        is_usable = self._kept_until > float("-inf") and all(map(self._current.line.has, variant_ids))
        if not self._lock.acquire(blocking=not is_usable):
            return self._current
        try:
            started = time.monotonic()
            is_old = started > (self._rests_until if is_incomplete else self._kept_until)
            if is_old or not all(map(self._current.line.has, variant_ids)):
                rows = _backend_rows()
                line = self._reader.read(_as_pooled(rows), with_bound=True)
                self._current = CurrentLine(line, rows, _bound_jobs())
                ended = time.monotonic()
                self._rests_until = ended + (ended - started) / READING_PART
                self._kept_until = max(ended + _LINE_KEPT, self._rests_until)
            return self._current
        finally:
            self._lock.release()


_cache: Final = _LineCache()


def current_line(variant_ids: Collection[int] = (), *, is_incomplete: bool = False) -> CurrentLine:
    """Return the line as it was within the last second, with these variants if they have unsent jobs.

    ``is_incomplete``: the last reading lacks what the caller needs; it is kept for a part of the second then.
    """
    return _cache.get(variant_ids, is_incomplete=is_incomplete)


def waiting_line() -> Line:
    """Return the line with the exact numbers of jobs that wait in the pool: a moved job is bound to its backend."""
    jobs: dict[int, int] = dict(unsent().filter(is_bound=False).values_list("variant_id").annotate(Count("id")))
    rows = _variant_rows(pk__in=jobs) if jobs else []
    excluded = _excluded_backends() if jobs else {}
    variants = [_open_variant(row, jobs[row["id"]], excluded) for row in rows]
    return Line(variants, pool_backends())


def pool_candidates(group_id: str) -> list[str]:
    """Return the candidates of a group of the pool, sorted: ``*``, or ids and ``tag:…``."""
    rows = Variant.objects.filter(group_id=group_id).values_list("candidates", flat=True)
    return sorted({one for candidates in rows for one in candidates})


def pool_backends() -> list[PoolBackend]:
    """Return all registered backends as the pool sees them."""
    return _as_pooled(_backend_rows())


def _backend_rows() -> list[Backend]:
    return list(Backend.objects.order_by("id").defer("headers"))


def _as_pooled(rows: Iterable[Backend]) -> list[PoolBackend]:
    moment = now()
    return [
        PoolBackend(
            backend_id=row.id,
            capabilities=capabilities_of(row),
            works=is_working(row, now=moment),
            is_possible=may_take_later(row, now=moment),
        )
        for row in rows
    ]


def unplaced_variants() -> dict[int, Any]:
    """Return since when no candidate can take the jobs of a variant, by its id."""
    rows = Variant.objects.filter(unplaced_since__isnull=False)
    return dict(rows.values_list("id", "unplaced_since").order_by())


def barring_failures(**of: Any) -> QuerySet[Attempt]:
    """Return the failures of children for which a backend does not take the child again, since it was queued.

    A retry by a user queues the child again, also within the run: every backend may try it once more.
    """
    since = {"run": F("child__run"), "created_at__gte": F("child__queued_at")}
    return Attempt.objects.filter(failure_class__in=ONLY_ELSEWHERE, **since, **of)


class PoolCandidate(NamedTuple):
    """A candidate of a variant, and why it takes none of its jobs."""

    row: Backend
    kind: ExclusionKind | None  #: Why it cannot execute them; None: it can.
    unfit: str | None  #: The same, as a sentence.
    reason: str  #: Why it takes none now: its state, else the same; empty: it takes them.


def candidate_reasons(variant: Variant, backends: Iterable[Backend] | None = None) -> list[PoolCandidate]:
    """Return the candidates of a variant by id; without ``backends``, as the database has them now."""
    rows = active_exclusions().filter(workflow_digest=variant.workflow_digest, variant_id__in=[0, variant.id])
    excluded, moment = {row.backend_id: row for row in rows}, now()
    found = []
    for row in _backend_rows() if backends is None else backends:
        if is_candidate(variant.candidates, row.id, row.tags):
            one = excluded.get(row.id)
            lacks = lacks_reason(capabilities_of(row), variant.group.needed_capabilities)
            unfit = lacks if one is None else reason_of(one)
            kind = ExclusionKind.MISSING if one is None else ExclusionKind(one.kind)
            reason = ineligible_reason(row, (), now=moment) or unfit or ""
            found.append(PoolCandidate(row, kind if unfit else None, unfit, reason))
    return found
