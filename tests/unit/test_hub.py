"""The doorbell in one process: order, loss, limits, threads, the end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest

from jobgroups.events import hub as hub_module
from jobgroups.events.hub import Hub, Subscription
from jobgroups.events.messages import (
    EventFrame,
    Message,
    ProgressFrame,
    SeqHint,
    deserialize,
    serialize,
)


def event(seq: int, child_id: str | None = None, *, ends: bool = False) -> EventFrame:
    return EventFrame(seq, f"event {seq}", child_id, ends)


def progress(percent: float, child_id: str = "j_1") -> ProgressFrame:
    return ProgressFrame(child_id, 1, percent, f"{percent}")


class Rows:
    """Plays the table of groups for the slow timer."""

    def __init__(self) -> None:
        self.seqs: dict[str, int] = {}
        self.fails = False
        self.read = asyncio.Event()

    async def __call__(self, group_ids: list[str]) -> dict[str, int]:
        self.read.set()
        if self.fails:
            raise ConnectionError
        return {one: self.seqs[one] for one in group_ids if one in self.seqs}


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> Rows:
    monkeypatch.setattr(hub_module, "POLL_SECONDS", 0.01)
    return Rows()


@pytest.fixture
async def hub(rows: Rows) -> AsyncIterator[Hub]:
    hub = Hub()
    hub.bind(asyncio.get_running_loop(), read_seqs=rows)
    yield hub
    await hub.aclose()


# --- a socket's queue -----------------------------------------------------------------------------


async def test_entries_come_out_in_the_order_they_went_in() -> None:
    queue = Subscription("g")
    entries = [event(1), progress(5.0), SeqHint(3), event(2)]
    for entry in entries:
        queue.put(entry)
    assert await queue.take() == entries


async def test_only_the_latest_progress_of_a_child_waits_and_keeps_its_place() -> None:
    queue = Subscription("g")
    for entry in (progress(1.0), event(1), progress(2.0), progress(3.0, "j_2"), progress(4.0)):
        queue.put(entry)
    assert await queue.take() == [progress(4.0), event(1), progress(3.0, "j_2")]


async def test_progress_never_overtakes_an_event_of_its_child() -> None:
    queue = Subscription("g")
    entries = [progress(9.0), event(1, "j_1"), progress(2.0)]
    for entry in entries:
        queue.put(entry)
    assert await queue.take() == entries


async def test_take_waits_for_the_next_entry() -> None:
    queue = Subscription("g")
    async with asyncio.TaskGroup() as tasks:
        taken = tasks.create_task(queue.take())
        await asyncio.sleep(0)
        assert not taken.done()
        queue.put(event(1))
    assert taken.result() == [event(1)]


async def test_progress_past_the_limit_is_dropped_without_a_word(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hub_module, "QUEUE_LIMIT", 2)
    queue = Subscription("g")
    for entry in (event(1), event(2), progress(1.0)):
        queue.put(entry)
    assert not queue.overflowed
    assert await queue.take() == [event(1), event(2)]


async def test_an_event_past_the_limit_overflows_once_and_frees_the_queue(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hub_module, "QUEUE_LIMIT", 2)
    told: list[str] = []
    queue = Subscription("g", lambda: told.append("overflow"))
    for seq in range(1, 6):
        queue.put(event(seq))
    assert queue.overflowed
    assert told == ["overflow"]
    assert await queue.take() == []


# --- fan-out --------------------------------------------------------------------------------------


async def test_every_subscriber_of_the_group_gets_the_message_and_no_other(hub: Hub) -> None:
    ours = [await hub.subscribe("g") for _ in range(3)]
    other = await hub.subscribe("h")
    hub.publish(Message("g", events=(event(1), event(2))))
    hub.publish(Message("h", events=(event(7),)))
    assert [await one.take() for one in ours] == [[event(1), event(2)]] * 3
    assert await other.take() == [event(7)]


async def test_one_threads_messages_keep_their_order(hub: Hub) -> None:
    queue = await hub.subscribe("g")

    def ring() -> None:
        for seq in range(1, 1001):
            hub.publish(Message("g", events=(event(seq),)))

    ringer = threading.Thread(target=ring)
    ringer.start()
    heard: list[object] = []
    while len(heard) < 1000:
        heard += await queue.take()
    ringer.join()
    assert heard == [event(seq) for seq in range(1, 1001)]


async def test_progress_of_a_child_that_ended_is_dropped_until_it_starts_again(hub: Hub) -> None:
    queue = await hub.subscribe("g")
    hub.publish(Message("g", events=(event(1, "j_1", ends=True),)))
    hub.publish(Message("g", progress=(progress(99.0),)))
    hub.publish(Message("g", events=(event(2, "j_1"),)))
    hub.publish(Message("g", progress=(progress(1.0),)))
    heard: list[object] = []
    while len(heard) < 3:
        heard += await queue.take()
    assert heard == [event(1, "j_1", ends=True), event(2, "j_1"), progress(1.0)]


async def test_after_a_loss_progress_is_left_to_the_sockets(hub: Hub) -> None:
    queue = await hub.subscribe("g")
    hub.publish(Message("g", events=(event(1, "j_1", ends=True),)))
    # Event 2, lost, was the child's next start.
    hub.publish(Message("g", events=(event(3, "j_2"),)))
    hub.publish(Message("g", progress=(progress(1.0),)))
    heard: list[object] = []
    while len(heard) < 3:
        heard += await queue.take()
    assert heard[-1] == progress(1.0)


async def test_an_end_that_was_overtaken_does_not_silence_the_next_start(hub: Hub) -> None:
    queue = await hub.subscribe("g")
    hub.publish(Message("g", events=(event(2, "j_1"),)))
    hub.publish(Message("g", events=(event(1, "j_1", ends=True),)))
    hub.publish(Message("g", progress=(progress(1.0),)))
    heard: list[object] = []
    while len(heard) < 3:
        heard += await queue.take()
    assert heard[-1] == progress(1.0)


async def test_a_group_that_nobody_watches_is_forgotten(hub: Hub) -> None:
    queues = [await hub.subscribe("g") for _ in range(2)]
    await hub.unsubscribe(queues[0])
    assert "g" in hub._channels
    await hub.unsubscribe(queues[1])
    await hub.unsubscribe(queues[1])
    hub.publish(Message("g", events=(event(1),)))
    await asyncio.sleep(0)
    assert not hub._channels


# --- healing --------------------------------------------------------------------------------------


async def test_the_timer_pokes_once_where_the_log_is_longer_than_heard(
    hub: Hub, rows: Rows
) -> None:
    queue = await hub.subscribe("g")
    rows.seqs["g"] = 4
    assert await queue.take() == [SeqHint(4)]
    for _ in range(3):
        rows.read.clear()
        await rows.read.wait()
    hub.publish(Message("g", events=(event(5),)))
    assert await queue.take() == [event(5)]


async def test_the_timer_outlives_a_database_that_is_away(
    hub: Hub, rows: Rows, caplog: pytest.LogCaptureFixture
) -> None:
    rows.fails = True
    queue = await hub.subscribe("g")
    await rows.read.wait()
    rows.seqs["g"], rows.fails = 2, False
    assert await queue.take() == [SeqHint(2)]
    assert "could not be read" in caplog.text


# --- runners, binding, the end --------------------------------------------------------------------


class Rings:
    """A runner that notes how it was rung for."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def ring(self, *, work_only: bool) -> None:
        self.heard.append("work" if work_only else "backends")


async def test_runners_are_woken_from_any_thread_until_they_stop_listening(hub: Hub) -> None:
    runner = Rings()
    await hub.add_runner_listener(runner.ring)
    await asyncio.to_thread(hub.notify_runners)
    await asyncio.to_thread(hub.notify_runners, work_only=True)
    async with asyncio.timeout(5):
        while len(runner.heard) < 2:
            await asyncio.sleep(0.01)
    assert runner.heard == ["backends", "work"]
    hub.remove_runner_listener(runner.ring)
    hub.notify_runners()
    await asyncio.sleep(0)
    assert runner.heard == ["backends", "work"]


async def test_binding_to_the_same_loop_again_keeps_the_subscriptions(hub: Hub, rows: Rows) -> None:
    queue = await hub.subscribe("g")
    hub.bind(asyncio.get_running_loop(), read_seqs=rows)
    hub.publish(Message("g", events=(event(1),)))
    assert await queue.take() == [event(1)]


async def test_publishing_without_a_loop_or_into_a_closed_one_raises_nothing(rows: Rows) -> None:
    hub = Hub()
    hub.publish(Message("g", events=(event(1),)))
    loop = asyncio.new_event_loop()
    hub._loop = loop
    loop.close()
    hub.publish(Message("g", events=(event(1),)))
    hub.notify_runners()


async def test_closing_ends_the_services_and_may_be_repeated(rows: Rows) -> None:
    hub = Hub()
    hub.bind(asyncio.get_running_loop(), read_seqs=rows)
    services = set(hub._tasks)
    await hub.aclose()
    await hub.aclose()
    assert services
    assert all(service.done() for service in services)


def test_a_message_survives_the_way_between_processes() -> None:
    message = Message("g", (event(1, "j_1", ends=True), event(2)), (progress(5.0),))
    assert deserialize(serialize(message)) == message
