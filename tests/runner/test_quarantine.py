"""Machines that fail again and again are set aside, looked at, and taken back: by their own audit log."""

from __future__ import annotations

import asyncio
import datetime as dt
from typing import Any

import pytest
from pytest_django import Settings

from backends.models import Backend
from jobgroups.domain.clock import now
from jobgroups.domain.states import RetryScope
from jobgroups.models import JobGroup
from tests.harness.farm import Farm, in_thread, until

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def rules(settings: Settings) -> None:
    settings.DIRECTOR_QUARANTINE_FAILURES = 2
    settings.DIRECTOR_QUARANTINE_MINUTES = 10
    settings.DIRECTOR_QUARANTINE_FORGIVE_MINUTES = 15
    settings.DIRECTOR_RETRY_BACKOFF_SECONDS = 0.05


async def row(name: str = "gpu-1") -> Backend:
    found: Backend = await in_thread(Backend.objects.get)(pk=name)
    return found


def posted(farm: Farm, name: str = "gpu-1") -> int:
    return farm.kinds(name).count("accepted")


async def looked_often(farm: Farm) -> None:
    for _ in range(8):
        for service in farm._tasks:
            service.notify()
        await asyncio.sleep(0.1)


async def set_aside(farm: Farm, name: str = "gpu-1") -> None:
    """Have a broken GPU fail two prompts, which sets it aside; its GPU is well again then."""
    farm.sims[name].fault("cuda_fatal")
    for _ in range(2):
        group = await farm.submit(name)
        assert (await farm.finished(group)).status == "failed"
    assert (await row(name)).quarantined_at is not None


async def time_is_over(name: str = "gpu-1") -> None:
    rows = Backend.objects.filter(pk=name)
    await in_thread(rows.update)(quarantine_until=now() - dt.timedelta(seconds=1))


async def test_no_prompt_is_sent_to_a_machine_that_is_set_aside(farm: Farm) -> None:
    await farm.backend(seconds=0.1)
    await farm.runner()
    await set_aside(farm)
    assert posted(farm) == 2
    waits = await farm.submit("gpu-1")
    await looked_often(farm)
    assert posted(farm) == 2
    (child,) = await farm.children(waits)
    assert child.status == "queued"


async def test_what_waits_there_goes_elsewhere(farm: Farm) -> None:
    await farm.backend("gpu-1", seconds=0.1)
    await farm.backend("gpu-2", seconds=0.1)
    await farm.runner(depth=1)

    async def seen() -> bool:
        rows = Backend.objects.filter(reachability="online").exclude(devices=[])
        return bool(await in_thread(rows.count)() == 2)

    await until(seen)
    farm.sims["gpu-1"].fault("cuda_fatal")
    names = ["gpu-1"] * 6
    group = await farm.submit(*names, retry_elsewhere=RetryScope.ANY, max_attempts=2)
    done = await farm.finished(group)
    assert (done.status, done.completed_count) == ("completed", 6)
    assert posted(farm, "gpu-1") == 2, "the second failure set it aside"
    assert posted(farm, "gpu-2") == 6


async def test_when_its_time_is_over_it_is_asked_and_works_again(farm: Farm) -> None:
    sim = await farm.backend(seconds=0.5)
    await farm.runner()
    await set_aside(farm)
    await sim.restart()
    sim.clear_faults()
    group = await farm.submit("gpu-1", "gpu-1", "gpu-1")
    await time_is_over()
    most = await most_at_once(farm, group)
    assert (await farm.finished(group)).status == "completed"
    assert most == 1, "one prompt at a time until one succeeds"
    freed = await row()
    assert (freed.quarantined_at, freed.consecutive_quarantines) == (None, 0)


async def most_at_once(farm: Farm, group: JobGroup) -> int:
    """Return how many prompts stood there at most until the first of the group had its picture."""
    most = 0

    async def one_is_done() -> bool:
        nonlocal most
        active = [one for one in await farm.attempts(group) if one.ended_at is None]
        children = await farm.children(group)
        done = any(child.status == "completed" for child in children)
        most = most if done else max(most, len(active))
        return done

    await until(one_is_done)
    return most


async def test_one_that_fails_on_probation_is_sent_straight_back(farm: Farm) -> None:
    await farm.backend(seconds=0.1)
    await farm.runner()
    await set_aside(farm)
    await time_is_over()
    group = await farm.submit("gpu-1", "gpu-1", "gpu-1")

    async def back_again() -> Any:
        found = await row()
        return found if found.consecutive_quarantines == 2 and found.quarantined_at else None

    back = await until(back_again)
    assert posted(farm) == 3
    assert back.quarantine_until - back.quarantined_at == dt.timedelta(minutes=30)
    await looked_often(farm)
    assert posted(farm) == 3
    statuses = sorted(child.status for child in await farm.children(group))
    assert statuses == ["failed", "queued", "queued"]


async def test_one_that_does_not_answer_stays_set_aside(farm: Farm) -> None:
    sim = await farm.backend(seconds=0.1)
    await farm.runner()
    await set_aside(farm)
    sim.fault("hang_http", count=0, route="/queue")
    await time_is_over()
    await looked_often(farm)
    assert (await row()).quarantined_at is not None
    sim.clear_faults("hang_http")

    async def free() -> bool:
        return (await row()).quarantined_at is None

    await until(free, 30)
