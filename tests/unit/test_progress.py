"""Progress of a prompt, and the status of a group that follows from its jobs."""

import tomllib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations_with_replacement, product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from backends.comfyui.protocol import NodeState
from jobgroups.domain.states import CHILD_FINAL, ChildStatus, Counts, GroupStatus, group_status
from jobgroups.workflow.progress import CEILING, MAX_WEIGHT, ProgressTracker, node_weights, position
from tests.harness.graphs import node


@dataclass(frozen=True, slots=True)
class State:
    value: float = 0.0
    max: float = 1.0
    state: str = "running"
    display_node_id: str | None = None
    activity: Any = None


_DATA = tomllib.loads(Path(__file__).with_name("progress.toml").read_text())
WORKFLOWS: dict[str, dict[str, Any]] = _DATA["workflows"]
LONE_SAMPLER, TEXT_TO_IMAGE = WORKFLOWS["lone_sampler"], WORKFLOWS["text_to_image"]
CASES: dict[str, dict[str, Any]] = _DATA["cases"]
_SHORT = {"run": "0/1", "done": "1/1."}


def send(tracker: ProgressTracker, frames: str) -> ProgressTracker:
    """Send frames to a tracker: ``3`` executing, ``3=13/20`` progress, ``3!`` executed, ``~4,5``
    cached.

    ``[4:done,3:2/4,x:2/2.>1]`` is a state frame: a trailing dot means finished, ``>1`` the
    displayed node.
    """
    for frame in frames.split():
        if frame[0] == "[":
            pairs = (entry.split(":") for entry in frame[1:-1].split(","))
            tracker.progress_state({key: state(text) for key, text in pairs})
        elif frame[0] == "~":
            tracker.cached(frame[1:].split(","))
        elif frame[-1] == "!":
            tracker.executed(frame[:-1])
        elif "=" in frame:
            key, _, steps = frame.partition("=")
            value, _, top = steps.partition("/")
            tracker.progress(key, int(value), int(top))
        else:
            tracker.executing(None if frame == "-" else frame)
    return tracker


def state(text: str) -> State:
    steps, _, parent = text.partition(">")
    value, _, top = _SHORT.get(steps, steps).partition("/")
    finished = "finished" if top.endswith(".") else "running"
    return State(int(value), int(top.rstrip(".")), finished, parent or None)


def steps_of(tracker: ProgressTracker) -> tuple[str | None, int, int]:
    return tracker.current_step, tracker.steps_completed, tracker.steps_total


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_progress_after_frames(case: dict[str, Any]) -> None:
    tracker = send(ProgressTracker(WORKFLOWS[case["workflow"]]), case["frames"])
    *current, completed, total = case["steps"]
    assert tracker.percent == pytest.approx(case["percent"], abs=1e-9)
    assert steps_of(tracker) == (current[0] if current else None, completed, total)


def test_run_with_both_kinds_of_frames_advances_by_the_weights() -> None:
    tracker = ProgressTracker(TEXT_TO_IMAGE)
    seen = []
    for key in ("4", "5", "7", "6", "3", "8", "9"):
        for step in range(1, 5) if key == "3" else [1]:
            steps = f"{step}/4" if key == "3" else "0/1"
            seen.append(send(tracker, f"[{key}:{steps}] {key} {key}={steps}").percent)
        seen.append(send(tracker, f"[{key}:done]").percent)
    sampled = [50.0, 60.0, 70.0, 80.0, 80.0]
    assert seen == [0, 10, 10, 20, 20, 30, 30, 40, *sampled, 80, 90, 90, CEILING]
    assert steps_of(send(tracker, "-")) == ("SaveImage", 1, 1)


@pytest.mark.parametrize(
    ("workflow", "weights"),
    [
        (LONE_SAMPLER, {"3": 20}),
        ({"1": node(steps=10**400)}, {"1": MAX_WEIGHT}),
        *(
            ({one: node(*of[:-1], **of[-1]) for one, of in nodes.items()}, found)
            for nodes, found in [
                [{"1": [{}]}, {"1": 1}],
                [{"1": [{"steps": 0}]}, {"1": 1}],
                [{"1": [{"steps": -5}]}, {"1": 1}],
                [{"1": [{"steps": True}]}, {"1": 1}],
                [{"1": [{"steps": "20"}]}, {"1": 1}],
                [{"1": [{"steps": 20, "start_at_step": 5, "end_at_step": 15}]}, {"1": 10}],
                [{"1": [{"steps": 20, "start_at_step": 12, "end_at_step": 10000}]}, {"1": 8}],
                [
                    {"1": [{"steps": ["2", 0]}], "2": ["PrimitiveInt", {"value": 9}]},
                    {"1": 9, "2": 1},
                ],
                [{"1": [{"steps": ["2", 0]}]}, {"1": 1}],
                [
                    {
                        "1": ["SamplerCustomAdvanced", {"sigmas": ["2", 1]}],
                        "2": ["SplitSigmas", {"sigmas": ["3", 0], "step": 4}],
                        "3": ["BasicScheduler", {"steps": 30}],
                    },
                    {"1": 30, "2": 1, "3": 1},
                ],
                [{"1": [{"sigmas": ["2", 0]}], "2": [{"sigmas": ["2", 0]}]}, {"1": 1, "2": 1}],
            ]
        ),
    ],
)
def test_node_weight_is_its_expected_steps(
    workflow: dict[str, Any], weights: dict[str, int]
) -> None:
    assert node_weights(workflow) == weights


def test_huge_number_of_steps_does_not_hide_other_nodes() -> None:
    workflow = {"1": node(steps=10**400), "2": node(images=["1", 0])}
    assert 99 < send(ProgressTracker(workflow), "1!").percent <= CEILING


@pytest.mark.parametrize(
    ("value", "maximum", "steps"),
    [
        (5, 0, [1, 1]),
        (-5, 20, [0, 20]),
        (5, -1, [1, 1]),
        (float("nan"), 20, [0, 20]),
        (5, float("nan"), [1, 1]),
        (float("inf"), float("inf"), [0, 1]),
        (0.0, 1.0, [0, 1]),
    ],
)
def test_invalid_numbers_in_a_frame_are_ignored(
    value: float, maximum: float, steps: list[int]
) -> None:
    tracker = ProgressTracker(LONE_SAMPLER)
    tracker.progress("3", value, maximum)
    assert 0.0 <= tracker.percent <= CEILING
    assert [tracker.steps_completed, tracker.steps_total] == steps
    tracker.progress("3", 19, 20)
    assert tracker.percent >= 95.0


node_ids = st.sampled_from([*TEXT_TO_IMAGE, "3.0.0.1", "3.0.0.2", "77"])
numbers = st.integers(-1, 30) | st.floats()
states = st.dictionaries(
    node_ids,
    st.builds(
        State,
        numbers,
        numbers,
        st.sampled_from(["running", "finished", "pending", "error"]),
        st.none() | node_ids,
    ),
    max_size=4,
)
Frame = Callable[[ProgressTracker], None]
frames: st.SearchStrategy[Frame] = st.one_of(
    st.builds(lambda ids: lambda tracker: tracker.cached(ids), st.lists(node_ids, max_size=4)),
    st.builds(lambda key: lambda tracker: tracker.executing(key), st.none() | node_ids),
    st.builds(
        lambda key, value, top: lambda tracker: tracker.progress(key, value, top),
        node_ids,
        numbers,
        numbers,
    ),
    st.builds(lambda found: lambda tracker: tracker.progress_state(found), states),
    st.builds(lambda key: lambda tracker: tracker.executed(key), node_ids),
)
workflows = st.sampled_from([TEXT_TO_IMAGE, LONE_SAMPLER, {**TEXT_TO_IMAGE, "77": node(steps=50)}])


@given(workflows, st.lists(frames, max_size=30))
def test_progress_never_decreases(workflow: dict[str, Any], received: list[Frame]) -> None:
    tracker = ProgressTracker(workflow)
    before = 0.0
    for frame in received:
        frame(tracker)
        assert before <= tracker.percent <= CEILING
        assert 0 <= tracker.steps_completed <= tracker.steps_total
        before = tracker.percent


@given(st.lists(frames, max_size=10))
def test_repeated_frame_changes_nothing(received: list[Frame]) -> None:
    once, twice = ProgressTracker(TEXT_TO_IMAGE), ProgressTracker(TEXT_TO_IMAGE)
    for frame in received:
        frame(once)
        frame(twice)
        frame(twice)
        assert once.percent == twice.percent
        assert steps_of(once) == steps_of(twice)


def test_the_step_names_what_a_node_does() -> None:
    tracker = ProgressTracker(LONE_SAMPLER)
    said = {
        "loading\x1b[2J": "KSampler: loading [2J",
        None: "KSampler",
        3: "KSampler",
        "x" * 999: "KSampler: ",
    }
    for activity, step in said.items():
        tracker.progress_state({"3": NodeState(value=0, max=1, state="running", activity=activity)})
        assert (tracker.current_step or "").startswith(step)
        assert len(tracker.current_step or "") <= 200
    tracker.executing("3")
    tracker.progress_state({"3": NodeState(value=1, max=2, state="running")})
    assert tracker.current_step == "KSampler"


QUEUED, RUNNING = ChildStatus.QUEUED, ChildStatus.RUNNING
COMPLETED, FAILED = ChildStatus.COMPLETED, ChildStatus.FAILED
TIMEOUT, CANCELLED = ChildStatus.TIMEOUT, ChildStatus.CANCELLED
#: Groups of one to four children: every row of the table is met, in every mixture.
GROUPS = [
    group for size in range(1, 5) for group in combinations_with_replacement(ChildStatus, size)
]
MARKS = list(product([False, True], repeat=3))


def by_the_table(
    group: tuple[ChildStatus, ...], cancelled: bool, claimed: bool, without_runner: bool
) -> GroupStatus:
    """The contract's table as a list of (condition, status), the first true one decides."""
    final = all(child in CHILD_FINAL for child in group)
    completed = [child for child in group if child == COMPLETED]
    failed = [child for child in group if child in (FAILED, TIMEOUT)]
    rows = [
        (cancelled or (final and not completed and not failed), GroupStatus.CANCELLED),
        (final and len(completed) == len(group), GroupStatus.COMPLETED),
        (final and not completed, GroupStatus.FAILED),
        (final, GroupStatus.PARTIAL_COMPLETE),
        (not claimed and without_runner, GroupStatus.PENDING),
        (bool(completed and failed), GroupStatus.PARTIAL_COMPLETE),
        (True, GroupStatus.RUNNING),
    ]
    return next(status for condition, status in rows if condition)


@pytest.mark.parametrize(
    ("percent", "step", "expected"),
    [
        (0.0, None, (0, 7, None)),
        (15.0, "CLIPTextEncode", (1, 7, "6")),
        (60.0, "KSampler", (4, 7, "3")),
        (85.0, "VAEDecode: tile 3 of 4", (5, 7, "8")),
        (85.0, "NoSuchNode", (5, 7, None)),
        (100.0, "SaveImage", (7, 7, "9")),
    ],
)
def test_position_follows_from_percentage_and_step(
    percent: float, step: str | None, expected: tuple[Any, ...]
) -> None:
    assert position(TEXT_TO_IMAGE, percent, step) == expected


def test_position_in_a_graph_with_a_loop_is_in_the_order_of_its_nodes() -> None:
    loop = {"1": node("A", image=["2", 0]), "2": node("A", image=["1", 0])}
    assert position(loop, 50.0, "A") == (1, 2, "2")


@pytest.mark.parametrize(("cancelled", "claimed", "without_runner"), MARKS)
def test_every_mixture_of_children_follows_the_table(
    cancelled: bool, claimed: bool, without_runner: bool
) -> None:
    for group in GROUPS:
        found = group_status(
            Counter(group),
            cancelled=cancelled,
            claimed=claimed,
            accepted_without_runner=without_runner,
        )
        assert found == by_the_table(group, cancelled, claimed, without_runner), group


def test_status_ignores_what_stop_when_stopped() -> None:
    marks = {"cancelled": False, "claimed": True, "accepted_without_runner": False}
    for group, stopped, status in (
        ([COMPLETED, CANCELLED], 1, GroupStatus.COMPLETED),
        ([COMPLETED, CANCELLED, CANCELLED], 1, GroupStatus.PARTIAL_COMPLETE),
        ([COMPLETED, FAILED, CANCELLED], 1, GroupStatus.PARTIAL_COMPLETE),
        ([TIMEOUT, CANCELLED], 1, GroupStatus.FAILED),
    ):
        assert group_status(Counter(group), stopped=stopped, **marks) == status


def test_a_group_without_children_is_refused() -> None:
    for counts in ({}, {COMPLETED: 0}):
        with pytest.raises(ValueError, match="at least one child"):
            group_status(counts, cancelled=True, claimed=True, accepted_without_runner=False)


def test_counts_add_timeouts_to_failures() -> None:
    counts = Counts.from_mapping(
        Counter([QUEUED, RUNNING, COMPLETED, FAILED, TIMEOUT, TIMEOUT, CANCELLED])
    )
    assert counts == Counts(total=7, completed=1, failed=3, cancelled=1, final=5)
    assert not counts.all_final
    assert Counts.from_mapping(Counter([COMPLETED, TIMEOUT, CANCELLED])).all_final
    assert Counts.from_mapping({FAILED: 2, QUEUED: 0}).all_final
