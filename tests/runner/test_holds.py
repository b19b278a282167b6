"""Backends that people hold back while renders run: by the machines' own audit log."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from backends.models import Backend
from backends.services import backend_update
from backends.states import Hold
from jobgroups.domain.states import RetryScope
from jobgroups.errors import Conflict
from jobgroups.models import Attempt
from jobgroups.services import holds
from jobgroups.services.backends import backend_delete
from tests.harness.farm import Farm, in_thread, until

pytestmark = pytest.mark.django_db(transaction=True)


async def say(farm: Farm, work: Any, **said: Any) -> None:
    """Have a person say something of a backend, and ring."""
    await in_thread(work)(**said)
    for service in farm._tasks:
        service.notify()


async def pause(farm: Farm, name: str = "gpu-1", **said: Any) -> None:
    await say(farm, holds.backend_hold, backend_id=name, hold=Hold.PAUSE, **said)


async def drain(farm: Farm, name: str = "gpu-1", **said: Any) -> None:
    await say(farm, holds.backend_hold, backend_id=name, hold=Hold.DRAIN, **said)


async def resume(farm: Farm, name: str = "gpu-1") -> None:
    await say(farm, holds.backend_resume, backend_id=name)


async def row(name: str = "gpu-1") -> Backend:
    found: Backend = await in_thread(Backend.objects.get)(pk=name)
    return found


async def seen(*names: str) -> None:
    """Wait until the runner has seen each backend: what it has not seen is no candidate."""

    async def all_seen() -> bool:
        rows = Backend.objects.filter(pk__in=names, reachability="online").exclude(devices=[])
        return bool(await in_thread(rows.count)() == len(names))

    await until(all_seen)


def started(farm: Farm, name: str = "gpu-1") -> list[str]:
    """Return the prompts that the backend began to execute, in order."""
    entries = farm.sims[name].audit_log.entries
    return [entry["prompt_id"] for entry in entries if entry["kind"] == "started"]


def posted(farm: Farm, name: str = "gpu-1") -> int:
    """Return how many prompts the backend took."""
    return farm.kinds(name).count("accepted")


async def looked_often(farm: Farm) -> None:
    """Give the runner time for several looks at what waits."""
    for _ in range(8):
        for service in farm._tasks:
            service.notify()
        await asyncio.sleep(0.1)


async def attempts_of(farm: Farm, group: Any) -> list[tuple[str, str, bool]]:
    rows: list[Attempt] = await farm.settled(group)
    return [(one.backend_id, one.state, one.is_counted) for one in rows]


# --- paused ---------------------------------------------------------------------------------------


async def test_a_paused_backend_finishes_what_it_has_and_gets_no_more(farm: Farm) -> None:
    await farm.backend(seconds=0.6)
    await farm.runner(depth=1)
    group = await farm.submit("gpu-1", "gpu-1")
    await farm.status_of(group, "running")
    await pause(farm)
    await farm.status_of(group, "completed")
    await looked_often(farm)
    assert posted(farm) == 1
    await resume(farm)
    assert (await farm.finished(group)).status == "completed"
    assert await attempts_of(farm, group) == [("gpu-1", "success", True)] * 2


async def test_paused_at_once_what_runs_is_given_back_and_rendered_after_the_pause(farm: Farm) -> None:
    await farm.backend(seconds=2.0)
    await farm.runner()
    group = await farm.submit("gpu-1", "gpu-1")
    await farm.status_of(group, "running")
    await pause(farm, at_once=True, by="anna")
    assert {one[1] for one in await attempts_of(farm, group)} == {"interrupted"}
    assert {child.status for child in await farm.children(group)} == {"queued"}
    given_back = posted(farm)
    await looked_often(farm)
    assert posted(farm) == given_back
    await resume(farm)
    done = await farm.finished(group)
    assert (done.status, done.completed_count) == ("completed", 2)
    assert len(started(farm)) == len(set(started(farm))), "no prompt began twice"
    ended = await attempts_of(farm, group)
    assert sorted(ended) == [("gpu-1", "interrupted", False)] * 2 + [("gpu-1", "success", True)] * 2
    assert "child_requeued" in await farm.types(group)


async def test_somebody_elses_prompt_is_not_touched_by_a_pause(farm: Farm) -> None:
    sim = await farm.backend(seconds=0.5)
    await farm.runner()
    sim.fault("foreign_prompt", at="now", seconds=1.5)
    stranger = sim.prompts[-1]["prompt_id"]
    await sim.wait_for("started", prompt_id=stranger)
    group = await farm.submit("gpu-1")
    await sim.wait_for("accepted", since=len(sim.audit_log.entries) - 1)
    await pause(farm, at_once=True)
    assert (await sim.wait_for("ended", prompt_id=stranger))["outcome"] == "success"
    assert await attempts_of(farm, group) == [("gpu-1", "interrupted", False)]
    assert started(farm) == [stranger], "ours was deleted before it began"
    assert "interrupted" not in farm.kinds()


async def test_what_is_given_back_is_rendered_on_another_machine_meanwhile(farm: Farm) -> None:
    await farm.backend("gpu-1", seconds=3.0)
    await farm.backend("gpu-2", seconds=0.2)
    await farm.runner()
    await seen("gpu-1", "gpu-2")
    group = await farm.submit("gpu-1", retry_elsewhere=RetryScope.ANY)
    await farm.status_of(group, "running")
    await pause(farm, at_once=True, by="anna")
    assert (await farm.finished(group)).status == "completed"
    assert await attempts_of(farm, group) == [("gpu-1", "interrupted", False), ("gpu-2", "success", True)]
    assert "child_retrying" in await farm.types(group)
    assert (await row()).hold == "pause"


async def test_a_pause_at_once_is_carried_out_by_the_next_runner(farm: Farm) -> None:
    await farm.backend(seconds=2.0)
    service = await farm.runner()
    group = await farm.submit("gpu-1")
    await farm.status_of(group, "running")
    # It dies between the word and the deed.
    await farm.kill(service)
    await pause(farm, at_once=True)
    (child,) = await farm.children(group)
    assert child.status == "running"
    await farm.runner()
    assert await attempts_of(farm, group) == [("gpu-1", "interrupted", False)]
    await resume(farm)
    assert (await farm.finished(group)).status == "completed"
    assert len(started(farm)) == len(set(started(farm))) == 2


async def test_a_runner_that_dies_in_the_deed_leaves_nothing_undone(farm: Farm) -> None:
    sim = await farm.backend(seconds=2.0)
    service = await farm.runner()
    group = await farm.submit("gpu-1")
    await farm.status_of(group, "running")
    sim.fault("hang_http", count=0, route="/interrupt")
    await pause(farm, at_once=True)

    async def given_back() -> bool:
        return {child.status for child in await farm.children(group)} == {"queued"}

    await until(given_back)
    await farm.kill(service)
    sim.clear_faults()
    await farm.runner()
    assert await attempts_of(farm, group) == [("gpu-1", "interrupted", False)]


# --- drained --------------------------------------------------------------------------------------


async def test_a_drained_backend_finishes_gives_the_rest_away_and_is_disabled(farm: Farm) -> None:
    await farm.backend("gpu-1", seconds=0.8)
    await farm.backend("gpu-2", seconds=0.1)
    await farm.runner(depth=1)
    await seen("gpu-1", "gpu-2")
    group = await farm.submit("gpu-1", "gpu-1", "gpu-1", retry_elsewhere=RetryScope.ANY)
    await farm.status_of(group, "running")
    await drain(farm, by="anna", reason="new card")
    assert (await farm.finished(group)).status == "completed"
    assert posted(farm, "gpu-1") == 1
    assert posted(farm, "gpu-2") == 2

    async def disabled() -> bool:
        return not (await row()).enabled

    await until(disabled)
    drained = await row()
    assert (drained.changed_by, drained.changed_reason) == ("anna", "drained: new card")


async def test_what_may_go_nowhere_waits_at_a_backend_that_is_being_drained(farm: Farm) -> None:
    await farm.backend("gpu-1", seconds=0.3)
    await farm.backend("gpu-2", seconds=0.1)
    await farm.runner(depth=1)
    await seen("gpu-1", "gpu-2")
    group = await farm.submit("gpu-1", "gpu-1")
    await farm.status_of(group, "running")
    await drain(farm)
    await farm.status_of(group, "completed")
    await looked_often(farm)
    assert (await row()).enabled, "a child is left"
    assert posted(farm, "gpu-1") == 1
    await resume(farm)
    assert (await farm.finished(group)).status == "completed"


async def test_drained_at_once_it_is_disabled_as_soon_as_the_stop_is_seen(farm: Farm) -> None:
    await farm.backend("gpu-1", seconds=5.0)
    await farm.backend("gpu-2", seconds=0.1)
    await farm.runner()
    await seen("gpu-1", "gpu-2")
    group = await farm.submit("gpu-1", retry_elsewhere=RetryScope.ANY)
    await farm.status_of(group, "running")
    await drain(farm, at_once=True)
    assert (await farm.finished(group)).status == "completed"

    async def disabled() -> bool:
        return not (await row()).enabled

    await until(disabled, 5)
    assert await attempts_of(farm, group) == [("gpu-1", "interrupted", False), ("gpu-2", "success", True)]


# --- away, and back -------------------------------------------------------------------------------


async def test_what_waits_for_a_machine_that_stays_away_goes_to_another(farm: Farm) -> None:
    sim = await farm.backend("gpu-1", seconds=0.1)
    await farm.backend("gpu-2", seconds=0.1)
    await farm.runner(move_after_s=0.5)
    await seen("gpu-1", "gpu-2")
    sim.fault("crash", at="now")
    group = await farm.submit("gpu-1", "gpu-2", retry_elsewhere=RetryScope.GROUP)
    done = await farm.finished(group)
    assert (done.status, done.completed_count) == ("completed", 2)
    assert await attempts_of(farm, group)
    assert posted(farm, "gpu-2") == 2


async def test_a_backend_is_disabled_and_enabled_and_nobody_restarts_anything(farm: Farm) -> None:
    await farm.backend(seconds=0.1)
    await farm.runner()
    first = await farm.submit("gpu-1")
    assert (await farm.finished(first)).status == "completed"
    await say(farm, backend_update, backend_id="gpu-1", enabled=False)
    with pytest.raises(Conflict, match="disabled"):
        await farm.submit("gpu-1")
    await say(farm, backend_update, backend_id="gpu-1", enabled=True)
    again = await farm.submit("gpu-1")
    assert (await farm.finished(again)).status == "completed"


async def test_a_backend_is_deleted_and_added_at_the_same_address(farm: Farm) -> None:
    sim = await farm.backend(seconds=0.1)
    await farm.runner()
    first = await farm.submit("gpu-1")
    assert (await farm.finished(first)).status == "completed"
    await say(farm, backend_delete, backend_id="gpu-1")
    await farm.register("gpu-1", sim.url)
    again = await farm.submit("gpu-1")
    assert (await farm.finished(again)).status == "completed"
    # Under another name, too.
    await say(farm, backend_delete, backend_id="gpu-1")
    await farm.register("attic", sim.url)
    third = await farm.submit("attic")
    assert (await farm.finished(third)).status == "completed"
    assert posted(farm) == 3


async def test_a_backend_moves_to_another_port_and_goes_on_there(farm: Farm) -> None:
    await farm.backend("gpu-1", seconds=0.1)
    there = await farm.backend("there", seconds=0.1)
    await farm.runner()
    first = await farm.submit("gpu-1")
    assert (await farm.finished(first)).status == "completed"
    farm.sims["gpu-1"].fault("crash", at="now")
    await say(farm, backend_delete, backend_id="there")
    url = there.url.replace("127.0.0.1", "localhost")
    await say(farm, backend_update, backend_id="gpu-1", url=url)
    again = await farm.submit("gpu-1")
    assert (await farm.finished(again)).status == "completed"
    assert posted(farm, "there") == 1


async def test_a_worker_that_dies_in_our_prompt_is_found_out_when_it_does_not_stop(farm: Farm) -> None:
    sim = await farm.backend(seconds=30.0)
    await farm.runner()
    group = await farm.submit("gpu-1")
    await farm.status_of(group, "running")
    sim.fault("interrupt_lost", count=0)
    await farm.cancel(group)

    async def in_trouble() -> bool:
        now = await row()
        return now.reachability == "offline" and "was to be stopped" in now.status_reason

    await until(in_trouble, 15)
    sim.clear_faults()

    async def back() -> bool:
        return (await row()).reachability == "online"

    await until(back, 15)
    after = await farm.submit("gpu-1")
    await farm.status_of(after, "running")
