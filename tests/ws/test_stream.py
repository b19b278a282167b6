"""The stream of a group: what a client is sent, and that it follows from snapshot and events."""

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from pytest_django import Settings

from jobgroups.api.long_polls import long_polls
from jobgroups.consumers.socket import close_all
from jobgroups.domain.states import RetryScope, Where
from jobgroups.errors import Conflict, GroupNotFound
from jobgroups.events import hub as hub_module, log
from jobgroups.events.hub import hub
from jobgroups.events.messages import EventFrame, Message
from jobgroups.models import ChildJob
from jobgroups.queries import groups
from jobgroups.services import cancellation, moves, retries
from jobgroups.services.assignment import Choice
from jobgroups.services.groups import group_delete
from jobgroups.services.progress import ProgressRow, progress_flush
from jobgroups.streams import feed, reads
from jobgroups.streams.reads import read
from tests.ws.client_state import COUNTS, ClientState, picked
from tests.ws.clients import Watcher, settled, watching
from tests.ws.conftest import Writer
from tests.ws.played_runner import progress

pytestmark = pytest.mark.django_db(transaction=True)

#: The events of a group of three that completes.
LAST = 8


@pytest.fixture
async def group(writer: Writer) -> str:
    group_id: str = await writer.do(writer.runner.submit, metadata={"scene": "shot_001"})
    return group_id


@pytest.mark.parametrize("is_notified", [True, False])
async def test_stream_and_wait_end_when_the_group_is_deleted(
    writer: Writer, group: str, monkeypatch: pytest.MonkeyPatch, is_notified: bool
) -> None:
    monkeypatch.setattr(hub_module, "POLL_SECONDS", 60.0 if is_notified else 0.1)
    if not is_notified:
        monkeypatch.setattr(log, "publish_changed", lambda _group_id: None)
    await writer.do(writer.runner.run_to_end)
    async with watching(group) as client:
        last = await client.until("group_complete")
        wait = asyncio.create_task(long_polls.has_moved(group, since=last["seq"], seconds=30))
        await settled(lambda: long_polls._waiting)
        await writer.do(group_delete, group_id=group)
        assert (await client.until("error"))["code"] == "group_not_found"
        assert await client.close_code() == 4404
        with pytest.raises(GroupNotFound):
            await wait


@pytest.fixture
async def client(group: str) -> AsyncIterator[Watcher]:
    async with watching(group) as client:
        assert (await client.next())["type"] == "initial_state"
        yield client


async def test_snapshot_is_followed_by_events_without_a_gap(writer: Writer, group: str) -> None:
    async with watching(f"{group}/") as client:
        first = await client.next()
        await writer.do(writer.runner.run_to_end)
        last = await client.until("group_complete")
        await client.pong()  # the socket stays open
    assert (first["type"], first["seq"]) == ("initial_state", 1)
    assert first["metadata"] == {"scene": "shot_001"}
    assert [child["status"] for child in first["child_jobs"]] == ["queued"] * 3
    assert client.seqs == list(range(2, last["seq"] + 1))
    assert last["succeeded"] == 3


async def test_finished_group_sends_its_snapshot_and_its_end(writer: Writer, group: str) -> None:
    await writer.do(writer.runner.run_to_end)
    async with watching(group) as client:
        first, last = await client.next(), await client.next()
        await client.pong()
    assert first["status"] == "completed"
    assert (last["type"], last["seq"]) == ("group_complete", first["seq"] + 1)
    assert len(client.frames) == 3


@pytest.mark.parametrize(("since", "page"), [(0, 200), (1, 200), (3, 200), (LAST, 200), (0, 2)])
async def test_since_resumes_right_after_the_known_event(
    writer: Writer, group: str, since: int, page: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (feed, reads):
        monkeypatch.setattr(module, "PAGE", page)
    await writer.do(writer.runner.run_to_end)
    async with watching(group, f"?since={since}") as client:
        await client.pong()
    assert "initial_state" not in client.kinds()
    assert client.seqs == list(range(since + 1, LAST + 1))


async def test_invalid_since_is_ignored(writer: Writer, group: str) -> None:
    values = ["", "-1", str(LAST + 1), "1.0", "abc", "9" * 5000, "1&since=2", "%F0%9F", "٣"]
    await writer.do(writer.runner.run_to_end)
    for query in (*(f"?since={value}" for value in values), "?other=1"):
        async with watching(group, query.encode("utf-8").decode("latin-1")) as client:
            assert (await client.next())["type"] == "initial_state", query


@pytest.mark.parametrize("group_id", ["jg_000000000000", "jg_%00", "x" * 5000, "%ED%A0%80", "a b"])
async def test_unknown_group_is_accepted_and_closed_with_4404(
    writer: Writer, group_id: str
) -> None:
    async with watching(group_id) as client:
        frame = await client.next()
        assert await client.close_code() == 4404
    assert frame["code"] == "group_not_found"
    assert frame["detail"].startswith("Job group ")
    assert frame["detail"].endswith(" not found")
    assert len(frame["detail"]) < 100


@pytest.mark.parametrize("text", ["ping", '{"type": "ping"}', ' {"type":"ping","at":1}\n'])
async def test_ping_is_answered_after_the_snapshot(group: str, text: str) -> None:
    async with watching(group) as client:
        await client.say(text)
        assert (await client.next())["type"] == "initial_state"
        assert await client.next() == {"type": "pong"}


@pytest.mark.parametrize("text", ["close", '{"type": "close"}'])
async def test_close_closes_with_1000(client: Watcher, text: str) -> None:
    await client.say(text)
    assert await client.close_code() == 1000


async def test_unknown_message_gets_an_error_and_the_connection_stays(client: Watcher) -> None:
    texts = ["hello", "{", "[]", "null", '{"type": 1}', '{"type": "stop"}', '{"type": ["ping"]}']
    texts += ["[" * 1_000, "[" * 200_000, "ping" * 100_000, '{"type":"ping"' + " " * 2_000 + "}"]
    for text in texts:
        await client.say(text)
        assert (await client.next())["code"] == "unknown_message", text[:80]
    await client.communicator.send_to(bytes_data=b"\x00\xff")
    await client.pong()
    assert client.kinds() == ["initial_state", *["error"] * (len(texts) + 1), "pong"]


async def percents(client: Watcher) -> list[float]:
    """Return the percentages of all progress frames after everything published so far was sent."""
    await client.pong()
    return [f["progress"] for f in client.frames if f["type"] == "child_progress"]


async def test_progress_never_decreases_within_an_attempt(
    writer: Writer, group: str, client: Watcher
) -> None:
    claim = await writer.do(writer.runner.begin, "gpu_1")
    await client.until("child_started")
    for percent in (10.0, 30.0, 20.0, 30.0, 40.0):
        progress(group, claim.child_id, 1, percent)
        await client.pong()
    assert await percents(client) == [10.0, 30.0, 30.0, 40.0]


async def test_progress_below_the_snapshot_is_not_sent(writer: Writer, group: str) -> None:
    claim = await writer.do(writer.runner.begin, "gpu_1")
    row = ProgressRow(claim.child_id, claim.pk, 50.0, "KSampler", 10, 20)
    await writer.do(progress_flush, rows=[row])
    async with watching(group) as client:
        first = await client.next()
        progress(group, claim.child_id, 1, 45.0)
        progress(group, claim.child_id, 1, 55.0)
        assert await percents(client) == [55.0]
    assert first["child_jobs"][0]["progress"] == 50.0


async def test_progress_before_the_start_follows_it(
    writer: Writer, group: str, client: Watcher
) -> None:
    claim = await writer.do(writer.runner.claim, "gpu_1")
    progress(group, claim.child_id, 1, 5.0)
    progress(group, claim.child_id, 1, 7.0)
    await client.pong()
    await writer.do(writer.runner.started, claim)
    await client.until("child_progress")
    assert client.kinds() == ["initial_state", "pong", "child_started", "child_progress"]
    assert client.frames[-1]["progress"] == 7.0


@pytest.mark.parametrize("resumed", [False, True])
async def test_no_progress_after_the_end_of_a_child(
    writer: Writer, group: str, resumed: bool
) -> None:
    claim = await writer.do(writer.runner.begin, "gpu_1")
    if resumed:
        await writer.do(writer.runner.failed, claim)
    async with watching(group, "?since=1" if resumed else "") as client:
        if not resumed:
            await client.next()
            # Sent before the end, although it is still queued then.
            progress(group, claim.child_id, 1, 50.0)
            await writer.do(writer.runner.failed, claim)
        await client.until("child_failed")
        progress(group, claim.child_id, 1, 99.0)
        assert await percents(client) == ([] if resumed else [50.0])


async def test_new_attempt_starts_at_zero_and_the_old_one_is_ignored(
    writer: Writer, group: str, client: Watcher
) -> None:
    first = await writer.do(writer.runner.begin, "gpu_1")
    await client.until("child_started")
    progress(group, first.child_id, 1, 80.0)
    await client.until("child_progress")
    await writer.do(writer.runner.interrupted_by_other, first)
    await client.until("child_requeued")
    progress(group, first.child_id, 1, 90.0)
    second = await writer.do(writer.runner.begin, "gpu_1")
    await client.until("child_started")
    progress(group, first.child_id, 1, 95.0)
    await client.pong()
    progress(group, first.child_id, second.number, 3.0)
    assert await percents(client) == [80.0, 3.0]


@pytest.mark.parametrize("all_lost", [False, True], ids=["gap", "timer"])
async def test_lost_events_are_read_from_the_database(
    writer: Writer, group: str, all_lost: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a gap, or by the timer if no event follows."""
    if all_lost:
        monkeypatch.setattr(hub_module, "POLL_SECONDS", 0.02)
    async with watching(group) as client:
        await client.next()
        with monkeypatch.context() as lost:
            lost.setattr(hub, "publish", lambda _message: None)
            claim = await writer.do(writer.runner.begin, "gpu_1")
            if all_lost:
                await writer.do(writer.runner.failed, claim)
        if not all_lost:
            await writer.do(writer.runner.failed, claim)
        await client.until("child_failed")
    assert client.seqs == [2, 3]


async def test_event_received_twice_or_late_is_sent_once(
    writer: Writer, group: str, client: Watcher
) -> None:
    await writer.do(writer.runner.begin, "gpu_1")
    await client.until("child_started")
    for seq, text in await writer.do(groups.group_events, group, since=0):
        hub.publish(Message(group, events=(EventFrame(seq, text),)))
    await client.pong()
    assert client.seqs == [2]


async def test_event_between_subscription_and_snapshot_is_sent_once(
    writer: Writer, group: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, go_on = asyncio.Event(), asyncio.Event()

    async def delayed_read(*args: Any, **kwargs: Any) -> object:
        reading.set()
        await go_on.wait()
        return await reads.read(*args, **kwargs)

    monkeypatch.setattr(feed, "read", delayed_read)
    async with watching(group) as client:
        await reading.wait()
        claim = await writer.do(writer.runner.begin, "gpu_1")
        go_on.set()
        first = await client.next()
        await writer.do(writer.runner.failed, claim)
        await client.until("child_failed")
    assert first["seq"] == 2
    assert client.seqs == [3]


async def test_client_that_does_not_read_is_closed_as_too_slow(
    writer: Writer, group: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from director.asgi import application

    monkeypatch.setattr(hub_module, "QUEUE_LIMIT", 3)
    sent: list[dict[str, object]] = []
    stuck, inbox = asyncio.Event(), asyncio.Queue()  # type: ignore[var-annotated]
    inbox.put_nowait({"type": "websocket.connect"})

    async def send(message: dict[str, object]) -> None:
        sent.append(message)
        if "child_started" in str(message.get("text")):
            stuck.set()
            await asyncio.Event().wait()
        if message["type"] == "websocket.close":
            inbox.put_nowait({"type": "websocket.disconnect"})

    path = f"/ws/job-groups/{group}"
    scope = {"type": "websocket", "path": path, "headers": [], "query_string": b""}
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(application(scope, inbox.get, send))
        await settled(lambda: len(sent) == 2)
        await writer.do(writer.runner.begin, "gpu_1")
        await stuck.wait()
        await writer.do(writer.runner.run_to_end)
    assert json.loads(str(sent[-2]["text"]))["code"] == "too_slow"
    assert sent[-1] == {"type": "websocket.close", "code": 4008}


async def test_shutdown_closes_with_4012_and_waits_for_the_answer(
    group: str, client: Watcher
) -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(close_all())
        assert (await client.next())["code"] == "shutting_down"
        assert await client.close_code() == 4012
        await client.communicator.send_input({"type": "websocket.disconnect"})
    assert group not in hub._channels


@pytest.mark.usefixtures("client")
async def test_shutdown_does_not_wait_for_a_client_that_never_answers() -> None:
    async with asyncio.timeout(30):
        await close_all(within=0.05)


async def test_client_that_disconnects_is_unsubscribed(group: str) -> None:
    async with watching(group) as client:
        await client.next()
        assert group in hub._channels
    assert group not in hub._channels


async def test_broken_stream_sends_an_error_and_raises(
    group: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken_read(*args: object, **kwargs: object) -> object:
        raise ZeroDivisionError

    monkeypatch.setattr(feed, "read", broken_read)
    with pytest.raises(ExceptionGroup):
        async with watching(group) as client:
            assert (await client.next())["code"] == "internal_error"
            await client.communicator.wait()
    assert group not in hub._channels


class Client:
    """A client that may reconnect, with ``since`` or without."""

    def __init__(self, group_id: str) -> None:
        self.group_id = group_id
        self.state = ClientState()
        self.percents: dict[tuple[str, int], float] = {}
        self._stack = AsyncExitStack()
        self._watcher: Watcher | None = None

    async def connect(self, *, resume: bool) -> None:
        await self._stack.aclose()
        query = f"?since={self.state.seq}" if resume and self.state.group else ""
        self._watcher = await self._stack.enter_async_context(watching(self.group_id, query))
        self.percents.clear()

    async def disconnect(self) -> None:
        await self._stack.aclose()

    async def read_until(self, seq: int) -> None:
        assert self._watcher is not None
        while not self.state.group or self.state.seq < seq:
            frame = await self._watcher.next()
            self._take(frame)
            if frame.get("children_next"):
                for first in range(0, self.state.group["total_count"], 2):
                    self.state.take_page(
                        await read(groups.group_page, self.group_id, first=first, limit=2)
                    )

    def _take(self, frame: dict[str, Any]) -> None:
        self.state.take(frame)
        if frame["type"] == "child_progress" and not self.state.knows_later(frame["job_id"]):
            child = self.state.children[frame["job_id"]]
            assert child["status"] == "running", "progress before the start or after the end"
            assert child["attempts"] == frame["attempt"]
            key = frame["job_id"], frame["attempt"]
            assert frame["progress"] >= self.percents.get(key, 0.0), "progress went back"
            self.percents[key] = frame["progress"]


def lossy(dice: random.Random, publish: Any) -> Any:
    """Return a ``publish`` that loses every fourth message."""

    def publish_or_lose(message: Message) -> None:
        if dice.random() < 0.75:
            publish(message)

    return publish_or_lose


def random_progress(dice: random.Random, writer: Writer, group_id: str) -> None:
    claims = list(writer.runner.claims.values())
    if claims:
        claim = dice.choice(claims)
        progress(group_id, claim.child_id, claim.number, float(dice.randrange(100)))


async def requested(dice: random.Random, writer: Writer, group_id: str, word: str) -> None:
    """Send a user's request about a group, ended or not."""
    if word == "retry":
        with contextlib.suppress(Conflict):
            await writer.do(retries.group_retry, group_id=group_id)
    elif word == "retry job":
        job = dice.choice(await writer.do(_job_ids, group_id))
        choice = Choice(where=dice.choice([None, *Where]))
        with contextlib.suppress(Conflict):
            await writer.do(
                retries.child_retry, group_id=group_id, job_id=job, choice=choice, by="anna"
            )
    elif word == "move":
        job = dice.choice(await writer.do(_job_ids, group_id))
        target = dice.choice(writer.runner.names)
        with contextlib.suppress(Conflict):
            await writer.do(moves.child_move, group_id=group_id, job_id=job, backend_id=target)
    elif dice.random() < 0.1:
        await writer.do(cancellation.group_cancel, group_id=group_id)


def _job_ids(group_id: str) -> list[str]:
    return list(ChildJob.objects.filter(group_id=group_id).values_list("pk", flat=True))


@pytest.mark.parametrize("kind", ["lossless", "lossy", "large"])
@pytest.mark.parametrize(
    "seed", [*range(4), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(4, 12))]
)
async def test_snapshot_and_events_are_the_next_snapshot(
    writer: Writer, monkeypatch: pytest.MonkeyPatch, settings: Settings, seed: int, kind: str
) -> None:
    settings.DIRECTOR_RETRY_BACKOFF_SECONDS = 0
    monkeypatch.setattr(hub_module, "POLL_SECONDS", 0.01)
    dice = random.Random(seed)
    if kind == "large":
        monkeypatch.setattr(groups, "MAX_LISTED", 0)
    if kind != "lossless":
        monkeypatch.setattr(hub, "publish", lossy(dice, hub.publish))
    backends = tuple(dice.choices(writer.runner.names, k=dice.randint(1, 5)))
    policy = {"max_attempts": dice.randint(1, 4), "retry_elsewhere": dice.choice([*RetryScope])}
    group_id = await writer.do(writer.runner.submit, backends, **policy)
    clients = [Client(group_id) for _ in range(3)]
    for client in clients:
        await client.connect(resume=False)
    for _ in range(60):
        words = [*["step"] * 3, "progress", "read", "reconnect", "cancel", "retry"]
        match dice.choice([*words, "retry job", "move"]):
            case "step":
                await writer.do(writer.runner.random_step, dice)
            case "progress":
                random_progress(dice, writer, group_id)
            case "read":
                seqs = await writer.do(groups.group_seqs, [group_id])
                await dice.choice(clients).read_until(dice.randint(1, seqs[group_id][0]))
            case "reconnect":
                await dice.choice(clients).connect(resume=dice.random() < 0.7)
            case word:
                await requested(dice, writer, group_id, word)
    monkeypatch.setattr(groups, "MAX_LISTED", 1_000)
    snapshot = await writer.do(groups.group_snapshot, group_id)
    for client in clients:
        await client.read_until(snapshot["seq"])
        await client.disconnect()
        _assert_same(client.state, snapshot)


def _assert_same(state: ClientState, snapshot: dict[str, Any]) -> None:
    assert list(state.children.values()) == [picked(one) for one in snapshot["child_jobs"]]
    assert state.counts() == {name: snapshot[name] for name in COUNTS}
    for name in ("seq", "run", "completed_at", "metadata"):
        assert state.group[name] == snapshot[name], name
    if snapshot["completed_at"] is not None:
        assert state.group["status"] == snapshot["status"]
