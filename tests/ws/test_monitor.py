"""The socket of the pages, ``/ws/monitor``."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from channels.testing import WebsocketCommunicator
from pytest_django import Settings

from backends.models import Backend, FoundBackend
from director.asgi import application
from jobgroups.consumers.monitor import MAX_GROUPS, groups_of
from jobgroups.database.threads import DatabaseThreads
from jobgroups.domain.clock import now
from jobgroups.domain.outputs import file_digest
from jobgroups.events.hub import hub
from jobgroups.events.messages import Message, ProgressFrame
from jobgroups.models import JobGroup
from jobgroups.services import expiry
from jobgroups.services.files import output_replaced
from jobgroups.services.stars import child_star
from tests.harness import factories

pytestmark = pytest.mark.django_db(transaction=True)


class Monitor:
    """An open page's socket."""

    def __init__(self, groups: str) -> None:
        self._socket = WebsocketCommunicator(application, f"/ws/monitor?groups={groups}")

    async def start(self) -> dict[str, Any]:
        assert (await self._socket.connect())[0]
        return await self.next()

    async def next(self) -> dict[str, Any]:
        frame: dict[str, Any] = json.loads(await self._socket.receive_from(timeout=10))
        return frame

    async def until(self, kind: str) -> dict[str, Any]:
        while (frame := await self.next())["type"] != kind:
            pass
        return frame

    async def close(self) -> None:
        await self._socket.disconnect()


@pytest.fixture
async def db(transactional_db: None) -> AsyncIterator[Any]:
    database = DatabaseThreads(threads=1, name="test")
    yield database.run
    database.close()
    await hub.aclose()


async def test_a_page_hears_of_its_groups_and_of_new_ones(db: Any) -> None:
    await db(factories.backend)
    fence = await db(factories.lease)
    group = await db(factories.submit)
    monitor = Monitor(f"{group.id},jg_000000000000,nonsense")
    snapshot = await monitor.start()
    assert snapshot["type"] == "snapshot"
    assert snapshot["seqs"] == {group.id: 1}
    assert snapshot["newest"] == group.id
    assert snapshot["runner"] is False
    await db(factories.begin, fence)
    event = await monitor.until("event")
    assert (event["group"], event["seq"], event["event"]) == (group.id, 2, "child_started")
    newer = await db(factories.submit)
    while (await monitor.until("pulse"))["newest"] != newer.id:
        pass
    await monitor.close()


async def test_progress_of_many_comes_in_one_frame_and_the_latest_wins(db: Any) -> None:
    await db(factories.backend)
    group = await db(factories.submit)
    monitor = Monitor(group.id)
    await monitor.start()
    frames = [ProgressFrame(f"j_{n % 5}", 1, float(n), "{}") for n in range(50)]
    hub.publish(Message(group_id=group.id, progress=(frames[0],)))
    assert (await monitor.until("progress"))["children"] == [[group.id, "j_0", 0.0]]
    for frame in frames[1:]:
        hub.publish(Message(group_id=group.id, progress=(frame,)))
    children = (await monitor.until("progress"))["children"]
    assert sorted(children) == [[group.id, f"j_{n}", 45.0 + n] for n in range(5)]
    await monitor.close()


async def test_a_found_comfyui_a_failed_job_a_changed_backend_and_a_full_disk_change_the_pulse(
    db: Any, settings: Settings
) -> None:
    await db(factories.backend)
    fence = await db(factories.lease)
    monitor = Monitor("")
    before = await monitor.start()
    assert (before["failed"], before["disk_full"]) == (0, False)
    seen = {"first_seen_at": now(), "last_seen_at": now()}
    await db(lambda: FoundBackend.objects.create(url="http://localhost:8198", **seen))
    found = await monitor.until("pulse")
    assert found["backends"] != before["backends"]
    await db(factories.submit)
    await db(lambda: expiry.children_fail_unavailable(fence=fence, away_s=600, reason="no answer"))
    while (failed := await monitor.until("pulse"))["failed"] != 1:
        pass
    await db(lambda: Backend.objects.update(enabled=False))
    while (await monitor.until("pulse"))["backends"] == failed["backends"]:
        pass
    settings.DIRECTOR_MIN_FREE_BYTES = 2**60
    while not (await monitor.until("pulse"))["disk_full"]:
        pass
    await monitor.close()


async def test_a_star_is_told_to_who_asks_for_stars_alone_and_nothing_else_is(db: Any) -> None:
    await db(factories.backend)
    fence = await db(factories.lease)
    group = await db(factories.submit)
    page, listing = Monitor(f"&stars={group.id}"), Monitor(group.id)
    assert (await page.start())["seqs"] == {}
    await listing.start()
    claimed = await db(factories.begin, fence)
    hub.publish(Message(group_id=group.id, progress=(ProgressFrame("j_0", 1, 5.0, "{}"),)))
    assert (await listing.until("progress"))["children"] == [[group.id, "j_0", 5.0]]
    for starred in (True, False):
        await db(child_star, group_id=group.id, job_id=claimed.child_id, starred=starred)
        said = {"type": "star", "group": group.id, "job": claimed.child_id, "starred": starred}
        assert await listing.until("star") == said
        while (frame := await page.next())["type"] == "pulse":
            pass
        assert frame == said
    assert (await db(JobGroup.objects.get, pk=group.id)).seq == 2
    await page.close()
    await listing.close()


async def test_a_group_page_is_sent_the_job_whose_file_was_replaced(db: Any) -> None:
    await db(factories.backend)
    fence = await db(factories.lease)
    group = await db(factories.submit)
    page = Monitor(f"&stars={group.id}")
    await page.start()
    claimed = await db(factories.begin, fence)
    await db(factories.finish, claimed, fence)
    (item,) = factories.OUTPUTS["images"]
    digest = file_digest("gpu-1", item)
    await db(output_replaced, job_id=claimed.child_id, digest=digest)
    while (frame := await page.next())["type"] == "pulse":
        pass
    assert frame == {"type": "replaced", "group": group.id, "job": claimed.child_id}
    await page.close()


def test_a_page_can_ask_for_so_many_groups_and_no_more() -> None:
    ids = [f"jg_{number:012x}" for number in range(MAX_GROUPS + 5)]
    query = f"groups={','.join([ids[0], *ids])}&groups=jg_ffffffffffff".encode()
    assert groups_of(query) == ids[:MAX_GROUPS]
    assert groups_of(b"") == []
    assert groups_of(b"groups=%ff,jg_1,../..") == []
