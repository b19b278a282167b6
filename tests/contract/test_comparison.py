"""The comparison sees what a server would do wrong: recordings altered in one place each."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from tests.contract import compare, recording, renames, verdict
from tests.contract.ignored import rule_for
from tests.contract.recording import Event, kind
from tests.contract.verdict import Replay

Alter = Callable[[list[Event]], None]


@pytest.mark.parametrize("name", recording.names())
def test_recording_equals_itself(name: str) -> None:
    """No rule of the comparison speaks against the real server's own words."""
    assert _differences(name, lambda _: None) == []


def _differences(name: str, alter: Alter) -> list[str]:
    """What the comparison finds in an altered copy of a recording."""
    events = recording.load_events(name)
    altered = copy.deepcopy(events)
    alter(altered)
    return verdict.differences(recording.from_events(name, events), renames.of(events), _as_replay(altered, events))


def _as_replay(altered: list[Event], events: list[Event]) -> Replay:
    played = recording.from_events("altered", altered)
    answers = {turn: step.answer for turn, step in enumerate(played.steps) if step.answer}
    return Replay(answers, played.frames, renames.of(events))


def _frames(events: list[Event], wanted: str) -> list[Event]:
    return [event for event in events if event["dir"] == "ws-recv" and kind(event) == wanted]


def _answers(events: list[Event], path: str) -> list[Event]:
    turns = [i for i, e in enumerate(events) if e["dir"] == "http-request" and e["path"] == path]
    return [next(e for e in events[i:] if e["dir"] == "http-response") for i in turns]


def _set(target: Any, *path: Any) -> None:
    """Put the last of ``path`` where the others lead."""
    *keys, last, value = path
    for key in keys:
        target = target[key]
    target[last] = value


def _swap(events: list[Event], first: str, second: str) -> None:
    """Exchange the first two frames of these types."""
    one, other = _frames(events, first)[0], _frames(events, second)[0]
    one["frame"], other["frame"] = other["frame"], one["frame"]


def _drop(events: list[Event], wanted: str, turn: int) -> None:
    events.remove(_frames(events, wanted)[turn])


def _twice(events: list[Event], wanted: str) -> None:
    frame = _frames(events, wanted)[0]
    events.insert(events.index(frame), copy.deepcopy(frame))


def _late_state(events: list[Event]) -> None:
    state = events.index(_frames(events, "progress")[0]) - 1
    events[state] = _frames(events, "progress")[1]


def _earlier_prompt_id(events: list[Event]) -> None:
    first, second = _frames(events, "executed")[:2]
    second["frame"]["data"]["prompt_id"] = first["frame"]["data"]["prompt_id"]


def _repeat_step(events: list[Event]) -> None:
    steps = [frame for frame in _frames(events, "progress") if frame["client"] == "A2"]
    steps[2]["frame"]["data"]["value"] = 1


def _give_an_answer(events: list[Event]) -> None:
    failed = next(answer for answer in _answers(events, "/queue") if "exception" in answer)
    del failed["exception"]
    failed.update(status=200, headers={})


def _reverse_history(events: list[Event]) -> None:
    answer = _answers(events, "/history")[0]
    answer["body"] = dict(reversed(answer["body"].items()))


#: Recording, frame type or path of an answer, turn, and the path to a value that takes another's place.
VALUES: list[tuple[str, str, int, tuple[Any, ...]]] = [
    ("01_success_saveimage", "executing", 0, ("frame", "data", "node", "9")),
    ("01_success_saveimage", "executing", -1, ("frame", "data", "display_node", None)),
    ("01_success_saveimage", "progress", 0, ("frame", "data", "value", 1.0)),
    ("01_success_saveimage", "execution_start", 0, ("frame", "data", "timestamp", "now")),
    ("02_cached_repeat", "executed", 1, ("frame", "data", "output", "images", 0, "filename", "x.png")),
    ("07_ksampler_preview_binary", "preview", 0, ("event_type", 4)),
    ("07_ksampler_preview_binary", "preview", 0, ("image_magic_hex", "89504e470d0a1a0a0000000d")),
    ("10_interrupt", "execution_interrupted", 0, ("frame", "data", "node_id", "2")),
    ("10_interrupt", "execution_interrupted", 0, ("frame", "type", "execution_success")),
    ("19_reconnect_mid_run", "status", 3, ("frame", "data", "status", "exec_info", "queue_remaining", 0)),
    ("21_ws_misc", "closed", 0, ("close_code", 1000)),
    ("14_invalid_prompts", "/prompt", 0, ("status", 422)),
    ("14_invalid_prompts", "/prompt", 0, ("body", "error", "type", "bad_prompt")),
    ("14_invalid_prompts", "/prompt", 0, ("headers", "Content-Type", "application/json")),
    ("17_get_endpoints", "/queue", 0, ("headers", "Access-Control-Allow-Origin", "*")),
]

#: Recording, and what is done to its events.
ALTERATIONS: dict[str, tuple[str, Alter]] = {
    "success before executed": ("01_success_saveimage", lambda e: _swap(e, "execution_success", "executed")),
    "start after cached": ("01_success_saveimage", lambda e: _swap(e, "execution_start", "execution_cached")),
    "progress before its progress_state": ("01_success_saveimage", _late_state),
    "no last executing": ("01_success_saveimage", lambda e: _drop(e, "executing", -1)),
    "a status too few": ("01_success_saveimage", lambda e: _drop(e, "status", 1)),
    "a status too many": ("04_two_clients_queue", lambda e: _twice(e, "status")),
    "one step of a run missing": ("01_success_saveimage", lambda e: _drop(e, "progress", 1)),
    "a key missing": (
        "01_success_saveimage",
        lambda e: _frames(e, "executing")[0]["frame"]["data"].pop("display_node"),
    ),
    "another prompt's id": ("02_cached_repeat", _earlier_prompt_id),
    "a step reported again after a reconnect": ("19_reconnect_mid_run", _repeat_step),
    "a frame on a socket that was replaced": (
        "20_second_socket_same_id",
        lambda e: e.insert(-2, {**_frames(e, "executed")[0], "client": "A3"}),
    ),
    "another order of the pending": (
        "13_prompt_id_number_front",
        lambda e: _answers(e, "/queue")[0]["body"]["queue_pending"].sort(key=lambda i: i[0]),
    ),
    "an answer where none came": ("23_killed_kill", _give_an_answer),
    "history in another order": ("13_prompt_id_number_front", _reverse_history),
}


@pytest.mark.parametrize(("name", "where", "turn", "path"), VALUES)
def test_other_value_is_found(name: str, where: str, turn: int, path: tuple[Any, ...]) -> None:
    find = _answers if where.startswith("/") else _frames
    assert _differences(name, lambda events: _set(find(events, where)[turn], *path))


@pytest.mark.parametrize(("name", "alter"), ALTERATIONS.values(), ids=ALTERATIONS)
def test_other_order_or_number_of_frames_is_found(name: str, alter: Alter) -> None:
    assert _differences(name, alter)


def test_number_of_steps_before_an_interrupt_is_not_compared() -> None:
    """How fast an interrupt reaches the sampler is the machine's, not the server's."""

    def alter(events: list[Event]) -> None:
        end = events.index(_frames(events, "execution_interrupted")[0])
        steps = [e for e in events[:end] if e["dir"] == "ws-recv" and kind(e) in recording.PROGRESS]
        for step in steps[-2:]:
            events.remove(step)

    assert _differences("10_interrupt", alter) == []


def test_status_after_a_post_to_a_busy_server_may_come_later() -> None:
    """A POST is announced by the server's loop, the running prompt's frames by its worker."""

    def alter(events: list[Event]) -> None:
        early = [e for e in _frames(events, "status") if e["client"] == "A"][3]
        events.remove(early)
        events.insert(events.index(_frames(events, "executing")[0]) + 1, early)

    assert _differences("04_two_clients_queue", alter) == []


def test_status_after_a_deletion_may_come_between_other_steps() -> None:
    """The server's loop sends the status of a deletion while the sampler continues."""

    def alter(events: list[Event]) -> None:
        status = _frames(events, "status")
        deleted = next(e for e, f in pairwise(status) if _fell(e, f))
        later = status[status.index(deleted) + 1]
        events.remove(later)
        events.insert(events.index(_frames(events, "progress")[2]), later)

    assert _differences("12_delete_pending", alter) == []


def _fell(before: Event, after: Event) -> bool:
    lengths = [e["frame"]["data"]["status"]["exec_info"]["queue_remaining"] for e in (before, after)]
    return bool(lengths[1] < lengths[0])


@pytest.mark.parametrize(
    "place",
    [
        "frame:executing",
        "frame:executing/data",
        "frame:executing/data/node",
        "frame:execution_error/data/exception_type",
        "frame:execution_error/data/current_inputs",
        "frame:progress_state/data/nodes/1/value",
        "frame:status/data/status/exec_info/queue_remaining",
        "frame:executed/data/output/images/0/filename",
        "body:POST /prompt:",
        "body:POST /prompt:number",
        "body:POST /prompt:node_errors/1/errors/0/extra_info",
        "body:GET /queue:queue_pending/0/0",
        "body:GET /history:",
        "body:GET /history/<prompt 0>:<prompt 0>/outputs",
        "body:GET /history/<prompt 0>:<prompt 0>/status/status_str",
        "body:GET /system_stats:devices",
        "body:GET /object_info:KSampler",
        "body:GET /object_info:KSampler/input/required/seed/1/default",
        "body:GET /object_info:KSampler/display_name",
        "body:POST /prompt:node_errors/1/errors/0/extra_info/input_config/1/min",
        "header:GET /queue:",
        "header:GET /queue:Content-Type",
        "binary:close_code",
        "binary:image",
    ],
)
def test_value_that_clients_depend_on_is_never_ignored(place: str) -> None:
    """A pattern of the list that grew too broad would match one of these."""
    assert rule_for(place) is None


@pytest.mark.parametrize(
    ("mine", "other", "found"),
    [
        ({"description": ""}, {"description": "Saves images."}, 0),
        ({}, {"output_tooltips": ["The picture.", None]}, 0),
        ({"description": ""}, {"description": 5}, 1),
        ({}, {"display_name": "Save Image"}, 1),
        ({}, {"category": "image"}, 1),
    ],
)
def test_descriptions_may_differ_between_listings(mine: dict[str, Any], other: dict[str, Any], found: int) -> None:
    """A recording has no prose; a ComfyUI that is held against it has."""
    path = "body:GET /object_info:SaveImage"
    assert len(list(compare.values(path, mine, other))) == found
    assert len(list(compare.values(path, other, mine))) == found


def test_tooltip_of_an_input_is_not_compared_and_other_options_are() -> None:
    path = "body:POST /prompt:node_errors/1/errors/0/extra_info/input_config"
    recorded, seen = ["INT", {"min": 0}], ["INT", {"min": 0, "tooltip": "How many."}]
    assert list(compare.values(path, recorded, seen)) == []
    assert list(compare.values(path, recorded, ["INT", {"min": 0, "max": 9}]))
