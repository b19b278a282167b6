"""The schedule: which job a free backend takes next, and which waiting prompts are recalled. Pure.

A snapshot serves for seconds. A stale one costs an empty claim, never a wrong one: the transaction
of a claim checks everything again. Moments are monotonic seconds.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Final, NamedTuple

from jobgroups.domain.plan import Plan, Worker
from jobgroups.domain.pool import ActivePrompt, BoundJobs, OpenVariant, PoolSnapshot, VariantClass
from jobgroups.domain.turns import Turn, TurnOrder, WaitingJobs, order_key

#: Seconds for which backends may take later jobs whose models they have loaded before the first job
#: of the queue.
_BYPASS_S: Final = 60.0
#: Seconds that an unstarted prompt of unknown duration waits at a backend before another one that
#: is free gets it.
_RECALL_UNKNOWN_S: Final = 5.0
#: Seconds that a recall takes, and what it must gain: in seconds, and as a part of the time until
#: the end.
_RECALL_TAKES_S, _RECALL_GAIN_S, _RECALL_GAIN = 1.0, 2.0, 0.2
_MAX_RECALLS: Final = 32  #: Prompts that are recalled at once.
#: Seconds after which a free backend is left out of the plan of a job that it does not take, and
#: for how long.
_OVERLOOKED_S, _LEFT_OUT_S = 5.0, 30.0
#: Plans up to this size are made when a backend chooses: about 10 ms. Longer ones are made with the
#: backlog, in its thread, and are not made again when a backend finds no job: any backend takes
#: that job then.
_SHORT_PLAN: Final = 3_000


class Offer(NamedTuple):
    """What a backend may take of one turn."""

    turn: Turn
    classes: Sequence[VariantClass]
    bound: Sequence[BoundJobs]


class Backlog:
    """The unsent jobs of a snapshot, counted down as backends take them, and their plan.

    ``overlooked`` are (variant, backend) pairs left out of the plan: the backend was free and did
    not take them.
    """

    def __init__(self, snapshot: PoolSnapshot, overlooked: Iterable[tuple[int, str]] = ()) -> None:
        self.snapshot: Final = snapshot
        #: Whether a backend was refused a job that another one ends sooner, or that waits there.
        self.is_held_back = False
        self._working = set(snapshot.working)
        self._models = dict(snapshot.models)
        #: Jobs that were taken.
        self._sent = Counter[OpenVariant | VariantClass | BoundJobs]()
        self.order: Final = TurnOrder(snapshot.first_of_turns, snapshot.use, snapshot.shares)
        # Made in the thread that reads: the first choice is made in the event loop.
        self._by_turn: Final = snapshot.by_turn
        self._bound_at: Final = snapshot.bound_at
        self._rooms = dict(snapshot.rooms)  #: How many more prompts each limit permits.
        self._taken = defaultdict[str, float](float)  #: Seconds of the jobs that each backend took.
        #: What backends tried to take in vain, by variant.
        self._in_vain = defaultdict[int, set[str]](set)
        self._overlooked = defaultdict[int, set[str]](set)
        for variant_id, name in overlooked:
            self._overlooked[variant_id].add(name)
        self._plan: Plan | None = None
        if (
            sum(
                len(variant_class.able) * len(variant_class.variants) + variant_class.unsent
                for variant_class in snapshot.classes.values()
            )
            > _SHORT_PLAN
        ):
            self.plan()

    @property
    def has_leftover(self) -> bool:
        """Whether a backend found no job where one is counted, or was refused one: the queue is to
        be read again.
        """
        return bool(self._in_vain) or self.is_held_back

    def unsent(self, jobs: OpenVariant | VariantClass) -> int:
        return jobs.unsent - self._sent[jobs]

    def offers(self, backend_id: str) -> Iterator[Offer]:
        """Yield what a backend may take, in the order of levels and shares."""
        return filter(None, (self._offer(turn, backend_id) for turn in self.order))

    def _offer(self, turn: Turn, backend_id: str) -> Offer | None:
        classes = [
            of_class
            for able, some in self._by_turn.get(turn, {}).items()
            if backend_id in able
            for of_class in some
            if self.unsent(of_class) > 0
        ]
        bound = [
            jobs
            for jobs in self._bound_at.get((turn, backend_id), ())
            if jobs.jobs > self._sent[jobs] and self._permits(jobs)
        ]
        return Offer(turn, classes, bound) if classes or bound else None

    def _permits(self, jobs: WaitingJobs) -> bool:
        """Return whether the limits of some jobs permit one more prompt."""
        if all(self._rooms[limit] > 0 for limit in jobs.limits):
            return True
        self.is_held_back = True
        return False

    def _count(self, jobs: OpenVariant | BoundJobs, backend_id: str, change: int) -> None:
        self._sent[jobs] += change
        for limit in jobs.limits:
            self._rooms[limit] -= change
        seconds = self.snapshot.expected_seconds(jobs.workflow_digest, backend_id)
        self.order.charge(jobs.turn.submitter, change * seconds)

    def note_ended(self, group_id: str) -> None:
        """Note that a prompt of a group has ended, which may have reached a limit."""
        for limit in self.snapshot.limits.get(group_id, ()) if self._rooms else ():
            self._rooms[limit] += 1
            # A long plan is not made again here.
            if self._plan is not None and self._plan.size <= _SHORT_PLAN:
                self._plan = None

    def equals(self, variant: OpenVariant, backend_id: str) -> Iterator[Offer]:
        """Yield what a backend with other models may take of turns that count as equals of that of
        a variant: their submitters have used at most one of its jobs more, with the load of its
        models.
        """
        digest, turn = variant.workflow_digest, variant.turn
        seconds = self.snapshot.expected_seconds(digest, backend_id)
        seconds += self.snapshot.estimates.load_seconds(digest, backend_id)
        use = self.order.use
        most = use.get(turn.submitter, 0.0) + self.order.cost(turn.submitter, seconds)
        models = self._models.get(backend_id, "")
        for other in itertools.islice(self.order, self.order.place(turn) + 1, None):
            if other.rank != turn.rank or use.get(other.submitter, 0.0) > most:
                return
            has_models = models in self.snapshot.models_of_turns.get(other, ())
            if has_models and (offer := self._offer(other, backend_id)):
                yield offer

    @property
    def has_unsent(self) -> bool:
        return any(
            self.unsent(variant_class) > 0 for variant_class in self.snapshot.classes.values()
        )

    def count(self, variant: OpenVariant, backend_id: str, change: int) -> None:
        """Count jobs of a variant as sent to a backend; a negative number: as unsent again."""
        if change > 0 and variant.models_digest:
            self._models[backend_id] = variant.models_digest
        self._count(variant, backend_id, change)
        self._sent[self.snapshot.class_of(variant)] += change
        seconds = self.snapshot.estimates.seconds(variant.workflow_digest, backend_id)
        self._taken[backend_id] += change * (seconds or 0.0)
        key = (variant.variant_id, backend_id)
        if self._plan is not None and key in self._plan.allotted:
            self._plan.allotted[key] -= change

    def count_bound(self, backend_id: str, group_id: str) -> None:
        """Count a bound job of a group as sent to its backend."""
        jobs = self.snapshot.first_bound.get((backend_id, group_id))
        if jobs is not None:
            self._count(jobs, backend_id, 1)

    def note_in_vain(self, variant: OpenVariant, backend_id: str) -> None:
        """Count a job as unsent again: there was none for this backend, which does not try again
        with this snapshot.
        """
        self._in_vain[variant.variant_id].add(backend_id)
        self.count(variant, backend_id, -1)
        if self._plan is not None and self._plan.size > _SHORT_PLAN:
            self._plan.unplanned.add(variant.variant_id)
        else:
            self._plan = None

    def note_working(self, free: Iterable[str]) -> None:
        """Note that backends with a free slot work: their rows may be older."""
        if newly_working := (self.snapshot.backends.keys() & free) - self._working:
            self._working |= newly_working
            self._plan = None

    def plan(self) -> Plan:
        if self._plan is None:
            names = self.snapshot.planned(self._working)
            workers = (Worker(name, self._free_in(name), self._models[name]) for name in names)
            self._plan = Plan(self.snapshot.estimates, workers)
            order = self.snapshot.in_order(self.unsent, self.order.use)
            for variant, jobs in self.snapshot.permitted(order, self._rooms):
                self._plan.add(variant, jobs, self.able(variant))
        return self._plan

    def _free_in(self, backend_id: str) -> float:
        return self.snapshot.free_in[backend_id][0] + self._taken.get(backend_id, 0.0)

    def able(self, variant: OpenVariant) -> frozenset[str]:
        """Return the backends that may take a job of a variant; those that did not are left out."""
        able = self.snapshot.able[variant.needs]
        for left_out in (self._in_vain, self._overlooked):
            if variant.variant_id in left_out:
                rest = able - left_out[variant.variant_id]
                # A job is planned as long as a backend may take it.
                able = rest if rest & self._working - self.snapshot.suspects else able
        return able

    def idle_allotments(self) -> Iterator[tuple[int, str]]:
        """Yield the planned (variant, backend) pairs of backends that have nothing else to do."""
        idle = self._working - self.snapshot.suspects
        for busy in (self.snapshot.prompts, self.snapshot.bound, self._taken):
            idle.difference_update(name for name, has_any in busy.items() if has_any)
        for (variant_id, name), jobs in (
            self.plan().allotted.items() if idle and self.has_unsent else ()
        ):
            if jobs > 0 and name in idle:
                yield variant_id, name

    def heads(self, classes: Iterable[VariantClass], backend_id: str) -> list[OpenVariant]:
        """Return the first variant of each class of which a backend may take a job now."""
        return [
            head
            for variant_class in classes
            if self.unsent(variant_class) > 0 and (head := self._head(variant_class, backend_id))
        ]

    def _head(self, of_class: VariantClass, backend_id: str) -> OpenVariant | None:
        for variant in of_class.variants:
            variant_id = variant.variant_id
            if self.unsent(variant) <= 0 or backend_id in self._in_vain.get(variant_id, ()):
                continue
            if not self._permits(variant):
                continue
            seconds = self.snapshot.estimates.seconds(variant.workflow_digest, backend_id)
            if seconds is None or variant_id in (plan := self.plan()).unplanned:
                return variant
            if plan.allotted.get((variant_id, backend_id), 0) > 0:
                return variant
            # The last job of the variant ends no later.
            ends_in = self._free_in(backend_id) + seconds
            if self.is_loaded(of_class.models, backend_id) and ends_in <= plan.last.get(
                variant_id, 0.0
            ):
                return variant
        self.is_held_back = True
        return None

    def is_loaded(self, models: str, backend_id: str) -> bool:
        return models in ("", self._models.get(backend_id))

    def has_loaded_work(self, classes: Iterable[VariantClass], backend_id: str) -> bool:
        models = self._models.get(backend_id)
        return any(some.models == models and self.unsent(some) > 0 for some in classes)

    def with_most_work(self, heads: Sequence[OpenVariant]) -> OpenVariant:
        """Return the head whose models have the most work for each backend that has them loaded."""
        if len({head.models_digest for head in heads}) == 1:
            return min(heads, key=order_key)
        having = Counter(self._models[name] for name in self._working)
        work = Counter[str]()
        for variant_class in self.snapshot.classes.values():
            work[variant_class.models] += self.unsent(variant_class)

        return min(
            heads,
            key=lambda variant: (
                having[variant.models_digest] / max(work[variant.models_digest], 1),
                order_key(variant),
            ),
        )

    def has_rival(self, variant: OpenVariant, backend_id: str) -> bool:
        """Return whether another backend works and can take the jobs of a variant."""
        return bool(self.snapshot.able[variant.needs] & self._working - {backend_id})

    def bypassed_by(
        self, variant: OpenVariant, classes: Sequence[VariantClass]
    ) -> OpenVariant | None:
        """Return the first variant of some classes if a variant of other models comes behind it."""
        if all(some.models == variant.models_digest for some in classes):
            return None
        firsts = (
            next(
                (head for head in some.variants if self.unsent(head) > 0 and self._permits(head)),
                None,
            )
            for some in classes
        )
        first = min(filter(None, firsts), key=order_key)
        if first.models_digest == variant.models_digest:
            return None
        is_behind = first.turn != variant.turn or order_key(first) < order_key(variant)
        return first if is_behind else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A job that a backend is to claim. It counts as sent until it is settled."""

    variant: OpenVariant
    backend_id: str
    prompts: int  #: Prompts of ours that the backend had.
    #: Whether another backend works and can take the job: one that failed a job, or from which it
    #: was recalled, leaves it to others for a while.
    has_rival: bool
    #: The group whose bound job the backend takes before it; empty: it takes none before it.
    bound_first: str = ""
    #: The first variant in its place, which has other models; None: it is the first.
    bypassed: OpenVariant | None = None
    backlog: Backlog  #: From which it was chosen; another snapshot may be read meanwhile.


class Schedule:
    """Chooses jobs for backends with a free slot, and prompts to recall. The runner empties the
    public collections.
    """

    def __init__(self) -> None:
        self.backlog = Backlog(PoolSnapshot())  #: Of the newest snapshot.
        #: Variants that were bypassed, or are no longer, which is to be stored.
        self.bypasses: dict[int, bool] = {}
        #: Variants of which a backend found no job where one was counted.
        self.leftover = set[int]()
        self.refused = set[int]()  #: Attempts that cannot be recalled.
        self._recalled = set[int]()  #: Attempts, since the snapshot.
        self._reserved: dict[str, Choice] = {}  #: By backend.
        #: When each backend last did not take a job that was counted for it.
        self._passed_at: dict[str, float] = {}
        #: Since when a free backend has not taken a job that the plan gives it, by variant and
        #: backend.
        self._allotted_since: dict[tuple[int, str], float] = {}

    @property
    def snapshot(self) -> PoolSnapshot:
        return self.backlog.snapshot

    def overlooked(self, moment: float) -> frozenset[tuple[int, str]]:
        """Return the (variant, backend) pairs that the next backlog leaves out of its plan."""
        return frozenset(
            pair for pair, since in self._allotted_since.items() if moment > since + _OVERLOOKED_S
        )

    def renew(self, backlog: Backlog) -> None:
        """Choose from the backlog of a new snapshot. No reservation outlasts its own."""
        self.backlog = backlog
        self._recalled.clear()

    def reserve(self, free: Mapping[str, int], moment: float) -> set[str]:
        """Reserve a job for each backend that has one to take; return these backends.

        ``free`` has the number of prompts of each backend with a free slot. A reservation lasts
        until :meth:`choose`, the next call or the next snapshot.
        """
        for backend_id in list(self._reserved):
            self._passed_at[backend_id] = moment
            self.release(backend_id)
        self.backlog.note_working(free)
        self._note_allotments(moment)
        # A backend that did not take a job comes last: it may be the only one that cannot take it.
        for backend_id in sorted(
            free, key=lambda name: (self._passed_at.get(name, 0.0), free[name], name)
        ):
            if not self.backlog.has_unsent:
                break
            if choice := self.choose(backend_id, prompts=free[backend_id]):
                self._reserved[backend_id] = choice
        return set(self._reserved)

    def release(self, backend_id: str) -> None:
        """Give back the job that is reserved for a backend, if there is one."""
        if choice := self._reserved.pop(backend_id, None):
            self.put_back(choice)

    def choose(self, backend_id: str, *, prompts: int) -> Choice | None:
        """Choose the next job of a backend with a free slot and ``prompts`` of ours, and count it
        as sent.

        This is the job that is reserved for the backend, unless it has another number of prompts
        now.
        """
        if choice := self._reserved.pop(backend_id, None):
            if choice.prompts == prompts and choice.backlog is self.backlog:
                return choice
            self.put_back(choice)
        choice = self._next(backend_id, prompts)
        if choice is not None:
            choice.backlog.count(choice.variant, backend_id, 1)
        return choice

    def bound_first(self, backend_id: str) -> str:
        """Return the group whose bound job a backend takes first, if it takes none of the pool;
        empty: none waits for it.
        """
        bound = (offer.bound for offer in self.backlog.offers(backend_id) if offer.bound)
        return next((jobs[0].group_id for jobs in bound), "")

    def _next(self, backend_id: str, prompts: int) -> Choice | None:
        backlog, snapshot = self.backlog, self.snapshot
        backlog.note_working([backend_id])
        if backend_id in snapshot.suspects:
            return None
        bound_first = ""
        for offer in backlog.offers(backend_id):
            heads, best = self._best(offer, backend_id, prompts)
            if offer.bound and not bound_first:
                is_first = best is None or order_key(offer.bound[0]) < order_key(best)
                bound_first = offer.bound[0].group_id if is_first else ""
            if best is None:
                if heads:
                    return None
                continue
            if not (self._is_overdue(best) or bound_first):
                best = self._loaded_equal(best, backend_id)
            # It could wait behind a prompt that takes an hour.
            if prompts and not snapshot.estimates.has_speed(best.workflow_digest, backend_id):
                return None
            return Choice(
                variant=best,
                backend_id=backend_id,
                prompts=prompts,
                has_rival=backlog.has_rival(best, backend_id),
                bound_first=bound_first,
                bypassed=backlog.bypassed_by(best, offer.classes),
                backlog=backlog,
            )
        return None

    def _loaded_equal(self, variant: OpenVariant, backend_id: str) -> OpenVariant:
        """Return the first variant of an equal turn whose models a backend has loaded, unless it
        has those of this one, or there is none.
        """
        if self.backlog.is_loaded(variant.models_digest, backend_id):
            return variant
        equals = self.backlog.equals(variant, backend_id)
        loaded = (self._loaded(offer, backend_id) for offer in equals)
        return next((min(heads, key=order_key) for heads in loaded if heads), variant)

    def _loaded(self, offer: Offer, backend_id: str) -> Sequence[OpenVariant]:
        is_loaded = self.backlog.is_loaded
        return self.backlog.heads(
            (some for some in offer.classes if is_loaded(some.models, backend_id)), backend_id
        )

    def _best(
        self, offer: Offer, backend_id: str, prompts: int
    ) -> tuple[Sequence[OpenVariant], OpenVariant | None]:
        """Return heads of a turn, and which of them a backend takes; None: it waits."""
        backlog, loaded = self.backlog, self._loaded(offer, backend_id)
        if loaded and not any(map(self._is_overdue, self.snapshot.bypassed)):
            return loaded, min(loaded, key=order_key)
        heads = backlog.heads(offer.classes, backend_id)
        if not heads:
            return heads, None
        best = min(heads, key=order_key)
        if not self._is_overdue(best):
            if not loaded and prompts and backlog.has_loaded_work(offer.classes, backend_id):
                # The job would wait for the end of a prompt, and then for a load that others may
                # spare.
                return heads, None
            best = min(loaded, key=order_key) if loaded else backlog.with_most_work(heads)
        return heads, best

    def _is_overdue(self, variant: OpenVariant) -> bool:
        return (
            variant.variant_id not in self.bypasses and (variant.bypassed_for or 0.0) >= _BYPASS_S
        )

    def _is_bypassed(self, variant: OpenVariant) -> bool:
        return self.bypasses.get(variant.variant_id, variant.bypassed_for is not None)

    def confirm(self, choice: Choice) -> None:
        """Note that a backend has claimed its choice, which may have bypassed another job."""
        variant, first = choice.variant, choice.bypassed
        if self._is_bypassed(variant):
            self.bypasses[variant.variant_id] = False
        if first is not None and not self._is_bypassed(first):
            self.bypasses[first.variant_id] = True

    def put_back(self, choice: Choice) -> None:
        """Count a chosen job as unsent again: the backend has claimed an older one, or has no free
        slot.
        """
        choice.backlog.count(choice.variant, choice.backend_id, -1)

    def note_in_vain(self, choice: Choice, moment: float) -> None:
        """Note that the variant had no job for the backend."""
        self.release(choice.backend_id)
        choice.backlog.note_in_vain(choice.variant, choice.backend_id)
        self._passed_at[choice.backend_id] = moment
        self.leftover.add(choice.variant.variant_id)

    def _note_allotments(self, moment: float) -> None:
        """Note since when a free backend does not take the jobs that the plan gives it."""
        kept = {
            pair: since
            for pair, since in self._allotted_since.items()
            if _OVERLOOKED_S < moment - since < _OVERLOOKED_S + _LEFT_OUT_S
        }
        idle = {
            pair: self._allotted_since.get(pair, moment) for pair in self.backlog.idle_allotments()
        }
        self._allotted_since = idle | kept

    def recalls(self, free: Iterable[str]) -> list[int]:
        """Return the attempts whose prompts wait at one backend, and would end sooner at another.

        ``free`` are the backends that have no prompt and find no job in the queue.
        """
        idle, unstarted = (
            set(free),
            sorted(self._unstarted(), key=lambda of: (-of[0], of[2].attempt_id)),
        )
        self.backlog.is_held_back |= bool(idle and unstarted)
        late = (waiting[2].attempt_id for waiting in unstarted if self._is_late(*waiting, idle))
        recalls = list(itertools.islice(late, _MAX_RECALLS))
        self._recalled.update(recalls)
        return recalls

    def paused(self) -> list[int]:
        """Return attempts that wait at backends although their jobs are paused: as many as are
        recalled at once.
        """
        paused = sorted(self.snapshot.taken_back - self.refused)[:_MAX_RECALLS]
        self.backlog.is_held_back |= bool(paused)
        return paused

    def _unstarted(self) -> Iterator[tuple[float, str, ActivePrompt, OpenVariant]]:
        """Yield the prompts of jobs of the pool that wait at a backend, with the seconds until
        their ends.
        """
        snapshot, left_out = self.snapshot, self._recalled | self.refused
        for name in snapshot.prompts:
            for prompt, ends_in, _ in snapshot.prompt_ends(name):
                variant = snapshot.variant(prompt.variant_id)
                if variant and prompt.running_for is None and prompt.attempt_id not in left_out:
                    yield ends_in, name, prompt, variant

    def _is_late(
        self,
        ends_in: float,
        backend_id: str,
        prompt: ActivePrompt,
        variant: OpenVariant,
        idle: set[str],
    ) -> bool:
        """Return whether a prompt waits at a backend that hangs, or would end sooner elsewhere,
        also after the queue.

        One of unknown duration gets one of the ``idle`` backends.
        """
        backlog, is_suspect = self.backlog, backend_id in self.snapshot.suspects
        if (
            is_suspect
            or self.snapshot.estimates.seconds(prompt.workflow_digest, backend_id) is not None
        ):
            gain = _RECALL_TAKES_S + max(_RECALL_GAIN_S, _RECALL_GAIN * ends_in)
            before = inf if is_suspect else ends_in - gain
            return backlog.plan().reserve(variant, backlog.able(variant), before) or is_suspect
        able = idle & self.snapshot.able[variant.needs]
        if prompt.waited <= _RECALL_UNKNOWN_S or not able:
            return False
        idle.remove(min(able))
        return True
