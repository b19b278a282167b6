"""The frames that wait for one socket of the ComfyUI listener."""

import asyncio

import pytest

from jobgroups.streams import listener
from jobgroups.streams.listener import Outbox
from jobgroups.streams.presentation import Frame


def step(text: str, node: str = "1") -> Frame:
    return Frame(kind="progress", key=("progress", node), text=text)


def event(text: str) -> Frame:
    return Frame(kind="executed", text=text)


async def test_newer_progress_replaces_what_was_not_sent_and_follows_other_frames() -> None:
    outbox = Outbox(pytest.fail)
    for frame in (step("a"), step("b", "2"), step("c"), event("d"), step("e"), step("f")):
        outbox.put(frame)
    assert [frame.text for frame in await outbox.take()] == ["b", "c", "d", "f"]
    outbox.put(step("g"))
    assert [frame.text for frame in await outbox.take()] == ["g"]


async def test_socket_that_only_misses_progress_is_never_closed() -> None:
    outbox = Outbox(pytest.fail)
    for number in range(3 * listener.MAX_UNSENT):
        outbox.put(step(str(number)))
    assert [frame.text for frame in await outbox.take()] == [str(3 * listener.MAX_UNSENT - 1)]


@pytest.mark.parametrize("limit", ["MAX_UNSENT", "MAX_UNSENT_BYTES"])
async def test_socket_that_does_not_read_is_closed_once_and_keeps_nothing(
    limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, limit, 3)
    closed: list[bool] = []
    outbox = Outbox(lambda: closed.append(True))
    for text in ("a", "b", "c"):
        outbox.put(event(text))
    assert not closed
    outbox.put(event("d"))
    outbox.put(event("e"))
    assert closed == [True]
    assert await outbox.take() == []


async def test_outbox_waits_for_a_frame() -> None:
    outbox = Outbox(pytest.fail)
    async with asyncio.TaskGroup() as tasks:
        taking = tasks.create_task(outbox.take())
        await asyncio.sleep(0)
        assert not taking.done()
        outbox.put(event("a"))
    assert taking.result() == [event("a")]
