"""Pause, drain, quarantine, deletion and a new address of a backend while its jobs run."""

import datetime as dt
from typing import Any

import pytest
from pytest_django import Settings

from backends.models import Backend
from backends.services import backend_update
from backends.states import Hold
from jobgroups.domain.clock import now
from jobgroups.domain.states import RetryScope
from jobgroups.services import holds
from jobgroups.services.backends import backend_delete
from tests.harness.farm import QUICK, Farm, in_thread, until, until_row


async def request(farm: Farm, work: Any, backend_id: str = "gpu-1", **fields: Any) -> None:
    await in_thread(work)(backend_id=backend_id, **fields)
    farm.wake()


async def test_a_pause_at_once_is_carried_out_by_the_next_runner(farm: Farm) -> None:
    sim = await farm.backend()
    sim.fault("stuck")
    service = await farm.runner()
    group = await farm.running("gpu-1")
    # It dies between the word and the deed.
    await farm.kill(service)
    await request(farm, holds.backend_hold, hold=Hold.PAUSE, at_once=True)
    (child,) = await farm.children(group)
    assert child.status == "running"
    await farm.runner()
    (attempt,) = await farm.settled(group)
    assert (attempt.state, attempt.is_counted) == ("interrupted", False)
    await request(farm, holds.backend_resume)
    assert (await farm.finished(group)).status == "completed"
    assert len(set(farm.recorded("started"))) == len(farm.recorded("started")) == 2


async def test_a_drained_backend_finishes_gives_the_rest_away_and_is_disabled(farm: Farm) -> None:
    sim = await farm.backend("gpu-1")
    sim.fault("stuck")
    await farm.backend("gpu-2", seconds=0.1)
    await farm.runner(depth=1, seen=["gpu-1", "gpu-2"])
    group = await farm.running("gpu-1", "gpu-1", "gpu-1", retry_elsewhere=RetryScope.ANY)
    await request(farm, holds.backend_hold, hold=Hold.DRAIN, by="anna", reason="new card")
    sim.clear_faults("stuck")
    assert (await farm.finished(group)).status == "completed"
    assert farm.kinds().count("accepted") == 1
    assert farm.kinds("gpu-2").count("accepted") == 2
    drained = await until_row(Backend.objects.filter(pk="gpu-1", enabled=False))
    assert (drained.changed_by, drained.changed_reason) == ("anna", "drained: new card")


async def test_a_backend_is_deleted_and_added_at_the_same_address(farm: Farm) -> None:
    sim = await farm.start(seconds=0.1)
    await farm.completes("gpu-1")
    await request(farm, backend_delete)
    await farm.register("gpu-1", sim.url)
    await farm.completes("gpu-1")
    # Under another name, too.
    await request(farm, backend_delete)
    await farm.register("attic", sim.url)
    await farm.completes("attic")
    assert farm.kinds().count("accepted") == 3


async def test_a_backend_moves_to_another_port_and_goes_on_there(farm: Farm) -> None:
    await farm.backend("gpu-1", seconds=0.1)
    there = await farm.start("there", seconds=0.1)
    await farm.completes("gpu-1")
    farm.sims["gpu-1"].fault("crash", at="now")
    await request(farm, backend_delete, "there")
    url = there.url.replace("127.0.0.1", "localhost")
    await request(farm, backend_update, url=url)
    await farm.completes("gpu-1")
    assert farm.kinds("there").count("accepted") == 1


@pytest.fixture
def rules(settings: Settings) -> None:
    settings.DIRECTOR_QUARANTINE_FAILURES = 2
    settings.DIRECTOR_QUARANTINE_MINUTES = 10
    settings.DIRECTOR_QUARANTINE_FORGIVE_MINUTES = 15


async def quarantine(farm: Farm, name: str = "gpu-1") -> None:
    """Have two prompts fail with a fatal GPU error; later prompts succeed."""
    farm.sims[name].fault("cuda_fatal")
    for _ in range(2):
        group = await farm.submit(name)
        assert (await farm.finished(group)).status == "failed"
    assert (await farm.row(name)).quarantined_at is not None


async def time_is_over(name: str = "gpu-1") -> None:
    rows = Backend.objects.filter(pk=name)
    await in_thread(rows.update)(quarantine_until=now() - dt.timedelta(seconds=1))


async def test_what_waits_there_goes_elsewhere(farm: Farm, rules: None) -> None:
    await farm.backend("gpu-1", seconds=0.1)
    await farm.backend("gpu-2", seconds=0.1)
    await farm.runner(depth=1, seen=["gpu-1", "gpu-2"])
    farm.sims["gpu-1"].fault("cuda_fatal")
    names = ["gpu-1"] * 6
    group = await farm.submit(*names, retry_elsewhere=RetryScope.ANY, max_attempts=2)
    done = await farm.finished(group)
    assert (done.status, done.completed_count) == ("completed", 6)
    assert farm.kinds().count("accepted") == 2, "the second failure quarantined it"
    assert farm.kinds("gpu-2").count("accepted") == 6


async def test_one_that_does_not_answer_stays_set_aside(farm: Farm, rules: None) -> None:
    sim = await farm.backend(seconds=0.1)
    await farm.runner(timeouts=QUICK)
    await quarantine(farm)
    sim.fault("hang_http", count=0, route="/queue")
    before = farm.kinds().count("fault")
    await time_is_over()
    # The second probe begins when the first one has failed.
    await until(lambda: farm.kinds().count("fault") >= before + 2)
    assert (await farm.row()).quarantined_at is not None
    sim.clear_faults("hang_http")
    await until_row(Backend.objects.filter(quarantined_at=None), 30)
