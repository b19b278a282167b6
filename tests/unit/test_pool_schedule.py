"""The pool's order and choices, also on simulated farms against the ideal."""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import pytest
from hypothesis import given, strategies as st

from backends.capabilities import BackendCapabilities
from jobgroups.domain import plan, pool
from jobgroups.domain.estimates import Estimates, TimingRow, moving_average
from jobgroups.domain.pool import ActivePrompt, Line, Needs, OpenVariant, PoolBackend, fits, order_key
from tests.harness.cases import cases
from tests.harness.schedules import shortest_time

NOON: Final = dt.datetime(2026, 2, 1, 12, tzinfo=dt.UTC)
NOTHING: Final = BackendCapabilities(tags=[], devices=[], comfyui_version="0.3.64")
NEVER: Final = float("inf")


@dataclass
class Prompt:
    """A job that a simulated backend has."""

    attempt_id: int
    variant: OpenVariant
    claimed: float
    started: float = NEVER
    ends: float = NEVER
    loads: bool = False


@dataclass
class Machine:
    """A simulated backend; ``hangs_at``: the prompt that runs then never ends before its timeout."""

    speed: float
    hangs_at: float = NEVER
    models: str = ""
    works: bool = True
    prompts: list[Prompt] = field(default_factory=list)


class SimulatedFarm:
    """Runs variants on machines by the pool's rules, with estimates that are learned."""

    def __init__(
        self,
        machines: Mapping[str, Machine],
        work: Sequence[tuple[str, str, int, float]],
        *,
        load: float = 0.0,
        noise: float = 0.0,
        timeout: float = 30.0,
        is_known: bool = False,
    ) -> None:
        self.machines = machines
        self.load, self.noise, self.timeout = load, noise, timeout
        self.random = random.Random(1)
        self.seconds: dict[str, float] = {}
        self.variants = []
        for number, (digest, models, jobs, seconds) in enumerate(work):
            self.seconds[digest] = seconds
            self.variants.append(
                OpenVariant(
                    variant_id=number,
                    group_id=f"jg_{number:03}",
                    number=0,
                    queued_at=NOON,
                    needs=Needs(("*",)),
                    workflow_digest=digest,
                    models_digest=models,
                    unsent=jobs,
                )
            )
        self.rows: dict[tuple[str, str], TimingRow] = {}
        self.warm: set[tuple[str, str]] = set()
        for digest, models, _, seconds in work if is_known else ():
            for name, one in machines.items():
                self.rows[digest, name] = TimingRow(digest, name, models, seconds / one.speed, None, NOON)
                self.warm.add((digest, name))
        self.bypassed: dict[int, float] = {}
        self.ends: list[float] = []
        self.ended: dict[int, float] = {}
        self.loads = self.recalls = 0
        self.now = 0.0

    def run(self) -> float:
        """Run all jobs; return the seconds until the last one ended."""
        ended_at, left = 0.0, sum(one.unsent for one in self.variants)
        ids = iter(range(1, 1_000_000))
        while left:
            for name, machine in self.machines.items():
                while machine.prompts and machine.prompts[0].ends <= self.now:
                    left -= self._end(name, machine)
                    self._start(machine)
            self._choose(ids)
            for machine in self.machines.values():
                self._start(machine)
            ends = [machine.prompts[0].ends for machine in self.machines.values() if machine.prompts]
            ended_at, self.now = self.now, min([self.now + 1.0, *ends])
        return ended_at

    def _line(self) -> Line:
        for one in self.variants:
            since = self.bypassed.get(one.variant_id)
            one.bypassed_for = None if since is None else self.now - since
        prompts = {
            name: [
                ActivePrompt(
                    attempt_id=one.attempt_id,
                    workflow_digest=one.variant.workflow_digest,
                    models_digest=one.variant.models_digest,
                    waited=self.now - one.claimed,
                    running_for=None if one.started > self.now else self.now - one.started,
                    variant_id=one.variant.variant_id,
                )
                for one in machine.prompts
            ]
            for name, machine in self.machines.items()
        }
        backends = [
            PoolBackend(backend_id=name, capabilities=NOTHING, works=one.works) for name, one in self.machines.items()
        ]
        return Line(self.variants, backends, estimates=Estimates(self.rows.values()), prompts=prompts)

    def _choose(self, ids: object) -> None:
        line = self._line()
        free = sorted(
            [n for n, one in self.machines.items() if one.works],
            key=lambda name: (len(self.machines[name].prompts), name),
        )
        idle = []
        for name in free:
            prompts = self.machines[name].prompts
            while len(prompts) < 2:
                variant = line.next_for(name, prompts=len(prompts))
                if variant is None:
                    break
                line.take(variant, name)
                line.note_bypass(variant, name)
                prompts.append(Prompt(next(ids), variant, self.now))  # type: ignore[call-overload]
            if not prompts:
                idle.append(name)
        for variant_id, is_bypassed in line.bypasses.items():
            self.bypassed.pop(variant_id, None)
            if is_bypassed:
                self.bypassed[variant_id] = self.now
        for attempt_id in self._line().recalls(idle):
            self._recall(attempt_id)

    def _recall(self, attempt_id: int) -> None:
        for machine in self.machines.values():
            for one in machine.prompts[1:]:
                if one.attempt_id == attempt_id:
                    machine.prompts.remove(one)
                    one.variant.unsent += 1
                    self.recalls += 1

    def _start(self, machine: Machine) -> None:
        if not machine.prompts or machine.prompts[0].started < NEVER:
            return
        one = machine.prompts[0]
        models = one.variant.models_digest
        one.loads = models != machine.models
        self.loads += one.loads
        seconds = self.seconds[one.variant.workflow_digest] / machine.speed
        seconds *= 1 + self.random.uniform(-self.noise, self.noise)
        one.started, one.ends = self.now, self.now + seconds + (self.load if one.loads else 0.0)
        machine.models = models
        if one.started <= machine.hangs_at < one.ends:
            one.ends = one.started + self.timeout

    def _end(self, name: str, machine: Machine) -> int:
        one = machine.prompts.pop(0)
        if one.started <= machine.hangs_at < one.ends:
            one.variant.unsent += 1
            for waiting in machine.prompts:
                waiting.variant.unsent += 1
            machine.prompts, machine.works = [], False
            return 0
        self.ends.append(self.now)
        self.ended[one.variant.variant_id] = self.now
        key = (one.variant.workflow_digest, name)
        known = self.rows.get(key)
        seconds, load = (known.seconds, known.load_seconds) if known else (None, None)
        took = one.ends - one.started
        if one.loads and key in self.warm:
            load = moving_average(load, max(took - (seconds or 0.0), 0.0))
        elif one.loads:
            seconds = took
        elif key not in self.warm:
            load = seconds - took if seconds is not None and seconds > 2 * took else None
            seconds = took
            self.warm.add(key)
        else:
            seconds = moving_average(seconds, took)
        at = NOON + dt.timedelta(seconds=self.now)
        self.rows[key] = TimingRow(*key, one.variant.models_digest, seconds, load, at)
        return 1


def unequal() -> dict[str, Machine]:
    return {"slow": Machine(1), "medium": Machine(2), "fast": Machine(4)}


def shared(work: Sequence[tuple[str, str, int, float]], *machines: Machine) -> float:
    """Return the seconds in which machines do all work together, without loads."""
    total = sum(jobs * seconds for _, _, jobs, seconds in work)
    return total / sum(one.speed for one in machines)


@pytest.mark.parametrize(("jobs", "noise"), [(200, 0.0), (200, 0.2), (12, 0.0), (12, 0.5)])
def test_unequal_machines_end_together(jobs: int, noise: float) -> None:
    machines, work = unequal(), [("w", "", jobs, 4.0)]
    took = SimulatedFarm(machines, work, noise=noise).run()
    assert took <= 1.05 * (shared(work, *machines.values()) + 4.0)


def one_slow() -> dict[str, Machine]:
    return {"slow": Machine(0.1), **{f"gpu-{at}": Machine(1) for at in range(5)}}


def shortest(jobs: int, seconds: float, machines: Mapping[str, Machine]) -> float:
    """Return the smallest time in which machines can end so many jobs, which take ``seconds`` at speed 1."""
    return shortest_time(jobs, [seconds / one.speed for one in machines.values()])


@pytest.mark.parametrize("noise", [0.0, 0.1])
@pytest.mark.parametrize("is_known", [True, False])
@pytest.mark.parametrize("behind", [[], [40], [3], [20, 20, 20]])
@pytest.mark.parametrize(("farm", "jobs", "seconds"), [(one_slow, 40, 1.0), (unequal, 42, 0.8)])
def test_a_line_ends_as_soon_as_it_can(
    farm: Callable[[], dict[str, Machine]], jobs: int, seconds: float, behind: list[int], is_known: bool, noise: float
) -> None:
    """A machine of unknown speed takes one job: nothing ends before it."""
    machines, numbers = farm(), [jobs, *behind]
    run = SimulatedFarm(machines, [("w", "", one, seconds) for one in numbers], noise=noise, is_known=is_known)
    first_job = 0.0 if is_known else max(seconds / one.speed for one in machines.values())
    assert run.run() <= 1.05 * max(shortest(sum(numbers), seconds, machines), first_job)
    assert run.ended[0] <= 1.05 * max(shortest(jobs, seconds, machines), first_job)


@pytest.mark.parametrize(("groups", "jobs"), [(10, 20), (50, 4)])
def test_two_models_in_turn_are_loaded_few_times(groups: int, jobs: int) -> None:
    """Nothing is known at the start. In turn, the models would be loaded 30 or 150 times."""
    machines = unequal()
    farm = SimulatedFarm(machines, [(f"w{at % 2}", f"m{at % 2}", jobs, 4.0) for at in range(groups)], load=30.0)
    # The best: the fast machine loads both models, the others one; (800 + (4 + 4 + 2 + 1) * 30) / 7, and one job.
    assert farm.run() <= 1.05 * (161.4 + 4.0)
    assert farm.loads <= 5


def test_a_job_waits_at_most_a_minute_longer_for_the_sake_of_models() -> None:
    machines = {"only": Machine(1)}
    farm = SimulatedFarm(machines, [("w0", "m0", 1, 4.0), ("w1", "m1", 2, 4.0), ("w0", "m0", 100, 4.0)], load=10.0)
    farm.run()
    # The first two groups are done in order: 14 s, then 60 s of jobs that need no load, then the load.
    assert farm.ended[1] <= 14 + 60 + 4 + 10 + 2 * 4


def test_many_machines_share_models() -> None:
    """102 s is possible; the machines in turn take 1,224 s."""
    machines = {f"gpu-{at}": Machine((1, 2, 4)[at % 3]) for at in range(20)}
    farm = SimulatedFarm(machines, [(f"w{at % 5}", f"m{at % 5}", 12, 4.0) for at in range(60)], load=30.0)
    assert farm.run() <= 1.05 * 102


@pytest.mark.parametrize(("name", "at"), [("fast", 50.0), ("slow", 105.0)])
def test_a_machine_that_hangs_delays_the_others_by_nothing(name: str, at: float) -> None:
    machines, work = unequal(), [("w", "", 200, 4.0)]
    machines[name].hangs_at = at
    took = SimulatedFarm(machines, work, timeout=30.0).run()
    rest = [one for key, one in machines.items() if key != name]
    assert took <= shared(work, *rest) + 4.0 + 30.0


def test_a_prompt_behind_a_slow_one_is_taken_back() -> None:
    machines = unequal()
    farm = SimulatedFarm(machines, [("w", "", 40, 4.0)], timeout=100.0)
    machines["fast"].hangs_at = 10.0
    farm.run()
    assert farm.recalls == 1
    assert farm.ends[-2] < 60 < 100 < farm.ends[-1]


START_OF_QUEUE = dt.datetime(2026, 2, 1, 12, tzinfo=dt.UTC)
ANY = Needs(("*",))


def machine(name: str, *tags: str, **fields: Any) -> PoolBackend:
    known = BackendCapabilities(
        tags=tags, devices=[{"name": "cuda:0 NVIDIA GeForce RTX 4090"}], comfyui_version="0.3.64"
    )
    return PoolBackend(backend_id=name, capabilities=known, **fields)


def variant(number: int, unsent: int, needs: Needs = ANY, *, minute: int = 0, digest: str = "w") -> OpenVariant:
    return OpenVariant(
        variant_id=number,
        group_id=f"jg_{number}",
        number=0,
        queued_at=START_OF_QUEUE + dt.timedelta(minutes=minute),
        needs=needs,
        workflow_digest=digest,
        unsent=unsent,
    )


@pytest.mark.parametrize(
    ("candidates", "required", "is_fit"), cases(__file__, "a_backend_fits_by_name_or_tag_and_by_what_it_has")
)
def test_a_backend_fits_by_name_or_tag_and_by_what_it_has(
    candidates: list[str], required: list[str], is_fit: bool
) -> None:
    needs, one = Needs(tuple(candidates), tuple(required)), machine("gpu-1", "fast")
    assert fits(needs, "gpu-1", one.capabilities) is is_fit
    assert (Line([variant(1, 1, needs)], [one]).next_for("gpu-1", prompts=0) is not None) is is_fit


def test_the_oldest_variant_comes_first_whatever_its_id() -> None:
    line = Line([variant(1, 5, minute=2), variant(2, 5, minute=1)], [machine("gpu-1")])
    head = line.next_for("gpu-1", prompts=0)
    assert head is not None
    assert head.variant_id == 2


def test_a_backend_passes_over_what_it_cannot_take() -> None:
    others = Needs(("gpu-2",))
    line = Line([variant(1, 5, others), variant(2, 1, minute=1)], [machine("gpu-1")])
    head = line.next_for("gpu-1", prompts=0)
    assert head is not None
    assert head.variant_id == 2
    line.take(head, "gpu-1")
    assert line.next_for("gpu-1", prompts=0) is None


def timed(digest: str = "w", **seconds: float) -> Estimates:
    return Estimates([TimingRow(digest, name, "", one, None, START_OF_QUEUE) for name, one in seconds.items()])


def test_a_slow_machine_takes_the_last_jobs_only_if_it_ends_them_first() -> None:
    machines = [machine("fast"), machine("slow"), machine("away", works=False)]
    times = timed(fast=1.0, slow=4.0)
    prompts = {"fast": [ActivePrompt(attempt_id=1, workflow_digest="w", waited=1, running_for=0.5)]}

    def take(unsent: int, name: str) -> bool:
        line = Line([variant(1, unsent)], machines, estimates=times, prompts=prompts)
        return line.next_for(name, prompts=len(prompts.get(name, ()))) is not None

    assert [take(unsent, "slow") for unsent in (3, 4, 9)] == [False, True, True]
    assert [take(unsent, "fast") for unsent in (1, 9)] == [True, True]


@pytest.mark.parametrize(("digest", "known_on"), [("w", "none"), ("", "none"), ("w", "gpu-2")])
def test_a_job_of_unknown_duration_does_not_wait_behind_another(digest: str, known_on: str) -> None:
    line = Line(
        [variant(1, 100, digest=digest), variant(2, 100, minute=1)],
        [machine("gpu-1"), machine("gpu-2")],
        estimates=timed(**{known_on: 1.0} if known_on != "none" else {}),
    )
    assert line.next_for("gpu-1", prompts=0) is not None
    assert line.next_for("gpu-1", prompts=1) is None


def test_a_backend_takes_what_comes_after_a_line_too_long_to_be_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "_MAX_SIZE", 10)
    machines = [machine(f"gpu-{at}", "a") for at in range(20)] + [machine("other", "b")]
    times = timed(**{one.backend_id: 1.0 for one in machines})
    needs = [Needs(("tag:a",)), Needs(("tag:b",))]
    variants = [variant(at, 1, one, minute=at) for at, one in enumerate(needs)]
    # The models are loaded nowhere.
    variants[1].models_digest = "m"
    line = Line(variants, machines, estimates=times)
    head = line.next_for("other", prompts=0)
    assert head is not None
    assert head.variant_id == 1
    later = line.ends(1)
    assert later is not None
    assert (later.first, later.last) == (2.0, 2.0)


def test_a_backend_that_does_not_take_its_jobs_is_left_out_of_the_plan() -> None:
    machines, times = [machine("fast"), machine("slow")], timed(fast=1.0, slow=4.0)
    line = Line([variant(1, 1)], machines, estimates=times)
    assert line.next_for("slow", prompts=0) is None
    assert list(line.idle_allotments()) == [(1, "fast")]
    line = Line([variant(1, 1)], machines, estimates=times, overlooked=frozenset({(1, "fast")}))
    assert line.next_for("slow", prompts=0) is not None
    line = Line([variant(1, 9)], machines, estimates=times)
    head = line.next_for("fast", prompts=0)
    assert head is not None
    line.take(head, "fast")
    assert list(line.idle_allotments()) == [(1, "slow")]


def test_when_jobs_end_counts_the_line_ahead() -> None:
    machines, times = [machine("fast"), machine("slow")], timed(fast=1.0, slow=4.0)
    line = Line([variant(1, 4), variant(2, 10_000, minute=1)], machines, estimates=times)
    first, second = line.ends(1), line.ends(2)
    assert first is not None
    assert second is not None
    assert (first.first, first.last) == (1.0, 4.0)
    assert second.first == 4.0
    assert second.last == pytest.approx(10_004 / 1.25, abs=4)
    assert second.of(5_000) == pytest.approx(second.last / 2, abs=4)
    even = Line([variant(1, 60)], machines, estimates=timed(fast=1.0, slow=1.0)).ends(1)
    assert even is not None
    assert (even.first, even.last) == (1.0, pytest.approx(30.0))
    unknown = Line([variant(1, 4, digest="x"), variant(2, 4, minute=1)], machines, estimates=times)
    assert (unknown.ends(1), unknown.ends(2)) == (None, None)


@pytest.mark.parametrize(
    ("running_for", "seconds", "is_recalled"), [(4, 11, True), (4, 12.5, False), (39, 40, False), (41, 40, True)]
)
def test_a_prompt_is_recalled_for_an_earlier_end_or_behind_one_that_hangs(
    running_for: float, seconds: float, is_recalled: bool
) -> None:
    """After 4 s it would end in 16 s where it waits; a recall takes a second and must gain a fifth."""
    running = ActivePrompt(attempt_id=1, workflow_digest="w", waited=4, running_for=running_for, variant_id=1)
    waiting = ActivePrompt(attempt_id=2, workflow_digest="w", waited=4, variant_id=1)
    line = Line(
        [variant(1, 0)],
        [machine("busy"), machine("free")],
        estimates=timed(busy=10.0, free=seconds),
        prompts={"busy": [running, waiting]},
    )
    assert line.recalls(["free"]) == ([2] if is_recalled else [])
    assert line.recalls(["free"]) == []


@pytest.mark.parametrize(
    ("unsent", "size", "is_recalled"), [(0, 10, True), (4, 10, True), (6, 10, False), (9, 10, False), (4, 0, False)]
)
def test_a_prompt_is_recalled_before_the_faster_machine_is_idle(
    unsent: int, size: int, is_recalled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for 30 s. A machine that is busy for longer than a reading and a recall take gets nothing yet."""
    monkeypatch.setattr(plan, "_MAX_SIZE", size)
    prompts = {
        "fast": [ActivePrompt(attempt_id=1, workflow_digest="w", waited=1, running_for=0.0)],
        "slow": [
            ActivePrompt(attempt_id=2, workflow_digest="w", waited=1, running_for=0.0),
            ActivePrompt(attempt_id=3, workflow_digest="w", waited=1, variant_id=1),
        ],
    }
    machines = [machine("fast"), machine("slow")]
    line = Line([variant(1, unsent)], machines, estimates=timed(fast=1.0, slow=15.0), prompts=prompts)
    assert line.recalls([], refused=[3]) == []
    line = Line([variant(1, unsent)], machines, estimates=timed(fast=1.0, slow=15.0), prompts=prompts)
    assert line.recalls([]) == ([3] if is_recalled else [])


def test_recalls_at_once_are_limited_to_one_for_each_machine() -> None:
    prompts = {
        f"slow-{at}": [
            ActivePrompt(attempt_id=2 * at, workflow_digest="w", waited=1, running_for=0.0),
            ActivePrompt(attempt_id=2 * at + 1, workflow_digest="w", waited=1, variant_id=1),
        ]
        for at in range(100)
    }

    def recalled(free: int) -> int:
        names = [*prompts, *(f"free-{at}" for at in range(free))]
        times = timed(**{name: 15.0 if name in prompts else 1.0 for name in names})
        line = Line([variant(1, 0)], [machine(name) for name in names], estimates=times, prompts=prompts)
        return len(line.recalls([]))

    assert [recalled(free) for free in (0, 1, 2, 90)] == [0, 1, 2, 32]


@pytest.mark.parametrize("replanned", [0, 10])
def test_a_backend_that_found_none_does_not_keep_the_job_from_others(
    replanned: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "_REPLANNED", replanned)
    times = timed(**{"gpu-1": 1.0, "gpu-2": 2.0})
    line = Line([variant(1, 1)], [machine("gpu-1"), machine("gpu-2")], estimates=times)
    assert line.next_for("gpu-2", prompts=0) is None
    head = line.next_for("gpu-1", prompts=0)
    assert head is not None
    line.take(head, "gpu-1")
    assert line.next_for("gpu-2", prompts=0) is None
    line.note_in_vain(head, "gpu-1")
    assert line.next_for("gpu-1", prompts=0) is None
    assert line.next_for("gpu-2", prompts=0) is head
    assert line.has_leftover


def test_one_new_job_wakes_one_backend() -> None:
    machines = [machine(f"gpu-{number}") for number in range(1_000)]
    line = Line([variant(1, 1)], machines)
    assert line.takers((one.backend_id, 0) for one in machines) == ["gpu-0"]


def test_a_variant_is_unplaced_while_no_candidate_may_take_it() -> None:
    gone = machine("gpu-1", works=False, is_possible=False)
    paused = machine("gpu-2", works=False)
    needs = Needs(("gpu-1",))
    assert Line([variant(1, 1, needs)], [gone, paused]).unplaced() == {1}
    assert Line([variant(1, 1)], [gone, paused]).unplaced() == set()
    assert Line([variant(1, 0, needs)], [gone]).unplaced() == set()
    assert Line([variant(1, 1)], []).unplaced() == {1}


def test_a_backend_that_is_excluded_passes_over_the_variant_and_others_count_without_it() -> None:
    both = [machine("gpu-1"), machine("gpu-2")]
    needs = Needs(("*",), excluded=frozenset({"gpu-1"}))
    line = Line([variant(1, 5, needs), variant(2, 1, minute=1)], both)
    heads = [line.next_for(name, prompts=0) for name in ("gpu-1", "gpu-2")]
    assert [head and head.variant_id for head in heads] == [2, 1]
    assert heads[1] is not None
    assert not line.has_rival(heads[1], "gpu-2")
    assert not fits(needs, "gpu-1", both[0].capabilities)
    nowhere = Needs(("*",), excluded=frozenset({"gpu-1", "gpu-2"}))
    assert Line([variant(1, 5, nowhere)], both).unplaced() == {1}


def test_jobs_ahead_are_those_that_wait_for_the_same_backends() -> None:
    first, second = Needs(("gpu-1",)), Needs(("gpu-2",))
    line = Line(
        [variant(1, 3, first), variant(2, 4, second), variant(3, 5, minute=1)], [machine("gpu-1"), machine("gpu-2")]
    )
    assert [line.ahead_of(number) for number in (1, 2, 3)] == [0, 0, 7]


needs_of = st.lists(st.sampled_from(["a", "b", "c", "tag:x"]), min_size=1, unique=True).map(
    lambda names: Needs(tuple(names))
)


@given(
    st.lists(st.tuples(needs_of, st.integers(0, 4), st.integers(0, 3)), max_size=6),
    st.lists(st.sampled_from("abc"), max_size=40),
)
def test_no_job_is_taken_twice_or_by_an_unfit_backend(spec: list[tuple[Needs, int, int]], asks: list[str]) -> None:
    variants = [variant(at, unsent, needs, minute=minute) for at, (needs, unsent, minute) in enumerate(spec)]
    jobs = {one.variant_id: one.unsent for one in variants}
    machines = {"a": machine("a"), "b": machine("b", "x"), "c": machine("c")}
    line = Line(variants, machines.values())
    for name in asks:
        head = line.next_for(name, prompts=0)
        able = [one for one in variants if jobs[one.variant_id] and fits(one.needs, name, machines[name].capabilities)]
        assert (head is None) is (not able)
        if head is not None:
            assert head is min(able, key=order_key)
            line.take(head, "gpu-1")
            jobs[head.variant_id] -= 1
    assert min(jobs.values(), default=0) >= 0
