import json
import struct
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from backends.comfyui import protocol

FRAMES = Path(__file__).parent / "frames"
RECORDINGS = sorted(path for path in FRAMES.glob("*.json") if path.name != "answers.json")


def recorded(kind: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every recorded frame of ``kind`` (text, binary), with its scenario."""
    for path in RECORDINGS:
        for frame in json.loads(path.read_text())[kind]:
            yield path.stem, frame


def _status(data: dict[str, Any]) -> protocol.Status:
    info = protocol.ExecInfo(queue_remaining=data["status"]["exec_info"]["queue_remaining"])
    return protocol.Status(status=protocol.QueueLength(exec_info=info))


def _progress_state(data: dict[str, Any]) -> protocol.ProgressState:
    kept = ("value", "max", "state", "display_node_id")
    nodes = {
        id_: protocol.NodeState(**{key: state[key] for key in kept})
        for id_, state in data["nodes"].items()
    }
    return protocol.ProgressState(prompt_id=data["prompt_id"], nodes=nodes)


def _error(data: dict[str, Any]) -> protocol.ExecutionError:
    kept = ("prompt_id", "node_id", "node_type", "exception_message", "exception_type")
    return protocol.ExecutionError(
        **{key: data[key] for key in kept}, traceback=tuple(data.get("traceback", ()))
    )


#: What a recorded text frame says, read field by field with plain dictionaries.
EXPECTED: dict[str, Callable[[dict[str, Any]], Any]] = {
    "status": _status,
    "execution_start": lambda data: protocol.ExecutionStart(prompt_id=data["prompt_id"]),
    "execution_cached": lambda data: protocol.ExecutionCached(
        prompt_id=data["prompt_id"], nodes=tuple(data["nodes"])
    ),
    "executing": lambda data: protocol.Executing(
        node=data["node"], prompt_id=data.get("prompt_id")
    ),
    "progress": lambda data: protocol.Progress(**data),
    "progress_state": _progress_state,
    "executed": lambda data: protocol.Executed(
        prompt_id=data["prompt_id"], node=data["node"], output=data["output"]
    ),
    "execution_success": lambda data: protocol.ExecutionSuccess(prompt_id=data["prompt_id"]),
    "execution_error": _error,
    "execution_interrupted": lambda data: protocol.ExecutionInterrupted(
        prompt_id=data["prompt_id"]
    ),
    "feature_flags": lambda _: None,
}


def rebuilt(frame: dict[str, Any]) -> bytes:
    """A recorded binary frame: head, metadata and length are as recorded, the rest is zeros."""
    head = bytes.fromhex(frame["head_hex"])
    if frame["event_type"] == 4:
        metadata = frame["metadata_raw"].encode()
        head = struct.pack(">II", 4, frame["metadata_length"]) + metadata
    return head.ljust(frame["len"], b"\0")


def test_every_recorded_text_frame_is_read_field_by_field() -> None:
    for _, frame in recorded("text"):
        assert protocol.parse(json.dumps(frame)) == EXPECTED[frame["type"]](frame["data"])


def test_every_recorded_binary_frame_is_read() -> None:
    for scenario, frame in recorded("binary"):
        event = protocol.parse(rebuilt(frame))
        match frame["event_type"]:
            case 1:
                assert isinstance(event, protocol.Preview), scenario
                assert event.image_type == {1: "jpeg", 2: "png"}[frame["image_type"]]
                assert len(event.image) == frame["len"] - 8
                assert (event.prompt_id, event.node_id) == (None, None)
            case 3:
                assert event is None, scenario
            case 4:
                assert isinstance(event, protocol.Preview), scenario
                assert event.node_id == frame["metadata"]["node_id"]
                assert event.prompt_id == frame["metadata"]["prompt_id"]
                assert event.image_type == frame["metadata"]["image_type"].removeprefix("image/")
                assert len(event.image) == frame["len"] - 8 - frame["metadata_length"]
            case other:
                raise AssertionError(f"a recorded binary frame of an unforeseen type: {other}")


def frames(given: Iterable[str | dict[str, Any]]) -> list[str | bytes]:
    """Return text frames as they stand, binary ones by their type and the rest."""
    return [
        one
        if isinstance(one, str)
        else struct.pack(">I", one["type"]) + one["rest"].encode("latin-1")
        for one in given
    ]


@pytest.mark.parametrize(
    "frame",
    frames(
        [
            '{"type":"crystools.monitor","data":{"cpu_utilization":3}}',
            '{"type":"notification"}',
            '{"type":"","data":null}',
            '{"data":{},"type":"progress_text","more":[1]}',
            {"type": 2, "rest": "unencoded"},
            {"type": 77, "rest": ""},
        ]
    ),
)
def test_unknown_types_are_no_error(frame: str | bytes) -> None:
    assert protocol.parse(frame) is None


@pytest.mark.parametrize(
    ("frame", "kind", "fields"),
    [
        (
            '{"type":"execution_start","new":1,"data":{"prompt_id":"p","more":{"a":[]}}}',
            "ExecutionStart",
            {"prompt_id": "p"},
        ),
        (
            '{"data":{"value":1,"max":4,"prompt_id":"p","node":"1"},"type":"progress"}',
            "Progress",
            {"value": 1, "max": 4, "prompt_id": "p", "node": "1"},
        ),
        ('{"type":"progress","data":{"value":1,"max":2}}', "Progress", {"value": 1, "max": 2}),
        (
            '{"type":"executed","data":{"prompt_id":"p","node":"1","display_node":"1","output":null}}',
            "Executed",
            {"prompt_id": "p", "node": "1"},
        ),
    ],
)
def test_unusual_frames_of_known_types_are_read(
    frame: str, kind: str, fields: dict[str, Any]
) -> None:
    assert protocol.parse(frame) == getattr(protocol, kind)(**fields)


def test_bytes_of_an_image_are_kept() -> None:
    frame = struct.pack(">II", 1, 2) + b"\x89PNG"
    assert protocol.parse(frame) == protocol.Preview(image_type="png", image=b"\x89PNG")


@pytest.mark.parametrize("kind", sorted(protocol.KNOWN_TYPES))
@pytest.mark.parametrize("data", ["{}", "null", "[]", '"x"', '{"prompt_id":{},"node":[]}'])
def test_broken_frame_of_a_known_type_is_an_error_that_shows_its_head(kind: str, data: str) -> None:
    frame = f'{{"type":"{kind}","data":{data}}}'
    with pytest.raises(protocol.ProtocolError) as caught:
        protocol.parse(frame)
    assert repr(frame.encode()[:80]) in caught.value.detail


DEEP = "[" * 100_000 + "]" * 100_000
DEEPER = '{"type":"executed","data":{"prompt_id":"p","node":"1","output":{"x":' + DEEP + "}}}"


@pytest.mark.parametrize(
    "frame",
    [
        *frames(
            [
                '{"type":"executing","data":{"prompt_id":"p"}}',
                "",
                "nonsense",
                "<html>",
                "[]",
                "7",
                "null",
                '"status"',
                '{"type":1}',
                "{}",
                "{",
                {"type": 1, "rest": ""},
                {"type": 1, "rest": "\x00\x00\x00\timage"},
                {"type": 4, "rest": "\x00\x00\x00d{}"},
                {"type": 4, "rest": "\x00\x00\x00\x02[]image"},
                {"type": 4, "rest": "\x00\x00\x00\x02{]image"},
                {"type": 4, "rest": "\x00\x00\x00\x02{}image"},
                {"type": 4, "rest": '\x00\x00\x00\x1b{"image_type":"image/webp"}'},
            ]
        ),
        b"",
        b"\0\0\0",
        pytest.param(DEEPER, id="deeply nested"),
    ],
)
def test_broken_frame_is_an_error(frame: str | bytes) -> None:
    with pytest.raises(protocol.ProtocolError):
        protocol.parse(frame)


def test_frames_above_the_caps_are_refused_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "MAX_TEXT_FRAME_BYTES", 60)
    monkeypatch.setattr(protocol, "MAX_BINARY_FRAME_BYTES", 60)
    short = '{"type":"execution_start","data":{"prompt_id":"p"}}'
    assert protocol.parse(short) == protocol.ExecutionStart(prompt_id="p")
    with pytest.raises(protocol.ProtocolError, match="text frame of 71"):
        protocol.parse(short + " " * 20)
    with pytest.raises(protocol.ProtocolError, match="binary frame of 61"):
        protocol.parse(struct.pack(">II", 1, 1).ljust(61, b"x"))


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        (
            '{"score":[NaN,-Infinity,1.5],"text":["a\\ud800b","\\ud83d\\ude00"]}',
            {"score": [None, None, 1.5], "text": ["a?b", "😀"]},
        ),
        (
            '{"text":["a\\u0000b","c\\\\u0000d","e\\\\\\u0000f"]}',
            {"text": ["a�b", "c\\u0000d", "e\\�f"]},
        ),
    ],
)
def test_nan_lone_surrogates_and_nul_never_come_through(sent: str, read: dict[str, Any]) -> None:
    head = '{"type":"executed","data":{"prompt_id":"p","node":"1","display_node":"1","output":'
    event = protocol.parse(head + sent + "}}")
    assert isinstance(event, protocol.Executed)
    assert event.output == read


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from([*sorted(protocol.KNOWN_TYPES), "other"]) | json_values, json_values)
def test_any_json_is_an_event_or_none_or_a_protocol_error(kind: Any, data: Any) -> None:
    frame = json.dumps({"type": kind, "data": data})
    try:
        event = protocol.parse(frame)
    except protocol.ProtocolError:
        return
    if event is None:
        assert kind not in protocol.KNOWN_TYPES


@given(
    st.binary()
    | st.builds(lambda n, rest: struct.pack(">I", n) + rest, st.integers(0, 5), st.binary())
)
def test_any_bytes_are_an_event_or_none_or_a_protocol_error(frame: bytes) -> None:
    try:
        event = protocol.parse(frame)
    except protocol.ProtocolError:
        return
    assert event is None or isinstance(event, protocol.Preview)
