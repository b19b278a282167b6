"""Levels, shares and own orders, on simulated farms of unequal machines."""

from __future__ import annotations

import datetime as dt
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import pytest
from hypothesis import given, strategies as st

from jobgroups.domain.estimates import Estimates, TimingRow
from jobgroups.domain.pool import BoundJobs, Needs, OpenVariant, PoolBackend, PoolSnapshot
from jobgroups.domain.schedule import Backlog, Schedule
from jobgroups.domain.turns import (
    Shares,
    Turn,
    TurnOrder,
    WaitingJobs,
    interleave,
    level_of,
    order_key,
)
from tests.harness.simulated_farm import NOON, NOTHING, Machine, SimulatedFarm, Submission

#: When the groups of random farms ended under first come, first served, of one submitter: seconds
#: of each group. Recorded before there were levels and shares.
FIRST_COME: Final[Sequence[tuple[int, Sequence[float]]]] = [
    (0, [8.036, 10.16, 15.733, 30.09, 30.591]),
    (1, [31.969, 38.618]),
    (2, [23.98, 31.782, 53.831, 132.861]),
    (3, [37.842, 17.678, 48.473, 22.803]),
    (4, [17.825, 21.752, 21.461, 24.95, 23.803]),
    (5, [11.854, 13.695, 15.019, 15.502, 16.043, 16.743]),
    (6, [19.552, 22.815, 30.688, 42.246, 39.164, 47.021, 63.361]),
    (7, [32.924, 13.577]),
]


def unequal(number: int = 3) -> dict[str, Machine]:
    return {f"gpu-{at}": Machine((1, 2, 4)[at % 3]) for at in range(number)}


@pytest.mark.parametrize(("seed", "ends"), FIRST_COME)
def test_jobs_of_one_submitter_and_level_end_as_under_first_come_first_served(
    seed: int, ends: Sequence[float]
) -> None:
    dice = random.Random(seed)
    machines = {f"gpu-{at}": Machine(dice.choice((1, 2, 4))) for at in range(dice.randint(2, 6))}
    has_models = seed % 2
    work = [
        (
            f"w{at % 3}",
            f"m{at % 2}" if has_models else "",
            dice.randint(1, 40),
            (4.0, 1.0, 2.5)[at % 3],
        )
        for at in range(dice.randint(2, 8))
    ]
    farm = SimulatedFarm(machines, work, load=10.0 * has_models, noise=0.1)
    farm.run()
    assert [farm.ended[at] for at in sorted(farm.ended)] == pytest.approx(ends, abs=0.001)


def use_when_each_has(farm: SimulatedFarm, jobs: int) -> dict[str, float]:
    """Return the seconds of machines that submitters have used when each has so many started jobs."""
    started = Counter[str]()
    while min(started[one.submitter] for one in farm.submissions) < jobs:
        farm.run(until=farm.now + 20.0)
        started = Counter(farm.submissions[number].submitter for number, _ in farm.starts)
    use = Counter(farm.used)
    for machine in farm.machines.values():
        for prompt in machine.prompts:
            seconds = farm.seconds[prompt.variant.workflow_digest] / machine.speed
            use[farm.submissions[prompt.variant.variant_id].submitter] += seconds
    return use


@pytest.mark.parametrize(
    ("weights", "noise", "load"),
    [({}, 0.3, 0.0), ({"ben": 2.0}, 0.3, 0.0), ({"cleo": 2.0}, 0.0, 10.0)],
    ids=["equal", "double", "a model for each"],
)
def test_submitters_with_enough_work_get_shares_by_their_weights(
    weights: Mapping[str, float], noise: float, load: float
) -> None:
    """Anna came first, Ben has many small groups, and the jobs of Cleo take twice as long."""
    submissions = [
        Submission("anna"),
        *(Submission("ben", at=float(at)) for at in range(12)),
        Submission("cleo", at=1.0),
    ]
    models = {"anna": "m0", "ben": "m1", "cleo": "m2"} if load else {}
    seconds = {"anna": 4.0, "ben": 3.0, "cleo": 6.0}
    jobs = {"anna": 250, "ben": 50, "cleo": 300}
    work = [
        (
            f"w-{one.submitter}",
            models.get(one.submitter, ""),
            jobs[one.submitter],
            seconds[one.submitter],
        )
        for one in submissions
    ]
    farm = SimulatedFarm(
        unequal(), work, load=load, noise=noise, submissions=submissions, weights=weights
    )
    use = use_when_each_has(farm, 100)
    shares = {name: used / weights.get(name, 1.0) for name, used in use.items()}
    assert max(shares.values()) <= 1.05 * min(shares.values())


@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_four_jobs_behind_ten_thousand_start_at_once_and_end_within_a_fair_share(
    noise: float,
) -> None:
    machines = {f"gpu-{at}": Machine(1) for at in range(3)}
    work = [("w-anna", "", 10_000, 5.0), ("w-ben", "", 4, 5.0)]
    submissions = [Submission("anna"), Submission("ben", at=60.0)]
    farm = SimulatedFarm(machines, work, noise=noise, is_known=True, submissions=submissions)
    farm.run(until=100.0)
    starts = [at for variant_id, at in farm.starts if variant_id == 1]
    # One prompt runs and one waits at each machine: the next slot that becomes free is Ben's, and
    # starts behind what waits there.
    longest = 5.0 * (1 + noise)
    assert starts[0] <= 60 + 2 * longest + 1
    # With half of the farm he has 1.5 machines: the last of four jobs ends within four of them.
    assert farm.ended[1] <= starts[0] + 4 * longest / 1.5 + longest


def test_group_of_a_higher_level_starts_before_the_others_of_its_submitter() -> None:
    submissions = [Submission("anna"), Submission("anna", priority=51, at=20.0)]
    farm = SimulatedFarm(
        unequal(), [("w", "", 1000, 4.0), ("w", "", 6, 4.0)], submissions=submissions
    )
    farm.run(until=45.0)
    assert farm.ended[1] <= 20 + 2 * 4 + 2 * 4


def test_no_group_waits_longer_than_its_level_allows() -> None:
    """New groups of level 50 come all the time and fill the farm; one of level 46 rises."""
    submissions = [
        *(Submission("anna", at=float(at)) for at in range(0, 90, 6)),
        Submission("ben", priority=46, at=20.0),
    ]
    # Ten seconds of work at speed 1 come for each second, and the machines do seven.
    work = [*(("w", "", 15, 4.0) for _ in submissions[:-1]), ("w", "", 1, 4.0)]
    ben = len(work) - 1
    without = SimulatedFarm(unequal(), work, is_known=True, submissions=submissions)
    without.run(until=90.0)
    assert ben not in without.ended
    farm = SimulatedFarm(unequal(), work, is_known=True, submissions=submissions, aging=10.0)
    farm.run(until=90.0)
    # It is four levels behind, and Anna's own groups rise too, but for those that have a job.
    assert farm.ended[ben] <= 20 + 4 * 10 + 2 * 4


@pytest.mark.parametrize(
    ("priority", "waited", "aging", "level"),
    [(50, 599, 600, 50), (50, 600, 600, 51), (50, 9999, 0, 50), (99, 9999, 60, 100), (5, -9, 1, 5)],
)
def test_level_rises_with_the_time_that_a_group_waits(
    priority: int, waited: float, aging: float, level: int
) -> None:
    assert level_of(priority, waited, aging) == level


def variant(number: int, jobs: int, **known: Any) -> OpenVariant:
    defaults: dict[str, Any] = {
        "group_id": f"jg_{number:03}",
        "queued_at": NOON + dt.timedelta(minutes=number),
        "needs": Needs(("*",)),
        "workflow_digest": "w",
    }
    return OpenVariant(variant_id=number, unsent=jobs, **(defaults | known))


def bound(number: int, jobs: int, **known: Any) -> BoundJobs:
    return BoundJobs(
        variant_id=0,
        group_id=f"jg_{number:03}",
        queued_at=NOON + dt.timedelta(minutes=number),
        workflow_digest="w",
        backend_id="gpu-1",
        jobs=jobs,
        **known,
    )


def scheduled(variants: Sequence[OpenVariant], **known: Any) -> Schedule:
    schedule = Schedule()
    machines = [PoolBackend(backend_id=name, capabilities=NOTHING) for name in ("gpu-1", "gpu-2")]
    schedule.renew(Backlog(PoolSnapshot(variants, machines, **known)))
    return schedule


def test_backend_takes_the_front_of_a_level_before_shares_and_own_orders() -> None:
    anna, ben = Turn(submitter="anna"), Turn(submitter="ben")
    variants = [
        variant(1, 1, turn=anna),
        variant(2, 1, turn=anna, ordered_at=NOON),
        variant(3, 1, turn=ben._replace(front=5.0)),
        variant(4, 1, turn=anna._replace(front=9.0)),
        variant(5, 1, turn=ben),
        variant(6, 1, turn=ben._replace(level=51)),
        variant(7, 1, turn=ben._replace(level=49, front=99.0)),
    ]
    schedule = scheduled(variants, shares=Shares({"ben": 1000.0}))
    taken = [schedule.choose("gpu-1", prompts=0) for _ in variants]
    assert [choice and choice.variant.variant_id for choice in taken] == [6, 4, 3, 2, 1, 5, 7]


def test_bound_jobs_and_those_of_the_pool_follow_one_order() -> None:
    anna, ben = Turn(submitter="anna"), Turn(submitter="ben")
    late_and_high = bound(9, 1, turn=ben._replace(level=60))
    schedule = scheduled(
        [variant(2, 5, turn=anna)], bound_jobs=[bound(1, 1, turn=ben), late_and_high]
    )
    choice = schedule.choose("gpu-1", prompts=0)
    assert choice is not None
    assert choice.bound_first == "jg_009"
    schedule.put_back(choice)
    schedule.backlog.count_bound("gpu-1", "jg_009")
    # Ben has used the farm now: Anna's job of the pool comes before his older bound one.
    choice = schedule.choose("gpu-1", prompts=0)
    assert choice is not None
    assert choice.bound_first == ""
    assert choice.variant.variant_id == 2
    other = schedule.choose("gpu-2", prompts=0)
    assert other is not None
    assert other.bound_first == ""


def test_backend_without_a_job_of_the_pool_takes_bound_jobs_in_the_same_order() -> None:
    anna, ben = Turn(submitter="anna"), Turn(submitter="ben")
    schedule = scheduled(
        [],
        bound_jobs=[bound(1, 2, turn=anna), bound(2, 2, turn=ben)],
        shares=Shares({"anna": 10.0}),
    )
    taken = []
    for _ in range(4):
        taken.append(schedule.bound_first("gpu-1"))
        schedule.backlog.count_bound("gpu-1", taken[-1])
    assert taken == ["jg_002", "jg_001", "jg_002", "jg_001"]
    assert schedule.bound_first("gpu-1") == ""


turns = st.builds(
    Turn, st.integers(49, 51), st.sampled_from([0.0, 7.0]), st.sampled_from(["", "a", "b", "c"])
)


@given(st.lists(st.tuples(turns, st.integers(1, 9), st.floats(0.1, 60)), max_size=12))
def test_interleaved_jobs_are_all_jobs_in_the_order_of_levels(
    spec: list[tuple[Turn, int, float]],
) -> None:
    queues: dict[Turn, list[tuple[WaitingJobs, int, float]]] = {}
    for at, (turn, jobs, seconds) in enumerate(spec):
        queues.setdefault(turn, []).append((variant(at, jobs, turn=turn), jobs, seconds))
    order = list(interleave(queues, {"a": 5.0}, Shares()))
    for at, (_, jobs, _) in enumerate(spec):
        assert sum(number for one, number in order if one.variant_id == at) == jobs
    assert sorted(order, key=lambda pair: pair[0].turn.rank) == order
    for turn in queues:
        of_turn = [one for one, _ in order if one.turn == turn]
        assert sorted(of_turn, key=order_key) == of_turn


@given(
    st.lists(turns, min_size=1, max_size=8, unique=True),
    st.lists(st.tuples(st.sampled_from(["", "a", "b", "c", "gone"]), st.floats(-50, 50))),
)
def test_order_of_turns_follows_the_use(some: list[Turn], charges: list[tuple[str, float]]) -> None:
    first = {turn: variant(at, 1, turn=turn) for at, turn in enumerate(some)}
    shares = Shares({"a": 3.0}, {"b": 2.0})
    order = TurnOrder(first, shares.use([]), shares)
    use = {"a": 3.0}
    for submitter, seconds in charges:
        order.charge(submitter, seconds)
        use[submitter] = use.get(submitter, 0.0) + seconds / (2.0 if submitter == "b" else 1.0)
    expected = sorted(
        some, key=lambda turn: (turn.rank, use.get(turn.submitter, 0.0), order_key(first[turn]))
    )
    assert list(order) == expected
    assert [order.place(turn) for turn in order] == list(range(len(some)))


def numbers_taken(schedule: Schedule, backend_id: str, count: int) -> list[int | None]:
    taken = [schedule.choose(backend_id, prompts=0) for _ in range(count)]
    return [choice and choice.variant.variant_id for choice in taken]


def test_backends_take_what_comes_behind_a_limit_and_more_when_a_prompt_has_ended() -> None:
    limits = {"limits": ("jg_001", "@anna")}
    variants = [variant(1, 9, **limits), variant(2, 9, limits=("@anna",)), variant(3, 9)]
    schedule = scheduled(variants, rooms={"jg_001": 1, "@anna": 2})
    assert numbers_taken(schedule, "gpu-1", 4) == [1, 2, 3, 3]
    assert schedule.backlog.has_leftover
    schedule.backlog.note_ended("jg_001")
    assert numbers_taken(schedule, "gpu-2", 2) == [1, 3]


def test_limit_holds_for_bound_jobs_and_the_plan() -> None:
    row = TimingRow("w", "gpu-1", "", 10.0, None, NOON)
    known = Estimates([row, replace(row, backend_id="gpu-2")])
    schedule = scheduled(
        [variant(1, 40, limits=("jg_001",)), variant(2, 1)],
        bound_jobs=[bound(9, 2, limits=("jg_000",))],
        rooms={"jg_000": 0, "jg_001": 1},
        estimates=known,
    )
    assert schedule.bound_first("gpu-1") == ""
    # The plan has one of the forty jobs: the job behind it is not left to the end of the queue.
    assert numbers_taken(schedule, "gpu-1", 1) == [1]
    assert numbers_taken(schedule, "gpu-2", 2) == [2, None]
    assert schedule.snapshot.ends(1) is None
    assert schedule.snapshot.ends(2) is not None
