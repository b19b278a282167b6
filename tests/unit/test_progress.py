"""The progress of a whole child, from the frames that ComfyUI sends of its nodes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobgroups.workflow.progress import (
    CEILING,
    EXPANSION_CEILING,
    MAX_WEIGHT,
    ProgressTracker,
    node_weights,
)


@dataclass(frozen=True, slots=True)
class State:
    value: float = 0.0
    max: float = 1.0
    state: str = "running"
    display_node_id: str | None = None


DONE = State(1.0, 1.0, "finished")


def node(class_type: str = "X", **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


LONE_SAMPLER: dict[str, Any] = {"3": node("KSampler", seed=42, steps=20)}

#: The text-to-image graph of the recordings; weights 1 each but for the sampler's 4: 10 in all.
TEXT_TO_IMAGE: dict[str, Any] = {
    "3": node(
        "KSampler",
        seed=1,
        steps=4,
        model=["4", 0],
        positive=["6", 0],
        negative=["7", 0],
        latent_image=["5", 0],
    ),
    "4": node("CheckpointLoaderSimple", ckpt_name="tiny.safetensors"),
    "5": node("EmptyLatentImage", width=64, height=64, batch_size=1),
    "6": node("CLIPTextEncode", text="a cat", clip=["4", 1]),
    "7": node("CLIPTextEncode", text="blurry", clip=["4", 1]),
    "8": node("VAEDecode", samples=["3", 0], vae=["4", 2]),
    "9": node("SaveImage", images=["8", 0], filename_prefix="x"),
}

EXPANDING: dict[str, Any] = {
    "1": node("TestExpand", seed=3, steps=2),
    "2": node("PreviewImage", images=["1", 0]),
}


def steps_of(tracker: ProgressTracker) -> tuple[str | None, int, int]:
    return tracker.current_step, tracker.steps_completed, tracker.steps_total


# --- the whole of one child


def test_thirteen_of_twenty_steps_of_a_lone_sampler_are_65_percent() -> None:
    tracker = ProgressTracker(LONE_SAMPLER)
    tracker.executing("3")
    tracker.progress("3", 13, 20)
    assert tracker.percent == 65.0
    assert steps_of(tracker) == ("KSampler", 13, 20)


@pytest.mark.parametrize("total", [1, 3, 7, 20, 30, 150, 9999])
def test_every_step_of_a_lone_sampler_is_its_share_to_two_decimals(total: int) -> None:
    tracker = ProgressTracker({"3": node("KSampler", steps=total)})
    for step in range(total + 1):
        tracker.progress("3", step, total)
        assert tracker.percent == min(round(100 * step / total, 2), CEILING)


def test_nothing_is_known_before_the_first_frame() -> None:
    tracker = ProgressTracker(TEXT_TO_IMAGE)
    assert tracker.percent == 0.0
    assert steps_of(tracker) == (None, 0, 1)


def test_a_run_as_recorded_goes_through_all_nodes_by_their_weight() -> None:
    tracker = ProgressTracker(TEXT_TO_IMAGE)
    tracker.cached([])
    states: dict[str, State] = {}
    seen = []
    for key in ("4", "5", "7", "6", "3", "8", "9"):
        states[key] = State()
        tracker.progress_state(states)
        tracker.executing(key)
        for step in range(1, 5) if key == "3" else ():
            states[key] = State(step, 4)
            tracker.progress_state(states)
            tracker.progress(key, step, 4)
            seen.append((tracker.percent, *steps_of(tracker)))
        states[key] = State(states[key].max, states[key].max, "finished")
        tracker.progress_state(states)
        seen.append((tracker.percent, *steps_of(tracker)))
    tracker.executing(None)
    assert seen == [
        (10.0, "CheckpointLoaderSimple", 1, 1),
        (20.0, "EmptyLatentImage", 1, 1),
        (30.0, "CLIPTextEncode", 1, 1),
        (40.0, "CLIPTextEncode", 1, 1),
        (50.0, "KSampler", 1, 4),
        (60.0, "KSampler", 2, 4),
        (70.0, "KSampler", 3, 4),
        (80.0, "KSampler", 4, 4),
        (80.0, "KSampler", 4, 4),
        (90.0, "VAEDecode", 1, 1),
        (CEILING, "SaveImage", 1, 1),
    ]
    assert steps_of(tracker) == ("SaveImage", 1, 1)


def test_progress_stays_below_100() -> None:
    tracker = ProgressTracker(LONE_SAMPLER)
    tracker.progress("3", 20, 20)
    tracker.executed("3")
    tracker.progress_state({"3": DONE})
    tracker.executing(None)
    assert tracker.percent == CEILING < 100.0


def test_cached_nodes_are_left_out() -> None:
    """The second run of the recording: only sampler, decoder and saver run, 6 of weight."""
    tracker = ProgressTracker(TEXT_TO_IMAGE)
    tracker.cached(["4", "5", "6", "7"])
    tracker.progress("3", 3, 4)
    assert tracker.percent == 50.0


def test_a_run_of_cached_nodes_alone_is_almost_done() -> None:
    tracker = ProgressTracker(TEXT_TO_IMAGE)
    tracker.cached(list(TEXT_TO_IMAGE))
    tracker.executed("9")
    assert tracker.percent == CEILING
    assert tracker.current_step == "SaveImage"


def test_one_state_frame_after_a_reconnect_makes_up_for_all_that_was_missed() -> None:
    tracker = ProgressTracker(TEXT_TO_IMAGE)
    tracker.progress_state({**dict.fromkeys("4567", DONE), "3": State(2, 4)})
    assert tracker.percent == 60.0
    assert steps_of(tracker) == ("KSampler", 2, 4)


def test_an_older_comfyui_without_state_frames_ends_a_node_by_beginning_the_next() -> None:
    tracker = ProgressTracker(TEXT_TO_IMAGE)
    for key in ("4", "5", "6", "7", "3"):
        tracker.executing(key)
    assert tracker.percent == 40.0
    tracker.progress("3", 4, 4)
    tracker.executing("8")
    tracker.executing("8")
    assert tracker.percent == 80.0


def test_with_state_frames_the_next_node_does_not_end_the_one_before() -> None:
    """Several nodes may run at once there; each is told to be finished by itself."""
    tracker = ProgressTracker(TEXT_TO_IMAGE)
    tracker.progress_state({"4": State()})
    tracker.executing("4")
    tracker.executing("5")
    assert tracker.percent == 0.0


def test_executed_ends_a_node() -> None:
    tracker = ProgressTracker(TEXT_TO_IMAGE)
    tracker.executed("9")
    assert tracker.percent == 10.0
    assert steps_of(tracker) == ("SaveImage", 1, 1)


def test_the_running_node_stays_the_current_one_while_others_run() -> None:
    tracker = ProgressTracker(TEXT_TO_IMAGE)
    tracker.executing("6")
    tracker.progress_state({"6": State(), "4": State()})
    assert tracker.current_step == "CLIPTextEncode"
    tracker.progress_state({"6": DONE, "5": State()})
    assert tracker.current_step == "EmptyLatentImage"
    tracker.progress_state({"6": DONE, "5": DONE})
    assert steps_of(tracker) == ("EmptyLatentImage", 1, 1)


def test_a_first_frame_of_finished_nodes_alone_tells_the_last_of_them() -> None:
    tracker = ProgressTracker(TEXT_TO_IMAGE)
    tracker.progress_state({"4": DONE, "6": DONE, "77": DONE})
    assert tracker.current_step == "CLIPTextEncode"


def test_frames_of_nodes_that_are_not_in_the_workflow_are_passed_over() -> None:
    tracker = ProgressTracker(LONE_SAMPLER)
    tracker.progress("3", 5, 20)
    tracker.executing("77")
    tracker.executed("77")
    tracker.progress("77.0.0.1", 3, 4)
    tracker.progress_state({"77": DONE, "x": State(1, 2)})
    tracker.cached(["77"])
    assert tracker.percent == 25.0
    assert steps_of(tracker) == ("KSampler", 5, 20)


# --- expansion


def test_an_expanded_node_counts_for_the_node_it_stands_for() -> None:
    tracker = ProgressTracker(EXPANDING)
    tracker.progress_state({"1": State(), "1.0.0.1": State(1, 2, "running", "1")})
    tracker.executing("1.0.0.1")
    tracker.progress("1.0.0.1", 1, 2)
    assert tracker.percent == round(100 / 3, 2)
    assert steps_of(tracker) == ("TestExpand", 1, 2)


def test_the_end_of_an_expanded_node_is_not_the_end_of_the_whole() -> None:
    tracker = ProgressTracker(EXPANDING)
    inner = {"1.0.0.1": State(2, 2, "finished", "1"), "1.0.0.2": State(1.0, 1.0, "finished", "1")}
    tracker.progress_state({"1": State(), **inner})
    tracker.executed("1.0.0.2")
    assert tracker.percent == round(100 * 2 * EXPANSION_CEILING / 3, 2)
    tracker.progress_state({"1": DONE, **inner})
    assert tracker.percent == round(200 / 3, 2)


def test_the_node_behind_an_expanded_one_is_told_by_its_frame_or_else_by_its_id() -> None:
    workflow = {"12": node("Outer", steps=4), "2": node("PreviewImage", images=["12", 0])}
    by_id = ProgressTracker(workflow)
    by_id.progress("12.0.0.1", 2, 4)
    assert steps_of(by_id) == ("Outer", 2, 4)
    by_frame = ProgressTracker(workflow)
    by_frame.progress_state({"loop_3": State(2, 4, "running", "12")})
    assert steps_of(by_frame) == ("Outer", 2, 4)
    assert by_id.percent == by_frame.percent == 40.0


def test_expanded_nodes_without_steps_say_nothing_of_the_whole() -> None:
    tracker = ProgressTracker(EXPANDING)
    tracker.progress_state({"1.0.0.1": State(1.0, 1.0, "finished", "1")})
    assert tracker.percent == 0.0


# --- which nodes count, and how much


def test_a_node_left_over_without_links_counts_only_once_it_is_heard_of() -> None:
    workflow = {**EXPANDING, "7": node("KSampler", steps=7)}
    tracker = ProgressTracker(workflow)
    tracker.executed("2")
    assert tracker.percent == round(100 / 3, 2)
    other = ProgressTracker(workflow)
    other.progress("7", 5, 7)
    assert other.percent == 50.0


def test_all_nodes_count_in_a_graph_without_links() -> None:
    tracker = ProgressTracker({"1": node(), "2": node(images=["gone", 0])})
    tracker.executed("1")
    assert tracker.percent == 50.0


@pytest.mark.parametrize(
    ("workflow", "weights"),
    [
        (LONE_SAMPLER, {"3": 20}),
        ({"1": node()}, {"1": 1}),
        ({"1": node(steps=0)}, {"1": 1}),
        ({"1": node(steps=-5)}, {"1": 1}),
        ({"1": node(steps=True)}, {"1": 1}),
        ({"1": node(steps="20")}, {"1": 1}),
        ({"1": node(steps=10**400)}, {"1": MAX_WEIGHT}),
        ({"1": node(steps=20, start_at_step=5, end_at_step=15)}, {"1": 10}),
        ({"1": node(steps=20, start_at_step=12, end_at_step=10000)}, {"1": 8}),
        ({"1": node(steps=["2", 0]), "2": node("PrimitiveInt", value=9)}, {"1": 9, "2": 1}),
        ({"1": node(steps=["2", 0])}, {"1": 1}),
        (
            {
                "1": node("SamplerCustomAdvanced", sigmas=["2", 1]),
                "2": node("SplitSigmas", sigmas=["3", 0], step=4),
                "3": node("BasicScheduler", steps=30),
            },
            {"1": 30, "2": 1, "3": 1},
        ),
        (
            {"1": node(sigmas=["2", 0]), "2": node(sigmas=["2", 0])},
            {"1": 1, "2": 1},
        ),
    ],
)
def test_a_node_weighs_the_steps_it_will_report(
    workflow: dict[str, Any], weights: dict[str, int]
) -> None:
    assert node_weights(workflow) == weights


def test_nonsense_steps_do_not_break_the_percentage() -> None:
    tracker = ProgressTracker({"1": node(steps=10**400), "2": node(images=["1", 0])})
    tracker.executed("1")
    assert 99 < tracker.percent <= CEILING


@pytest.mark.parametrize(
    ("value", "maximum", "steps"),
    [
        (5, 0, (1, 1)),
        (-5, 20, (0, 20)),
        (5, -1, (1, 1)),
        (math.nan, 20, (0, 20)),
        (5, math.nan, (1, 1)),
        (math.inf, math.inf, (0, 1)),
        (0.0, 1.0, (0, 1)),
    ],
)
def test_nonsense_in_a_frame_is_survived(
    value: float, maximum: float, steps: tuple[int, int]
) -> None:
    tracker = ProgressTracker(LONE_SAMPLER)
    tracker.progress("3", value, maximum)
    assert 0.0 <= tracker.percent <= CEILING
    assert (tracker.steps_completed, tracker.steps_total) == steps
    tracker.progress("3", 19, 20)
    assert tracker.percent >= 95.0


# --- the law: it never goes back

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
def test_progress_never_goes_back_whatever_comes(
    workflow: dict[str, Any], received: list[Frame]
) -> None:
    tracker = ProgressTracker(workflow)
    before = 0.0
    for frame in received:
        frame(tracker)
        assert before <= tracker.percent <= CEILING
        assert 0 <= tracker.steps_completed <= tracker.steps_total
        before = tracker.percent


@given(st.lists(frames, max_size=10))
def test_a_repeated_frame_changes_nothing(received: list[Frame]) -> None:
    once, twice = ProgressTracker(TEXT_TO_IMAGE), ProgressTracker(TEXT_TO_IMAGE)
    for frame in received:
        frame(once)
        frame(twice)
        frame(twice)
        assert once.percent == twice.percent
        assert steps_of(once) == steps_of(twice)
