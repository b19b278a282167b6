"""The simulator answers the recorded requests as the recorded ComfyUI did, scenario by scenario."""

import copy
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.contract import recording, renames, verdict
from tests.contract.conftest import Serve
from tests.contract.ignored import COMPARED, rule_for
from tests.contract.recording import Event, kind
from tests.contract.replay import Player
from tests.contract.servers import Process, Server


def _marked(chain: tuple[str, ...]) -> Any:
    return pytest.param(
        chain, id=chain[0], marks=pytest.mark.slow if chain[0] in recording.OFF_WIRE["slow"] else ()
    )


@pytest.mark.parametrize("chain", [*map(_marked, recording.chains())])
async def test_recorded_requests_bring_the_recorded_frames_and_answers(
    chain: tuple[str, ...], serve: Serve
) -> None:
    """Order, type, keys and node of every frame; status, headers and body of every answer."""
    events = {name: recording.load_events(name) for name in chain}
    names, learned = (
        renames.of([one for recorded in events.values() for one in recorded]),
        renames.Names(),
    )
    found: list[str] = []
    async with serve(chain) as server:
        await _prepare(server, *recording.OFF_WIRE["before"].get(chain[0], (0, "")))
        for name, recorded in events.items():
            player = Player(recording.from_events(name, recorded), names, server, learned)
            if isinstance(server, Server):
                server.go_on = player.go_on
            replay = await player.play()
            found += [
                f"{name}: {line}" for line in verdict.differences(player.recording, names, replay)
            ]
    assert not found, f"{len(found)} differences:\n" + "\n".join(found[:40])


async def _prepare(server: Server | Process, prompts: int, image: str) -> None:
    """Leave what earlier clients left: refused prompts count, too."""
    async with httpx.AsyncClient(base_url=server.url, trust_env=False) as client:
        for _ in range(prompts):
            await client.post("/prompt", json={})
    if image:
        (server.outputs / image).touch()


def _frames(events: list[Event], wanted: str) -> list[Event]:
    return [event for event in events if event["dir"] == "ws-recv" and kind(event) == wanted]


def _answers(events: list[Event], path: str) -> list[Event]:
    turns = [i for i, e in enumerate(events) if e["dir"] == "http-request" and e["path"] == path]
    return [next(e for e in events[i:] if e["dir"] == "http-response") for i in turns]


def _set(where: str, turn: int, *path: Any) -> Callable[[list[Event]], None]:
    """Put the last of ``path`` where the others lead, in a frame by its type or an answer by its
    path.
    """

    def alter(events: list[Event]) -> None:
        target: Any = (_answers if where.startswith("/") else _frames)(events, where)[turn]
        *keys, last, value = path
        for key in keys:
            target = target[key]
        target[last] = value

    return alter


def _swap(first: str, second: str) -> Callable[[list[Event]], None]:
    """Exchange the first two frames of these types."""

    def alter(events: list[Event]) -> None:
        one, other = _frames(events, first)[0], _frames(events, second)[0]
        one["frame"], other["frame"] = other["frame"], one["frame"]

    return alter


def _drop(wanted: str, turn: int) -> Callable[[list[Event]], None]:
    return lambda events: events.remove(_frames(events, wanted)[turn])


def _twice(events: list[Event]) -> None:
    frame = _frames(events, "status")[0]
    events.insert(events.index(frame), copy.deepcopy(frame))


def _give_an_answer(events: list[Event]) -> None:
    failed = next(answer for answer in _answers(events, "/queue") if "exception" in answer)
    del failed["exception"]
    failed.update(status=200, headers={})


def _reverse_history(events: list[Event]) -> None:
    answer = _answers(events, "/history")[0]
    answer["body"] = dict(reversed(answer["body"].items()))


@pytest.mark.parametrize(
    ("name", "alter"),
    [
        ("01_success_saveimage", _set("executing", 0, "frame", "data", "node", "9")),
        ("01_success_saveimage", _set("executing", -1, "frame", "data", "display_node", None)),
        ("01_success_saveimage", _set("progress", 0, "frame", "data", "value", 1.0)),
        ("01_success_saveimage", _swap("execution_success", "executed")),
        ("01_success_saveimage", _drop("executing", -1)),
        ("01_success_saveimage", _drop("status", 1)),
        ("01_success_saveimage", _drop("progress", 1)),
        ("04_two_clients_queue", _twice),
        ("07_ksampler_preview_binary", _set("preview", 0, "event_type", 4)),
        ("13_prompt_id_number_front", _reverse_history),
        ("14_invalid_prompts", _set("/prompt", 0, "status", 422)),
        ("14_invalid_prompts", _set("/prompt", 0, "body", "error", "type", "bad_prompt")),
        ("14_invalid_prompts", _set("/prompt", 0, "headers", "Content-Type", "text/plain")),
        ("21_ws_misc", _set("closed", 0, "close_code", 1000)),
        ("23_killed_kill", _give_an_answer),
    ],
)
def test_altered_recording_differs_from_the_recording(
    name: str, alter: Callable[[list[Event]], None]
) -> None:
    events = recording.load_events(name)
    altered = copy.deepcopy(events)
    alter(altered)
    assert _differences(name, events, altered)
    assert not _differences(name, events, events)


def _differences(name: str, events: list[Event], altered: list[Event]) -> list[str]:
    played = recording.from_events("altered", altered)
    answers = {turn: step.answer for turn, step in enumerate(played.steps) if step.answer}
    names = renames.of(events)
    replay = verdict.Replay(answers, played.frames, names)
    return verdict.differences(recording.from_events(name, events), names, replay)


@pytest.mark.parametrize("place", COMPARED)
def test_value_that_clients_depend_on_is_compared(place: str) -> None:
    """A pattern of the list that grew too broad would match one of these."""
    assert rule_for(place) is None
