from collections.abc import Mapping
from typing import Any

import pytest

from backends.simulator.faults import Fault, FaultError, Faults, parse_fault


@pytest.fixture
def faults() -> Faults:
    def ignore(_fault: Fault, _facts: Mapping[str, Any]) -> None:
        pass

    return Faults(ignore)


@pytest.mark.parametrize(
    ("options", "taken"),
    [({}, [1, 0, 0, 0, 0]), ({"count": 2, "after": 1}, [0, 1, 1, 0, 0]), ({"count": 0}, [1, 1, 1, 1, 1])],
)
def test_order_is_taken_so_often(faults: Faults, options: dict[str, int], taken: list[bool]) -> None:
    faults.inject("lose_answer", **options)
    assert [faults.take("lose_answer") is not None for _ in range(5)] == taken


@pytest.mark.parametrize(
    ("options", "other", "facts"),
    [
        ({"prompt_id": "p"}, {"prompt_id": "q"}, {"prompt_id": "p"}),
        ({"client_id": "c"}, {}, {"client_id": "c"}),
        (
            {"mark": "child-7"},
            {"extra_data": {"director": {"child": "child-8"}}},
            {"extra_data": {"director": {"child": "child-7"}}},
        ),
    ],
)
def test_order_waits_for_the_prompt_that_its_filter_selects(
    faults: Faults, options: dict[str, Any], other: dict[str, Any], facts: dict[str, Any]
) -> None:
    faults.inject("slow", **options)
    assert faults.take("slow", **other) is None
    assert faults.take("slow", **facts) is not None


def test_route_is_a_prefix_and_method_is_exact(faults: Faults) -> None:
    faults.inject("html", route="/history", method="get", count=0)
    assert faults.take_route(method="GET", path="/history/x")
    assert not faults.take_route(method="POST", path="/history")
    assert not faults.take_route(method="GET", path="/queue")


def test_actions_wait_for_their_moment_and_step(faults: Faults) -> None:
    faults.inject("drop_sockets", at="step", step=3)
    assert faults.take_actions("started") == []
    assert faults.take_actions("step", 2) == []
    assert [fault.name for fault in faults.take_actions("step", 3)] == ["drop_sockets"]


def test_withdrawn_orders_are_gone(faults: Faults) -> None:
    stuck = faults.inject("stuck")
    faults.inject("slow")
    faults.clear("stuck")
    assert not faults.is_ordered(stuck)
    assert faults.take("slow") is not None
    faults.clear()
    assert faults.report() == []


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("lose_anser", {}, "There is no fault 'lose_anser'. Known: crash"),
        ("slow", {"second": 1}, "Fault 'slow' has no option 'second'. Known: count"),
        ("slow", {"seconds": -1}, "seconds=-1 is no float from 0 up"),
        ("slow", {"count": 1.5j}, "is no int"),
        ("stuck", {"interruptible": "perhaps"}, "interruptible='perhaps' is no bool"),
        ("restart", {"at": "noon"}, "at is one of now, accepted"),
    ],
)
def test_impossible_orders_are_refused_with_the_possible_values(
    faults: Faults, name: str, options: dict[str, Any], told: str
) -> None:
    with pytest.raises(FaultError) as error:
        faults.inject(name, **options)
    assert told in str(error.value)
    assert faults.report() == []


def test_command_line_form_is_read() -> None:
    assert parse_fault("crash") == ("crash", {})
    parsed = parse_fault("node_error:type=OOM,message=CUDA out of memory")
    assert parsed == ("node_error", {"type": "OOM", "message": "CUDA out of memory"})
    with pytest.raises(FaultError, match="write NAME:key=value"):
        parse_fault("slow:5")
