"""The pool's choices on simulated farms: the time until all jobs have ended, against the ideal."""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import pytest

from backends.capabilities import BackendCapabilities
from jobgroups.domain.estimates import Estimates, TimingRow, moving_average
from jobgroups.domain.pool import ActivePrompt, Line, Needs, OpenVariant, PoolBackend

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
