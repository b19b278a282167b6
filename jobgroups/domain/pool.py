"""The pool: which backends fit a variant, the order of the line, and what a backend takes next. Pure.

A *variant* is the jobs of one group that have the same workflow; a job of the pool waits for any backend that fits its
variant. The runner chooses from a snapshot, and the transaction of the claim checks the choice again.
"""

from __future__ import annotations

import datetime as dt
import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from math import inf
from typing import Any, Final

from backends.capabilities import BackendCapabilities, missing_capabilities
from jobgroups.domain.estimates import Estimates
from jobgroups.domain.plan import SOON_S, Ends, Plan, Worker, rest_of
from jobgroups.domain.text import duration

ANY_BACKEND: Final = "*"  #: The candidate that stands for every enabled backend, also for one that is registered later.
TAG_PREFIX: Final = "tag:"  #: Begins a candidate that stands for every backend with a tag.
#: Seconds for which backends may take later jobs whose models they have loaded before the first job of the line.
_BYPASS_S: Final = 60.0
#: A running prompt that takes this many times its usual time, and this many seconds longer, makes its backend suspect.
_SUSPECT_FACTOR, _SUSPECT_S = 3, 30.0
#: Seconds that an unstarted prompt of unknown duration waits at a backend before another one that is free gets it.
_RECALL_UNKNOWN_S: Final = 5.0
#: Seconds that a recall takes, and what it must gain: in seconds, and as a part of the time until the end.
_RECALL_TAKES_S, _RECALL_GAIN_S, _RECALL_GAIN = 1.0, 2.0, 0.2
_MAX_RECALLS: Final = 32  #: Prompts that are recalled at once.
#: Plans up to this size are made again when a backend finds no job: about 10 ms. Else any backend takes that job.
_REPLANNED: Final = 3_000
_NONE: Final[Mapping[str, Any]] = {}
_UNKNOWN_S: Final = 30.0  #: Seconds of a bound job of which nothing is known, that waits at a backend.


@dataclass(frozen=True, slots=True)
class Needs:
    """What a backend must have to take the jobs of a variant."""

    candidates: tuple[str, ...]  #: ``*``, or ids and ``tag:…`` in any mix, as submitted.
    required: tuple[str, ...] = ()  #: Capabilities.
    excluded: frozenset[str] = frozenset()  #: Candidates that cannot run the workflow, as earlier failures showed.


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivePrompt:
    """A prompt of ours that a backend has, as the pool sees it."""

    attempt_id: int
    group_id: str = ""
    workflow_digest: str
    models_digest: str = ""  #: Empty: it uses none, or they are not known.
    waited: float  #: Seconds since it was claimed.
    running_for: float | None = None  #: Seconds since it started; None: it has not.
    variant_id: int | None = None  #: Of a job of the pool that is not being stopped.


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolBackend:
    backend_id: str
    capabilities: BackendCapabilities
    works: bool = True  #: Whether it answers and nothing holds it back.
    is_possible: bool = True  #: Whether jobs may wait for it: it is neither disabled nor drained nor away.


def names_of(backend_id: str, tags: Iterable[str]) -> set[str]:
    """Return the candidates of submissions that stand for a backend."""
    return {ANY_BACKEND, backend_id, *(f"{TAG_PREFIX}{tag}" for tag in tags)}


def is_candidate(candidates: Iterable[str], backend_id: str, tags: Iterable[str]) -> bool:
    return not names_of(backend_id, tags).isdisjoint(candidates)


def fits(needs: Needs, backend_id: str, known: BackendCapabilities) -> bool:
    is_able = backend_id not in needs.excluded and not missing_capabilities(known, needs.required)
    return is_able and is_candidate(needs.candidates, backend_id, known.tags)


@dataclass(slots=True, kw_only=True)
class OpenVariant:
    """A variant of a group that has not ended."""

    variant_id: int
    group_id: str
    number: int
    queued_at: dt.datetime  #: When its jobs were queued: the start of the group's run.
    needs: Needs
    workflow_digest: str = ""
    models_digest: str = ""
    bypassed_for: float | None = None  #: Seconds since backends began to take later jobs instead; None: they do not.
    unsent: int  #: Jobs that no backend has. It may be too high by jobs that wait for the end of an older prompt.


def order_key(variant: OpenVariant) -> tuple[dt.datetime, str, int]:
    """Return the place of a variant in the line. The one place for priorities and fair shares.

    All runners must compute the same key from the same rows.
    """
    return (variant.queued_at, variant.group_id, variant.number)


def _is_overdue(variant: OpenVariant) -> bool:
    return variant.bypassed_for is not None and variant.bypassed_for >= _BYPASS_S


@dataclass(slots=True)
class _Demand:
    """The open variants with the same needs."""

    able: Set[str]  #: The backends that fit.
    workers: list[str]  #: Those of them that work.
    unsent: int = 0  #: Unsent jobs of all of them.


@dataclass(slots=True)
class _Class:
    """The open variants with the same needs and models, in order."""

    demand: _Demand
    models: str
    variants: list[OpenVariant] = field(default_factory=list)
    unsent: int = 0  #: Unsent jobs of all of them.


class Line:
    """The open variants in order, and the backends for which they wait.

    Args:
        variants: the open variants; ``unsent`` is counted down as backends take jobs.
        backends: all registered backends.
        estimates: the seconds of workflows.
        prompts: those that each backend has, oldest first.
        bound: number of older bound jobs that wait for a backend and were not sent.
        overlooked: (variant, backend) pairs left out of the plan: the backend was free and did not take them.
    """

    def __init__(
        self,
        variants: Iterable[OpenVariant] = (),
        backends: Iterable[PoolBackend] = (),
        *,
        estimates: Estimates | None = None,
        prompts: Mapping[str, Sequence[ActivePrompt]] = _NONE,
        bound: Mapping[str, int] = _NONE,
        overlooked: frozenset[tuple[int, str]] = frozenset(),
    ) -> None:
        self._backends = {one.backend_id: one for one in backends}
        self._working = {name for name, one in self._backends.items() if one.works}
        self._prompts = prompts
        self._bound = bound
        self.estimates = estimates or Estimates()
        self.variants = sorted(variants, key=order_key)
        self._demands = self._demands_of({one.needs for one in self.variants})
        self._classes: dict[tuple[Needs, str], _Class] = {}
        for one in self.variants:
            key, demand = (one.needs, one.models_digest), self._demands[one.needs]
            if key not in self._classes:
                self._classes[key] = _Class(demand, one.models_digest)
            self._classes[key].variants.append(one)
            self._classes[key].unsent += one.unsent
            demand.unsent += one.unsent
        self._classes_of: dict[str, list[_Class]] = {}  #: The classes that a backend fits, once they were read.
        self._by_id = {one.variant_id: one for one in self.variants}
        self._has_overdue = any(map(_is_overdue, self.variants))
        self._models = {name: self._models_of(name) for name in self._backends}
        self._suspects = {name for name in prompts if self._is_suspect(name)}
        self._current_plan: Plan | None = None
        self._free_in: dict[str, float] = {}  #: Of the planned backends, as :meth:`free_in`.
        self._taken = defaultdict[str, float](float)  #: Seconds of the jobs that each backend took since the reading.
        self._workers: dict[str, Worker] = {}  #: The planned backends.
        self._workers_by_needs: dict[Needs, list[Worker]] = {}  #: The planned backends that fit.
        self._soonest: dict[Needs, float] = {}  #: Seconds until the first of them is free, once they were computed.
        self._in_vain = defaultdict[int, set[str]](set)  #: What backends tried to take in vain, by variant.
        self._overlooked = defaultdict[int, set[str]](set)
        for variant_id, name in overlooked:
            self._overlooked[variant_id].add(name)
        self._recalled = set[int]()
        #: Whether a backend was refused a job that another one ends sooner, or that waits there.
        self.is_held_back = False
        self.bypasses: dict[int, bool] = {}  #: Variants that were bypassed, or are no longer, since the line was read.

    def next_for(self, backend_id: str, *, prompts: int) -> OpenVariant | None:
        """Return the variant of the next job of a backend with a free slot and ``prompts`` of ours, or None."""
        self._note_working([backend_id])
        if backend_id in self._suspects:
            return None
        fitting = self._fitting(backend_id)
        loaded = self._heads((one for one in fitting if self._is_loaded(one.models, backend_id)), backend_id)
        if loaded and not self._has_overdue:
            best = min(loaded, key=order_key)
        else:
            heads = self._heads(fitting, backend_id)
            if not heads:
                return None
            best = min(heads, key=order_key)
            if not _is_overdue(best):
                if not loaded and prompts and self._has_loaded_work(backend_id):
                    # The job would wait for the end of a prompt, and then for a load that others may spare.
                    return None
                best = min(loaded, key=order_key) if loaded else self._with_most_work(heads)
        # It could wait behind a prompt that takes an hour.
        return best if not prompts or self.estimates.has_speed(best.workflow_digest, backend_id) else None

    def _note_working(self, free: Iterable[str]) -> None:
        """Note that backends with a free slot work: their rows may be older."""
        if found := {name for name in free if name in self._backends} - self._working:
            self._working |= found
            for one in self._demands.values():
                one.workers += sorted(found & one.able)
            self._current_plan = None

    def _is_loaded(self, models: str, backend_id: str) -> bool:
        return models in ("", self._models.get(backend_id))

    def _has_loaded_work(self, backend_id: str) -> bool:
        models = self._models.get(backend_id)
        return any(one.unsent > 0 and one.models == models for one in self._fitting(backend_id))

    def _heads(self, classes: Iterable[_Class], backend_id: str) -> list[OpenVariant]:
        return [head for one in classes if (head := self._head(one, backend_id)) is not None]

    def _head(self, one: _Class, backend_id: str) -> OpenVariant | None:
        """Return the first variant of a class of which a backend may take a job now."""
        if one.unsent <= 0:
            return None
        while one.variants and one.variants[0].unsent <= 0:
            del one.variants[0]
        plan, free_in = self.plan(), inf
        if self._is_loaded(one.models, backend_id):
            free_in = self._free_in[backend_id] + self._taken[backend_id]
        for variant in one.variants:
            variant_id = variant.variant_id
            if variant.unsent <= 0 or backend_id in self._in_vain.get(variant_id, ()):
                continue
            seconds = self.estimates.seconds(variant.workflow_digest, backend_id)
            if seconds is None or variant_id in plan.unplanned or plan.allotted.get((variant_id, backend_id), 0) > 0:
                return variant
            # The last job of the variant ends no later.
            if free_in + seconds <= plan.last.get(variant_id, 0.0):
                return variant
        self.is_held_back = True
        return None

    def _with_most_work(self, heads: Iterable[OpenVariant]) -> OpenVariant:
        """Return the head whose models have the most work for each backend that has them loaded."""
        having = Counter(self._models[name] for name in self._working)
        work = Counter[str]()
        for of_class in self._classes.values():
            work[of_class.models] += of_class.unsent

        def rank(one: OpenVariant) -> tuple[Any, ...]:
            return having[one.models_digest] / max(work[one.models_digest], 1), order_key(one)

        return min(heads, key=rank)

    def take(self, variant: OpenVariant, backend_id: str) -> None:
        """Count one job of a variant as sent to a backend."""
        self._count(variant, backend_id, -1)
        if variant.models_digest:
            self._models[backend_id] = variant.models_digest

    def note_bypass(self, variant: OpenVariant, backend_id: str) -> None:
        """Note whether a job that a backend has claimed was before the first one that it may take."""
        if variant.bypassed_for is not None:
            self.bypasses[variant.variant_id] = False
            variant.bypassed_for = None
        for one in self.variants:
            if order_key(one) >= order_key(variant):
                return
            if one.unsent > 0 and backend_id in self._demands[one.needs].able:
                if one.bypassed_for is None and one.models_digest != variant.models_digest:
                    self.bypasses[one.variant_id] = True
                    one.bypassed_for = 0.0
                return

    def put_back(self, variant: OpenVariant, backend_id: str) -> None:
        self._count(variant, backend_id, 1)

    def _count(self, variant: OpenVariant, backend_id: str, change: int) -> None:
        variant.unsent += change
        self._taken[backend_id] -= change * (self.estimates.seconds(variant.workflow_digest, backend_id) or 0.0)
        self._demands[variant.needs].unsent += change
        self._classes[variant.needs, variant.models_digest].unsent += change
        key = (variant.variant_id, backend_id)
        if self._current_plan is not None and key in self._current_plan.allotted:
            self._current_plan.allotted[key] += change

    def note_in_vain(self, variant: OpenVariant, backend_id: str) -> None:
        """Count a job as unsent again: there was none for this backend, which does not try again with this line."""
        self._in_vain[variant.variant_id].add(backend_id)
        self.put_back(variant, backend_id)
        if self._current_plan is not None and self._current_plan.size > _REPLANNED:
            self._current_plan.unplanned.add(variant.variant_id)
        else:
            self._current_plan = None

    @property
    def has_leftover(self) -> bool:
        """Whether a backend found no job where one is counted, or was refused one: the line is to be read again."""
        return bool(self._in_vain) or self.is_held_back

    def takers(self, free: Iterable[tuple[str, int]]) -> list[str]:
        """Return the backends that have a job to take: not more of them than there are jobs.

        ``free`` are backends with a free slot and their numbers of prompts, in order of preference.
        """
        left = sum(one.unsent for one in self._demands.values())
        found: list[str] = []
        free = list(free)
        self._note_working(name for name, _ in free)
        for backend_id, prompts in free:
            if len(found) >= left:
                break
            if self.next_for(backend_id, prompts=prompts) is not None:
                found.append(backend_id)
        return found

    def plan(self) -> Plan:
        """Return the plan of the line. With many backends, the first call takes 0.1 s."""
        if self._current_plan is None:
            self._current_plan = self._make_plan()
        return self._current_plan

    def _make_plan(self) -> Plan:
        plan = Plan(self.estimates)
        names = [name for name in self._backends if name in self._working and name not in self._suspects]
        self._free_in = {name: self.free_in(name) for name in names}
        self._workers = {
            name: Worker(name, self._free_in[name] + self._taken[name], self._models[name]) for name in names
        }
        self._workers_by_needs, self._soonest = {}, {}
        for one in self.variants:
            if one.unsent > 0:
                workers = self._workers_for(one)
                plan.add(one.variant_id, one.workflow_digest, one.models_digest, one.unsent, workers)
        return plan

    def _workers_of(self, needs: Needs) -> list[Worker]:
        if needs not in self._workers_by_needs:
            names = self._demands[needs].workers
            self._workers_by_needs[needs] = [self._workers[name] for name in names if name in self._workers]
        return self._workers_by_needs[needs]

    def _workers_for(self, variant: OpenVariant) -> list[Worker]:
        """Return the planned backends that may take a job of a variant; those that did not are left out."""
        able = self._workers_of(variant.needs)
        for left_out in (self._in_vain, self._overlooked):
            if variant.variant_id in left_out:
                rest = [one for one in able if one.backend_id not in left_out[variant.variant_id]]
                # A job is planned as long as a backend may take it.
                able = rest or able
        return able

    def free_in(self, backend_id: str) -> float:
        """Return the seconds until a backend has ended its prompts and the older bound jobs that wait for it."""
        digests = [one.workflow_digest for one in self._prompts.get(backend_id, ())]
        known = (self.estimates.seconds(digest, backend_id) for digest in digests)
        usual = next((one for one in known if one is not None), _UNKNOWN_S)
        ends = [ends_in for _, ends_in, _ in self._prompt_ends(backend_id)]
        return max(ends, default=0.0) + self._bound.get(backend_id, 0) * usual

    def _prompt_ends(self, backend_id: str) -> Iterator[tuple[ActivePrompt, float, bool]]:
        """Yield the prompts of a backend with the seconds until they end, and whether these are more than a guess."""
        total, is_known = 0.0, True
        for one in self._prompts.get(backend_id, ()):
            seconds = self.estimates.seconds(one.workflow_digest, backend_id)
            is_known = is_known and seconds is not None
            expected = _UNKNOWN_S if seconds is None else seconds
            total += expected if one.running_for is None else rest_of(seconds, one.running_for)
            yield one, total, is_known

    def _models_of(self, backend_id: str) -> str:
        """Return the models that a backend will have loaded when its prompts have ended."""
        prompts = self._prompts.get(backend_id, [])
        of_prompts = (one.models_digest or self.estimates.models(one.workflow_digest) for one in reversed(prompts))
        return next(filter(None, of_prompts), self.estimates.warm_models(backend_id))

    def _is_suspect(self, backend_id: str) -> bool:
        """Return whether a prompt runs much longer at a backend than it should."""
        for one in self._prompts[backend_id]:
            seconds = self.estimates.seconds(one.workflow_digest, backend_id)
            if one.running_for is None or seconds is None:
                continue
            limit = max(_SUSPECT_FACTOR * seconds, seconds + _SUSPECT_S)
            if one.running_for > limit + self.estimates.load_seconds(one.workflow_digest, backend_id):
                return True
        return False

    def recalls(self, free: Iterable[str], refused: Iterable[int] = ()) -> list[int]:
        """Return the attempts whose prompts wait at one backend, and would end sooner at another.

        ``free`` are the backends that have no prompt and find no job in the line. ``refused`` are attempts that cannot
        be recalled.
        """
        self._recalled.update(refused)
        idle, unstarted = set(free), sorted(self._unstarted(), key=lambda of: (-of[0], of[2].attempt_id))
        self.is_held_back |= bool(idle and unstarted)
        late = (one.attempt_id for ends_in, name, one in unstarted if self._is_late(ends_in, name, one, idle))
        found = list(itertools.islice(late, _MAX_RECALLS))
        self._recalled.update(found)
        return found

    def _unstarted(self) -> Iterator[tuple[float, str, ActivePrompt]]:
        """Yield the prompts of jobs of the pool that wait at a backend, with the seconds until their ends."""
        for name in self._prompts:
            for one, ends_in, _ in self._prompt_ends(name):
                if one.running_for is None and one.variant_id in self._by_id and one.attempt_id not in self._recalled:
                    yield ends_in, name, one

    def _is_late(self, ends_in: float, backend_id: str, prompt: ActivePrompt, idle: set[str]) -> bool:
        """Return whether a prompt waits at a backend that hangs, or would end sooner elsewhere, also after the line.

        One of unknown duration gets one of the ``idle`` backends.
        """
        variant, is_suspect = self._by_id[prompt.variant_id or 0], backend_id in self._suspects
        if is_suspect or self.estimates.seconds(prompt.workflow_digest, backend_id) is not None:
            before = ends_in - _RECALL_TAKES_S - max(_RECALL_GAIN_S, _RECALL_GAIN * ends_in)
            return self._reserve(variant, inf if is_suspect else before) or is_suspect
        able = idle & self._demands[variant.needs].able
        if prompt.waited <= _RECALL_UNKNOWN_S or not able:
            return False
        idle.remove(min(able))
        return True

    def _reserve(self, variant: OpenVariant, before: float) -> bool:
        """Reserve a backend that is free soon and ends one more job of a variant before a time."""
        plan, needs = self.plan(), variant.needs
        if plan.is_full:
            return False
        if needs not in self._soonest:
            self._soonest[needs] = min((one.free_in for one in self._workers_of(needs)), default=inf)
        # While the line is long, no backend is free soon.
        if self._soonest[needs] > min(before, SOON_S):
            return False
        return plan.reserve(variant.workflow_digest, variant.models_digest, self._workers_for(variant), before)

    def idle_allotments(self) -> Iterator[tuple[int, str]]:
        """Yield the planned (variant, backend) pairs of backends that have nothing else to do."""
        if self._current_plan is not None:
            taken = (self._prompts, self._bound, self._taken)
            idle = {name for name in self._workers if not any(of.get(name) for of in taken)}
            for (variant_id, name), jobs in self._current_plan.allotted.items() if idle else ():
                if jobs > 0 and name in idle:
                    yield variant_id, name

    def ends(self, variant_id: int) -> Ends | None:
        """Return when the unsent jobs of a variant end; None: that is not known."""
        return self.plan().ends.get(variant_id)

    def next_free(self, variant_id: int) -> str:
        """Return the backend for which the next job of a variant waits, as a clause; empty: that is not known."""
        variant = self._by_id.get(variant_id)
        workers = self._demands[variant.needs].workers if variant else ()
        free = {name: self._expected_free_in(name) for name in workers if name not in self._suspects}
        known = {name: seconds for name, seconds in free.items() if seconds is not None}
        if not known:
            return ""
        first = min(known, key=lambda name: (known[name], name))
        if known[first] > 0:
            return f"{first} is expected free in {duration(known[first])}"
        allotted = [name for name in known if (variant_id, name) in self.plan().allotted]
        if not allotted or first in allotted:
            return ""
        return f"{allotted[0]} is expected to end it sooner than {first}"

    def _expected_free_in(self, backend_id: str) -> float | None:
        """Return when a backend is free; None if a prompt of unknown duration is there."""
        is_known = all(known for _, _, known in self._prompt_ends(backend_id))
        return self.free_in(backend_id) if is_known else None

    def prompt_ends(self, backend_id: str) -> list[tuple[ActivePrompt, float | None]]:
        """Return the prompts of a backend with the seconds until they end; None: that is not known."""
        is_suspect = backend_id in self._suspects
        return [
            (one, ends_in if is_known and not is_suspect else None)
            for one, ends_in, is_known in self._prompt_ends(backend_id)
        ]

    def _demands_of(self, different: Iterable[Needs]) -> dict[Needs, _Demand]:
        named = defaultdict[str, set[str]](set)
        for name, one in self._backends.items():
            for candidate in names_of(name, one.capabilities.tags):
                named[candidate].add(name)
        working = [name for name in self._backends if name in self._working]
        found: dict[Needs, _Demand] = {}
        for needs in different:
            able = set[str]().union(*(named.get(one, ()) for one in needs.candidates)) - needs.excluded
            if needs.required:
                able = {name for name in able if fits(needs, name, self._backends[name].capabilities)}
            found[needs] = _Demand(able, [name for name in working if name in able])
        return found

    def _fitting(self, backend_id: str) -> list[_Class]:
        if backend_id not in self._classes_of:
            self._classes_of[backend_id] = [one for one in self._classes.values() if backend_id in one.demand.able]
        return self._classes_of[backend_id]

    @property
    def is_open(self) -> bool:
        """Whether a group of the pool has not ended."""
        return bool(self._by_id)

    def unplaced(self) -> set[int]:
        """Return the variants with unsent jobs that no candidate can take now or soon."""
        possible = {name for name, one in self._backends.items() if one.is_possible}
        nowhere = {needs for needs, one in self._demands.items() if possible.isdisjoint(one.able)}
        return {one.variant_id for one in self.variants if one.unsent > 0 and one.needs in nowhere}

    def overdue(self, before: dt.datetime) -> list[int]:
        """Return the variants with unsent jobs that were queued before a time."""
        return [one.variant_id for one in self.variants if one.unsent > 0 and one.queued_at < before]

    def works(self, backend_id: str) -> bool:
        """Return whether a backend answers and nothing holds it back."""
        return backend_id in self._working

    def has(self, variant_id: int) -> bool:
        return variant_id in self._by_id

    def unsent_for(self, backend_id: str) -> int:
        return sum(one.unsent for one in self._fitting(backend_id))

    def ahead_of(self, variant_id: int) -> int:
        """Return how many unsent jobs of earlier variants wait for a backend for which this variant waits, too."""
        own = self._by_id.get(variant_id)
        if own is None:
            return 0
        able = self._demands[own.needs].able
        shares = {needs for needs, one in self._demands.items() if needs == own.needs or not able.isdisjoint(one.able)}
        before = itertools.takewhile(lambda one: one is not own, self.variants)
        return sum(one.unsent for one in before if one.needs in shares)

    def has_rival(self, variant: OpenVariant, backend_id: str) -> bool:
        """Return whether another backend works and can take the jobs of a variant."""
        return any(name != backend_id for name in self._demands[variant.needs].workers)
