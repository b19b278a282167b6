"""The hub over Redis: other processes, an unavailable Redis, invalid messages."""

import asyncio
import contextlib
import os
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from channels_redis.pubsub import RedisPubSubChannelLayer

from jobgroups.events import hub as hub_module, relay as relay_module
from jobgroups.events.hub import Hub, Subscription
from jobgroups.events.messages import (
    ChangedFrame,
    Entry,
    EventFrame,
    ListenerFrame,
    Message,
    PreviewFrame,
    ProgressFrame,
    SeqHint,
)
from tests.harness.cable import Cable

pytestmark = pytest.mark.redis
DEADLINE = 60.0
ROOT = Path(__file__).resolve().parents[2]


def event(seq: int) -> EventFrame:
    return EventFrame(seq, f"event {seq}", "j_1")


async def received(queue: Subscription, count: int) -> list[Entry]:
    entries: list[Entry] = []
    async with asyncio.timeout(DEADLINE):
        while len(entries) < count:
            # The groups have no rows: the hub reports that they were deleted.
            entries += [one for one in await queue.take() if not isinstance(one, ChangedFrame)]
    return entries


@pytest.fixture
def prefix() -> str:
    return f"director-test-{uuid.uuid4().hex}"


@pytest.fixture
async def line() -> AsyncIterator[Cable]:
    line = Cable("127.0.0.1", 6379)
    await line.plug()
    yield line
    await line.cut()


@pytest.fixture
def rows() -> dict[str, int]:
    """The ``seq`` of each group, as the table of groups would have it."""
    return {}


@pytest.fixture
async def start(
    prefix: str, line: Cable, rows: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Callable[[], Hub]]:
    """Starts hubs, each with a channel layer, as in separate processes."""
    monkeypatch.setattr(hub_module, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(relay_module, "_PAUSE_SECONDS", 0.05)

    async def read_seqs(group_ids: list[str]) -> dict[str, tuple[int, bool]]:
        return {one: (rows[one], False) for one in group_ids if one in rows}

    async with AsyncExitStack() as stack:

        def start_one() -> Hub:
            host = {"address": f"redis://127.0.0.1:{line.port}/0", "socket_timeout": None}
            layer = RedisPubSubChannelLayer(hosts=[host], prefix=prefix)
            hub = Hub()
            with monkeypatch.context() as patched:
                patched.setattr(hub_module, "get_channel_layer", lambda: layer)
                hub.bind(asyncio.get_running_loop(), read_seqs=read_seqs)
            stack.push_async_callback(hub.aclose)
            return hub

        yield start_one


async def linked(one: Hub, queue: Subscription) -> None:
    """Wait until a message of ``one`` reaches ``queue``, and no other message is in transit.

    SUBSCRIBE returns before Redis has done it, so the first messages may be lost.
    """
    number = 0.0
    reached = False
    async with asyncio.timeout(DEADLINE):
        while not reached:
            number += 1
            mark = ProgressFrame("j_mark", 0, number, "")
            one.publish(Message(queue.group_id, progress=(mark,)))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.1):
                    while mark not in await queue.take():
                        pass
                reached = True


async def test_events_reach_every_process_once_and_in_order(start: Callable[[], Hub]) -> None:
    runner, web = start(), start()
    own, others = await runner.subscribe("g"), await web.subscribe("g")
    await linked(runner, others)
    await own.take()
    progress = ProgressFrame("j_1", 1, 5.0, "progress")
    for seq in range(1, 101):
        runner.publish(Message("g", events=(event(seq),)))
    runner.publish(Message("g", progress=(progress,)))
    expected = [*(event(seq) for seq in range(1, 101)), progress]
    assert await received(own, 101) == expected
    assert await received(others, 101) == expected
    # A hub's own messages come back from Redis and must not be delivered again.
    web.publish(Message("g", events=(event(101),)))
    assert await received(own, 1) == [event(101)]


@pytest.mark.parametrize("work_only", [False, True])
async def test_runner_of_another_process_is_notified(
    start: Callable[[], Hub], work_only: bool
) -> None:
    web, runner = start(), start()
    notified: list[bool] = []
    await runner.add_runner_listener(lambda *, work_only: notified.append(work_only))
    async with asyncio.timeout(DEADLINE):
        while not notified:
            web.notify_runners(work_only=work_only)
            await asyncio.sleep(0.1)
    assert set(notified) == {work_only}


async def test_key_reaches_every_runner_and_one_that_starts_later(start: Callable[[], Hub]) -> None:
    web, first, late = start(), start(), start()
    await first.add_runner_listener(lambda **_: None)
    async with asyncio.timeout(DEADLINE):
        while first.keys.get("g") is None:
            web.send_key("g", "secret")
            await asyncio.sleep(0.1)
    await late.add_runner_listener(lambda **_: None)
    async with asyncio.timeout(DEADLINE):
        while await late.key_of("g", within=0.5) is None:
            pass
    assert await late.key_of("g", within=0.0) == "secret"
    assert await late.key_of("unknown", within=0.1) is None
    assert web.keys == {}


async def test_previews_go_to_another_process_only_while_it_has_a_subscriber(
    start: Callable[[], Hub], monkeypatch: pytest.MonkeyPatch
) -> None:
    runner, web = start(), start()
    await runner.add_runner_listener(lambda **_: None)
    preview = PreviewFrame("j_1", 1, "picture")
    queue = await web.subscribe("g", previews=True)
    async with asyncio.timeout(DEADLINE):
        while not runner.wants_previews("g"):
            await asyncio.sleep(0.01)
    await linked(runner, queue)
    runner.publish(Message("g", previews=(preview,)))
    assert await received(queue, 1) == [preview]
    moment = time.monotonic()
    for later, is_lately in ((7, True), (70, False)):
        with monkeypatch.context() as patched:
            patched.setattr(time, "monotonic", lambda later=later: moment + later)
            assert not runner.wants_previews("g")
            assert runner.wanted_previews_lately("g") == is_lately


async def test_frames_go_to_another_process_while_it_wants_them_and_the_latest_ones_again(
    start: Callable[[], Hub], monkeypatch: pytest.MonkeyPatch
) -> None:
    runner, web = start(), start()
    await runner.add_runner_listener(lambda **_: None)
    frames = (
        ListenerFrame(1, "p", "executing", "3", text="{}"),
        ListenerFrame(1, "p", "preview", "3", data=b"\x00\xff"),
    )
    runner.add_frame_source(lambda group: runner.publish(Message(group, frames=frames)))
    queue = await web.subscribe("g", frames=True)
    other = await web.subscribe("g")
    assert await received(queue, 2) == list(frames)
    assert runner.wants_frames("g")
    assert not runner.wants_previews("g")
    again = await web.subscribe("g", frames=True)
    assert await received(again, 2) == list(frames)
    runner.publish(Message("g", events=(EventFrame(1, "{}"),)))
    assert await received(other, 1) == [EventFrame(1, "{}")]
    moment = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: moment + 7)
    assert not runner.wants_frames("g")


async def test_new_prompt_of_the_listener_is_announced_to_every_web_process(
    start: Callable[[], Hub],
) -> None:
    here, there = start(), start()
    announced: list[tuple[str, str, str]] = []
    await there.add_prompt_listener(lambda *prompt: announced.append(prompt))
    async with asyncio.timeout(DEADLINE):
        while not announced:
            here.notify_prompt("g", "localhost", "krita")
            await asyncio.sleep(0.05)
    assert announced[0] == ("g", "localhost", "krita")


async def test_process_without_a_loop_publishes_too(
    start: Callable[[], Hub], prefix: str, line: Cable, tmp_path: Path
) -> None:
    web = start()
    queue = await web.subscribe("g")
    program = (
        "import django; django.setup()\n"
        "from jobgroups.events.hub import hub; from jobgroups.events.messages import EventFrame, "
        "Message\n"
        "hub.publish(Message('g', events=(EventFrame(1, 'event 1', 'j_1'),)))\n"
        "hub.notify_runners()\n"
    )
    environment = {
        **os.environ,
        "DIRECTOR_REDIS_URL": f"redis://127.0.0.1:{line.port}/0",
        "DIRECTOR_REDIS_PREFIX": prefix,
        "DIRECTOR_DATA_DIR": str(tmp_path),
        "DJANGO_SETTINGS_MODULE": "director.settings",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, cwd=ROOT, env=environment
    )
    assert await received(queue, 1) == [event(1)]
    assert await process.wait() == 0


async def test_hub_delivers_within_its_process_while_redis_is_unavailable(
    start: Callable[[], Hub], line: Cable, caplog: pytest.LogCaptureFixture
) -> None:
    await line.cut()
    hub = start()
    queue = await hub.subscribe("g")
    for seq in range(1, 51):
        hub.publish(Message("g", events=(event(seq),)))
    assert await received(queue, 50) == [event(seq) for seq in range(1, 51)]
    await hub.unsubscribe(queue)
    await line.plug()
    assert caplog.text.count("channel layer: unavailable") == 1


async def test_lost_messages_are_followed_by_a_hint_and_redis_is_used_again(
    start: Callable[[], Hub], line: Cable, rows: dict[str, int]
) -> None:
    runner, web = start(), start()
    queue = await web.subscribe("g")
    await linked(runner, queue)
    await line.cut()
    runner.publish(Message("g", events=(event(1),)))
    rows["g"] = 1
    assert await received(queue, 1) == [SeqHint(1)]
    await line.plug()
    await linked(runner, queue)
    runner.publish(Message("g", events=(event(2),)))
    assert await received(queue, 1) == [event(2)]


async def test_groups_that_are_subscribed_without_redis_are_joined_later(
    start: Callable[[], Hub], line: Cable
) -> None:
    await line.cut()
    runner, web = start(), start()
    queues = [await web.subscribe(name) for name in ("g", "h")]
    await line.plug()
    for queue in queues:
        await linked(runner, queue)


async def test_a_redis_that_does_not_answer_holds_no_socket_up(
    start: Callable[[], Hub], line: Cable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_module, "CALL_SECONDS", 0.1)
    line.stalled = True
    hub = start()
    async with asyncio.timeout(30):
        queue = await hub.subscribe("g")
        hub.publish(Message("g", events=(event(1),)))
        assert await received(queue, 1) == [event(1)]


async def test_queue_of_messages_for_redis_is_bounded(
    start: Callable[[], Hub], line: Cable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_module, "OUTGOING_LIMIT", 5)
    line.stalled = True
    hub = start()
    for seq in range(1, 101):
        hub.publish(Message("g", events=(event(seq),)))
    await asyncio.sleep(0)
    assert hub._relay is not None
    assert hub._relay._outgoing.qsize() <= 5


def _progress(percent: float, child_id: str = "j_1") -> ProgressFrame:
    return ProgressFrame(child_id, 1, percent, f"{percent} of {child_id}")


async def test_queued_progress_is_replaced_by_newer_progress_and_keeps_its_position(
    start: Callable[[], Hub],
) -> None:
    """A channel layer that is slower than the progress must not delay it more and more."""
    runner, web = start(), start()
    queue = await web.subscribe("g")
    await linked(runner, queue)
    # Nothing is sent before this task yields.
    for percent in range(1, 1001):
        for child_id in ("j_1", "j_2"):
            runner._deliver(Message("g", progress=(_progress(percent, child_id),)))
    runner._deliver(Message("g", events=(event(1),)))
    runner._deliver(Message("g", progress=(_progress(7.0),)))
    runner._deliver(Message("g", progress=(_progress(8.0),)))
    assert runner._relay is not None
    assert runner._relay._outgoing.qsize() == 3
    entries = await received(queue, 4)
    assert entries == [_progress(1000), _progress(1000, "j_2"), event(1), _progress(8.0)]


async def test_progress_that_was_queued_when_redis_failed_blocks_no_later_one(
    start: Callable[[], Hub], line: Cable
) -> None:
    runner, web = start(), start()
    queue = await web.subscribe("g")
    await linked(runner, queue)
    await line.cut()
    for percent in range(1, 100):
        runner.publish(Message("g", progress=(_progress(percent),)))
        await asyncio.sleep(0)
    await line.plug()
    await linked(runner, queue)
    runner.publish(Message("g", progress=(_progress(50.0),)))
    assert _progress(50.0) in await received(queue, 1)


@pytest.mark.parametrize("form", [{}, {"type": "hub.message"}, {"type": "hub.newer", "group": 1}])
async def test_message_of_another_version_is_ignored(
    start: Callable[[], Hub], form: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    runner, web = start(), start()
    queue = await web.subscribe("g")
    await linked(runner, queue)
    assert runner._relay is not None
    runner._relay.send("group.g", form)
    runner.publish(Message("g", events=(event(1),)))
    assert await received(queue, 1) == [event(1)]
    assert "invalid message" in caplog.text


async def test_last_unsubscribe_leaves_the_group_and_the_next_subscribe_joins_it(
    start: Callable[[], Hub],
) -> None:
    runner, web = start(), start()
    queue = await web.subscribe("g")
    await linked(runner, queue)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(web.unsubscribe(queue))
        again = tasks.create_task(web.subscribe("g"))
    await linked(runner, again.result())
    await web.unsubscribe(again.result())
    assert web._relay is not None
    assert not web._relay._joined
