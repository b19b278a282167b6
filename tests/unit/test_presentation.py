"""The frames of one client of the ComfyUI listener: in which order, and each once."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest
from hypothesis import given, strategies as st

from jobgroups.domain.prompt_ends import End, Picture
from jobgroups.events.messages import ListenerFrame
from jobgroups.streams.presentation import Frame, Presentation

NODES = ("1", "2", "3")


def text(prompt: int, kind: str, *, attempt: int = 1, **data: Any) -> ListenerFrame:
    at_backend = f"backend-{prompt}-{attempt}"
    body = json.dumps({"type": kind, "data": {**data, "prompt_id": at_backend}})
    return ListenerFrame(attempt, at_backend, kind, str(data.get("node") or ""), text=body)


def preview(prompt: int, image: bytes, *, attempt: int = 1) -> ListenerFrame:
    at_backend = f"backend-{prompt}-{attempt}"
    metadata = json.dumps({"prompt_id": at_backend, "image_type": "image/jpeg"}).encode()
    data = struct.pack(">II", 4, len(metadata)) + metadata + image
    return ListenerFrame(attempt, at_backend, "preview", "1", data=data)


def step(prompt: int, value: int, *, attempt: int = 1) -> ListenerFrame:
    return text(prompt, "progress_state", attempt=attempt, nodes={"1": {"value": value}})


def presented(*prompts: int) -> Presentation:
    presentation = Presentation()
    for prompt in prompts:
        presentation.follow(prompt, prompt_id=f"client-{prompt}", job_id=f"j_{prompt}")
    return presentation


def end(outcome: str = "success", *, attempt: int = 1, **fields: Any) -> End:
    message = fields.pop("message", {})
    fields = {"started_ms": None, "ended_ms": 7, "message": {**message, "timestamp": 7}} | fields
    return End(kind=f"execution_{outcome}", attempt=attempt, **fields)


def play(presentation: Presentation, *steps: tuple[int, ListenerFrame | End]) -> list[Frame]:
    return [
        frame
        for prompt, taken in steps
        for frame in (
            presentation.end(prompt, taken)
            if isinstance(taken, End)
            else presentation.frame(prompt, taken, at_ms=3)
        )
    ]


def shown(frames: list[Frame]) -> list[str]:
    """Return each frame as its kind, with its prompt and node where it has them."""
    return [" ".join(filter(None, _words(frame))) for frame in frames]


def _words(frame: Frame) -> list[str]:
    if frame.kind == "picture":
        assert frame.picture is not None
        return ["picture", frame.picture.stored_name]
    if not frame.text:
        return [frame.kind]
    data = json.loads(frame.text)["data"]
    assert data["prompt_id"] == frame.prompt_id
    node = data["node"] or "null" if "node" in data else ""
    return [frame.kind, frame.prompt_id.removeprefix("client-"), node]


WHOLE = ["execution_start 1", "execution_cached 1"]
LAST = ["execution_success 1", "status", "executing 1 null"]


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        pytest.param(
            [
                (1, text(1, "execution_start", timestamp=1)),
                (1, text(1, "execution_cached", nodes=[])),
                (1, step(1, 0)),
                (1, text(1, "executing", node="1")),
                (1, text(1, "executed", node="1", output={})),
                (1, text(1, "execution_success", timestamp=2)),
                (1, end()),
            ],
            [*WHOLE, "progress_state 1", "executing 1 1", "executed 1 1", *LAST],
            id="a prompt that runs alone",
        ),
        pytest.param(
            [(1, text(1, "execution_start")), (1, text(1, "execution_error", node_id="1"))],
            ["execution_start 1"],
            id="an error waits for what is stored: the prompt may be retried",
        ),
        pytest.param(
            [
                (1, text(1, "execution_start")),
                (1, text(1, "execution_cached", nodes=["2"])),
                (1, text(1, "execution_error")),
                (1, text(1, "execution_start", attempt=2)),
                (1, text(1, "execution_cached", attempt=2, nodes=[])),
                (1, step(1, 9)),
                (1, step(1, 1, attempt=2)),
                (1, end(attempt=2)),
            ],
            [*WHOLE, "progress_state 1", *LAST],
            id="a retry shows no second start, no error, and nothing of the attempt before",
        ),
        pytest.param(
            [(1, text(1, "executing", node="1")), (1, end())],
            [*WHOLE, "executing 1 1", *LAST],
            id="a lost start",
        ),
        pytest.param(
            [(1, end(outputs={"2": {"images": []}}))],
            [*WHOLE, "executed 1 2", *LAST],
            id="every frame is lost",
        ),
        pytest.param(
            [(1, end("error"))],
            [*WHOLE, "execution_error 1", "status", "executing 1 null"],
            id="a prompt that its backend refused",
        ),
        pytest.param([(1, end("interrupted"))], [], id="a prompt that was removed from the queue"),
        pytest.param(
            [(1, end("interrupted", started_ms=3))],
            [*WHOLE, "execution_interrupted 1", "status", "executing 1 null"],
            id="a prompt that was stopped while no frame came",
        ),
        pytest.param(
            [
                (1, text(1, "executing", node="1")),
                (1, end(pictures=[Picture("5", "a", 1, 2), Picture("5", "b", 1, 2)])),
            ],
            [*WHOLE, "executing 1 1", "executing 1 5", "picture a", "picture b", *LAST],
            id="result pictures, with the node that they belong to",
        ),
        pytest.param(
            [
                (1, text(1, "execution_start")),
                (1, text(1, "execution_error", exception_type="ExecutionBlocked", node_id="3")),
                (1, text(1, "execution_success")),
                (1, end()),
            ],
            [*WHOLE, "execution_error 1", *LAST],
            id="a blocked node",
        ),
        pytest.param(
            [
                (1, text(1, "execution_start")),
                (2, text(2, "execution_start")),
                (2, text(2, "execution_cached", nodes=[])),
                (2, step(2, 1)),
                (2, text(2, "executed", node="1", output={})),
                (2, step(2, 2)),
                (2, preview(2, b"old")),
                (2, preview(2, b"new")),
                (1, end()),
                (2, step(2, 3)),
                (2, end()),
            ],
            [
                *WHOLE,
                *LAST,
                "execution_start 2",
                "execution_cached 2",
                "executed 2 1",
                "progress_state 2",
                "preview",
                "progress_state 2",
                "execution_success 2",
                "status",
                "executing 2 null",
            ],
            id="the second of two prompts is presented when the first has ended",
        ),
    ],
)
def test_frames_are_those_of_one_comfyui(
    steps: list[tuple[int, ListenerFrame | End]], expected: list[str]
) -> None:
    assert shown(play(presented(1, 2), *steps)) == expected


def test_the_same_frame_twice_is_sent_once() -> None:
    presentation = presented(1)
    first = [
        (1, text(1, "execution_start")),
        (1, text(1, "execution_cached", nodes=[])),
        (1, text(1, "executed", node="1", output={"images": [{"filename": "a.png"}]})),
        (1, step(1, 1)),
        (1, text(1, "executing", node="2")),
    ]
    assert len(play(presentation, *first)) == 5
    assert play(presentation, *first) == []


def test_who_joins_later_gets_the_state_of_the_presented_prompt() -> None:
    presentation = presented(1, 2)
    play(
        presentation,
        (1, text(1, "execution_start")),
        (1, text(1, "execution_cached", nodes=["2"])),
        (1, step(1, 1)),
        (1, text(1, "executing", node="1")),
        (1, step(1, 2)),
        (2, text(2, "execution_start")),
    )
    frames = presentation.catch_up()
    assert shown(frames) == [*WHOLE, "executing 1 1", "progress_state 1"]
    assert json.loads(frames[-1].text)["data"]["nodes"] == {"1": {"value": 2}}


def test_files_are_named_with_their_job_and_an_error_is_comfyuis_own() -> None:
    presentation = presented(1)
    files = {"images": [{"filename": "a.png", "subfolder": "x", "type": "output", "more": 1}]}
    error = text(1, "execution_error", exception_message="boom\n", traceback=["a", "b"])
    frames = play(
        presentation,
        (1, text(1, "executed", node="9", display_node="9", output=files)),
        (1, error),
        (1, end("error", message={"exception_message": "boom"})),
    )
    executed = next(json.loads(frame.text) for frame in frames if frame.kind == "executed")
    assert executed["data"]["output"] == {
        "images": [{"filename": "a.png", "subfolder": "j_1/x", "type": "output", "more": 1}]
    }
    sent = next(json.loads(frame.text) for frame in frames if frame.kind == "execution_error")
    assert sent["data"]["exception_message"] == "boom\n"
    assert sent["data"]["prompt_id"] == "client-1"


def test_an_error_without_a_frame_is_what_is_stored() -> None:
    stored = {"exception_message": "gone", "node_id": "4"}
    frames = play(presented(1), (1, end("error", message=stored)))
    sent = next(json.loads(frame.text) for frame in frames if frame.kind == "execution_error")
    assert sent["data"] == {**stored, "prompt_id": "client-1", "timestamp": 7}


def test_stopped_prompt_names_the_node_that_executed() -> None:
    message = {"node_id": "9", "node_type": "SaveImage", "executed": []}
    stop = end("interrupted", message=message, classes={"1": "KSampler", "9": "SaveImage"})
    frames = play(presented(1, 2), (1, text(1, "executing", node="1")), (1, stop), (2, stop))
    sent = [json.loads(frame.text)["data"] for frame in frames if "interrupted" in frame.kind]
    assert [(data["node_id"], data["node_type"]) for data in sent] == [("1", "KSampler")]


def test_previews_have_the_two_forms_of_comfyui() -> None:
    presentation = presented(1)
    (*_, sent) = play(presentation, (1, preview(1, b"\xff\xd8\xffimage")))
    assert sent.plain == struct.pack(">II", 1, 1) + b"\xff\xd8\xffimage"
    kind, length = struct.unpack_from(">II", sent.binary)
    assert kind == 4
    assert json.loads(sent.binary[8 : 8 + length])["prompt_id"] == "client-1"
    assert sent.binary[8 + length :] == b"\xff\xd8\xffimage"
    bare = ListenerFrame(1, "b", "preview", "1", data=struct.pack(">II", 1, 2) + b"png")
    (sent,) = play(presentation, (1, bare))
    assert sent.plain == bare.data
    kind, length = struct.unpack_from(">II", sent.binary)
    assert json.loads(sent.binary[8 : 8 + length]) == {
        "node_id": "1",
        "prompt_id": "client-1",
        "display_node_id": "1",
        "parent_node_id": None,
        "real_node_id": "1",
        "image_type": "image/png",
    }


def test_frames_of_unknown_kinds_are_forwarded_and_bounded() -> None:
    presentation = presented(1)
    for number in range(500):
        (*_, sent) = play(presentation, (1, text(1, "custom", number=number)))
        assert json.loads(sent.text)["data"]["number"] == number
    assert len(presentation.catch_up()) == 202


_KINDS = (
    "execution_start",
    "execution_cached",
    "progress_state",
    "executing",
    "executed",
    "custom",
    "preview",
    "execution_error",
    "execution_success",
    "execution_interrupted",
)
_STEPS = st.lists(
    st.tuples(
        st.integers(1, 4),
        st.integers(1, 3),
        st.sampled_from([*_KINDS, "start", "end", "error", "stop"]),
        st.sampled_from(NODES),
    ),
    max_size=60,
)


@given(_STEPS)
def test_prompts_never_interleave_and_each_has_one_start_and_one_end(
    steps: list[tuple[int, int, str, str]],
) -> None:
    presentation = presented(1, 2, 3, 4)
    frames: list[Frame] = []
    started, ended = set[int](), set[int]()
    for prompt, attempt, what, node in steps:
        if prompt in ended:
            frames += presentation.end(prompt, end())
            frames += play(presentation, (prompt, step(prompt, 1, attempt=attempt)))
        elif what in ("end", "error", "stop"):
            outcome = {"end": "success", "error": "error"}.get(what, "interrupted")
            outputs = {node: {"text": ["a"]}}
            frames += presentation.end(prompt, end(outcome, attempt=attempt, outputs=outputs))
            if prompt in started or what != "stop":
                started.add(prompt)
            ended.add(prompt)
        else:
            started.add(prompt)
            if what == "start":
                frames += presentation.start(prompt, attempt=attempt, started_ms=1)
            elif what == "preview":
                frames += play(presentation, (prompt, preview(prompt, b"x", attempt=attempt)))
            else:
                frames += play(
                    presentation, (prompt, text(prompt, what, attempt=attempt, node=node))
                )
    for prompt in sorted({1, 2, 3, 4} - ended):
        frames += presentation.end(prompt, end())
        started.add(prompt)
    _check(frames, started)


def _check(frames: list[Frame], started: set[int]) -> None:
    """Check the frames of prompts that have all ended."""
    whose = [frame.prompt_id for frame in frames if frame.prompt_id]
    runs = [name for at, name in enumerate(whose) if at == 0 or whose[at - 1] != name]
    assert sorted(runs) == sorted(f"client-{prompt}" for prompt in started)
    for name in runs:
        kinds = [frame.kind for frame in frames if frame.prompt_id == name]
        assert kinds[:2] == ["execution_start", "execution_cached"]
        assert kinds.count("execution_start") == kinds.count("execution_cached") == 1
        ends = ("execution_success", "execution_error", "execution_interrupted")
        assert [kind for kind in kinds if kind in ends] == [kinds[-2]]
        last = [frame for frame in frames if frame.prompt_id == name][-1]
        assert json.loads(last.text)["data"]["node"] is None
        assert last.ends is not None
    assert len([frame for frame in frames if frame.ends]) == len(started)
