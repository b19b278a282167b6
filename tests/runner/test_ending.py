"""A runner that is told to stop while the database is away: it ends, and does not wait for it."""

from __future__ import annotations

import asyncio
import time

import pytest
from django.db import OperationalError

from jobgroups.domain.states import AttemptState
from jobgroups.runner.supervisor import RunnerSupervisor
from jobgroups.services import runners
from tests.harness.farm import Farm, until

pytestmark = pytest.mark.django_db(transaction=True)


def _away(**_: object) -> None:
    raise OperationalError("the connection is lost")


async def test_a_stop_is_heard_before_the_runner_could_sign_on(farm: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runners, "runner_register", _away)
    runner = RunnerSupervisor(name="local", hub=farm.hub, find_local=False)
    running = asyncio.get_running_loop().create_task(runner.run())
    await asyncio.sleep(0.5)
    runner.stop()
    async with asyncio.timeout(5.0):
        await running


async def test_an_end_that_cannot_be_stored_is_no_defect(
    farm: Farm, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    runner = RunnerSupervisor(name="local", hub=farm.hub, find_local=False)
    ready = asyncio.Event()
    running = asyncio.get_running_loop().create_task(runner.run(ready.set))
    await ready.wait()
    monkeypatch.setattr(runners, "runner_deregister", _away)
    began = time.monotonic()
    runner.stop()
    await running
    assert time.monotonic() - began < 4.0
    assert "The end of this runner was not stored" in caplog.text
    assert "defect" not in caplog.text


@pytest.mark.parametrize("seconds", [0.4, 60.0])
async def test_what_is_being_sent_when_a_stop_comes_is_answered_first_where_that_is_soon(
    farm: Farm, seconds: float
) -> None:
    """Else the next start looks half a minute for it, before anybody knows that it arrived."""
    sim = await farm.backend("gpu-1", seconds=5.0)
    service = await farm.runner(depth=1)
    sim.fault("slow_http", route="/prompt", seconds=seconds, count=1)
    group = await farm.submit("gpu-1", "gpu-1")

    async def is_sent() -> bool:
        return bool(await farm.attempts(group))

    await until(is_sent)
    began = time.monotonic()
    await farm.stop(service)
    assert time.monotonic() - began < 3.0
    # And nothing more was claimed meanwhile.
    (attempt,) = await farm.attempts(group)
    assert (attempt.state != AttemptState.INTENT) is (seconds < 1)
