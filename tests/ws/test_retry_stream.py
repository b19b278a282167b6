"""A retry on the stream: a client that stayed sees the next run whole, one that comes back too."""

from __future__ import annotations

import pytest

from jobgroups.queries import groups as selectors
from jobgroups.services import cancellation, retries
from tests.ws.client_state import ClientState, picked
from tests.ws.clients import watching
from tests.ws.conftest import Writer
from tests.ws.played_runner import progress

pytestmark = pytest.mark.django_db(transaction=True)

ENDS = ["group_complete", "group_reopened"]


async def one_failed(writer: Writer) -> str:
    """Submit a group of three of which the first fails; it has ended."""
    group_id: str = await writer.do(writer.runner.submit)
    await writer.do(writer.runner.failed, await writer.do(writer.runner.begin, "gpu_1"))
    await writer.do(writer.runner.run_to_end)
    return group_id


async def test_a_client_that_stayed_sees_both_runs_without_a_gap(writer: Writer) -> None:
    group_id = await one_failed(writer)
    state = ClientState()
    async with watching(group_id) as client:
        await client.until("group_complete")
        await writer.do(retries.group_retry, group_id=group_id)
        reopened = await client.until("group_reopened")
        claim = await writer.do(writer.runner.begin, "gpu_1")
        progress(group_id, claim.child_id, claim.number, 50.0)
        await writer.do(writer.runner.succeeded, claim)
        last = await client.until("group_complete")
        await client.pong()
    assert (reopened["run"], reopened["job_ids"]) == (2, [claim.child_id])
    kinds = client.kinds()
    assert kinds[kinds.index("group_reopened") :] == [
        "group_reopened",
        "child_started",
        "child_progress",
        "child_completed",
        "group_complete",
        "pong",
    ]
    assert (last["run"], last["status"], last["succeeded"]) == (2, "completed", 3)
    for frame in client.frames:
        state.take(frame)
    snapshot = await writer.do(selectors.group_snapshot, group_id)
    assert list(state.children.values()) == [picked(one) for one in snapshot["child_jobs"]]
    assert (state.group["run"], state.group["status"]) == (2, "completed")


async def test_since_reaches_over_the_runs(writer: Writer) -> None:
    group_id = await one_failed(writer)
    end = (await writer.do(selectors.group_seqs, [group_id]))[group_id]
    await writer.do(retries.group_retry, group_id=group_id)
    await writer.do(writer.runner.run_to_end)
    async with watching(group_id, f"?since={end - 1}") as client:
        await client.pong()
    assert [frame["type"] for frame in client.frames if frame["type"] in ENDS] == [
        "group_complete",
        "group_reopened",
        "group_complete",
    ]
    assert client.seqs == list(range(end, end + 5))


async def test_who_comes_in_a_later_run_gets_that_runs_snapshot(writer: Writer) -> None:
    group_id = await one_failed(writer)
    await writer.do(retries.group_retry, group_id=group_id)
    async with watching(group_id) as client:
        first = await client.next()
        assert (first["run"], first["status"], first["completed_at"]) == (2, "running", None)
        await writer.do(writer.runner.run_to_end)
        await client.until("group_complete")
    async with watching(group_id) as client:
        first, last = await client.next(), await client.next()
        await client.pong()
    assert (first["run"], last["type"], last["run"]) == (2, "group_complete", 2)
    assert last["seq"] == first["seq"] + 1


async def test_progress_of_the_earlier_attempt_is_not_shown_in_the_new_run(writer: Writer) -> None:
    group_id: str = await writer.do(writer.runner.submit, ("gpu_1",))
    old = await writer.do(writer.runner.begin, "gpu_1")
    await writer.do(writer.runner.timed_out, old)
    async with watching(group_id) as client:
        await client.until("group_complete")
        await writer.do(retries.group_retry, group_id=group_id)
        await client.until("group_reopened")
        # Its prompt is still being stopped, and tells how far it is.
        progress(group_id, old.child_id, old.number, 90.0)
        await client.pong()
        await writer.do(writer.runner.struck, old)
        new = await writer.do(writer.runner.begin, "gpu_1")
        await client.until("child_started")
        progress(group_id, old.child_id, old.number, 91.0)
        progress(group_id, new.child_id, new.number, 10.0)
        shown = await client.until("child_progress")
    assert (shown["attempt"], shown["progress"]) == (2, 10.0)
    assert client.kinds().count("child_progress") == 1


async def test_an_adopted_picture_is_told_like_any_other(writer: Writer) -> None:
    group_id: str = await writer.do(writer.runner.submit, ("gpu_1",))
    claim = await writer.do(writer.runner.begin, "gpu_1")
    await writer.do(cancellation.group_cancel, group_id=group_id)
    await writer.do(writer.runner.succeeded, claim)
    state = ClientState()
    async with watching(group_id) as client:
        await client.until("group_complete")
        await writer.do(retries.group_retry, group_id=group_id)
        await client.until("group_complete")
    assert client.kinds()[-4:] == ["group_reopened", "child_started", "child_completed", "group_complete"]
    for frame in client.frames:
        state.take(frame)
    snapshot = await writer.do(selectors.group_snapshot, group_id)
    assert list(state.children.values()) == [picked(one) for one in snapshot["child_jobs"]]
