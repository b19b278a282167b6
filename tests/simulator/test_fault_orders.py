"""Orders of faults: what may be ordered, and which chance they take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from backends.simulator.faults import KINDS, Fault, FaultError, Faults, fault_kinds, parse_fault


def ignore(_fault: Fault, _facts: Mapping[str, Any]) -> None:
    """Nobody watches."""


@pytest.fixture
def faults() -> Faults:
    return Faults(ignore)


def test_order_is_taken_once_by_default(faults: Faults) -> None:
    faults.inject("lose_answer")
    assert faults.take("lose_answer") is not None
    assert faults.take("lose_answer") is None


def test_count_and_after_are_kept(faults: Faults) -> None:
    faults.inject("lose_answer", count=2, after=1)
    taken = [faults.take("lose_answer") is not None for _ in range(5)]
    assert taken == [False, True, True, False, False]


def test_count_0_is_for_ever(faults: Faults) -> None:
    faults.inject("empty_history", count=0)
    assert all(faults.take("empty_history") for _ in range(50))


@pytest.mark.parametrize(
    ("options", "facts", "hit"),
    [
        ({"prompt_id": "p"}, {"prompt_id": "p"}, True),
        ({"prompt_id": "p"}, {"prompt_id": "q"}, False),
        ({"client_id": "c"}, {"client_id": "c"}, True),
        ({"client_id": "c"}, {}, False),
        ({"mark": "child-7"}, {"extra_data": {"director": {"child": "child-7"}}}, True),
        ({"mark": "child-7"}, {"extra_data": {"director": {"child": "child-8"}}}, False),
    ],
)
def test_filters_select_the_prompt(faults: Faults, options: dict[str, Any], facts: dict[str, Any], hit: bool) -> None:
    faults.inject("slow", **options)
    assert (faults.take("slow", **facts) is not None) is hit


def test_filtered_chance_does_not_count(faults: Faults) -> None:
    faults.inject("slow", prompt_id="p")
    assert faults.take("slow", prompt_id="q") is None
    assert faults.take("slow", prompt_id="p") is not None


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
        ("lose_anser", {}, "There is no fault 'lose_anser'. Known: clear_history"),
        ("slow", {"second": 1}, "Fault 'slow' has no option 'second'. Known: count"),
        ("slow", {"seconds": "long"}, "seconds='long' is no float from 0 up"),
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
    parsed = parse_fault("node_error:type=torch.OutOfMemoryError,message=CUDA out of memory")
    assert parsed == ("node_error", {"type": "torch.OutOfMemoryError", "message": "CUDA out of memory"})
    with pytest.raises(FaultError, match="write NAME:key=value"):
        parse_fault("slow:5")


def test_every_kind_has_a_help_text() -> None:
    assert all(kind["help"] for kind in fault_kinds().values())
    assert set(fault_kinds()) == set(KINDS)
