"""The hub over Redis: other processes, Redis away and back, strange messages."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from channels_redis.pubsub import RedisPubSubChannelLayer

from jobgroups.events import hub as hub_module
from jobgroups.events import relay as relay_module
from jobgroups.events.hub import Hub, Subscription
from jobgroups.events.messages import Entry, EventFrame, Message, ProgressFrame, SeqHint
from tests.ws.redis_line import RedisLine

pytestmark = pytest.mark.redis
DEADLINE = 30.0
ROOT = Path(__file__).resolve().parents[2]


def event(seq: int) -> EventFrame:
    return EventFrame(seq, f"event {seq}", "j_1")


async def heard(queue: Subscription, count: int) -> list[Entry]:
    """Return what comes until there are ``count`` entries."""
    entries: list[Entry] = []
    async with asyncio.timeout(DEADLINE):
        while len(entries) < count:
            entries += await queue.take()
    return entries


@pytest.fixture
def prefix() -> str:
    return f"director-test-{uuid.uuid4().hex}"


@pytest.fixture
async def line() -> AsyncIterator[RedisLine]:
    line = RedisLine()
    await line.up()
    yield line
    await line.down()


class Rows:
    """Plays the table of groups."""

    def __init__(self) -> None:
        self.seqs: dict[str, int] = {}

    async def __call__(self, group_ids: list[str]) -> dict[str, int]:
        return {one: self.seqs[one] for one in group_ids if one in self.seqs}


@pytest.fixture
def rows() -> Rows:
    return Rows()


@pytest.fixture
async def start(
    prefix: str, line: RedisLine, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Callable[[], Hub]]:
    """Starts hubs with a layer each, as processes have."""
    monkeypatch.setattr(hub_module, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(relay_module, "_PAUSE_SECONDS", 0.05)
    async with AsyncExitStack() as stack:

        def start_one() -> Hub:
            host = {"address": f"redis://127.0.0.1:{line.port}/0", "socket_timeout": None}
            layer = RedisPubSubChannelLayer(hosts=[host], prefix=prefix)
            hub = Hub()
            with monkeypatch.context() as patched:
                patched.setattr(hub_module, "get_channel_layer", lambda: layer)
                hub.bind(asyncio.get_running_loop(), read_seqs=rows)
            stack.push_async_callback(hub.aclose)
            return hub

        yield start_one


async def linked(one: Hub, queue: Subscription) -> None:
    """Wait until what ``one`` publishes reaches ``queue``, and nothing else is on its way to it.

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
    assert await heard(own, 101) == expected
    assert await heard(others, 101) == expected
    # Our own messages come back from Redis and must not be heard again.
    web.publish(Message("g", events=(event(101),)))
    assert await heard(own, 1) == [event(101)]


@pytest.mark.parametrize("work_only", [False, True])
async def test_another_processs_runner_is_woken(start: Callable[[], Hub], work_only: bool) -> None:
    web, runner = start(), start()
    rings: list[bool] = []
    await runner.add_runner_listener(lambda *, work_only: rings.append(work_only))
    async with asyncio.timeout(DEADLINE):
        while not rings:
            web.notify_runners(work_only=work_only)
            await asyncio.sleep(0.1)
    assert set(rings) == {work_only}


async def test_a_process_without_a_loop_rings_too(
    start: Callable[[], Hub], prefix: str, line: RedisLine, tmp_path: Path
) -> None:
    web = start()
    queue = await web.subscribe("g")
    program = (
        "import django; django.setup()\n"
        "from jobgroups.events.hub import hub; from jobgroups.events.messages import EventFrame, Message\n"
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
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, cwd=ROOT, env=environment)
    assert await heard(queue, 1) == [event(1)]
    assert await process.wait() == 0


async def test_what_is_rung_in_a_loop_whose_hub_was_closed_is_no_defect(
    start: Callable[[], Hub], caplog: pytest.LogCaptureFixture
) -> None:
    """A process that ends closes its hub, and a session hears one more frame."""
    hub = start()
    await hub.aclose()
    hub.publish(Message("g", progress=(ProgressFrame("j_1", 1, 5.0, ""),)))
    hub.notify_runners()
    assert caplog.text == ""


async def test_while_redis_is_away_a_process_still_rings_itself(
    start: Callable[[], Hub], line: RedisLine, caplog: pytest.LogCaptureFixture
) -> None:
    await line.down()
    hub = start()
    queue = await hub.subscribe("g")
    for seq in range(1, 51):
        hub.publish(Message("g", events=(event(seq),)))
    assert await heard(queue, 50) == [event(seq) for seq in range(1, 51)]
    await hub.unsubscribe(queue)
    await line.up()
    assert caplog.text.count("channel layer: unavailable") == 1


async def test_what_is_lost_while_redis_is_away_is_healed_and_the_way_comes_back(
    start: Callable[[], Hub], line: RedisLine, rows: Rows
) -> None:
    runner, web = start(), start()
    queue = await web.subscribe("g")
    await linked(runner, queue)
    await line.down()
    runner.publish(Message("g", events=(event(1),)))
    rows.seqs["g"] = 1
    assert await heard(queue, 1) == [SeqHint(1)]
    await line.up()
    await linked(runner, queue)
    runner.publish(Message("g", events=(event(2),)))
    assert await heard(queue, 1) == [event(2)]


async def test_groups_watched_since_redis_was_away_are_joined_once_it_is_back(
    start: Callable[[], Hub], line: RedisLine
) -> None:
    await line.down()
    runner, web = start(), start()
    queues = [await web.subscribe(name) for name in ("g", "h")]
    await line.up()
    for queue in queues:
        await linked(runner, queue)


async def test_a_redis_that_does_not_answer_holds_no_socket_up(
    start: Callable[[], Hub], line: RedisLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_module, "CALL_SECONDS", 0.1)
    line.stalled = True
    hub = start()
    async with asyncio.timeout(5):
        queue = await hub.subscribe("g")
        hub.publish(Message("g", events=(event(1),)))
        assert await heard(queue, 1) == [event(1)]


async def test_messages_that_wait_for_redis_are_bounded(
    start: Callable[[], Hub], line: RedisLine, monkeypatch: pytest.MonkeyPatch
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


async def test_progress_that_waits_is_replaced_by_newer_and_stays_before_what_followed_it(
    start: Callable[[], Hub],
) -> None:
    """A layer that is slower than progress comes must not be told each of it, ever later."""
    runner, web = start(), start()
    queue = await web.subscribe("g")
    await linked(runner, queue)
    # Nothing is sent before this task lets others run.
    for percent in range(1, 1001):
        for child_id in ("j_1", "j_2"):
            runner._deliver(Message("g", progress=(_progress(percent, child_id),)))
    runner._deliver(Message("g", events=(event(1),)))
    runner._deliver(Message("g", progress=(_progress(7.0),)))
    runner._deliver(Message("g", progress=(_progress(8.0),)))
    assert runner._relay is not None
    assert runner._relay._outgoing.qsize() == 3
    entries = await heard(queue, 4)
    assert entries == [_progress(1000), _progress(1000, "j_2"), event(1), _progress(8.0)]


async def test_progress_that_waited_when_the_layer_went_away_keeps_no_later_one_back(
    start: Callable[[], Hub], line: RedisLine
) -> None:
    runner, web = start(), start()
    queue = await web.subscribe("g")
    await linked(runner, queue)
    await line.down()
    for percent in range(1, 100):
        runner.publish(Message("g", progress=(_progress(percent),)))
        await asyncio.sleep(0)
    await line.up()
    await linked(runner, queue)
    runner.publish(Message("g", progress=(_progress(50.0),)))
    assert _progress(50.0) in await heard(queue, 1)


@pytest.mark.parametrize("form", [{}, {"type": "hub.message"}, {"type": "hub.newer", "group": 1}])
async def test_a_message_of_another_version_is_passed_over(
    start: Callable[[], Hub], form: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    runner, web = start(), start()
    queue = await web.subscribe("g")
    await linked(runner, queue)
    assert runner._relay is not None
    runner._relay.send("group.g", form)
    runner.publish(Message("g", events=(event(1),)))
    assert await heard(queue, 1) == [event(1)]
    assert "invalid message" in caplog.text


async def test_the_last_unsubscribe_leaves_and_a_new_subscribe_joins_again(start: Callable[[], Hub]) -> None:
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
