"""The pool: which backends fit a variant, and snapshots of its queue. Pure.

A *variant* is the jobs of one group that have the same workflow; a job of the pool waits for any
backend that fits its variant. The order is that of ``domain.turns``; what changes while backends
take jobs is in ``domain.schedule``.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from functools import cached_property
from heapq import merge
from math import inf
from typing import Any, Final, NamedTuple

from backends.capabilities import BackendCapabilities, missing_capabilities
from jobgroups.domain.estimates import Estimates
from jobgroups.domain.pauses import target_of_submitter
from jobgroups.domain.places import Place, group_places
from jobgroups.domain.plan import Ends, Plan, Worker, rest_of
from jobgroups.domain.text import duration
from jobgroups.domain.turns import UNKNOWN_S, Shares, Turn, WaitingJobs, interleave, order_key

#: The candidate that stands for every enabled backend, also for one that is registered later.
ANY_BACKEND: Final = "*"
TAG_PREFIX: Final = "tag:"  #: Begins a candidate that stands for every backend with a tag.
#: A running prompt that takes this many times its usual time, and this many seconds longer, makes
#: its backend suspect.
_SUSPECT_FACTOR, _SUSPECT_S = 3, 30.0


@dataclass(frozen=True, slots=True)
class Needs:
    """What a backend must have to take the jobs of a variant."""

    candidates: tuple[str, ...]  #: ``*``, or ids and ``tag:…`` in any mix, as submitted.
    required: tuple[str, ...] = ()  #: Capabilities.
    #: Candidates that cannot run the workflow, as earlier failures showed.
    excluded: frozenset[str] = frozenset()


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
    is_stopping: bool = False
    submitter: str = ""  #: Whose share it counts in.


def served_groups(prompts: Mapping[str, Iterable[ActivePrompt]]) -> frozenset[str]:
    """Return the groups of which backends have jobs.

    A prompt that is being stopped is no job of its group any more: at a machine that is gone it has
    no end.
    """
    return frozenset(
        prompt.group_id
        for of_backend in prompts.values()
        for prompt in of_backend
        if not prompt.is_stopping
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolBackend:
    backend_id: str
    capabilities: BackendCapabilities
    name: str = ""  #: For people; empty: its id.
    works: bool = True  #: Whether it answers and nothing holds it back.
    #: Whether jobs may wait for it: it is neither disabled nor drained nor away.
    is_possible: bool = True
    #: Seconds until its hours begin; None: it is open, or something else holds it back.
    opens_in: float | None = None


def names_of(backend_id: str, tags: Iterable[str]) -> set[str]:
    """Return the candidates of submissions that stand for a backend."""
    return {ANY_BACKEND, backend_id, *(f"{TAG_PREFIX}{tag}" for tag in tags)}


def is_candidate(candidates: Iterable[str], backend_id: str, tags: Iterable[str]) -> bool:
    return not names_of(backend_id, tags).isdisjoint(candidates)


def fits(needs: Needs, backend_id: str, known: BackendCapabilities) -> bool:
    is_able = backend_id not in needs.excluded and not missing_capabilities(known, needs.required)
    return is_able and is_candidate(needs.candidates, backend_id, known.tags)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OpenVariant(WaitingJobs):
    """A variant of a group that has not ended."""

    needs: Needs
    #: Seconds since backends began to take later jobs instead; None: they do not.
    bypassed_for: float | None = None
    #: Jobs that no backend has. It may be too high by jobs that wait for the end of an older
    #: prompt.
    unsent: int
    held: int = 0  #: Jobs that no backend has, and of which none is sent now.


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BoundJobs(WaitingJobs):
    """The unsent bound jobs of one group that wait for one backend and were queued at one time."""

    backend_id: str
    jobs: int


class HeldGroup(NamedTuple):
    """A group of which nothing is sent now."""

    waiting_since: dt.datetime | None
    jobs: int  #: Those that no backend has.
    rank: tuple[Any, ...] = ()  #: Sorts it among such groups: by level and by age.


@dataclass(frozen=True, slots=True, eq=False)
class VariantClass:
    """The variants of one turn with unsent jobs that have the same needs and models."""

    turn: Turn

    able: frozenset[str]  #: The backends that fit.
    models: str
    variants: Sequence[OpenVariant]  #: In the order of the queue.
    unsent: int  #: Unsent jobs of all of them.


@dataclass(eq=False)
class PoolSnapshot:
    """The queue of the pool and the backends, as they were read. It never changes; derived values
    are computed once.
    """

    variants: Sequence[OpenVariant] = ()  #: The open ones, in their own order.
    registered: Iterable[PoolBackend] = ()
    _: KW_ONLY
    estimates: Estimates = field(default_factory=Estimates)  #: The seconds of workflows.
    #: Those that each backend has, oldest first.
    prompts: Mapping[str, Sequence[ActivePrompt]] = field(default_factory=dict)
    bound_jobs: Sequence[BoundJobs] = ()  #: In their own order.
    #: What submitters have used of the farm, without ``prompts``.
    shares: Shares = field(default_factory=Shares)
    #: How many more prompts each limit permits.
    rooms: Mapping[str, int] = field(default_factory=dict)
    #: The groups with unsent jobs of which nothing is sent now.
    held: Mapping[str, HeldGroup] = field(default_factory=dict)
    #: Those with the most bound jobs at each backend, so that claims read past them.
    held_at: Mapping[str, Sequence[str]] = field(default_factory=dict)
    due_in: float = inf  #: Seconds until one of them is held no longer.
    #: The attempts that wait at backends although their groups are paused.
    taken_back: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        self.variants = sorted(self.variants, key=order_key)
        self.bound_jobs = sorted(self.bound_jobs, key=order_key)

    @cached_property
    def backends(self) -> Mapping[str, PoolBackend]:
        return {backend.backend_id: backend for backend in self.registered}

    @cached_property
    def _by_id(self) -> Mapping[int, OpenVariant]:
        return {variant.variant_id: variant for variant in self.variants}

    def variant(self, variant_id: int | None) -> OpenVariant | None:
        return self._by_id.get(variant_id or 0)

    @cached_property
    def unsent(self) -> Sequence[OpenVariant]:
        """The variants with unsent jobs."""
        return [variant for variant in self.variants if variant.unsent > 0]

    @cached_property
    def bypassed(self) -> Sequence[OpenVariant]:
        return [variant for variant in self.variants if variant.bypassed_for is not None]

    @cached_property
    def able(self) -> Mapping[Needs, frozenset[str]]:
        """The backends that fit, by needs; equal sets are one object."""
        named = defaultdict[str, set[str]](set)
        for name, backend in self.backends.items():
            for candidate in names_of(name, backend.capabilities.tags):
                named[candidate].add(name)
        sets: dict[frozenset[str], frozenset[str]] = {}
        by_needs: dict[Needs, frozenset[str]] = {}
        for needs in {variant.needs for variant in self.variants}:
            able = (
                frozenset[str]().union(
                    *(named.get(candidate, ()) for candidate in needs.candidates)
                )
                - needs.excluded
            )
            if needs.required:
                able = frozenset(
                    name for name in able if fits(needs, name, self.backends[name].capabilities)
                )
            by_needs[needs] = sets.setdefault(able, able)
        return by_needs

    @cached_property
    def classes(self) -> Mapping[tuple[Turn, Needs, str], VariantClass]:
        """The variants with unsent jobs, by turn, needs and models."""
        variants = defaultdict[tuple[Turn, Needs, str], list[OpenVariant]](list)
        for variant in self.unsent:
            variants[variant.turn, variant.needs, variant.models_digest].append(variant)
        return {
            (turn, needs, models): VariantClass(
                turn, self.able[needs], models, same, sum(variant.unsent for variant in same)
            )
            for (turn, needs, models), same in variants.items()
        }

    def able_of(self, variant_id: int) -> frozenset[str]:
        """Return the backends that may take the jobs of a variant."""
        variant = self.variant(variant_id)
        return self.able[variant.needs] if variant else frozenset()

    def class_of(self, variant: OpenVariant) -> VariantClass:
        return self.classes[variant.turn, variant.needs, variant.models_digest]

    @cached_property
    def by_turn(self) -> Mapping[Turn, Mapping[frozenset[str], Sequence[VariantClass]]]:
        """The classes of each turn, by the backends that fit."""
        by_turn = defaultdict[Turn, dict[frozenset[str], list[VariantClass]]](dict)
        for of_class in self.classes.values():
            by_turn[of_class.turn].setdefault(of_class.able, []).append(of_class)
        return by_turn

    @cached_property
    def models_of_turns(self) -> Mapping[Turn, Collection[str]]:
        models = defaultdict[Turn, set[str]](set)
        for of_class in self.classes.values():
            models[of_class.turn].add(of_class.models)
        return models

    @cached_property
    def bound_at(self) -> Mapping[tuple[Turn, str], Sequence[BoundJobs]]:
        """The bound jobs by turn and backend, in their order."""
        bound = defaultdict[tuple[Turn, str], list[BoundJobs]](list)
        for jobs in self.bound_jobs:
            bound[jobs.turn, jobs.backend_id].append(jobs)
        return bound

    @cached_property
    def first_bound(self) -> Mapping[tuple[str, str], BoundJobs]:
        """The first bound jobs of each group at each backend."""
        return {(jobs.backend_id, jobs.group_id): jobs for jobs in reversed(self.bound_jobs)}

    @cached_property
    def limits(self) -> Mapping[str, Collection[str]]:
        """The limits of each group that has some."""
        jobs = (*self.variants, *self.bound_jobs)
        return {waiting.group_id: waiting.limits for waiting in jobs if waiting.limits}

    @cached_property
    def crowded_limits(self) -> frozenset[str]:
        """The limits that permit fewer more prompts than the number of backends with bound jobs of
        theirs and no prompt.
        """
        if not self.rooms:
            return frozenset()
        waits = defaultdict[str, set[str]](set)
        for jobs in self.bound_jobs:
            for limit in jobs.limits:
                waits[limit].add(jobs.backend_id)
        for backend_id, prompts in self.prompts.items():
            for prompt in prompts:
                for limit in {
                    prompt.group_id,
                    target_of_submitter(prompt.submitter),
                } & waits.keys():
                    waits[limit].discard(backend_id)
        return frozenset(limit for limit, names in waits.items() if len(names) > self.rooms[limit])

    @cached_property
    def waiting_changes(self) -> tuple[set[str], set[str]]:
        """The groups with unsent jobs that are to rise and do not yet, and those that are to rise
        no more.

        A group rises while backends have no job of it and some of it may be sent.
        """
        since = {jobs.group_id: jobs.waiting_since for jobs in (*self.unsent, *self.bound_jobs)}
        rising = {group_id for group_id in since if since[group_id] is not None}
        served = served_groups(self.prompts)
        held = {group_id for group_id, group in self.held.items() if group.waiting_since}
        return since.keys() - rising - served, rising & served | held

    @cached_property
    def bound_in_order(self) -> Sequence[BoundJobs]:
        """The bound jobs, about in the order in which their backends will take them."""
        use = self.use

        def key(jobs: BoundJobs) -> tuple[Any, ...]:
            return *jobs.turn.rank, use.get(jobs.turn.submitter, 0.0), order_key(jobs)

        return sorted(self.bound_jobs, key=key)

    @cached_property
    def first_of_turns(self) -> Mapping[Turn, WaitingJobs]:
        """The first waiting jobs of each turn."""
        first: dict[Turn, WaitingJobs] = {}
        for jobs in sorted([*self.unsent, *self.bound_jobs], key=order_key):
            first.setdefault(jobs.turn, jobs)
        return first

    @cached_property
    def use(self) -> Mapping[str, float]:
        """The use of each submitter, with the expected seconds of the prompts that backends have."""
        if len({turn.submitter for turn in self.first_of_turns}) < 2:
            return {}  # nothing to compare
        return self.shares.use(
            (
                prompt.submitter,
                max(self.expected_seconds(prompt.workflow_digest, name), prompt.running_for or 0.0),
            )
            for name, prompts in self.prompts.items()
            for prompt in prompts
            # At a machine that is gone it would run without end.
            if not prompt.is_stopping
        )

    def expected_seconds(self, workflow_digest: str, backend_id: str) -> float:
        """Return the seconds of a job at a backend, or a guess."""
        seconds = self.estimates.seconds(workflow_digest, backend_id)
        return UNKNOWN_S if seconds is None else seconds

    def in_order(
        self, unsent: Callable[[OpenVariant], int], use: Mapping[str, float]
    ) -> Iterator[tuple[OpenVariant, int]]:
        """Yield the unsent jobs of variants in the order in which backends will take them; a
        variant may come several times.
        """
        queues = defaultdict[Turn, list[tuple[OpenVariant, int, float]]](list)
        for variant in self.variants:
            if (jobs := unsent(variant)) > 0:
                seconds = self.expected_seconds(variant.workflow_digest, "")
                queues[variant.turn].append((variant, jobs, seconds))
        return interleave(queues, use, self.shares)

    def permitted(
        self, order: Iterable[tuple[OpenVariant, int]], rooms: Mapping[str, int]
    ) -> Iterator[tuple[OpenVariant, int]]:
        """Yield of an order the jobs that limits permit to be sent at once; jobs that no backend
        may take use no limit.
        """
        left = dict(rooms)
        for variant, jobs in order:
            if not variant.limits or self.working.isdisjoint(self.able[variant.needs]):
                yield variant, jobs
                continue
            permitted = max(min([jobs, *(left[limit] for limit in variant.limits)]), 0)
            for limit in variant.limits:
                left[limit] -= permitted
            yield variant, permitted

    @cached_property
    def queue(self) -> Sequence[tuple[WaitingJobs, int]]:
        """All waiting jobs in the order in which backends will take them, those of the pool and
        bound ones; those of one variant may come several times.
        """
        queues = defaultdict[Turn, list[tuple[WaitingJobs, int, float]]](list)
        pooled = ((one, one.unsent, "") for one in self.unsent)
        bound = ((one, one.jobs, one.backend_id) for one in self.bound_jobs)
        for jobs, number, backend_id in merge(pooled, bound, key=lambda row: order_key(row[0])):
            seconds = self.expected_seconds(jobs.workflow_digest, backend_id)
            queues[jobs.turn].append((jobs, number, seconds))
        return list(interleave(queues, self.use, self.shares))

    @cached_property
    def places(self) -> Mapping[str, Place]:
        """The places of the groups with waiting jobs, by their ids, in the order of the queue."""
        return group_places(self.queue)

    @cached_property
    def order(self) -> Sequence[tuple[OpenVariant, int]]:
        """The waiting jobs of the pool in the order of the queue."""
        return [(jobs, number) for jobs, number in self.queue if isinstance(jobs, OpenVariant)]

    def unsent_for(self, backend_id: str) -> int:
        """Return the number of unsent jobs that a backend may take."""
        able = (of_class for of_class in self.classes.values() if backend_id in of_class.able)
        return sum(of_class.unsent for of_class in able)

    def unplaced(self) -> set[int]:
        """Return the variants with unsent jobs that no candidate can take now or soon."""
        possible = {name for name, backend in self.backends.items() if backend.is_possible}
        return {
            variant.variant_id
            for variant_class in self.classes.values()
            if possible.isdisjoint(variant_class.able)
            for variant in variant_class.variants
        }

    def overdue(self, before: dt.datetime) -> list[int]:
        """Return the variants with unsent jobs that were queued before a time."""
        return [
            variant.variant_id
            for variant in self.variants
            if (variant.unsent or variant.held) > 0 and variant.queued_at < before
        ]

    def ahead_of(self, variant_id: int) -> int:
        """Return how many unsent jobs come before the first of a variant and wait for a backend for
        which it waits, too.
        """
        own = self.variant(variant_id)
        if own is None or own.unsent <= 0:
            return 0
        able = self.able[own.needs]
        shares = {
            needs
            for needs, other in self.able.items()
            if needs == own.needs or not able.isdisjoint(other)
        }
        ahead = 0
        for one, jobs in self.order:
            if one is own:
                break
            ahead += jobs if one.needs in shares else 0
        return ahead

    @cached_property
    def working(self) -> frozenset[str]:
        """The backends that answer and that nothing holds back."""
        return frozenset(name for name, backend in self.backends.items() if backend.works)

    @cached_property
    def suspects(self) -> frozenset[str]:
        """The backends at which a prompt runs much longer than it should."""
        return frozenset(filter(self._is_suspect, self.prompts))

    def planned(self, working: Collection[str]) -> list[str]:
        """Return the backends that a plan may give jobs, in a fixed order."""
        return [name for name in self.backends if name in working and name not in self.suspects]

    def _is_suspect(self, backend_id: str) -> bool:
        for prompt in self.prompts[backend_id]:
            seconds = self.estimates.seconds(prompt.workflow_digest, backend_id)
            if prompt.running_for is None or seconds is None:
                continue
            limit = max(_SUSPECT_FACTOR * seconds, seconds + _SUSPECT_S)
            if prompt.running_for > limit + self.estimates.load_seconds(
                prompt.workflow_digest, backend_id
            ):
                return True
        return False

    @cached_property
    def models(self) -> Mapping[str, str]:
        """The models that each backend will have loaded when its prompts have ended."""
        models = {name: self.estimates.warm_models(name) for name in self.backends}
        for name in self.prompts.keys() & models:
            prompts = reversed(self.prompts[name])
            known = (
                prompt.models_digest or self.estimates.models(prompt.workflow_digest)
                for prompt in prompts
            )
            models[name] = next(filter(None, known), models[name])
        return models

    def prompt_ends(self, backend_id: str) -> Iterator[tuple[ActivePrompt, float, bool]]:
        """Yield the prompts of a backend with the seconds until they end, and whether these are
        more than a guess.
        """
        total, is_known = 0.0, backend_id not in self.suspects
        for prompt in self.prompts.get(backend_id, ()):
            seconds = self.estimates.seconds(prompt.workflow_digest, backend_id)
            is_known = is_known and seconds is not None
            expected = UNKNOWN_S if seconds is None else seconds
            total += (
                expected if prompt.running_for is None else rest_of(seconds, prompt.running_for)
            )
            yield prompt, total, is_known

    @cached_property
    def bound(self) -> Mapping[str, int]:
        """The numbers of bound jobs at backends that come before the last job of the pool."""
        before = Counter[str]()
        if self.variants:
            newest = max(variant.queued_at for variant in self.variants)
            last = max(variant.turn.rank for variant in self.variants)
            for jobs in self.bound_jobs:
                if jobs.turn.rank < last or (jobs.turn.rank == last and jobs.queued_at < newest):
                    before[jobs.backend_id] += jobs.jobs
        return before

    @cached_property
    def free_in(self) -> Mapping[str, tuple[float, bool]]:
        """The seconds until each backend has ended its prompts and the older bound jobs that wait
        for it, and whether these are more than a guess.
        """
        return {name: self._free_in(name) for name in self.backends}

    def _free_in(self, backend_id: str) -> tuple[float, bool]:
        ends = list(self.prompt_ends(backend_id))
        _, last, is_known = ends[-1] if ends else (None, 0.0, True)
        known = (self.estimates.seconds(prompt.workflow_digest, backend_id) for prompt, *_ in ends)
        usual = next((seconds for seconds in known if seconds is not None), UNKNOWN_S)
        return last + self.bound.get(backend_id, 0) * usual, is_known

    @cached_property
    def plan(self) -> Plan:
        """The plan of the queue. With many backends, it takes 0.1 s."""
        opens_in = {
            name: backend.opens_in
            for name, backend in self.backends.items()
            if backend.opens_in is not None
        }
        names = self.planned(self.working | opens_in.keys())
        plan = Plan(
            self.estimates,
            (
                Worker(name, max(self.free_in[name][0], opens_in.get(name, 0.0)), self.models[name])
                for name in names
            ),
        )
        for one, jobs in self.permitted(self.order, self.rooms):
            plan.add(one, jobs, self.able[one.needs])
        return plan

    def ends(self, variant_id: int) -> Ends | None:
        """Return when the unsent jobs of a variant end; None: that is not known."""
        ends, variant = self.plan.ends.get(variant_id), self.variant(variant_id)
        # Beyond a limit the plan has no jobs.
        return ends if ends and variant and ends.jobs >= variant.unsent else None

    @cached_property
    def _known_free(self) -> Mapping[str, float]:
        """The seconds until each backend is free that works and has no prompt of unknown duration."""
        free = {name: self.free_in[name] for name in self.planned(self.working)}
        return {name: seconds for name, (seconds, is_known) in free.items() if is_known}

    def next_free(self, variant_id: int) -> str:
        """Return the backend for which the next job of a variant waits, as a clause; empty: that is
        not known.
        """
        able = self.able_of(variant_id)
        known = {name: seconds for name, seconds in self._known_free.items() if name in able}
        if not known:
            return ""
        first = min(known, key=lambda name: (known[name], name))
        if known[first] > 0:
            return f"{self._name(first)} is expected free in {duration(known[first])}"
        allotted = [name for name in known if (variant_id, name) in self.plan.allotted]
        if not allotted or first in allotted:
            return ""
        return f"{self._name(allotted[0])} is expected to end it sooner than {self._name(first)}"

    def _name(self, backend_id: str) -> str:
        return self.backends[backend_id].name or backend_id
