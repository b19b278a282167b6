"""A simulated farm: the pool's choices over machines without processes."""

from __future__ import annotations

import datetime as dt
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from backends.capabilities import BackendCapabilities
from jobgroups.domain.estimates import Estimates, TimingRow, moving_average
from jobgroups.domain.pool import ActivePrompt, Needs, OpenVariant, PoolBackend, PoolSnapshot
from jobgroups.domain.schedule import Backlog, Schedule
from jobgroups.domain.turns import Shares, Turn, level_of

NOON: Final = dt.datetime(2026, 2, 1, 12, tzinfo=dt.UTC)
NOTHING: Final = BackendCapabilities(tags=[], devices=[], comfyui_version="0.3.64")
NEVER: Final = float("inf")
NO_WEIGHTS: Final[Mapping[str, float]] = {}


@dataclass(frozen=True)
class Submission:
    """Of a variant: by whom and when it is submitted, and its priority."""

    submitter: str = ""
    priority: int = 50
    at: float = 0.0


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
        submissions: Sequence[Submission] = (),
        weights: Mapping[str, float] = NO_WEIGHTS,
        aging: float = 0.0,
    ) -> None:
        self.machines = machines
        self.load, self.noise, self.timeout = load, noise, timeout
        self.random = random.Random(1)
        self.submissions = submissions or [Submission()] * len(work)
        self.weights, self.aging = weights, aging
        self.used: dict[str, float] = {}  #: Seconds of machines, by submitter.
        self.served: dict[int, float] = {}  #: When each variant last had a job at a machine.
        self.starts: list[tuple[int, float]] = []  #: By variant.
        self.seconds: dict[str, float] = {}
        self.variants = []
        for number, (digest, models, jobs, seconds) in enumerate(work):
            self.seconds[digest] = seconds
            self.variants.append(
                OpenVariant(
                    variant_id=number,
                    group_id=f"jg_{number:03}",
                    number=0,
                    queued_at=NOON + dt.timedelta(seconds=self.submissions[number].at),
                    needs=Needs(("*",)),
                    workflow_digest=digest,
                    models_digest=models,
                    unsent=jobs,
                )
            )
        self.unsent = Counter({one.variant_id: one.unsent for one in self.variants})
        self.schedule = Schedule()
        self.rows: dict[tuple[str, str], TimingRow] = {}
        self.warm: set[tuple[str, str]] = set()
        for digest, models, _, seconds in work if is_known else ():
            for name, one in machines.items():
                self.rows[digest, name] = TimingRow(
                    digest, name, models, seconds / one.speed, None, NOON
                )
                self.warm.add((digest, name))
        self.bypassed: dict[int, float] = {}
        self.ends: list[float] = []
        self.ended: dict[int, float] = {}
        self.loads = self.recalls = 0
        self.now = 0.0

    def run(self, until: float = NEVER) -> float:
        """Run all jobs, or those until a time; return the seconds until the last one ended."""
        ended_at, left = 0.0, sum(one.unsent for one in self.variants)
        ids = iter(range(1, 1_000_000))
        while left and self.now < until:
            for name, machine in self.machines.items():
                while machine.prompts and machine.prompts[0].ends <= self.now:
                    left -= self._end(name, machine)
                    self._start(machine)
            self._choose(ids)
            for machine in self.machines.values():
                self._start(machine)
            ends = [
                machine.prompts[0].ends for machine in self.machines.values() if machine.prompts
            ]
            ended_at, self.now = self.now, min([self.now + 1.0, *ends])
        return ended_at

    def _read(self) -> None:
        held = {one.variant.variant_id for some in self.machines.values() for one in some.prompts}
        self.served |= dict.fromkeys(held, self.now)
        variants = [
            replace(
                one,
                turn=self._turn(one),
                unsent=self.unsent[one.variant_id],
                bypassed_for=self.now - self.bypassed[one.variant_id]
                if one.variant_id in self.bypassed
                else None,
            )
            for one in self.variants
            if self.submissions[one.variant_id].at <= self.now
        ]
        prompts = {
            name: [
                ActivePrompt(
                    attempt_id=one.attempt_id,
                    workflow_digest=one.variant.workflow_digest,
                    models_digest=one.variant.models_digest,
                    waited=self.now - one.claimed,
                    running_for=None if one.started > self.now else self.now - one.started,
                    variant_id=one.variant.variant_id,
                    submitter=self.submissions[one.variant.variant_id].submitter,
                )
                for one in machine.prompts
            ]
            for name, machine in self.machines.items()
        }
        backends = [
            PoolBackend(backend_id=name, capabilities=NOTHING, works=one.works)
            for name, one in self.machines.items()
        ]
        snapshot = PoolSnapshot(
            variants,
            backends,
            estimates=Estimates(self.rows.values()),
            prompts=prompts,
            shares=Shares(self.used, self.weights),
        )
        self.schedule.renew(Backlog(snapshot, self.schedule.overlooked(self.now)))

    def _turn(self, variant: OpenVariant) -> Turn:
        submission = self.submissions[variant.variant_id]
        waited = self.now - self.served.get(variant.variant_id, submission.at)
        level = level_of(submission.priority, waited, self.aging)
        return Turn(level=level, submitter=submission.submitter)

    def _choose(self, ids: Iterator[int]) -> None:
        self._read()
        prompts = {name: one.prompts for name, one in self.machines.items() if one.works}
        free = {name: len(some) for name, some in prompts.items() if len(some) < 2}
        woken = self.schedule.reserve(free, self.now)
        for name in sorted(woken, key=lambda name: (free[name], name)):
            while len(prompts[name]) < 2 and (
                choice := self.schedule.choose(name, prompts=len(prompts[name]))
            ):
                self.schedule.confirm(choice)
                self.unsent[choice.variant.variant_id] -= 1
                prompts[name].append(Prompt(next(ids), choice.variant, self.now))
        for variant_id, is_bypassed in self.schedule.bypasses.items():
            self.bypassed.pop(variant_id, None)
            if is_bypassed:
                self.bypassed[variant_id] = self.now
        self.schedule.bypasses.clear()
        self._read()
        for attempt_id in self.schedule.recalls(
            [name for name, some in prompts.items() if not some]
        ):
            self._recall(attempt_id)

    def _recall(self, attempt_id: int) -> None:
        for machine in self.machines.values():
            for one in machine.prompts[1:]:
                if one.attempt_id == attempt_id:
                    machine.prompts.remove(one)
                    self.unsent[one.variant.variant_id] += 1
                    self.recalls += 1

    def _start(self, machine: Machine) -> None:
        if not machine.prompts or machine.prompts[0].started < NEVER:
            return
        one = machine.prompts[0]
        self.starts.append((one.variant.variant_id, self.now))
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
            for lost in (one, *machine.prompts):
                self.unsent[lost.variant.variant_id] += 1
            machine.prompts, machine.works = [], False
            return 0
        self.ends.append(self.now)
        submitter = self.submissions[one.variant.variant_id].submitter
        self.used[submitter] = self.used.get(submitter, 0.0) + one.ends - one.started
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
