"""The status of a group and of a job: validators, waiting for an event, and pages of jobs."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest
from asgiref.testing import ApplicationCommunicator
from django.db import transaction
from pytest_django import Settings

from director.asgi import application
from jobgroups.api import long_polls as waiting
from jobgroups.api.answers import Answers
from jobgroups.api.long_polls import LongPolls
from jobgroups.api.views.outputs import note_replaced
from jobgroups.database import pools
from jobgroups.events.hub import hub
from jobgroups.models import JobGroup
from jobgroups.queries import group_status
from jobgroups.queries.group_status import read_status
from jobgroups.queries.groups import group_stream_start
from jobgroups.queries.outputs import OutputFile
from jobgroups.serializers import MAX_FRAME_BYTES
from jobgroups.services.cancellation import child_cancel, group_cancel
from jobgroups.services.stars import child_star
from tests.api.conftest import GRAPH, Api, asgi_answer, error_of, play_to_the_end, wrong_fields
from tests.harness.farm import in_thread

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def group(api: Api, farm: list[str]) -> dict[str, Any]:
    """A submitted group of three jobs, of which the first is completed."""
    made = api.submit(*farm)
    play_to_the_end("gpu-1")
    return made


def _path(group: dict[str, Any]) -> str:
    return f"/api/job-groups/{group['job_group_id']}"


def test_status_and_job_have_validators(api: Api, group: dict[str, Any]) -> None:
    api.delete(_path(group))
    job = f"{_path(group)}/jobs/{group['child_jobs'][0]['job_id']}"
    for path in (_path(group), f"{_path(group)}?children=0", f"{_path(group)}?limit=2", job):
        # Compressed, it would have other bytes under the same validator.
        first = api.get(path, accept_encoding="gzip")
        assert "Content-Encoding" not in first.headers
        assert (first.status_code, first.headers["Cache-Control"]) == (200, "no-cache")
        again = api.get(path, if_none_match=f'"other", {first.headers["ETag"]}')
        assert (again.status_code, again.content, again.headers["ETag"]) == (
            304,
            b"",
            first.headers["ETag"],
        )
        error_of(api.get(path, if_match='"other"'), 412, "precondition_failed")
    before = api.get(job).headers["ETag"]
    api.ask("PUT", f"{job}/star")
    changed = api.get(job, if_none_match=before)
    assert changed.status_code == 200
    assert changed.json()["starred"]


def test_status_has_no_jobs_or_a_page_of_them(api: Api, group: dict[str, Any]) -> None:
    jobs = [one["job_id"] for one in group["child_jobs"]]
    without = api.get(f"{_path(group)}?children=0").json()
    assert (without["child_jobs"], without["total_count"], without["completed_count"]) == ([], 3, 1)
    page = api.get(f"{_path(group)}?limit=2").json()
    assert [one["job_id"] for one in page["child_jobs"]] == jobs[:2]
    assert page["children_next"] == f"http://localhost:9820{_path(group)}?limit=2&children_after=1"
    last = api.get(page["children_next"].removeprefix("http://localhost:9820")).json()
    assert ([one["job_id"] for one in last["child_jobs"]], last["children_next"]) == (
        jobs[2:],
        None,
    )
    assert "children_next" not in api.get(_path(group)).json()


@pytest.mark.parametrize(("count", "listed"), [(1_000, 1_000), (1_001, 0)])
def test_more_than_a_thousand_jobs_are_only_on_pages(
    api: Api, farm: list[str], count: int, listed: int
) -> None:
    body = {"workflow_json": GRAPH, "backend_ids": ["*"], "count": count}
    made, again = (api.post("/api/job-group", body, idempotency_key="key").json() for _ in range(2))
    assert made == again
    status = api.get(_path(made)).json()
    assert (status["total_count"], status["completed_count"]) == (count, 0)
    _, frame = group_stream_start(made["job_group_id"], None)
    assert len(frame or "") < MAX_FRAME_BYTES
    first, origin = f"{_path(made)}?limit=200", "http://localhost:9820"
    for answer, link in (
        (made, origin + first),
        (status, origin + first),
        (json.loads(frame or ""), first),
    ):
        assert (len(answer["child_jobs"]), answer.get("children_next")) == (
            listed,
            None if listed else link,
        )
    jobs: list[str] = []
    following: Any = first
    while following:
        page = api.get(following.removeprefix(origin)).json()
        jobs += [one["job_id"] for one in page["child_jobs"]]
        following = page["children_next"]
    assert len(set(jobs)) == len(jobs) == count


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("wait=5", "wait"),
        ("since=1&wait=61", "wait"),
        ("since=-1", "since"),
        ("children=2", "children"),
        ("children=0&limit=5", "children"),
        ("limit=201", "limit"),
        ("children_after=x", "children_after"),
        ("childen=0", "childen"),
    ],
)
def test_wrong_parameter_is_refused(
    api: Api, group: dict[str, Any], query: str, field: str
) -> None:
    assert set(wrong_fields(api.get(f"{_path(group)}?{query}"))) == {field}


def test_missing_group_and_job_are_not_found(api: Api, group: dict[str, Any]) -> None:
    api.get(_path(group))
    error_of(api.get("/api/job-groups/jg_000000000000?since=1&wait=5"), 404, "group_not_found")
    api.get(f"{_path(group)}?children=0")
    for name in ("j_0", "head"):
        error_of(api.get(f"{_path(group)}/jobs/{name}"), 404, "job_not_found")


@pytest.fixture
async def own_hub() -> AsyncIterator[None]:
    """Close the hub in the loop of the test that used it."""
    yield
    await hub.aclose()


async def _get(path: str) -> tuple[int, Any]:
    status, _, body = await asgi_answer(application, "GET", path, None, {})
    return status, json.loads(body or b"null")


async def _until_waiting(polls: LongPolls, count: int) -> None:
    async with asyncio.timeout(10):
        while len(polls._waiting) < count:
            await asyncio.sleep(0.01)


@pytest.mark.usefixtures("own_hub")
async def test_long_poll_is_answered_by_the_next_event(group: dict[str, Any]) -> None:
    path, job_id = _path(group), group["child_jobs"][1]["job_id"]

    seq = (await _get(path))[1]["seq"]
    assert (await _get(f"{path}?since={seq}")) == (304, None)
    assert (await _get(f"{path}?since={seq - 1}&wait=60"))[0] == 200, "it has moved before"
    assert (await _get(f"{path}?since={seq + 1}&wait=60"))[0] == 200, "the log of another database"
    polls = [
        asyncio.create_task(_get(f"{path}?since={seq}&wait=60{also}"))
        for also in ("", "&children=0")
    ]
    await _until_waiting(waiting.long_polls, 2)
    await in_thread(child_star)(group_id=group["job_group_id"], job_id=job_id, starred=True)
    await in_thread(child_cancel)(group_id=group["job_group_id"], job_id=job_id)
    async with asyncio.timeout(10):
        whole, head = await asyncio.gather(*polls)
    assert (whole[0], whole[1]["seq"], whole[1]["child_jobs"][1]["status"]) == (
        200,
        seq + 1,
        "cancelled",
    )
    assert (head[0], head[1]["seq"], head[1]["child_jobs"]) == (200, seq + 1, [])
    assert not waiting.long_polls._waiting


@pytest.mark.usefixtures("own_hub")
async def test_long_poll_ends_after_its_wait_and_with_the_process(
    group: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    polls = LongPolls()

    seq = (await _get(_path(group)))[1]["seq"]
    group_id = group["job_group_id"]
    assert not await polls.has_moved(group_id, since=seq, seconds=0.05)
    monkeypatch.setattr(polls._open, "most", 1)
    first = asyncio.create_task(polls.has_moved(group_id, since=seq, seconds=60))
    await _until_waiting(polls, 1)
    with pytest.raises(waiting.TooManyWaiting):
        await polls.has_moved(group_id, since=seq, seconds=60)
    polls.close()
    async with asyncio.timeout(10):
        assert not await first
        assert not await polls.has_moved(group_id, since=seq, seconds=60)


@pytest.mark.usefixtures("own_hub")
async def test_long_poll_is_answered_after_more_events_than_its_queue_has(
    group: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    seq = (await _get(_path(group)))[1]["seq"]
    poll = asyncio.create_task(_get(f"{_path(group)}?since={seq}&wait=60"))
    await _until_waiting(waiting.long_polls, 1)
    monkeypatch.setattr("jobgroups.events.hub.QUEUE_LIMIT", 1)
    await in_thread(group_cancel)(group_id=group["job_group_id"])
    async with asyncio.timeout(10):
        assert (await poll)[1]["status"] == "cancelled"


def test_change_is_made_although_its_client_has_gone() -> None:
    others, made = threading.Event(), threading.Event()

    async def work() -> None:
        busy = [asyncio.create_task(pools.act(others.wait, 10)) for _ in range(20)]
        change = asyncio.create_task(pools.act(made.set))
        await asyncio.sleep(0)
        change.cancel()
        await asyncio.wait([change])
        others.set()
        await asyncio.gather(*busy)

    asyncio.run(work())
    assert made.wait(10)


def test_status_does_not_wait_for_marks_that_wait_for_a_lock(group: dict[str, Any]) -> None:
    file = OutputFile(
        backend_id="gpu-1",
        backend_name="gpu-1",
        url="",
        headers={},
        prompt_id="",
        filename="a.png",
        subfolder="",
        kind="output",
        seed=0,
        job_id=group["child_jobs"][0]["job_id"],
    )

    async def work() -> None:
        marks = [asyncio.create_task(note_replaced(file)) for _ in range(4)]
        async with asyncio.timeout(10):
            assert (await _get(_path(group)))[0] == 200
        for mark in marks:
            mark.cancel()
        await hub.aclose()

    with transaction.atomic():
        JobGroup.objects.select_for_update().get()
        asyncio.run(work())


@pytest.mark.usefixtures("own_hub")
async def test_requests_that_still_join_the_channel_layer_count_as_waiting(
    group: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    polls, subscribe = LongPolls(), hub.subscribe

    async def joining(*args: Any, **kwargs: Any) -> Any:
        await asyncio.sleep(0.01)
        return await subscribe(*args, **kwargs)

    seq = (await _get(_path(group)))[1]["seq"]
    monkeypatch.setattr(polls._open, "most", 1)
    monkeypatch.setattr(hub, "subscribe", joining)
    calls = (polls.has_moved(group["job_group_id"], since=seq, seconds=0.1) for _ in range(3))
    found = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(one) for one in found].count(waiting.TooManyWaiting) == 2


@pytest.mark.usefixtures("own_hub")
async def test_client_that_disconnects_ends_its_wait(group: dict[str, Any]) -> None:
    query = f"since={(await _get(_path(group)))[1]['seq']}&wait=60".encode()
    scope = {"type": "http", "method": "GET", "path": _path(group), "query_string": query}
    request = ApplicationCommunicator(
        application, {**scope, "headers": [(b"host", b"localhost:9820")]}
    )
    await request.send_input({"type": "http.request"})
    await _until_waiting(waiting.long_polls, 1)
    await request.send_input({"type": "http.disconnect"})
    await request.wait(10)
    assert not waiting.long_polls._waiting
    assert await request.receive_nothing()


@pytest.mark.usefixtures("own_hub")
async def test_request_does_not_share_a_read_of_versions_that_began_before(
    group: dict[str, Any], monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    group_id, job_id = group["job_group_id"], group["child_jobs"][0]["job_id"]
    settings.DIRECTOR_ON_SQLITE = False  # versions are read in threads
    answers = Answers()

    has_read, go_on = asyncio.Event(), asyncio.Event()

    async def held(*args: Any) -> Any:
        found = await pools.read(*args)
        has_read.set()
        await go_on.wait()
        return found

    monkeypatch.setattr("jobgroups.api.answers.read", held)
    first = asyncio.create_task(answers.version(group_id))
    await has_read.wait()
    await in_thread(child_star)(group_id=group_id, job_id=job_id, starred=True)
    second = asyncio.create_task(answers.version(group_id))
    await asyncio.sleep(0)
    go_on.set()
    async with asyncio.timeout(10):
        (seq, revision), after = await first, await second
    assert after == (seq, revision + 1)


@pytest.mark.usefixtures("own_hub")
async def test_answers_of_one_moment_are_read_once_and_the_oldest_are_dropped(
    api: Api, farm: list[str], monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    ids = [(await in_thread(api.submit)(*farm))["job_group_id"] for _ in range(3)]
    answers = Answers()
    read: list[str] = []

    def make(group_id: str, earlier: Any) -> Any:
        read.append(group_id)
        return read_status(group_id, earlier)

    async def get(group_id: str) -> Any:
        return await answers.get(make, group_id)

    monkeypatch.setattr(group_status, "OUTLOOK_SECONDS", 3_600.0)
    found = await asyncio.gather(*(get(ids[0]) for _ in range(20)))
    assert read == ids[:1]
    assert all(one is found[0] for one in found)
    settings.DIRECTOR_ON_SQLITE = False  # versions are read in threads
    assert all(one is found[0] for one in await asyncio.gather(*(get(ids[0]) for _ in range(20))))
    monkeypatch.setattr("jobgroups.api.answers.MOST_BYTES", 2 * found[0].size + 100)
    for group_id in ids[1:]:
        await get(group_id)
    await get(ids[2])
    await get(ids[0])
    assert read == [*ids, ids[0]]
    monkeypatch.setattr("jobgroups.api.answers.UNUSED_SECONDS", 0.0)
    await get(ids[1])
    assert list(answers._kept) == [(make, ids[1])]
    assert answers._size == (await get(ids[1])).size
    answers.close()
