"""The hub's queues, and the FIFO lock of writers."""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from jobgroups.database.sqlite3.base import FifoLock
from jobgroups.events import hub as hub_module
from jobgroups.events.hub import Hub, Subscription
from jobgroups.events.messages import (
    ChangedFrame,
    Entry,
    EventFrame,
    Message,
    PreviewFrame,
    ProgressFrame,
    SeqHint,
    StarFrame,
    UnsharedFrame,
)


def event(seq: int, child_id: str | None = None, *, final: bool = False) -> EventFrame:
    return EventFrame(seq, f"event {seq}", child_id, final)


def progress(percent: float, child_id: str = "j_1") -> ProgressFrame:
    return ProgressFrame(child_id, 1, percent, f"{percent}")


def publish(hub: Hub, *entries: EventFrame | ProgressFrame, group: str = "g") -> None:
    for entry in entries:
        field = "events" if isinstance(entry, EventFrame) else "progress"
        hub.publish(Message(group, **{field: (entry,)}))


async def received(queue: Subscription, count: int) -> list[Entry]:
    entries: list[Entry] = []
    while len(entries) < count:
        # The groups have no rows: the hub reports that they were deleted.
        entries += [one for one in await queue.take() if not isinstance(one, ChangedFrame)]
    return entries


class Rows:
    """Stands for the table of groups."""

    def __init__(self) -> None:
        self.seqs: dict[str, int] = {}
        self.shared: set[str] = set()
        self.fails = False
        self.read = asyncio.Event()

    async def __call__(self, group_ids: list[str]) -> dict[str, tuple[int, bool]]:
        self.read.set()
        if self.fails:
            raise ConnectionError
        known = [one for one in group_ids if one in self.seqs]
        return {one: (self.seqs[one], one in self.shared) for one in known}


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> Rows:
    monkeypatch.setattr(hub_module, "POLL_SECONDS", 0.01)
    return Rows()


@pytest.fixture
async def hub(rows: Rows) -> AsyncIterator[Hub]:
    hub = Hub()
    hub.bind(asyncio.get_running_loop(), read_seqs=rows)
    tasks = set(hub._tasks)
    yield hub
    await hub.aclose()
    await hub.aclose()
    assert tasks
    assert all(task.done() for task in tasks)


@pytest.mark.parametrize(
    ("entries", "taken"),
    [
        ([event(1), progress(5.0), SeqHint(3), event(2)], None),
        ([progress(9.0), event(1, "j_1"), progress(2.0)], None),
        (
            [progress(1.0), event(1), progress(2.0), progress(3.0, "j_2"), progress(4.0)],
            [progress(4.0), event(1), progress(3.0, "j_2")],
        ),
    ],
    ids=["in order", "progress follows its child's event", "latest progress in its position"],
)
async def test_queue_order(entries: list[Entry], taken: list[Entry] | None) -> None:
    queue = Subscription("g")
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(queue.take())
        await asyncio.sleep(0)
        assert not waiting.done()
        for entry in entries:
            queue.put(entry)
    assert waiting.result() == (taken or entries)


async def test_queue_drops_progress_and_overflows_with_an_event_above_its_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hub_module, "QUEUE_LIMIT", 2)
    overflows: list[bool] = []
    queue = Subscription("g", lambda: overflows.append(True))
    for entry in (event(1), event(2), progress(1.0)):
        queue.put(entry)
    assert not queue.overflowed
    assert await queue.take() == [event(1), event(2)]
    for seq in range(3, 8):
        queue.put(event(seq))
    assert queue.overflowed
    assert overflows == [True]
    assert await queue.take() == []


async def test_message_reaches_every_subscriber_of_its_group_only(hub: Hub, rows: Rows) -> None:
    queues = [await hub.subscribe("g") for _ in range(3)]
    other = await hub.subscribe("h")
    hub.bind(asyncio.get_running_loop(), read_seqs=rows)  # Again: the subscriptions stay.
    hub.publish(Message("g", events=(event(1), event(2))))
    publish(hub, event(7), group="h")
    assert [await received(one, 2) for one in queues] == [[event(1), event(2)]] * 3
    assert await received(other, 1) == [event(7)]


async def test_messages_of_a_thread_keep_their_order(hub: Hub) -> None:
    queue = await hub.subscribe("g")
    events = [event(seq) for seq in range(1, 1001)]
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(asyncio.to_thread(publish, hub, *events))
        assert await received(queue, 1000) == events


async def test_group_without_subscribers_is_forgotten(hub: Hub) -> None:
    queues = [await hub.subscribe("g") for _ in range(2)]
    await hub.unsubscribe(queues[0])
    assert "g" in hub._channels
    await hub.unsubscribe(queues[1])
    await hub.unsubscribe(queues[1])
    publish(hub, event(1))
    await asyncio.sleep(0)
    assert not hub._channels


async def test_timer_sends_one_hint_if_the_log_is_ahead(hub: Hub, rows: Rows) -> None:
    queue = await hub.subscribe("g")
    rows.seqs["g"] = 4
    assert await queue.take() == [SeqHint(4)]
    for _ in range(3):
        rows.read.clear()
        await rows.read.wait()
    publish(hub, event(5))
    assert await queue.take() == [event(5)]


async def test_timer_notifies_once_of_the_end_of_sharing(hub: Hub, rows: Rows) -> None:
    rows.seqs["g"] = 0
    rows.shared.add("g")
    guest, other = await hub.subscribe("g", sees_all=False), await hub.subscribe("g")
    for _ in range(2):
        rows.read.clear()
        await rows.read.wait()
    rows.shared.clear()
    for queue in (guest, other):
        assert await queue.take() == [UnsharedFrame()]
    for _ in range(2):
        rows.read.clear()
        await rows.read.wait()
    rows.seqs["g"] = 4
    assert await guest.take() == [SeqHint(4)]
    # It may have ended between the check of this client and its subscription.
    late = await hub.subscribe("g", sees_all=False)
    assert await late.take() == [UnsharedFrame()]


async def test_timer_survives_a_database_error(
    hub: Hub, rows: Rows, caplog: pytest.LogCaptureFixture
) -> None:
    rows.fails = True
    queue = await hub.subscribe("g")
    await rows.read.wait()
    rows.seqs["g"], rows.fails = 2, False
    assert await queue.take() == [SeqHint(2)]
    assert "subscribed groups: unexpected error" in caplog.text


async def test_runners_are_notified_from_any_thread_until_they_are_removed(hub: Hub) -> None:
    notified: list[bool] = []

    def on_notification(*, work_only: bool) -> None:
        notified.append(work_only)

    await hub.add_runner_listener(on_notification)
    await asyncio.to_thread(hub.notify_runners)
    await asyncio.to_thread(hub.notify_runners, work_only=True)
    await asyncio.sleep(0)
    assert notified == [False, True]
    hub.remove_runner_listener(on_notification)
    hub.notify_runners()
    await asyncio.sleep(0)
    assert notified == [False, True]


async def test_publishing_without_a_loop_or_into_a_closed_one_raises_nothing() -> None:
    hub = Hub()
    publish(hub, event(1))
    hub._loop = asyncio.new_event_loop()
    hub._loop.close()
    publish(hub, event(1))
    hub.notify_runners()


@pytest.mark.parametrize(
    "newer",
    [
        {"previews": (PreviewFrame("j_1", 2, "text"),)},
        {"stars": (StarFrame("j_1", starred=True),), "replaced": ("j_1",)},
    ],
)
def test_message_crosses_the_channel_layer_also_from_an_older_version(
    newer: dict[str, Any],
) -> None:
    older = Message("g", (event(1, "j_1", final=True), event(2)), (progress(5.0),))
    message = msgspec.structs.replace(older, **newer)
    form = json.loads(json.dumps(msgspec.to_builtins(message)))
    assert msgspec.convert(form, Message) == message
    assert (
        msgspec.convert({name: form[name] for name in form.keys() - newer.keys()}, Message) == older
    )


def test_lock_goes_to_the_thread_that_waited_longest() -> None:
    """A runner that writes without pause does not delay a submission."""
    lock = FifoLock()
    assert lock.acquire(1.0)
    order: list[int] = []

    def wait(number: int) -> None:
        assert lock.acquire(60.0)
        order.append(number)
        if number < 7:
            lock.release()

    threads = [threading.Thread(target=wait, args=(number,)) for number in range(8)]
    for number, thread in enumerate(threads, start=1):
        thread.start()
        deadline = time.monotonic() + 60.0
        while len(lock._waiting) != number:
            assert time.monotonic() < deadline
            time.sleep(0.001)
    lock.release()
    # It is at the end of the queue now, and the last thread does not release the lock.
    assert not lock.acquire(0.1)
    for thread in threads:
        thread.join()
    assert order == list(range(8))
    lock.release()
    assert lock.acquire(0.0)
