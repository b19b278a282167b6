"""A runner and its PostgreSQL as queues: a discrete-event simulation, seeded, in virtual seconds.

What waits for what is the Director's: a backend has two places; a prompt's way is a claim, a request, and
four more transactions; a transaction holds one of the runner's database threads from its beginning to its
commit, and its group's row from its first statements on; Python of all the runner's threads runs under one
interpreter's lock; and whatever computes needs a core of the machine.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Final

#: It yields what it waits for: a resource, or seconds.
Process = Generator["Resource | float", None, None]

#: Python and PostgreSQL take turns so often within a transaction.
_TURNS: Final = 4
#: What computes gives its core and the interpreter's lock away after so long.
_SLICE: Final = 0.005


class Resource:
    """So many places, taken in the order of asking.

    Attributes:
        waited: seconds that each who got a place waited for it.
        held: seconds that places were taken, all of them together.
    """

    def __init__(self, clock: Clock, places: int) -> None:
        self._clock = clock
        self._free = places
        self._places = places
        self._queue: deque[tuple[float, Process]] = deque()
        self._since = 0.0
        self.held = 0.0
        self.waited: list[float] = []

    def ask(self, process: Process) -> None:
        """Have a process go on as soon as it has a place."""
        self._queue.append((self._clock.now, process))
        self._hand_out()

    def release(self) -> None:
        """Give a place back."""
        self._count()
        self._free += 1
        self._hand_out()

    def forget(self) -> None:
        """Begin to count anew."""
        self._count()
        self.held = 0.0
        self.waited.clear()

    def utilisation(self, seconds: float) -> float:
        """Return the share of its places that were taken."""
        self._count()
        return self.held / self._places / seconds

    def _hand_out(self) -> None:
        while self._queue and self._free:
            self._count()
            self._free -= 1
            asked, process = self._queue.popleft()
            self.waited.append(self._clock.now - asked)
            self._clock.after(0.0, process)

    def _count(self) -> None:
        self.held += (self._places - self._free) * (self._clock.now - self._since)
        self._since = self._clock.now


class Clock:
    """The virtual time, and what is due."""

    def __init__(self) -> None:
        self.now = 0.0
        self._due: list[tuple[float, int, Process]] = []
        self._order = itertools.count()

    def after(self, seconds: float, process: Process) -> None:
        """Have a process go on in so many seconds."""
        heapq.heappush(self._due, (self.now + seconds, next(self._order), process))

    def run_until(self, moment: float) -> None:
        """Let everything happen that is due until then."""
        while self._due and self._due[0][0] <= moment:
            self.now, _, process = heapq.heappop(self._due)
            try:
                step = next(process)
            except StopIteration:
                continue
            if isinstance(step, Resource):
                step.ask(process)
            else:
                self.after(step, process)
        self.now = moment


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A transaction: CPU seconds in the runner and in PostgreSQL, and how it stands to its group."""

    python: float
    postgres: float
    #: Whether it holds its group's row, and longer by the group's size.
    locks: bool = True
    grows: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What a runner has to do, and with what.

    Attributes:
        backends: that it drives; ``render_s``: of each of their prompts, which never run out.
        course: the transactions of a prompt in their order: claim, accepted, started, reported, ended.
        commit_s: of a transaction that is nobody's CPU time.
        loop_s: CPU of the runner's loop for a prompt: its requests and its frames.
        idle_s: CPU of the runner for a backend and second, whether it renders or not.
        elsewhere_s: CPU of other processes of the same machine for a prompt (simulated backends).
        group: children of a group; ``grow_s``: what each of them adds to a transaction that moves one.
        round_s, rounds_per_s: what a round takes (a look for work, of all backends), and how often somebody rings for one.
        cores: that runner and PostgreSQL have together; of 1.5, two run at three quarters of their speed.
    """

    backends: int
    render_s: float
    course: tuple[Call, ...]
    commit_s: float
    loop_s: float
    idle_s: float
    elsewhere_s: float = 0.0
    group: int = 20
    grow_s: float = 0.0
    round_s: float = 0.0
    rounds_per_s: float = 0.0
    threads: int = 4
    cores: float = 16.0
    postgres_cores: int = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a simulated stretch showed.

    Attributes:
        completed: prompts a second. ``rendering``: share of the backends' time in which they rendered.
        python, threads, postgres: shares of the interpreter, the database threads and PostgreSQL's cores.
        claim_s: mean seconds from a free place to its stored claim; ``claim_p95_s``: of most.
        lock_s: mean seconds that a transaction waited for its group's row.
    """

    completed: float
    rendering: float
    python: float
    threads: float
    postgres: float
    claim_s: float
    claim_p95_s: float
    lock_s: float


@dataclass
class _Runner:
    load: Load
    clock: Clock = field(default_factory=Clock)
    claims: list[float] = field(default_factory=list)
    completed: int = 0

    def __post_init__(self) -> None:
        load, clock = self.load, self.clock
        self.draw = random.Random(f"{load.backends} {load.render_s}")
        self.python = Resource(clock, 1)
        self.threads = Resource(clock, load.threads)
        self.cores = Resource(clock, math.ceil(load.cores))
        self.slowed = math.ceil(load.cores) / load.cores
        self.postgres = Resource(clock, load.postgres_cores)
        self.gpus = [Resource(clock, 1) for _ in range(load.backends)]
        # Of each group as many children are under way as there are places, or all it has.
        under_way = max(1, -(-2 * load.backends // load.group))
        self.groups = [Resource(clock, 1) for _ in range(under_way)]
        for number in range(load.backends):
            for place in range(2):
                group = self.groups[(2 * number + place) % under_way]
                clock.after(self.draw.random() * load.render_s, self._place(number, group))
            clock.after(self.draw.random(), self._idle())
        if load.rounds_per_s:
            clock.after(0.0, self._rounds())

    def _compute(self, seconds: float) -> Process:
        """Run Python: under the interpreter's lock, on a core."""
        while seconds > 0:
            yield self.python
            yield from self._burn(min(seconds, _SLICE))
            self.python.release()
            seconds -= _SLICE

    def _burn(self, seconds: float) -> Process:
        yield self.cores
        yield seconds * self.slowed
        self.cores.release()

    def _transaction(self, call: Call, group: Resource) -> Process:
        yield self.threads
        longer = self.load.group * self.load.grow_s if call.grows else 0.0
        for turn in range(_TURNS):
            if turn == 1 and call.locks:
                yield group
            yield from self._compute(call.python / _TURNS)
            yield self.postgres
            yield from self._burn(call.postgres / _TURNS + (longer if turn == _TURNS - 1 else 0.0))
            self.postgres.release()
        yield self.load.commit_s
        if call.locks:
            group.release()
        self.threads.release()

    def _place(self, number: int, group: Resource) -> Process:
        """One of a backend's two places: prompt after prompt."""
        load, gpu = self.load, self.gpus[number]
        claim, accepted, started, *rest = load.course
        while True:
            asked = self.clock.now
            yield from self._transaction(claim, group)
            self.claims.append(self.clock.now - asked)
            yield from self._compute(load.loop_s / 2)
            yield from self._transaction(accepted, group)
            yield gpu
            # It renders whatever the Director does meanwhile.
            self.clock.after(0.0, self._transaction(started, group))
            self.clock.after(load.render_s / 2, self._compute(load.loop_s / 2))
            self.clock.after(load.render_s / 2, self._burn(load.elsewhere_s))
            yield load.render_s
            gpu.release()
            for call in rest:
                yield from self._transaction(call, group)
            self.completed += 1

    def _idle(self) -> Process:
        while True:
            yield from self._compute(self.load.idle_s)
            yield 1.0

    def _rounds(self) -> Process:
        """Look for work; rings that come during a round make one more of it."""
        while True:
            yield self.threads
            yield from self._compute(self.load.round_s)
            self.threads.release()
            yield self.draw.expovariate(self.load.rounds_per_s)

    def forget(self) -> None:
        everything = [self.python, self.threads, self.cores, self.postgres]
        for one in (*everything, *self.gpus, *self.groups):
            one.forget()
        self.claims.clear()
        self.completed = 0


def simulate(load: Load, *, seconds: float, warm_up: float) -> Seen:
    """Let a runner do its work for so long, after a time that does not count."""
    runner = _Runner(load)
    runner.clock.run_until(warm_up)
    runner.forget()
    runner.clock.run_until(warm_up + seconds)
    locks = [one for group in runner.groups for one in group.waited]
    return Seen(
        completed=runner.completed / seconds,
        rendering=fmean(gpu.utilisation(seconds) for gpu in runner.gpus),
        python=runner.python.utilisation(seconds),
        threads=runner.threads.utilisation(seconds),
        postgres=runner.postgres.held / seconds,
        claim_s=fmean(runner.claims) if runner.claims else 0.0,
        claim_p95_s=_percentile(runner.claims, 95),
        lock_s=fmean(locks) if locks else 0.0,
    )


def _percentile(values: Sequence[float], percent: float) -> float:
    return sorted(values)[int(len(values) * percent / 100)] if values else 0.0
