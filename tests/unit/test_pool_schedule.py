"""The pool's order and choices, also on simulated farms against the ideal."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, strategies as st

from backends.capabilities import BackendCapabilities
from jobgroups.domain import plan, schedule as schedules
from jobgroups.domain.estimates import Estimates, TimingRow
from jobgroups.domain.pool import ActivePrompt, Needs, OpenVariant, PoolBackend, PoolSnapshot, fits
from jobgroups.domain.schedule import Backlog, Choice, Schedule
from jobgroups.domain.turns import order_key
from tests.harness.schedules import shortest_time
from tests.harness.simulated_farm import Machine, SimulatedFarm


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
    """Return the smallest time in which machines can end so many jobs, which take ``seconds`` at
    speed 1.
    """
    return shortest_time(jobs, [seconds / one.speed for one in machines.values()])


@pytest.mark.parametrize("noise", [0.0, 0.1])
@pytest.mark.parametrize("is_known", [True, False])
@pytest.mark.parametrize("behind", [[], [40], [3], [20, 20, 20]])
@pytest.mark.parametrize(("farm", "jobs", "seconds"), [(one_slow, 40, 1.0), (unequal, 42, 0.8)])
def test_a_line_ends_as_soon_as_it_can(
    farm: Callable[[], dict[str, Machine]],
    jobs: int,
    seconds: float,
    behind: list[int],
    is_known: bool,
    noise: float,
) -> None:
    """A machine of unknown speed takes one job: nothing ends before it."""
    machines, numbers = farm(), [jobs, *behind]
    run = SimulatedFarm(
        machines, [("w", "", one, seconds) for one in numbers], noise=noise, is_known=is_known
    )
    first_job = 0.0 if is_known else max(seconds / one.speed for one in machines.values())
    assert run.run() <= 1.05 * max(shortest(sum(numbers), seconds, machines), first_job)
    assert run.ended[0] <= 1.05 * max(shortest(jobs, seconds, machines), first_job)


@pytest.mark.parametrize(("groups", "jobs"), [(10, 20), (50, 4)])
def test_two_models_in_turn_are_loaded_few_times(groups: int, jobs: int) -> None:
    """Nothing is known at the start. In turn, the models would be loaded 30 or 150 times."""
    machines = unequal()
    farm = SimulatedFarm(
        machines, [(f"w{at % 2}", f"m{at % 2}", jobs, 4.0) for at in range(groups)], load=30.0
    )
    # The best: the fast machine loads both models, the others one; (800 + (4 + 4 + 2 + 1) * 30) /
    # 7, and one job.
    assert farm.run() <= 1.05 * (161.4 + 4.0)
    assert farm.loads <= 5


def test_a_job_waits_at_most_a_minute_longer_for_the_sake_of_models() -> None:
    machines = {"only": Machine(1)}
    farm = SimulatedFarm(
        machines, [("w0", "m0", 1, 4.0), ("w1", "m1", 2, 4.0), ("w0", "m0", 100, 4.0)], load=10.0
    )
    farm.run()
    # The first two groups are done in order: 14 s, then 60 s of jobs that need no load, then the
    # load.
    assert farm.ended[1] <= 14 + 60 + 4 + 10 + 2 * 4


def test_many_machines_share_models() -> None:
    """102 s is possible; the machines in turn take 1,224 s."""
    machines = {f"gpu-{at}": Machine((1, 2, 4)[at % 3]) for at in range(20)}
    farm = SimulatedFarm(
        machines, [(f"w{at % 5}", f"m{at % 5}", 12, 4.0) for at in range(60)], load=30.0
    )
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


def variant(
    number: int, unsent: int, needs: Needs = ANY, *, minute: int = 0, digest: str = "w"
) -> OpenVariant:
    return OpenVariant(
        variant_id=number,
        group_id=f"jg_{number}",
        number=0,
        queued_at=START_OF_QUEUE + dt.timedelta(minutes=minute),
        needs=needs,
        workflow_digest=digest,
        unsent=unsent,
    )


def scheduled(
    variants: Iterable[OpenVariant],
    machines: Iterable[PoolBackend],
    *,
    overlooked: Iterable[tuple[int, str]] = (),
    **known: Any,
) -> Schedule:
    schedule = Schedule()
    schedule.renew(Backlog(PoolSnapshot(variants, machines, **known), overlooked))
    return schedule


def chosen(schedule: Schedule, name: str, *, prompts: int = 0) -> Choice:
    choice = schedule.choose(name, prompts=prompts)
    assert choice is not None
    return choice


def takes(schedule: Schedule, name: str, *, prompts: int = 0) -> bool:
    """Return whether a backend has a job to take, which it gives back."""
    choice = schedule.choose(name, prompts=prompts)
    if choice is not None:
        schedule.put_back(choice)
    return choice is not None


@pytest.mark.parametrize(
    ("candidates", "required", "is_fit"),
    [
        (["*"], [], True),
        (["gpu-1"], [], True),
        (["tag:fast"], [], True),
        (["gpu-2", "tag:fast"], [], True),
        (["gpu-2"], [], False),
        (["fast"], [], False),
        (["*"], ["gpu:rtx-4090", "comfyui:0.3"], True),
        (["*"], ["gpu:3060", "fast"], False),
    ],
)
def test_a_backend_fits_by_name_or_tag_and_by_what_it_has(
    candidates: list[str], required: list[str], is_fit: bool
) -> None:
    needs, one = Needs(tuple(candidates), tuple(required)), machine("gpu-1", "fast")
    assert fits(needs, "gpu-1", one.capabilities) is is_fit
    assert takes(scheduled([variant(1, 1, needs)], [one]), "gpu-1") is is_fit


def test_the_oldest_variant_comes_first_whatever_its_id() -> None:
    schedule = scheduled([variant(1, 5, minute=2), variant(2, 5, minute=1)], [machine("gpu-1")])
    assert chosen(schedule, "gpu-1").variant.variant_id == 2


def test_a_backend_passes_over_what_it_cannot_take() -> None:
    others = Needs(("gpu-2",))
    schedule = scheduled([variant(1, 5, others), variant(2, 1, minute=1)], [machine("gpu-1")])
    assert chosen(schedule, "gpu-1").variant.variant_id == 2
    assert schedule.choose("gpu-1", prompts=0) is None


def timed(digest: str = "w", **seconds: float) -> Estimates:
    return Estimates(
        [TimingRow(digest, name, "", one, None, START_OF_QUEUE) for name, one in seconds.items()]
    )


def test_a_slow_machine_takes_the_last_jobs_only_if_it_ends_them_first() -> None:
    machines = [machine("fast"), machine("slow"), machine("away", works=False)]
    times = timed(fast=1.0, slow=4.0)
    prompts = {"fast": [ActivePrompt(attempt_id=1, workflow_digest="w", waited=1, running_for=0.5)]}

    def take(unsent: int, name: str) -> bool:
        schedule = scheduled([variant(1, unsent)], machines, estimates=times, prompts=prompts)
        return takes(schedule, name, prompts=len(prompts.get(name, ())))

    assert [take(unsent, "slow") for unsent in (3, 4, 9)] == [False, True, True]
    assert [take(unsent, "fast") for unsent in (1, 9)] == [True, True]


@pytest.mark.parametrize(("digest", "known_on"), [("w", "none"), ("", "none"), ("w", "gpu-2")])
def test_a_job_of_unknown_duration_does_not_wait_behind_another(digest: str, known_on: str) -> None:
    schedule = scheduled(
        [variant(1, 100, digest=digest), variant(2, 100, minute=1)],
        [machine("gpu-1"), machine("gpu-2")],
        estimates=timed(**{known_on: 1.0} if known_on != "none" else {}),
    )
    assert takes(schedule, "gpu-1")
    assert not takes(schedule, "gpu-1", prompts=1)


def test_a_backend_takes_what_comes_after_a_queue_too_long_to_be_planned(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(plan, "_MAX_SIZE", 10)
    machines = [machine(f"gpu-{at}", "a") for at in range(20)] + [machine("other", "b")]
    times = timed(**{one.backend_id: 1.0 for one in machines})
    needs = [Needs(("tag:a",)), Needs(("tag:b",))]
    # The models are loaded nowhere.
    variants = [
        variant(0, 1, needs[0]),
        replace(variant(1, 1, needs[1], minute=1), models_digest="m"),
    ]
    schedule = scheduled(variants, machines, estimates=times)
    assert chosen(schedule, "other").variant.variant_id == 1
    later = schedule.snapshot.ends(1)
    assert later is not None
    assert (later.first, later.last) == (2.0, 2.0)


def test_a_backend_that_does_not_take_its_jobs_is_left_out_of_the_plan_for_a_while() -> None:
    """The fast one belongs to another runner, which has no free slot for it."""
    machines, times = [machine("fast"), machine("slow")], timed(fast=1.0, slow=4.0)
    prompts = {"slow": [ActivePrompt(attempt_id=1, workflow_digest="w", waited=1, running_for=1)]}
    snapshot, schedule = (
        PoolSnapshot([variant(1, 1)], machines, estimates=times, prompts=prompts),
        Schedule(),
    )
    woken = {}
    for moment in (0.0, 5.0, 6.0, 34.0, 40.0, 41.0):
        schedule.renew(Backlog(snapshot, schedule.overlooked(moment)))
        woken[moment] = schedule.reserve({"slow": 1}, moment)
    assert woken == {
        0.0: set(),
        5.0: set(),
        6.0: {"slow"},
        34.0: {"slow"},
        40.0: {"slow"},
        41.0: set(),
    }


def test_a_backend_that_never_claims_its_reserved_job_is_left_out_of_the_plan() -> None:
    machines, times = [machine("fast"), machine("slow")], timed(fast=1.0, slow=4.0)
    snapshot, schedule = PoolSnapshot([variant(1, 1)], machines, estimates=times), Schedule()
    woken = []
    for moment in (0.0, 6.0):
        schedule.renew(Backlog(snapshot, schedule.overlooked(moment)))
        woken.append(schedule.reserve({"fast": 0, "slow": 0}, moment))
    assert woken == [{"fast"}, {"slow"}]


def test_a_backend_that_has_taken_a_job_is_not_left_out_of_the_plan() -> None:
    machines, times = [machine("fast"), machine("slow")], timed(fast=1.0, slow=4.0)
    schedule = scheduled([variant(1, 9)], machines, estimates=times)
    chosen(schedule, "fast")
    schedule.reserve({}, 0.0)
    assert schedule.overlooked(6.0) == {(1, "slow")}


def test_when_jobs_end_counts_the_queue_ahead() -> None:
    machines, times = [machine("fast"), machine("slow")], timed(fast=1.0, slow=4.0)
    snapshot = PoolSnapshot(
        [variant(1, 4), variant(2, 10_000, minute=1)], machines, estimates=times
    )
    first, second = snapshot.ends(1), snapshot.ends(2)
    assert first is not None
    assert second is not None
    assert (first.first, first.last) == (1.0, 4.0)
    assert second.first == 4.0
    assert second.last == pytest.approx(10_004 / 1.25, abs=4)
    assert second.of(5_000) == pytest.approx(second.last / 2, abs=4)
    even = PoolSnapshot([variant(1, 60)], machines, estimates=timed(fast=1.0, slow=1.0)).ends(1)
    assert even is not None
    assert (even.first, even.last) == (1.0, pytest.approx(30.0))
    unknown = PoolSnapshot(
        [variant(1, 4, digest="x"), variant(2, 4, minute=1)], machines, estimates=times
    )
    assert (unknown.ends(1), unknown.ends(2)) == (None, None)


def test_what_waits_for_a_backend_calls_it_by_its_name() -> None:
    named = {"localhost_1": "Fast one", "localhost_2": "Slow one"}
    machines = [replace(machine(key), name=name) for key, name in named.items()]
    times = timed(localhost_1=8.0, localhost_2=40.0)
    prompts = {
        one.backend_id: [ActivePrompt(attempt_id=at, workflow_digest="w", waited=2, running_for=2)]
        for at, one in enumerate(machines)
    }
    queued = [variant(1, 1)]
    busy = PoolSnapshot(queued, machines, estimates=times, prompts=prompts)
    assert busy.next_free(1) == "Fast one is expected free in 6 s"
    one_busy = PoolSnapshot(
        queued, machines, estimates=times, prompts={"localhost_1": prompts["localhost_1"]}
    )
    assert one_busy.next_free(1) == "Fast one is expected to end it sooner than Slow one"


@pytest.mark.parametrize(
    ("running_for", "seconds", "is_recalled"),
    [(4, 11, True), (4, 12.5, False), (39, 40, False), (41, 40, True)],
)
def test_a_prompt_is_recalled_for_an_earlier_end_or_behind_one_that_hangs(
    running_for: float, seconds: float, is_recalled: bool
) -> None:
    """After 4 s it would end in 16 s where it waits; a recall takes a second and must gain a fifth."""
    running = ActivePrompt(
        attempt_id=1, workflow_digest="w", waited=4, running_for=running_for, variant_id=1
    )
    waiting = ActivePrompt(attempt_id=2, workflow_digest="w", waited=4, variant_id=1)
    schedule = scheduled(
        [variant(1, 0)],
        [machine("busy"), machine("free")],
        estimates=timed(busy=10.0, free=seconds),
        prompts={"busy": [running, waiting]},
    )
    assert schedule.recalls(["free"]) == ([2] if is_recalled else [])
    assert schedule.recalls(["free"]) == []


@pytest.mark.parametrize(
    ("unsent", "size", "is_recalled"),
    [(0, 10, True), (4, 10, True), (6, 10, False), (9, 10, False), (4, 0, False)],
)
def test_a_prompt_is_recalled_before_the_faster_machine_is_idle(
    unsent: int, size: int, is_recalled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for 30 s. A machine that is busy for longer than a reading and a recall take gets
    nothing yet.
    """
    monkeypatch.setattr(plan, "_MAX_SIZE", size)
    prompts = {
        "fast": [ActivePrompt(attempt_id=1, workflow_digest="w", waited=1, running_for=0.0)],
        "slow": [
            ActivePrompt(attempt_id=2, workflow_digest="w", waited=1, running_for=0.0),
            ActivePrompt(attempt_id=3, workflow_digest="w", waited=1, variant_id=1),
        ],
    }
    machines = [machine("fast"), machine("slow")]
    schedule = scheduled(
        [variant(1, unsent)], machines, estimates=timed(fast=1.0, slow=15.0), prompts=prompts
    )
    schedule.refused.add(3)
    assert schedule.recalls([]) == []
    schedule = scheduled(
        [variant(1, unsent)], machines, estimates=timed(fast=1.0, slow=15.0), prompts=prompts
    )
    assert schedule.recalls([]) == ([3] if is_recalled else [])


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
        schedule = scheduled(
            [variant(1, 0)], [machine(name) for name in names], estimates=times, prompts=prompts
        )
        return len(schedule.recalls([]))

    assert [recalled(free) for free in (0, 1, 2, 90)] == [0, 1, 2, 32]


@pytest.mark.parametrize("replanned", [0, 10])
def test_a_backend_that_found_none_does_not_keep_the_job_from_others(
    replanned: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedules, "_SHORT_PLAN", replanned)
    times = timed(**{"gpu-1": 1.0, "gpu-2": 2.0})
    schedule = scheduled([variant(1, 1)], [machine("gpu-1"), machine("gpu-2")], estimates=times)
    assert not takes(schedule, "gpu-2")
    choice = chosen(schedule, "gpu-1")
    assert not takes(schedule, "gpu-2")
    schedule.note_in_vain(choice, 1.0)
    assert not takes(schedule, "gpu-1")
    assert takes(schedule, "gpu-2")
    assert schedule.backlog.has_leftover
    assert schedule.leftover == {1}


def test_a_backend_that_found_none_comes_last_with_the_next_snapshot() -> None:
    """It may be the only one that cannot take the job."""
    machines = [machine("gpu-1"), machine("gpu-2")]
    schedule = scheduled([variant(1, 1)], machines)
    schedule.note_in_vain(chosen(schedule, "gpu-1"), 1.0)
    schedule.renew(Backlog(PoolSnapshot([variant(1, 1)], machines)))
    assert not schedule.backlog.has_leftover
    assert schedule.reserve({"gpu-1": 0, "gpu-2": 0}, 2.0) == {"gpu-2"}


def test_one_new_job_wakes_one_backend() -> None:
    machines = [machine(f"gpu-{number}") for number in range(1_000)]
    schedule = scheduled([variant(1, 1)], machines)
    assert schedule.reserve({one.backend_id: 0 for one in machines}, 0.0) == {"gpu-0"}


def test_a_reserved_job_is_kept_for_its_backend_until_it_is_released() -> None:
    schedule = scheduled([variant(1, 1)], [machine("gpu-1"), machine("gpu-2")])
    free = {"gpu-1": 0, "gpu-2": 0}
    assert schedule.reserve(free, 0.0) == {"gpu-1"}
    assert not takes(schedule, "gpu-2")
    schedule.release("gpu-1")
    choice = chosen(schedule, "gpu-2")
    assert schedule.reserve(free, 1.0) == set()
    schedule.put_back(choice)
    assert schedule.reserve(free, 2.0) == {"gpu-1"}
    # The reservation ends with the next dispatch or snapshot.
    assert schedule.reserve({"gpu-2": 0}, 3.0) == {"gpu-2"}
    schedule.renew(Backlog(schedule.snapshot))
    assert takes(schedule, "gpu-1")


def test_a_job_is_chosen_again_for_a_backend_that_has_another_prompt_meanwhile() -> None:
    """Behind a prompt, a backend of unknown speed takes nothing."""
    schedule = scheduled([variant(1, 1)], [machine("gpu-1"), machine("gpu-2")])
    assert schedule.reserve({"gpu-1": 0}, 0.0) == {"gpu-1"}
    assert schedule.choose("gpu-1", prompts=1) is None
    assert takes(schedule, "gpu-2")


def test_a_reservation_ends_when_its_backend_finds_no_such_job() -> None:
    schedule = scheduled([variant(1, 2)], [machine("gpu-1"), machine("gpu-2")])
    choice = chosen(schedule, "gpu-1")
    assert schedule.reserve({"gpu-1": 0}, 0.0) == {"gpu-1"}
    schedule.note_in_vain(choice, 0.0)
    assert schedule.choose("gpu-1", prompts=0) is None
    assert [chosen(schedule, "gpu-2").variant.variant_id for _ in "ab"] == [1, 1]


def bypasses(schedule: Schedule) -> dict[int, bool]:
    found = schedule.bypasses.copy()
    schedule.bypasses.clear()
    return found


def with_models(number: int, models: str, *, bypassed_for: float | None = None) -> OpenVariant:
    return replace(
        variant(number, 1, minute=number), models_digest=models, bypassed_for=bypassed_for
    )


def test_a_bypass_by_a_claim_during_a_reading_is_noted_once() -> None:
    row = TimingRow("w", "gpu-1", "m2", 1.0, None, START_OF_QUEUE)

    def snapshot(bypassed_for: float | None) -> PoolSnapshot:
        variants = [with_models(1, "m1", bypassed_for=bypassed_for), with_models(2, "m2")]
        return PoolSnapshot(variants, [machine("gpu-1")], estimates=Estimates([row]))

    schedule = Schedule()
    schedule.renew(Backlog(snapshot(None)))
    choice = chosen(schedule, "gpu-1")
    assert choice.variant.variant_id == 2
    assert bypasses(schedule) == {}
    schedule.renew(Backlog(snapshot(None)))
    schedule.confirm(choice)
    schedule.renew(Backlog(snapshot(None)))
    assert bypasses(schedule) == {1: True}
    schedule.renew(Backlog(snapshot(1.0)))
    schedule.confirm(chosen(schedule, "gpu-1"))
    assert bypasses(schedule) == {}
    schedule.renew(Backlog(snapshot(60.0)))
    choice = chosen(schedule, "gpu-1")
    assert choice.variant.variant_id == 1
    schedule.confirm(choice)
    assert bypasses(schedule) == {1: False}


def test_the_plan_is_made_once_for_each_snapshot_and_only_when_it_is_needed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plans: list[plan.Plan] = []

    class CountedPlan(plan.Plan):
        def __init__(self, *known: Any) -> None:
            super().__init__(*known)
            plans.append(self)

    monkeypatch.setattr(schedules, "Plan", CountedPlan)
    prompts = {
        "gpu-1": [ActivePrompt(attempt_id=1, workflow_digest="w", waited=1, running_for=0.0)]
    }
    machines, times = [machine("gpu-1"), machine("gpu-2", works=False)], timed(**{"gpu-1": 1.0})
    for unsent, variants in ((0, 9), (2, 1)):
        some = [variant(number, unsent) for number in range(variants)]
        schedule = scheduled(some, machines, estimates=times, prompts=prompts)
        schedule.reserve({}, 0.0)
        assert schedule.recalls([]) == []
        assert plans == []
    assert schedule.reserve({"gpu-1": 1}, 0.0) == {"gpu-1"}
    chosen(schedule, "gpu-1", prompts=1)
    schedule.reserve({"gpu-1": 1}, 0.0)
    assert len(plans) == 1
    monkeypatch.setattr(schedules, "_SHORT_PLAN", 0)
    Backlog(schedule.snapshot)
    assert len(plans) == 2


def test_a_variant_is_unplaced_while_no_candidate_may_take_it() -> None:
    gone = machine("gpu-1", works=False, is_possible=False)
    paused = machine("gpu-2", works=False)
    needs = Needs(("gpu-1",))
    assert PoolSnapshot([variant(1, 1, needs)], [gone, paused]).unplaced() == {1}
    assert PoolSnapshot([variant(1, 1)], [gone, paused]).unplaced() == set()
    assert PoolSnapshot([variant(1, 0, needs)], [gone]).unplaced() == set()
    assert PoolSnapshot([variant(1, 1)], []).unplaced() == {1}


def test_a_backend_that_is_excluded_passes_over_the_variant_and_others_count_without_it() -> None:
    both = [machine("gpu-1"), machine("gpu-2")]
    needs = Needs(("*",), excluded=frozenset({"gpu-1"}))
    schedule = scheduled([variant(1, 5, needs), variant(2, 1, minute=1)], both)
    choices = [chosen(schedule, name) for name in ("gpu-1", "gpu-2")]
    assert [one.variant.variant_id for one in choices] == [2, 1]
    assert [one.has_rival for one in choices] == [True, False]
    assert not fits(needs, "gpu-1", both[0].capabilities)
    nowhere = Needs(("*",), excluded=frozenset({"gpu-1", "gpu-2"}))
    assert PoolSnapshot([variant(1, 5, nowhere)], both).unplaced() == {1}


def test_jobs_ahead_are_those_that_wait_for_the_same_backends() -> None:
    first, second = Needs(("gpu-1",)), Needs(("gpu-2",))
    snapshot = PoolSnapshot(
        [variant(1, 3, first), variant(2, 4, second), variant(3, 5, minute=1)],
        [machine("gpu-1"), machine("gpu-2")],
    )
    assert [snapshot.ahead_of(number) for number in (1, 2, 3)] == [0, 0, 7]


needs_of = st.lists(st.sampled_from(["a", "b", "c", "tag:x"]), min_size=1, unique=True).map(
    lambda names: Needs(tuple(names))
)


@given(
    st.lists(st.tuples(needs_of, st.integers(0, 4), st.integers(0, 3)), max_size=6),
    st.lists(st.sampled_from("abc"), max_size=40),
)
def test_no_job_is_taken_twice_or_by_an_unfit_backend(
    spec: list[tuple[Needs, int, int]], asks: list[str]
) -> None:
    variants = [
        variant(at, unsent, needs, minute=minute) for at, (needs, unsent, minute) in enumerate(spec)
    ]
    jobs = {one.variant_id: one.unsent for one in variants}
    machines = {"a": machine("a"), "b": machine("b", "x"), "c": machine("c")}
    schedule = scheduled(variants, machines.values())
    for name in asks:
        choice = schedule.choose(name, prompts=0)
        able = [
            one
            for one in variants
            if jobs[one.variant_id] and fits(one.needs, name, machines[name].capabilities)
        ]
        assert (choice is None) is (not able)
        if choice is not None:
            assert choice.variant is min(able, key=order_key)
            jobs[choice.variant.variant_id] -= 1
    assert min(jobs.values(), default=0) >= 0
