"""The ComfyUI listener sends the recorded requests' clients the frames of the recorded ComfyUI."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect

from backends.simulator.catalog import read_catalog
from tests.contract import compare, recording, renames
from tests.contract.conftest import Serve
from tests.contract.recording import Event, kind
from tests.contract.replay import PATIENCE, Player, Socket
from tests.contract.servers import Server
from tests.harness.processes import Served
from tests.harness.waits import until

#: What is no frame of a prompt, and what comes less often.
_LOOSE = recording.PROGRESS | {"status", "closed", "feature_flags"}

_RETRIED = "a retry shows no error and no second start: its ComfyUI ends, and the prompt continues"
_ONE_ID = "the same id and body get the first answer, and no second render"
_JOINED = "who connects again gets the state of the presented prompt"
#: Recordings whose client sees something else at the listener, and the rule of the listener.
_OTHERWISE = {
    "05_no_client_id": "a prompt without a client id sends no frames to others",
    "11_interrupt_uninterruptible": "a stop is in the history, and shown, before the node ends",
    "13_prompt_id_number_front": _ONE_ID,
    "32_same_prompt_id_again": _ONE_ID,
    "33_06_prompt_ids": _ONE_ID,
    "16_poison_badlink": _RETRIED,
    "16_poison_dup": _RETRIED,
    "16_poison_noinputs": _RETRIED,
    "33_20_poison": _RETRIED,
    "23_killed_int": _RETRIED,
    "23_killed_kill": _RETRIED,
    "23_killed_term": _RETRIED,
    "33_16_kill9_restart": _RETRIED,
    "19_reconnect_mid_run": _JOINED,
    "20_second_socket_same_id": "all sockets of one id get the frames",
    "33_08_reconnect": _JOINED,
}
#: Those with values out of their range. Only of its own nodes does ComfyUI certainly refuse them, so
#: the nodes of the recordings are such ones here.
_OUT_OF_RANGE = {"14_invalid_prompts", "33_10_refusals"}
#: Those with requests at which ComfyUI itself fails (500), and of which the listener takes some.
_FAILED = {"14_invalid_prompts", "33_10_refusals", "33_17_node_replacement"}
#: Its last prompt ends its ComfyUI, and the listener refuses it.
_POISONED = "33_10_refusals"
#: In this Director the first failure of a job is final, and a lack of memory empties no cache:
#: ComfyUI knows no retry.
_PROGRAM = """
import os, sys, django
sys.argv[0] = "manage.py"
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "director.settings")
django.setup()
from jobgroups.api.requests import payloads
from jobgroups.runner.attempt import driver
payloads.POOL_ATTEMPTS = 1
async def keep(client): pass
driver.free_memory = keep
from director.__main__ import main
main()
"""


@pytest.fixture(scope="module")
def director(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    arguments = ("--port", "0", "--comfyui-port", "0")
    folder = tmp_path_factory.mktemp("director")
    served = Served(folder, arguments=arguments, program=("-c", _PROGRAM))
    try:
        yield served
    finally:
        served.close()


class _Quiet(Socket):
    """Counts the frames alone that come as often as they were recorded."""

    async def _take(self, event: Event, took: Any) -> None:
        if kind(event) not in _LOOSE:
            await super()._take(event, took)
        elif not self.closing:
            # The names in it, as the id of the socket, are still learned.
            await took(event)


class _Program(Player):
    """A recorded client at the listener, whose prompts are its own."""

    def __init__(self, *args: Any, user: str, machine: str) -> None:
        super().__init__(*args)
        self._machine = machine
        self._headers = {"Comfy-User": user}
        self._http = httpx.AsyncClient(
            base_url=self.server.url, headers=self._headers, timeout=PATIENCE, trust_env=False
        )

    async def _request(self, event: Event) -> Event:
        if event["path"] == "/free":
            # The listener's empties no memory: its operator does.
            await self._http.post(f"{self._machine}/free", json=event["body"])
        return await super()._request(event)

    async def _off_wire(self, step: Any) -> None:
        """Remove no output: the listener has a prompt executed again whose file is gone."""

    async def _queue_length(self, client: str) -> None:
        """Wait for nothing: the lengths are those of one owner's queue."""

    async def _connect(self, step: Any, listeners: Any) -> Event:
        client = step.event["client"]
        url = "ws" + self.server.url.removeprefix("http") + self._renamed(step.event["path"])
        websocket = await connect(url, max_size=None, additional_headers=self._headers, proxy=None)
        frames = self.replay.frames[client] = []
        socket = self._sockets[client] = _Quiet(websocket, frames)
        listeners.create_task(socket.listen(self._took), name=f"socket {client}")
        return {"status": 101, "headers": {}}


def _load(name: str) -> recording.Recording:
    events = [
        event
        for event in recording.load_events(name)
        if event["dir"] != "ws-recv" or kind(event) not in _LOOSE
    ]
    if name == _POISONED:
        events = events[: max(i for i, event in enumerate(events) if event.get("method") == "POST")]
    if name in _FAILED:
        failed = {index for index, event in enumerate(events) if event.get("status") == 500}
        gone = failed | {index - 1 for index in failed}
        events = [event for index, event in enumerate(events) if index not in gone]
    return recording.from_events(name, events)


def _common(value: Any) -> Any:
    """Return a value without the ids of jobs, with which folders of files begin, without the
    numbers of files, since not all recordings of a chain are played, and without the prompt that a
    node got, which has the Director's mark.
    """
    if isinstance(value, dict):
        hidden = {"prompt", "extra_pnginfo"} if "extra_pnginfo" in value else set()
        return {key: _common(item) for key, item in value.items() if key not in hidden}
    if isinstance(value, list):
        return [_common(item) for item in value]
    return (
        re.sub(r"^j_[0-9a-f]{12}/?|(?<=_)\d{5}(?=_)", "", value)
        if isinstance(value, str)
        else value
    )


@pytest.mark.parametrize(
    "chain",
    [
        pytest.param(tuple(name for name in chain if name not in _OTHERWISE), id=chain[0])
        for chain in recording.chains()
        if not set(chain) <= _OTHERWISE.keys()
    ],
)
async def test_listener_sends_the_recorded_frames(
    chain: tuple[str, ...], serve: Serve, director: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Order, type, keys and values of every frame but for progress, which may be coalesced."""
    url = director.wait_printed(re.compile(r"As one ComfyUI: (http://\S+)"))[1]
    found: list[str] = []
    if not _OUT_OF_RANGE.isdisjoint(chain):
        for described in read_catalog("object_info").values():
            monkeypatch.setitem(described, "python_module", "nodes")
    async with serve(chain) as machine:
        # The machine is of this loop.
        added = await asyncio.to_thread(
            director.ask, "POST", "/api/backends", json={"url": machine.url}
        )
        assert added.status_code == 201, added.text
        backend_id = added.json()["backend_id"]
        await asyncio.to_thread(_wait_online, director, backend_id)
        learned = renames.Names()
        names = renames.of([event for name in chain for event in recording.load_events(name)])
        for name in chain:
            played = _load(name)
            server = Server(url, machine.outputs)
            player = _Program(played, names, server, learned, user=name, machine=machine.url)
            if isinstance(machine, Server):
                machine.go_on = player.go_on
            replay = await player.play()
            found += [f"{name}: {replay.stuck}"] if replay.stuck else []
            for client, recorded in played.frames.items():
                mine = [_common(names.plain(event)) for event in recorded]
                other = [_common(learned.plain(e)) for e in replay.frames.get(client, [])]
                found += [f"{name} {client} {line}" for line in _differences(mine, other)]
        await asyncio.to_thread(_forget, director, backend_id)
    assert not found, f"{len(found)} differences:\n" + "\n".join(found[:30])


def _wait_online(director: Served, backend_id: str) -> None:
    def is_online() -> bool:
        rows = director.ask("GET", "/api/backends").json()["backends"]
        return any(row["backend_id"] == backend_id and row["status"] == "online" for row in rows)

    until(is_online)


def _forget(director: Served, backend_id: str) -> None:
    """Cancel what a recording left, and delete its machine before it ends."""
    director.ask("POST", "/api/job-groups/cancel", json={})
    until(lambda: director.ask("DELETE", f"/api/backends/{backend_id}").is_success)


def _differences(recorded: list[Event], seen: list[Event]) -> Iterator[str]:
    for number, (mine, other) in enumerate(zip(recorded, seen, strict=False)):
        if kind(mine) != kind(other):
            yield f"frame {number}: recorded {kind(mine)}, seen {kind(other)} {other}"
            return
        yield from (f"frame {number} {line}" for line in compare.frames(mine, other))
    if len(recorded) != len(seen):
        rest = (recorded if len(recorded) > len(seen) else seen)[min(len(recorded), len(seen)) :]
        yield f"recorded {len(recorded)}, seen {len(seen)}: {[kind(event) for event in rest][:8]}"
