"""The sockets of the ComfyUI listener: what they get of a prompt that ends while it is read."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from jobgroups.events.hub import hub
from jobgroups.events.messages import ListenerFrame, Message
from jobgroups.streams import listener
from jobgroups.streams.reads import read, read_seqs
from tests.api.listener.conftest import Program, group_of
from tests.harness import factories
from tests.ws.conftest import Writer


async def test_frames_that_came_before_the_end_was_read_are_sent_before_it(
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prompt may take only some milliseconds, and a read longer."""
    hub.bind(asyncio.get_running_loop(), read_seqs=read_seqs)
    began, released = asyncio.Event(), asyncio.Event()

    async def slow_read(query: Any, *args: Any) -> Any:
        if query is listener.prompt_state:
            began.set()
            await released.wait()
        return await read(query, *args)

    monkeypatch.setattr(listener, "read", slow_read)
    outbox = listener.Outbox(pytest.fail)
    sockets, key = listener.Listener(), ("10.0.0.1", "krita")
    await sockets.open(key, outbox)
    prompt_id = await writer.do(Program().prompt, client_id="krita")
    await began.wait()
    group = await writer.do(group_of, prompt_id)
    fence = writer.runner.fences["gpu_1"]
    claim = await writer.do(factories.claim_from_pool, fence, group)
    await writer.do(factories.start, claim, fence)
    text = json.dumps({"type": "executing", "data": {"node": "3", "prompt_id": "p"}})
    frame = ListenerFrame(claim.number, "p", "executing", "3", text=text)
    hub.publish(Message(group_id=group.id, frames=(frame,)))
    assert await writer.do(factories.finish, claim, fence)
    released.set()
    kinds: list[str] = []
    while "execution_success" not in kinds:
        kinds += [frame.kind for frame in await outbox.take()]
    assert [kind for kind in kinds if kind != "status"] == [
        "execution_start",
        "execution_cached",
        "executing",
        "execution_success",
        "executing",
    ]
    sockets.close(key, outbox)
