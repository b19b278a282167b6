"""The ComfyUI listener sends the recorded requests' clients the frames of the recorded ComfyUI."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect

from tests.contract import compare, recording, renames
from tests.contract.conftest import Serve
from tests.contract.recording import Event, kind
from tests.contract.replay import PATIENCE, Player, Socket
from tests.contract.servers import Server
from tests.harness.processes import Served
from tests.harness.waits import until

#: What is no frame of a prompt, and what comes less often.
_LOOSE = recording.PROGRESS | {"status", "closed", "feature_flags"}

#: Recordings whose client sees something else at the listener, and why.
_OTHERWISE = {
    "05_no_client_id": "ComfyUI sends the progress of a prompt without a client to everybody",
    "13_prompt_id_number_front": "one prompt id twice",
    "32_same_prompt_id_again": "one prompt id twice",
    "16_poison_badlink": "the prompt ends its ComfyUI",
    "16_poison_dup": "the prompt ends its ComfyUI",
    "16_poison_noinputs": "the prompt ends its ComfyUI",
    "19_reconnect_mid_run": "who connects again gets the state of its prompt",
    "20_second_socket_same_id": "all sockets of one id get the frames",
    "33_08_reconnect": "who connects again gets the state of its prompt",
    "10_interrupt": "an interrupt by id stops a prompt that waits, too",
    "33_04_interrupt": "an interrupt by id stops a prompt that waits, too",
    "23_killed_int": "its ComfyUI is killed, and the prompt is retried",
    "23_killed_kill": "its ComfyUI is killed, and the prompt is retried",
    "23_killed_term": "its ComfyUI is killed, and the prompt is retried",
    "33_16_kill9_restart": "its ComfyUI is killed, and the prompt is retried",
    "33_20_poison": "the prompt ends its ComfyUI",
    "33_06_prompt_ids": "one prompt id twice",
    "14_invalid_prompts": "a value out of its range is refused by the machine, not by the listener",
    "33_10_refusals": "a value out of its range is refused by the machine, not by the listener",
    "21_ws_misc": "the Director reads shorter messages",
    "33_17_node_replacement": "ComfyUI fails at a request that the listener takes",
    "11_interrupt_uninterruptible": "a stop is shown at once, while the node at the machine goes on",
    "17_get_endpoints": "POST /free empties no cache",
    "33_02_cached_repeat": "POST /free empties no cache",
    "18_view_and_upload": "an uploaded file has another name at the machine",
    "26_partial_outputs_then_error": "a prompt that has not enough memory is retried",
    "09_execution_error": "a prompt that has not enough memory is retried",
    "33_03_error": "a prompt that has not enough memory is retried",
}


@pytest.fixture(scope="module")
def director(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    arguments = ("--port", "0", "--comfyui-port", "0")
    served = Served(tmp_path_factory.mktemp("director"), arguments=arguments)
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

    def __init__(self, *args: Any, user: str) -> None:
        super().__init__(*args)
        self._headers = {"Comfy-User": user}
        self._http = httpx.AsyncClient(
            base_url=self.server.url, headers=self._headers, timeout=PATIENCE, trust_env=False
        )

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


def _strict(events: list[Event]) -> list[Event]:
    return [event for event in events if event["dir"] != "ws-recv" or kind(event) not in _LOOSE]


def _common(value: Any) -> Any:
    """Return a value without the ids of jobs, with which folders of files begin, and without the
    numbers of files, since not all recordings of a chain are played.
    """
    if isinstance(value, dict):
        return {key: _common(item) for key, item in value.items()}
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
    chain: tuple[str, ...], serve: Serve, director: Served
) -> None:
    """Order, type, keys and values of every frame but for progress, which may be coalesced."""
    url = director.wait_printed(re.compile(r"As one ComfyUI: (http://\S+)"))[1]
    found: list[str] = []
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
            played = recording.from_events(name, _strict(recording.load_events(name)))
            server = Server(url, machine.outputs)
            player = _Program(played, names, server, learned, user=name)
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
