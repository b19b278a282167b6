"""The socket of the pages, ``/ws/monitor``."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
from pytest_django import Settings

from backends.models import Backend, FoundBackend
from jobgroups.consumers.monitor import MAX_GROUPS, groups_of
from jobgroups.database.threads import DatabaseThreads
from jobgroups.domain.clock import now
from jobgroups.domain.outputs import file_digest
from jobgroups.events.hub import hub
from jobgroups.events.messages import Message, PreviewFrame, ProgressFrame
from jobgroups.models import JobGroup
from jobgroups.services import expiry
from jobgroups.services.files import output_replaced
from jobgroups.services.groups import group_change
from jobgroups.services.stars import child_star
from tests.harness import factories
from tests.ws.clients import Watcher, connected

pytestmark = pytest.mark.django_db(transaction=True)


def monitoring(groups: str) -> AbstractAsyncContextManager[Watcher]:
    """Open a page's socket."""
    return connected(f"/ws/monitor?groups={groups}")


async def after_pulses(page: Watcher) -> dict[str, Any]:
    while (frame := await page.next())["type"] == "pulse":
        pass
    return frame


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
    async with monitoring(f"{group.id},jg_000000000000,nonsense") as monitor:
        snapshot = await monitor.next()
        assert snapshot["type"] == "snapshot"
        assert snapshot["seqs"] == {group.id: 1}
        assert snapshot["newest"] == group.id
        assert snapshot["runner"] is False
        assert snapshot["halt"] == "No runner is alive: no job is sent until one starts."
        await db(factories.begin, fence)
        event = await monitor.until("event")
        assert (event["group"], event["seq"], event["event"]) == (group.id, 2, "child_started")
        newer = await db(factories.submit)
        while (await monitor.until("pulse"))["newest"] != newer.id:
            pass


async def test_progress_of_many_comes_in_one_frame_and_the_latest_wins(db: Any) -> None:
    await db(factories.backend)
    group = await db(factories.submit)
    frames = [ProgressFrame(f"j_{n % 5}", 1, float(n), "{}") for n in range(50)]
    async with monitoring(group.id) as monitor:
        await monitor.next()
        hub.publish(Message(group_id=group.id, progress=(frames[0],)))
        assert (await monitor.until("progress"))["children"] == [[group.id, "j_0", 0.0]]
        for frame in frames[1:]:
            hub.publish(Message(group_id=group.id, progress=(frame,)))
        children = (await monitor.until("progress"))["children"]
    assert sorted(children) == [[group.id, f"j_{n}", 45.0 + n] for n in range(5)]


async def test_the_newest_preview_is_sent_of_groups_of_which_a_page_wants_them(db: Any) -> None:
    await db(factories.backend)
    group, other = await db(factories.submit), await db(factories.submit)
    async with monitoring(f"{group.id},{other.id}&previews={group.id}") as monitor:
        await monitor.next()
        assert [hub.wants_previews(one.id) for one in (group, other)] == [True, False]
        for number in range(9):
            for one in (other, group):
                frame = PreviewFrame(f"j_{number}", 1, f'{{"image": "{number}"}}')
                hub.publish(Message(group_id=one.id, previews=(frame,)))
        sent = await monitor.until("preview")
        while sent["preview"]["image"] != "8":
            sent = await monitor.until("preview")
        assert sent == {"type": "preview", "group": group.id, "preview": {"image": "8"}}


async def test_a_found_comfyui_a_failed_job_a_changed_backend_and_a_full_disk_change_the_pulse(
    db: Any, settings: Settings
) -> None:
    await db(factories.backend)
    fence = await db(factories.lease)
    async with monitoring("") as monitor:
        before = await monitor.next()
        assert (before["failed"], before["disk_full"]) == (0, False)
        seen = {"first_seen_at": now(), "last_seen_at": now()}
        await db(lambda: FoundBackend.objects.create(url="http://localhost:8198", **seen))
        found = await monitor.until("pulse")
        assert found["backends"] != before["backends"]
        await db(factories.submit)
        await db(
            lambda: expiry.children_fail_unavailable(fence=fence, away_s=600, reason="no answer")
        )
        while (failed := await monitor.until("pulse"))["failed"] != 1:
            pass
        await db(lambda: Backend.objects.update(enabled=False))
        while (await monitor.until("pulse"))["backends"] == failed["backends"]:
            pass
        settings.DIRECTOR_MIN_FREE_BYTES = 2**60
        while not (await monitor.until("pulse"))["disk_full"]:
            pass


async def test_stars_and_changes_are_sent_to_pages_that_want_only_these(db: Any) -> None:
    await db(factories.backend)
    fence = await db(factories.lease)
    group = await db(factories.submit)
    async with monitoring(f"&stars={group.id}") as page, monitoring(group.id) as listing:
        assert (await page.next())["seqs"] == {}
        await listing.next()
        claimed = await db(factories.begin, fence)
        hub.publish(Message(group_id=group.id, progress=(ProgressFrame("j_0", 1, 5.0, "{}"),)))
        assert (await listing.until("progress"))["children"] == [[group.id, "j_0", 5.0]]
        for starred in (True, False):
            await db(child_star, group_id=group.id, job_id=claimed.child_id, starred=starred)
            said = {"type": "star", "group": group.id, "job": claimed.child_id, "starred": starred}
            assert await listing.until("star") == said
            assert await after_pulses(page) == said
        await db(group_change, group_id=group.id, name="owl")
        for socket in (page, listing):
            assert await socket.until("changed") == {"type": "changed", "group": group.id}
        assert (await db(JobGroup.objects.get, pk=group.id)).seq == 2


async def test_a_group_page_is_sent_the_job_whose_file_was_replaced(db: Any) -> None:
    await db(factories.backend)
    fence = await db(factories.lease)
    group = await db(factories.submit)
    async with monitoring(f"&stars={group.id}") as page:
        await page.next()
        claimed = await db(factories.begin, fence)
        await db(factories.finish, claimed, fence)
        (item,) = factories.OUTPUTS["images"]
        await db(output_replaced, job_id=claimed.child_id, digest=file_digest("gpu-1", item))
        frame = await after_pulses(page)
    assert frame == {"type": "replaced", "group": group.id, "job": claimed.child_id}


def test_a_page_can_ask_for_so_many_groups_and_no_more() -> None:
    ids = [f"jg_{number:012x}" for number in range(MAX_GROUPS + 5)]
    query = f"groups={','.join([ids[0], *ids])}&groups=jg_ffffffffffff".encode()
    assert groups_of(query) == ids[:MAX_GROUPS]
    assert groups_of(b"") == []
    assert groups_of(b"groups=%ff,jg_1,../..") == []
