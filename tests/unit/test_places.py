"""Places of groups in the queue, and the reasons for them."""

import datetime as dt
from typing import Any

import pytest

from jobgroups.domain.places import Place, place_reason
from jobgroups.domain.pool import BoundJobs, Needs, OpenVariant, PoolBackend, PoolSnapshot
from jobgroups.domain.schedule import Backlog, Schedule
from jobgroups.domain.turns import Shares, Turn
from tests.harness.simulated_farm import NOON, NOTHING

ANNA, BEN, CLEO = (Turn(submitter=name) for name in ("anna", "ben", "cleo"))


def waiting(number: int, turn: Turn = ANNA, **known: Any) -> OpenVariant:
    fields: dict[str, Any] = {
        "variant_id": number,
        "group_id": f"jg_{number}",
        "queued_at": NOON + dt.timedelta(minutes=number),
        "needs": Needs(("*",)),
        "unsent": 1,
        "turn": turn,
        "workflow_digest": "w",
    }
    return OpenVariant(**(fields | known))


def bound(number: int, turn: Turn) -> BoundJobs:
    return BoundJobs(
        variant_id=0,
        group_id=f"jg_{number}",
        queued_at=NOON + dt.timedelta(minutes=number),
        turn=turn,
        backend_id="gpu-1",
        jobs=1,
    )


def snapshot(*jobs: OpenVariant | BoundJobs, **used: float) -> PoolSnapshot:
    return PoolSnapshot(
        [one for one in jobs if isinstance(one, OpenVariant)],
        [PoolBackend(backend_id="gpu-1", capabilities=NOTHING)],
        bound_jobs=[one for one in jobs if isinstance(one, BoundJobs)],
        shares=Shares(used),
    )


def reasons(queue: PoolSnapshot, *, with_names: bool = True) -> list[str]:
    return [place_reason(one, queue.use, with_names=with_names) for one in queue.places.values()]


def test_places_are_the_order_in_which_a_backend_takes_the_groups() -> None:
    jobs = [
        waiting(1),
        waiting(2, BEN),
        bound(3, BEN._replace(level=60)),
        waiting(4, CLEO),
        waiting(5, BEN._replace(front=7.0)),
        bound(6, CLEO),
        waiting(7, ordered_at=NOON, unsent=2),
    ]
    queue = snapshot(*jobs, ben=100.0)
    schedule, taken = Schedule(), []
    schedule.renew(Backlog(queue))
    for _ in range(8):
        choice = schedule.choose("gpu-1", prompts=0)
        first = choice.bound_first if choice else schedule.bound_first("gpu-1")
        if choice and first:
            schedule.put_back(choice)
        if first:
            schedule.backlog.count_bound("gpu-1", first)
        taken.append(first or (choice.variant.group_id if choice else ""))
    assert list(queue.places) == list(dict.fromkeys(taken))
    assert [place.number for place in queue.places.values()] == [1, 2, 3, 4, 5, 6, 7]


def test_reason_names_levels_the_front_shares_and_own_groups() -> None:
    queue = snapshot(
        waiting(1, BEN._replace(level=60)),
        waiting(2, CLEO._replace(level=51)),
        waiting(3, CLEO._replace(front=7.0)),
        waiting(4, BEN),
        waiting(5, CLEO),
        waiting(6, BEN),
        cleo=50.0,
        ben=900.0,
    )
    assert dict(zip(queue.places, reasons(queue), strict=True)) == {
        "jg_1": "",
        "jg_2": "1 group has a higher priority",
        "jg_3": "2 groups have a higher priority",
        "jg_5": "2 groups have a higher priority and an operator brought 1 group to the front",
        "jg_4": "2 groups have a higher priority, an operator brought 1 group to the front and "
        "cleo has used less of the farm",
        "jg_6": "2 groups have a higher priority, an operator brought 1 group to the front and "
        "1 group of the same submitter comes first, in turns with cleo",
    }


def test_submitter_that_has_used_as_much_came_first() -> None:
    queue = snapshot(waiting(1), waiting(2, BEN), waiting(3, CLEO), cleo=1.0)
    assert reasons(queue) == ["", "anna comes first", "anna and ben have used less of the farm"]


def test_submitter_without_a_name_is_called_so() -> None:
    queue = snapshot(waiting(1, Turn()), waiting(2, BEN), waiting(3, BEN), ben=1.0)
    less, own = reasons(queue)[1:]
    assert less == "a submitter without a name has used less of the farm"
    assert own.endswith("in turns with a submitter without a name")


def test_nobody_is_named_where_people_see_their_own_work_alone() -> None:
    queue = snapshot(waiting(1), waiting(2, BEN), waiting(3, CLEO), waiting(4), cleo=1.0)
    said = reasons(queue, with_names=False)
    assert said[1:3] == [
        "1 other submitter comes first",
        "2 other submitters have used less of the farm",
    ]
    assert not any(name in " ".join(said) for name in ("anna", "ben", "cleo"))


@pytest.mark.parametrize(
    ("turns", "expected"),
    [
        ([ANNA, ANNA], [True, True]),
        ([ANNA, BEN, ANNA], [True, False, False]),
        ([ANNA, ANNA._replace(level=60)], [True, False]),
        ([Turn(), Turn()], [True, True]),
    ],
)
def test_what_comes_before_is_of_the_same_submitter_alone(
    turns: list[Turn], expected: list[bool]
) -> None:
    queue = snapshot(*(waiting(at, turn) for at, turn in enumerate(turns)))
    places: list[Place] = list(queue.places.values())
    assert [place.has_only_own_before for place in places] == expected


def test_start_is_that_of_the_backend_that_the_plan_gives() -> None:
    queue = snapshot(waiting(1), waiting(2))
    # The workflow has never run: the first job starts now, and what is behind it is not known.
    assert dict(queue.plan.starts) == {1: 0.0}
