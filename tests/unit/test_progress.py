import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.comfyui.protocol import NodeState
from jobgroups.workflow.progress import CEILING, EXPANSION_CEILING, MAX_WEIGHT, ProgressTracker, node_weights
from tests.harness.graphs import node


@dataclass(frozen=True, slots=True)
class State:
    value: float = 0.0
    max: float = 1.0
    state: str = "running"
    display_node_id: str | None = None
    activity: Any = None


LONE_SAMPLER: dict[str, Any] = {"3": node("KSampler", seed=42, steps=20)}

#: The text-to-image graph of the recordings; each node has weight 1 and the sampler 4: 10 in all.
TEXT_TO_IMAGE: dict[str, Any] = {
    "3": node("KSampler", seed=1, steps=4, model=["4", 0], positive=["6", 0], negative=["7", 0], latent_image=["5", 0]),
    "4": node("CheckpointLoaderSimple", ckpt_name="tiny.safetensors"),
    "5": node("EmptyLatentImage", width=64, height=64, batch_size=1),
    "6": node("CLIPTextEncode", text="a cat", clip=["4", 1]),
    "7": node("CLIPTextEncode", text="blurry", clip=["4", 1]),
    "8": node("VAEDecode", samples=["3", 0], vae=["4", 2]),
    "9": node("SaveImage", images=["8", 0], filename_prefix="x"),
}

EXPANDING: dict[str, Any] = {"1": node("TestExpand", seed=3, steps=2), "2": node("PreviewImage", images=["1", 0])}


OUTER: dict[str, Any] = {"12": node("Outer", steps=4), "2": node("PreviewImage", images=["12", 0])}
#: With a node that no link leads to or from.
UNLINKED: dict[str, Any] = {**EXPANDING, "7": node("KSampler", steps=7)}
_SHORT = {"run": "0/1", "done": "1/1."}


def send(tracker: ProgressTracker, frames: str) -> ProgressTracker:
    """Send frames to a tracker: ``3`` executing, ``3=13/20`` progress, ``3!`` executed, ``~4,5`` cached.

    ``[4:done,3:2/4,x:2/2.>1]`` is a state frame: a trailing dot means finished, ``>1`` the displayed node.
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


CASES = [
    ("before the first frame", TEXT_TO_IMAGE, "", 0.0, (None, 0, 1)),
    ("steps of a single sampler", LONE_SAMPLER, "3 3=13/20", 65.0, ("KSampler", 13, 20)),
    ("below 100 until the end", LONE_SAMPLER, "3=20/20 3! [3:done] -", CEILING, ("KSampler", 1, 1)),
    # The second run of the recording: sampler, decoder and saver run, 6 of 10 in weight.
    ("some cached", TEXT_TO_IMAGE, "~4,5,6,7 3=3/4", 50.0, ("KSampler", 3, 4)),
    ("all cached", TEXT_TO_IMAGE, "~3,4,5,6,7,8,9 9!", CEILING, ("SaveImage", 1, 1)),
    (
        "one state frame after a reconnect",
        TEXT_TO_IMAGE,
        "[4:done,5:done,6:done,7:done,3:2/4]",
        60.0,
        ("KSampler", 2, 4),
    ),
    # An older ComfyUI sends no state frames and runs one node after the other.
    ("next node ends the one before", TEXT_TO_IMAGE, "4 5 6 7 3 3=4/4 8 8", 80.0, ("VAEDecode", 0, 1)),
    ("nodes run at once", TEXT_TO_IMAGE, "[4:run] 4 5", 0.0, ("EmptyLatentImage", 0, 1)),
    ("executed ends a node", TEXT_TO_IMAGE, "9!", 10.0, ("SaveImage", 1, 1)),
    ("current while it runs", TEXT_TO_IMAGE, "6 [6:run,4:run]", 0.0, ("CLIPTextEncode", 0, 1)),
    ("next current", TEXT_TO_IMAGE, "6 [6:done,5:run]", 10.0, ("EmptyLatentImage", 0, 1)),
    ("no node runs", TEXT_TO_IMAGE, "5 [6:done,5:done]", 20.0, ("EmptyLatentImage", 1, 1)),
    ("finished first", TEXT_TO_IMAGE, "[4:done,6:done,77:done]", 20.0, ("CLIPTextEncode", 1, 1)),
    ("unknown nodes", LONE_SAMPLER, "3=5/20 77 77! 77.0.0.1=3/4 [77:done,x:1/2] ~77", 25.0, ("KSampler", 5, 20)),
    (
        "expanded node counts for its parent",
        EXPANDING,
        "[1:run,1.0.0.1:1/2>1] 1.0.0.1 1.0.0.1=1/2",
        round(100 / 3, 2),
        ("TestExpand", 1, 2),
    ),
    (
        "end of an expanded node is not its parent's",
        EXPANDING,
        "[1:run,1.0.0.1:2/2.>1,1.0.0.2:1/1.>1] 1.0.0.2!",
        round(100 * 2 * EXPANSION_CEILING / 3, 2),
        ("TestExpand", 1, 1),
    ),
    (
        "end of an expanding node",
        EXPANDING,
        "[1:run,1.0.0.1:2/2.>1] [1:done,1.0.0.1:2/2.>1]",
        round(200 / 3, 2),
        ("TestExpand", 1, 1),
    ),
    ("expanded without steps", EXPANDING, "[1.0.0.1:1/1.>1]", 0.0, ("TestExpand", 1, 1)),
    ("parent by the id", OUTER, "12.0.0.1=2/4", 40.0, ("Outer", 2, 4)),
    ("parent by the frame", OUTER, "[loop_3:2/4>12]", 40.0, ("Outer", 2, 4)),
    ("unlinked does not count", UNLINKED, "2!", round(100 / 3, 2), ("PreviewImage", 1, 1)),
    ("unlinked that runs", UNLINKED, "7=5/7", 50.0, ("KSampler", 5, 7)),
    ("no links", {"1": node(), "2": node(images=["gone", 0])}, "1!", 50.0, ("KSampler", 1, 1)),
]


@pytest.mark.parametrize(
    ("workflow", "frames", "percent", "steps"), [case[1:] for case in CASES], ids=[one[0] for one in CASES]
)
def test_progress_after_frames(
    workflow: dict[str, Any], frames: str, percent: float, steps: tuple[str | None, int, int]
) -> None:
    tracker = send(ProgressTracker(workflow), frames)
    assert (tracker.percent, steps_of(tracker)) == (percent, steps)


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
        ({"1": node(sigmas=["2", 0]), "2": node(sigmas=["2", 0])}, {"1": 1, "2": 1}),
    ],
)
def test_node_weight_is_its_expected_steps(workflow: dict[str, Any], weights: dict[str, int]) -> None:
    assert node_weights(workflow) == weights


def test_huge_number_of_steps_does_not_hide_other_nodes() -> None:
    workflow = {"1": node(steps=10**400), "2": node(images=["1", 0])}
    assert 99 < send(ProgressTracker(workflow), "1!").percent <= CEILING


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
def test_invalid_numbers_in_a_frame_are_ignored(value: float, maximum: float, steps: tuple[int, int]) -> None:
    tracker = ProgressTracker(LONE_SAMPLER)
    tracker.progress("3", value, maximum)
    assert 0.0 <= tracker.percent <= CEILING
    assert (tracker.steps_completed, tracker.steps_total) == steps
    tracker.progress("3", 19, 20)
    assert tracker.percent >= 95.0


node_ids = st.sampled_from([*TEXT_TO_IMAGE, "3.0.0.1", "3.0.0.2", "77"])
numbers = st.integers(-1, 30) | st.floats()
states = st.dictionaries(
    node_ids,
    st.builds(
        State, numbers, numbers, st.sampled_from(["running", "finished", "pending", "error"]), st.none() | node_ids
    ),
    max_size=4,
)
Frame = Callable[[ProgressTracker], None]
frames: st.SearchStrategy[Frame] = st.one_of(
    st.builds(lambda ids: lambda tracker: tracker.cached(ids), st.lists(node_ids, max_size=4)),
    st.builds(lambda key: lambda tracker: tracker.executing(key), st.none() | node_ids),
    st.builds(lambda key, value, top: lambda tracker: tracker.progress(key, value, top), node_ids, numbers, numbers),
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
    said = {"loading\x1b[2J": "KSampler: loading [2J", None: "KSampler", 3: "KSampler", "x" * 999: "KSampler: "}
    for activity, step in said.items():
        tracker.progress_state({"3": NodeState(value=0, max=1, state="running", activity=activity)})
        assert (tracker.current_step or "").startswith(step)
        assert len(tracker.current_step or "") <= 200
    tracker.executing("3")
    tracker.progress_state({"3": NodeState(value=1, max=2, state="running")})
    assert tracker.current_step == "KSampler"
