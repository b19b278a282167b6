"""The stream of a group through the real application: order, resume, progress, closes."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack

import pytest

from jobgroups.consumers import close_all
from jobgroups.events import hub as hub_module
from jobgroups.events.hub import hub
from jobgroups.events.messages import EventFrame, Message
from jobgroups.queries import groups as selectors
from jobgroups.services import cancellation
from tests.ws.clients import Watcher, settled, watching
from tests.ws.conftest import Writer
from tests.ws.played_runner import progress

pytestmark = pytest.mark.django_db(transaction=True)


async def test_the_snapshot_comes_first_and_events_follow_without_a_gap(writer: Writer) -> None:
    group_id = await writer.do(writer.runner.submit, metadata={"scene": "shot_001"})
    async with watching(group_id) as client:
        first = await client.next()
        await writer.do(writer.runner.run_to_end)
        last = await client.until("group_complete")
    assert first["type"] == "initial_state"
    assert first["seq"] == 1
    assert first["metadata"] == {"scene": "shot_001"}
    assert [child["status"] for child in first["child_jobs"]] == ["queued"] * 3
    assert client.seqs == list(range(2, last["seq"] + 1))
    assert last["succeeded"] == 3


async def test_a_finished_group_gives_its_snapshot_and_then_its_end(writer: Writer) -> None:
    group_id = await writer.do(writer.runner.submit)
    await writer.do(writer.runner.run_to_end)
    async with watching(group_id) as client:
        first, last = await client.next(), await client.next()
        await client.pong()
    assert first["status"] == "completed"
    assert last["type"] == "group_complete"
    assert last["seq"] == first["seq"] + 1
    assert len(client.frames) == 3


async def test_the_socket_stays_open_after_the_end_of_the_group(writer: Writer) -> None:
    group_id = await writer.do(writer.runner.submit)
    async with watching(group_id) as client:
        await writer.do(writer.runner.run_to_end)
        await client.until("group_complete")
        await client.pong()


@pytest.mark.parametrize("since", [0, 1, 3, 8])
async def test_since_resumes_right_after_the_known_event(writer: Writer, since: int) -> None:
    group_id = await writer.do(writer.runner.submit)
    await writer.do(writer.runner.run_to_end)
    async with watching(group_id, f"?since={since}") as client:
        await client.pong()
    assert "initial_state" not in client.kinds()
    assert client.seqs == list(range(since + 1, 9))


@pytest.mark.parametrize(
    "query",
    [
        "?since=",
        "?since=-1",
        "?since=9",
        "?since=1.0",
        "?since=abc",
        "?since=" + "9" * 5000,
        "?since=1&since=2",
        "?since=%F0%9F",
        "?since=٣",
        "?other=1",
    ],
)
async def test_any_other_since_is_as_none(writer: Writer, query: str) -> None:
    group_id = await writer.do(writer.runner.submit)
    await writer.do(writer.runner.run_to_end)
    async with watching(group_id, query.encode("utf-8").decode("latin-1")) as client:
        assert (await client.next())["type"] == "initial_state"


async def test_a_log_longer_than_a_page_is_resumed_whole(
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobgroups.consumers.job_group.PAGE", 2)
    monkeypatch.setattr("jobgroups.consumers.reads.PAGE", 2)
    group_id = await writer.do(writer.runner.submit)
    await writer.do(writer.runner.run_to_end)
    async with watching(group_id, "?since=0") as client:
        await client.pong()
    assert client.seqs == list(range(1, 9))


@pytest.mark.parametrize("group_id", ["jg_000000000000", "jg_%00", "x" * 5000, "%ED%A0%80", "a b"])
async def test_an_unknown_group_is_accepted_told_and_closed(writer: Writer, group_id: str) -> None:
    async with watching(group_id) as client:
        frame = await client.next()
        assert await client.close_code() == 4404
    assert frame["code"] == "group_not_found"
    assert frame["detail"].startswith("Job group ")
    assert frame["detail"].endswith(" not found")
    assert len(frame["detail"]) < 100


async def test_an_unknown_path_is_accepted_told_and_closed() -> None:
    async with watching("../../nowhere") as client:
        frame = await client.next()
        assert await client.close_code() == 4404
    assert (frame["type"], frame["code"]) == ("error", "not_found")


async def test_a_trailing_slash_is_the_same_path(writer: Writer) -> None:
    group_id = await writer.do(writer.runner.submit)
    async with watching(f"{group_id}/") as client:
        assert (await client.next())["type"] == "initial_state"


# --- what clients say -----------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["ping", '{"type": "ping"}', ' {"type":"ping","at":1}\n'])
async def test_ping_is_answered_after_the_snapshot(writer: Writer, text: str) -> None:
    group_id = await writer.do(writer.runner.submit)
    async with watching(group_id) as client:
        await client.say(text)
        assert (await client.next())["type"] == "initial_state"
        assert await client.next() == {"type": "pong"}


@pytest.mark.parametrize("text", ["close", '{"type": "close"}'])
async def test_close_closes_with_1000(writer: Writer, text: str) -> None:
    group_id = await writer.do(writer.runner.submit)
    async with watching(group_id) as client:
        await client.next()
        await client.say(text)
        assert await client.close_code() == 1000


@pytest.mark.parametrize(
    "text",
    [
        "hello",
        "{",
        "[]",
        "null",
        '{"type": 1}',
        '{"type": "stop"}',
        '{"type": ["ping"]}',
        "[" * 1_000,
        "[" * 200_000,
        "ping" * 100_000,
        '{"type":"ping"' + " " * 2_000 + "}",
    ],
)
async def test_anything_else_gets_one_error_and_the_connection_lives_on(
    writer: Writer, text: str
) -> None:
    group_id = await writer.do(writer.runner.submit)
    async with watching(group_id) as client:
        await client.next()
        await client.say(text)
        await client.communicator.send_to(bytes_data=b"\x00\xff")
        await client.pong()
    assert client.kinds() == ["initial_state", "error", "error", "pong"]
    assert client.frames[1]["code"] == "unknown_message"


# --- progress -------------------------------------------------------------------------------------


async def shown(client: Watcher) -> list[float]:
    """Return the percentages of all progress frames, once what was rung so far has come through."""
    await client.pong()
    return [f["progress"] for f in client.frames if f["type"] == "child_progress"]


async def test_progress_never_goes_back_within_an_attempt(writer: Writer) -> None:
    group_id = await writer.do(writer.runner.submit)
    claim = await writer.do(writer.runner.begin, "gpu_1")
    async with watching(group_id) as client:
        await client.next()
        for percent in (10.0, 30.0, 20.0, 30.0, 40.0):
            progress(group_id, claim.child_id, 1, percent)
            await client.pong()
        assert await shown(client) == [10.0, 30.0, 30.0, 40.0]


async def test_progress_behind_the_snapshot_is_not_sent(writer: Writer) -> None:
    from jobgroups.services.progress import ProgressRow, progress_flush

    group_id = await writer.do(writer.runner.submit)
    claim = await writer.do(writer.runner.begin, "gpu_1")
    row = ProgressRow(claim.child_id, claim.attempt_id, 50.0, "KSampler", 10, 20)
    await writer.do(progress_flush, rows=[row])
    async with watching(group_id) as client:
        first = await client.next()
        progress(group_id, claim.child_id, 1, 45.0)
        progress(group_id, claim.child_id, 1, 55.0)
        await client.until("child_progress")
        assert await shown(client) == [55.0]
    assert first["child_jobs"][0]["progress"] == 50.0


async def test_progress_before_the_start_is_sent_right_behind_it(writer: Writer) -> None:
    group_id = await writer.do(writer.runner.submit)
    claim = await writer.do(writer.runner.claim, "gpu_1")
    async with watching(group_id) as client:
        await client.next()
        progress(group_id, claim.child_id, 1, 5.0)
        progress(group_id, claim.child_id, 1, 7.0)
        await client.pong()
        await writer.do(writer.runner.started, claim)
        await client.until("child_progress")
    assert client.kinds() == ["initial_state", "pong", "child_started", "child_progress"]
    assert client.frames[-1]["progress"] == 7.0


@pytest.mark.parametrize("resumed", [False, True])
async def test_no_progress_after_the_end_of_a_child(writer: Writer, resumed: bool) -> None:
    group_id = await writer.do(writer.runner.submit)
    claim = await writer.do(writer.runner.begin, "gpu_1")
    if resumed:
        await writer.do(writer.runner.failed, claim)
    async with watching(group_id, "?since=1" if resumed else "") as client:
        if not resumed:
            await client.next()
            await writer.do(writer.runner.failed, claim)
        await client.until("child_failed")
        progress(group_id, claim.child_id, 1, 99.0)
        await client.pong()
    assert "child_progress" not in client.kinds()


async def test_a_new_attempt_starts_over_and_the_old_one_is_not_heard(writer: Writer) -> None:
    group_id = await writer.do(writer.runner.submit)
    first = await writer.do(writer.runner.begin, "gpu_1")
    async with watching(group_id) as client:
        await client.next()
        progress(group_id, first.child_id, 1, 80.0)
        await client.until("child_progress")
        await writer.do(writer.runner.struck, first)
        await client.until("child_requeued")
        progress(group_id, first.child_id, 1, 90.0)
        second = await writer.do(writer.runner.begin, "gpu_1")
        await client.until("child_started")
        progress(group_id, first.child_id, 1, 95.0)
        await client.pong()
        progress(group_id, first.child_id, second.number, 3.0)
        await client.until("child_progress")
        assert await shown(client) == [80.0, 3.0]


async def test_a_client_that_resumes_gets_progress_of_what_runs(writer: Writer) -> None:
    group_id = await writer.do(writer.runner.submit)
    claim = await writer.do(writer.runner.begin, "gpu_1")
    async with watching(group_id, "?since=2") as client:
        await client.pong()
        progress(group_id, claim.child_id, 1, 20.0)
        await client.until("child_progress")
    assert client.kinds() == ["pong", "child_progress"]


async def test_a_pending_progress_is_sent_before_the_end(writer: Writer) -> None:
    group_id = await writer.do(writer.runner.submit)
    claim = await writer.do(writer.runner.begin, "gpu_1")
    async with watching(group_id) as client:
        await client.next()
        progress(group_id, claim.child_id, 1, 100.0)
        await writer.do(writer.runner.succeeded, claim)
        await client.until("child_completed")
    assert client.kinds() == ["initial_state", "child_progress", "child_completed"]


# --- loss -----------------------------------------------------------------------------------------


async def test_a_gap_is_filled_from_the_rows(
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    group_id = await writer.do(writer.runner.submit)
    async with watching(group_id) as client:
        await client.next()
        with monkeypatch.context() as deaf:
            deaf.setattr(hub, "publish", lambda _message: None)
            claim = await writer.do(writer.runner.begin, "gpu_1")
        await writer.do(writer.runner.failed, claim)
        await client.until("child_failed")
    assert client.seqs == [2, 3]


async def test_a_lost_last_event_is_healed_by_the_timer(
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_module, "POLL_SECONDS", 0.02)
    group_id = await writer.do(writer.runner.submit)
    async with watching(group_id) as client:
        await client.next()
        with monkeypatch.context() as deaf:
            deaf.setattr(hub, "publish", lambda _message: None)
            await writer.do(writer.runner.run_to_end)
        await client.until("group_complete")
    assert client.seqs == list(range(2, 9))


async def test_an_event_heard_twice_or_late_is_sent_once(writer: Writer) -> None:
    group_id = await writer.do(writer.runner.submit)
    async with watching(group_id) as client:
        await client.next()
        await writer.do(writer.runner.begin, "gpu_1")
        await client.until("child_started")
        again = await writer.do(selectors.group_events, group_id, since=0)
        for seq, text in again:
            hub.publish(Message(group_id, events=(EventFrame(seq, text),)))
        await client.pong()
    assert client.seqs == [2]


async def test_events_between_subscription_and_snapshot_come_once(
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from jobgroups.consumers import job_group, reads

    group_id = await writer.do(writer.runner.submit)
    reading, go_on = asyncio.Event(), asyncio.Event()

    async def held_read(selector: object, *args: object, **kwargs: object) -> object:
        reading.set()
        await go_on.wait()
        return await reads.read(selector, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(job_group, "read", held_read)
    async with watching(group_id) as client:
        await reading.wait()
        claim = await writer.do(writer.runner.begin, "gpu_1")
        go_on.set()
        first = await client.next()
        await writer.do(writer.runner.failed, claim)
        await client.until("child_failed")
    assert first["seq"] == 2
    assert client.seqs == [3]


# --- many, slow, closing --------------------------------------------------------------------------


async def test_two_hundred_sockets_on_one_group_all_get_all(writer: Writer) -> None:
    group_id = await writer.do(writer.runner.submit)
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(watching(group_id)) for _ in range(200)]
        for client in clients:
            await client.next()
        await writer.do(writer.runner.run_to_end)
        for client in clients:
            await client.until("group_complete")
        assert {tuple(client.seqs) for client in clients} == {tuple(range(2, 9))}


async def test_a_client_that_does_not_read_is_closed_as_too_slow(
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from director.asgi import application

    monkeypatch.setattr(hub_module, "QUEUE_LIMIT", 3)
    group_id = await writer.do(writer.runner.submit)
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

    path = f"/ws/job-groups/{group_id}"
    scope = {"type": "websocket", "path": path, "headers": [], "query_string": b""}
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(application(scope, inbox.get, send))
        await settled(lambda: len(sent) == 2)
        await writer.do(writer.runner.begin, "gpu_1")
        await stuck.wait()
        await writer.do(writer.runner.run_to_end)
    assert json.loads(str(sent[-2]["text"]))["code"] == "too_slow"
    assert sent[-1] == {"type": "websocket.close", "code": 4008}


async def test_shutdown_closes_all_with_4012_and_forgets_them(writer: Writer) -> None:
    group_id = await writer.do(writer.runner.submit)
    async with watching(group_id) as one, watching(group_id) as other:
        for client in (one, other):
            await client.next()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(close_all())
            for client in (one, other):
                assert (await client.next())["code"] == "shutting_down"
                assert await client.close_code() == 4012
                await client.communicator.send_input({"type": "websocket.disconnect"})
    assert group_id not in hub._channels


async def test_shutdown_does_not_wait_for_a_client_that_never_answers(writer: Writer) -> None:
    group_id = await writer.do(writer.runner.submit)
    async with watching(group_id) as client:
        await client.next()
        async with asyncio.timeout(10):
            await close_all(within=0.05)


async def test_a_client_that_goes_is_forgotten(writer: Writer) -> None:
    group_id = await writer.do(writer.runner.submit)
    async with watching(group_id) as client:
        await client.next()
        assert group_id in hub._channels
    assert group_id not in hub._channels


async def test_a_broken_stream_says_so_and_fails_loudly(
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from jobgroups.consumers import job_group

    group_id = await writer.do(writer.runner.submit)

    async def broken_read(*args: object, **kwargs: object) -> object:
        raise ZeroDivisionError

    monkeypatch.setattr(job_group, "read", broken_read)
    with pytest.raises(ExceptionGroup):
        async with watching(group_id) as client:
            assert (await client.next())["code"] == "internal_error"
            await client.communicator.wait()
    assert group_id not in hub._channels


async def test_cancel_reaches_the_stream_as_one_transaction(writer: Writer) -> None:
    group_id = await writer.do(writer.runner.submit)
    async with watching(group_id) as client:
        await client.next()
        await writer.do(cancellation.group_cancel, group_id=group_id)
        last = await client.until("group_complete")
    assert client.kinds()[1:] == ["child_cancelled"] * 3 + ["group_complete"]
    assert last["status"] == "cancelled"
