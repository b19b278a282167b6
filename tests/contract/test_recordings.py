"""The simulator answers the recorded requests as the recorded ComfyUI did, scenario by scenario."""

from __future__ import annotations

import pytest

from tests.contract import offwire, recording, renames, verdict
from tests.contract.conftest import Serve
from tests.contract.ignored import on_used_server
from tests.contract.replay import Player
from tests.contract.servers import Server


@pytest.mark.parametrize("name", recording.names())
async def test_recorded_requests_bring_the_recorded_frames_and_answers(
    name: str, serve: Serve, used_server: bool
) -> None:
    """Order, type, keys and node of every frame; status, headers and body of every answer."""
    async with serve(name) as server:
        if name in offwire.CONTINUES:
            await _player(offwire.CONTINUES[name], server).play()
        player = _player(name, server)
        replay = await player.play()
    with on_used_server(used_server):
        found = verdict.differences(player.recording, player.names, replay)
    assert not found, f"{len(found)} differences:\n" + "\n".join(found[:40])


def _player(name: str, server: Server) -> Player:
    events = recording.load_events(name)
    return Player(recording.from_events(name, events), renames.of(events), server)
