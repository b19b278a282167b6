"""A runner that is told to stop while the database is away: it ends, and does not wait for it."""

from __future__ import annotations

import asyncio
import time

import pytest
from django.db import OperationalError

from jobgroups.runner.supervision import SupervisedRunner
from jobgroups.services import runners
from tests.runner.conftest import Farm

pytestmark = pytest.mark.django_db(transaction=True)


def _away(**_: object) -> None:
    raise OperationalError("the connection is lost")


async def test_a_stop_is_heard_before_the_runner_could_sign_on(
    farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runners, "runner_started", _away)
    runner = SupervisedRunner(name="local", hub=farm.hub, find_local=False)
    running = asyncio.get_running_loop().create_task(runner.run())
    await asyncio.sleep(0.5)
    runner.stop()
    async with asyncio.timeout(5.0):
        await running


async def test_an_end_that_cannot_be_stored_is_no_defect(
    farm: Farm, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    runner = SupervisedRunner(name="local", hub=farm.hub, find_local=False)
    ready = asyncio.Event()
    running = asyncio.get_running_loop().create_task(runner.run(ready.set))
    await ready.wait()
    monkeypatch.setattr(runners, "runner_stopped", _away)
    began = time.monotonic()
    runner.stop()
    await running
    assert time.monotonic() - began < 4.0
    assert "The end of this runner was not stored" in caplog.text
    assert "defect" not in caplog.text
