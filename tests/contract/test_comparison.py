"""The comparison sees what a server would do wrong: recordings altered in one place each."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from tests.contract import compare, recording, renames, verdict
from tests.contract.ignored import IGNORED, rule_for
from tests.contract.recording import Event, kind
from tests.contract.verdict import Replay

Alter = Callable[[list[Event]], None]


@pytest.mark.parametrize("name", recording.names())
def test_a_recording_differs_in_nothing_from_itself(name: str) -> None:
    """No rule of the comparison speaks against the real server's own words."""
    assert _differences(name, lambda _: None) == []


def _differences(name: str, alter: Alter) -> list[str]:
    """What the comparison finds in an altered copy of a recording."""
    events = recording.load_events(name)
    altered = copy.deepcopy(events)
    alter(altered)
    return verdict.differences(
        recording.from_events(name, events), renames.of(events), _as_replay(altered, events)
    )


def _as_replay(altered: list[Event], events: list[Event]) -> Replay:
    played = recording.from_events("altered", altered)
    answers = {turn: step.answer for turn, step in enumerate(played.steps) if step.answer}
    return Replay(answers, played.frames, renames.of(events))


def _frames(events: list[Event], wanted: str) -> list[Event]:
    return [event for event in events if event["dir"] == "ws-recv" and kind(event) == wanted]


def _answers(events: list[Event], path: str) -> list[Event]:
    turns = [i for i, e in enumerate(events) if e["dir"] == "http-request" and e["path"] == path]
    return [next(e for e in events[i:] if e["dir"] == "http-response") for i in turns]


def _swap(events: list[Event], first: str, second: str) -> None:
    """Exchange the first two frames of these types."""
    one, other = _frames(events, first)[0], _frames(events, second)[0]
    one["frame"], other["frame"] = other["frame"], one["frame"]


def _set(target: Any, *path: Any) -> None:
    """Put the last of ``path`` where the others lead."""
    *keys, last, value = path
    for key in keys:
        target = target[key]
    target[last] = value


def _drop(events: list[Event], wanted: str, turn: int = 0) -> None:
    events.remove(_frames(events, wanted)[turn])


def _twice(events: list[Event], wanted: str) -> None:
    frame = _frames(events, wanted)[0]
    events.insert(events.index(frame), copy.deepcopy(frame))


def _give_an_answer(events: list[Event], path: str) -> None:
    """Let the first request of ``path`` that failed be answered."""
    failed = next(answer for answer in _answers(events, path) if "exception" in answer)
    del failed["exception"]
    failed.update(status=200, headers={})


ALTERATIONS: dict[str, tuple[str, Alter]] = {
    "success before executed": (
        "01_success_saveimage",
        lambda e: _swap(e, "execution_success", "executed"),
    ),
    "start after cached": (
        "01_success_saveimage",
        lambda e: _swap(e, "execution_start", "execution_cached"),
    ),
    "progress before its progress_state": (
        "01_success_saveimage",
        lambda e: _set(e, e.index(_frames(e, "progress")[0]) - 1, _frames(e, "progress")[1]),
    ),
    "no last executing": ("01_success_saveimage", lambda e: _drop(e, "executing", -1)),
    "a status too few": ("01_success_saveimage", lambda e: _drop(e, "status", 1)),
    "a status too many": ("04_two_clients_queue", lambda e: _twice(e, "status")),
    "one step of a run missing": ("01_success_saveimage", lambda e: _drop(e, "progress", 1)),
    "another node": (
        "01_success_saveimage",
        lambda e: _set(_frames(e, "executing")[0], "frame", "data", "node", "9"),
    ),
    "a key missing": (
        "01_success_saveimage",
        lambda e: _frames(e, "executing")[0]["frame"]["data"].pop("display_node"),
    ),
    "a key too many": (
        "01_success_saveimage",
        lambda e: _set(_frames(e, "executing")[-1], "frame", "data", "display_node", None),
    ),
    "a float for an integer": (
        "01_success_saveimage",
        lambda e: _set(_frames(e, "progress")[0], "frame", "data", "value", 1.0),
    ),
    "a time that is no number": (
        "01_success_saveimage",
        lambda e: _set(_frames(e, "execution_start")[0], "frame", "data", "timestamp", "now"),
    ),
    "another queue length at the first frame": (
        "19_reconnect_mid_run",
        lambda e: _set(
            _frames(e, "status")[3],
            *("frame", "data", "status", "exec_info", "queue_remaining", 0),
        ),
    ),
    "another prompt's id": (
        "02_cached_repeat",
        lambda e: _set(
            _frames(e, "executed")[1],
            *("frame", "data", "prompt_id"),
            _frames(e, "executed")[0]["frame"]["data"]["prompt_id"],
        ),
    ),
    "a new file name for a cached node": (
        "02_cached_repeat",
        lambda e: _set(
            _frames(e, "executed")[1],
            *("frame", "data", "output", "images", 0, "filename", "test_00002_.png"),
        ),
    ),
    "a preview of the other type": (
        "07_ksampler_preview_binary",
        lambda e: _set(_frames(e, "preview")[0], "event_type", 4),
    ),
    "a preview that is no JPEG": (
        "07_ksampler_preview_binary",
        lambda e: _set(_frames(e, "preview")[0], "image_magic_hex", "89504e470d0a1a0a0000000d"),
    ),
    "an interrupt named for another node": (
        "10_interrupt",
        lambda e: _set(_frames(e, "execution_interrupted")[0], "frame", "data", "node_id", "2"),
    ),
    "an interrupted prompt that succeeds": (
        "10_interrupt",
        lambda e: _set(
            _frames(e, "execution_interrupted")[0], "frame", "type", "execution_success"
        ),
    ),
    "a step reported again after a reconnect": (
        "19_reconnect_mid_run",
        lambda e: _set(
            [f for f in _frames(e, "progress") if f["client"] == "A2"][2],
            *("frame", "data", "value", 1),
        ),
    ),
    "a socket that should be deaf": (
        "20_second_socket_same_id",
        lambda e: e.insert(-2, {**_frames(e, "executed")[0], "client": "A3"}),
    ),
    "another close code": (
        "21_ws_misc",
        lambda e: _set(_frames(e, "closed")[0], "close_code", 1000),
    ),
    "another status": (
        "14_invalid_prompts",
        lambda e: _set(_answers(e, "/prompt")[0], "status", 422),
    ),
    "another error type": (
        "14_invalid_prompts",
        lambda e: _set(_answers(e, "/prompt")[0], "body", "error", "type", "bad_prompt"),
    ),
    "another order of the pending": (
        "13_prompt_id_number_front",
        lambda e: _answers(e, "/queue")[0]["body"]["queue_pending"].sort(key=lambda i: i[0]),
    ),
    "another content type": (
        "14_invalid_prompts",
        lambda e: _set(_answers(e, "/prompt")[0], "headers", "Content-Type", "application/json"),
    ),
    "a header too many": (
        "17_get_endpoints",
        lambda e: _set(_answers(e, "/queue")[0], "headers", "Access-Control-Allow-Origin", "*"),
    ),
    "an answer where none came": ("23_killed_kill", lambda e: _give_an_answer(e, "/queue")),
    "history in another order": (
        "13_prompt_id_number_front",
        lambda e: _set(
            _answers(e, "/history")[0],
            *("body", dict(reversed(_answers(e, "/history")[0]["body"].items()))),
        ),
    ),
}


@pytest.mark.parametrize("what", ALTERATIONS)
def test_an_altered_recording_is_found_out(what: str) -> None:
    """Each alteration is one fault a simulator could have."""
    name, alter = ALTERATIONS[what]
    assert _differences(name, alter)


def test_fewer_steps_before_an_interrupt_are_no_difference() -> None:
    """How fast an interrupt reaches the sampler is the machine's, not the server's."""

    def alter(events: list[Event]) -> None:
        end = events.index(_frames(events, "execution_interrupted")[0])
        steps = [e for e in events[:end] if e["dir"] == "ws-recv" and kind(e) in recording.PROGRESS]
        for step in steps[-2:]:
            events.remove(step)

    assert _differences("10_interrupt", alter) == []


def test_the_announcement_of_a_post_to_a_busy_server_may_come_later() -> None:
    """A POST is announced by the server's loop, the running prompt's frames by its worker."""

    def alter(events: list[Event]) -> None:
        early = [e for e in _frames(events, "status") if e["client"] == "A"][3]
        events.remove(early)
        events.insert(events.index(_frames(events, "executing")[0]) + 1, early)

    assert _differences("04_two_clients_queue", alter) == []


def test_a_deletion_may_be_announced_between_other_steps() -> None:
    """A deletion is told by the server's loop while the sampler's steps go on."""

    def alter(events: list[Event]) -> None:
        status = _frames(events, "status")
        deleted = next(e for e, f in pairwise(status) if _fell(e, f))
        later = status[status.index(deleted) + 1]
        events.remove(later)
        events.insert(events.index(_frames(events, "progress")[2]), later)

    assert _differences("12_delete_pending", alter) == []


def _fell(before: Event, after: Event) -> bool:
    lengths = [
        e["frame"]["data"]["status"]["exec_info"]["queue_remaining"] for e in (before, after)
    ]
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
def test_what_a_client_goes_by_is_never_ignored(place: str) -> None:
    """A pattern of the list that grew too broad would match one of these."""
    assert rule_for(place) is None


def test_every_ignored_place_gives_its_reason() -> None:
    """The list is read by people who must believe it."""
    assert all(rule.reason for rule in IGNORED)


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
def test_only_prose_may_differ_between_listings(
    mine: dict[str, Any], other: dict[str, Any], found: int
) -> None:
    """A recording has no prose; a ComfyUI that is held against it has."""
    path = "body:GET /object_info:SaveImage"
    assert len(list(compare.values(path, mine, other))) == found
    assert len(list(compare.values(path, other, mine))) == found


def test_a_tooltip_among_the_options_is_no_difference_but_another_option_is() -> None:
    path = "body:POST /prompt:node_errors/1/errors/0/extra_info/input_config"
    recorded, seen = ["INT", {"min": 0}], ["INT", {"min": 0, "tooltip": "How many."}]
    assert list(compare.values(path, recorded, seen)) == []
    assert list(compare.values(path, recorded, ["INT", {"min": 0, "max": 9}]))
