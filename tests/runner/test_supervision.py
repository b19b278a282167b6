"""Restart of a runner after an unexpected error, its end, and its discovery of ComfyUIs."""

import asyncio
import contextlib
import datetime as dt
import logging
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from django.core.files.storage import storages
from django.db import OperationalError
from pytest_django import Settings

from backends import discovery as rule
from backends.models import Backend
from backends.services import backend_observed
from backends.simulator import Simulator
from jobgroups.database.threads import DatabaseThreads
from jobgroups.domain.states import AttemptState
from jobgroups.models import Runner
from jobgroups.runner import files, service as service_module, supervisor
from jobgroups.runner.service import RunnerReplaced, RunnerService
from jobgroups.runner.session import health
from jobgroups.runner.supervisor import RunnerSupervisor
from jobgroups.services import bucket as bucket_service, runners
from tests.harness.bucket import BucketServer
from tests.harness.farm import Farm, in_thread, until, until_row
from tests.runner.conftest import supervised


@pytest.fixture
def quick(settings: Settings) -> None:
    settings.DIRECTOR_TIME_SCALE = 0.1


async def test_a_service_loop_that_dies_is_started_again_and_the_rows_say_so(
    farm: Farm, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    await farm.backend(seconds=0.1)
    deaths = iter([True])
    pass_on = RunnerService._dispatch

    async def dies_once(self: RunnerService, database: DatabaseThreads) -> None:
        if next(deaths, False):
            raise RuntimeError("a defect on purpose")
        await pass_on(self, database)

    monkeypatch.setattr(RunnerService, "_dispatch", dies_once)
    async with supervised(farm):
        await farm.completes("gpu-1")
        row = await in_thread(Runner.objects.get)()
        assert (row.restarts, row.last_error) == (1, "RuntimeError: a defect on purpose")


async def test_a_runner_whose_name_another_process_took_ends(farm: Farm, quick: None) -> None:
    with pytest.raises(RunnerReplaced, match="Another process runs under the name local"):
        async with supervised(farm) as running:
            await in_thread(Runner.objects.update)(instance="another")
            await running


@contextlib.asynccontextmanager
async def discovering(farm: Farm, *ports: int) -> AsyncIterator[None]:
    """Look for ComfyUIs at these ports."""
    database = DatabaseThreads(threads=1, name="test-discovery")
    task = asyncio.get_running_loop().create_task(
        supervisor.discover(ports=ports, database=database, hub=farm.hub)
    )
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
        database.close()


async def looked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait until the addresses of this machine were probed twice more."""
    rounds: list[object] = []
    store = rule.answers_store

    def noted(**fields: Any) -> Any:
        rounds.append(fields)
        return store(**fields)

    monkeypatch.setattr(rule, "answers_store", noted)
    await until(lambda: len(rounds) > 2)


async def backend_ids() -> set[str]:
    return await in_thread(lambda: set(Backend.objects.values_list("id", flat=True)))()


async def test_comfyuis_on_this_machine_are_found_also_later_ones_and_once(
    farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "LOOK_EVERY", 0.1)
    async with Simulator(name="early") as early, Simulator(name="late") as late:
        late.fault("refuse_connections", at="now", seconds=60)
        names = [f"localhost_{one.port}" for one in (early, late)]

        async def are_found(*expected: str) -> bool:
            return await backend_ids() == {*expected}

        async with discovering(farm, early.port, late.port, 9):
            await until(lambda: are_found(names[0]))
            late.clear_faults()
            await until(lambda: are_found(*names))
            await looked_again(monkeypatch)
    assert await are_found(*names)


async def test_an_adopted_comfyui_that_left_is_removed_and_registered_when_it_answers(
    farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "LOOK_EVERY", 0.1)
    monkeypatch.setattr(rule, "DEPARTURE_AFTER", dt.timedelta(0))
    async with Simulator(name="guest") as guest, discovering(farm, guest.port):
        backend_id = f"localhost_{guest.port}"
        rows = Backend.objects.filter(pk=backend_id)
        await until_row(rows)
        # The session of a runner last saw it away; it answers all the same, and stays.
        await in_thread(backend_observed)(backend_id=backend_id, reachable=False)
        await looked_again(monkeypatch)
        assert await in_thread(rows.exists)()
        guest.fault("refuse_connections", at="now", seconds=60)
        await until(in_thread(lambda: not rows.exists()))
        guest.clear_faults()
        await until_row(rows)


def _away(**_: object) -> None:
    raise OperationalError("the connection is lost")


async def test_a_stop_is_heard_before_the_runner_could_sign_on(
    farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = []
    monkeypatch.setattr(
        runners, "runner_register", lambda **fields: tries.append(fields) or _away()
    )
    runner = RunnerSupervisor(name="local", hub=farm.hub, find_local=False)
    running = asyncio.get_running_loop().create_task(runner.run())
    await until(lambda: tries)
    runner.stop()
    async with asyncio.timeout(20):
        await running


async def test_an_editor_that_does_not_fit_a_backend_is_logged_once(
    farm: Farm, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(health, "installed_editor", lambda: "1.20.0")
    await farm.backend()
    await farm.runner(seen=["gpu-1"])
    await farm.completes("gpu-1")
    assert caplog.text.count("gpu-1: It requires version 1.27.10 of ComfyUI's editor") == 1


async def test_an_end_that_cannot_be_stored_is_no_defect(
    farm: Farm, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with supervised(farm):
        monkeypatch.setattr(runners, "runner_deregister", _away)
        began = time.monotonic()
    assert time.monotonic() - began < 15
    assert "The end of this runner was not stored" in caplog.text
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("is_soon", [True, False])
async def test_what_is_being_sent_when_a_stop_comes_is_answered_first_where_that_is_soon(
    farm: Farm, is_soon: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the next runner looks the prompt up for 30 s."""
    monkeypatch.setattr(service_module, "_SENT_WITHIN", 25.0 if is_soon else 0.3)
    sim = await farm.backend("gpu-1", seconds=600.0)
    service = await farm.runner(depth=1)
    late = sim.fault("slow_http", route="/prompt", method="POST", seconds=60)
    group = await farm.submit("gpu-1", "gpu-1")
    await until(lambda: late.left == 0)
    stopping = asyncio.get_running_loop().create_task(farm.stop(service))
    if is_soon:
        await until(service._stopping.is_set)
        sim.clear_faults()
    began = time.monotonic()
    await stopping
    assert time.monotonic() - began < 15
    # Nothing more was claimed meanwhile.
    (attempt,) = await farm.attempts(group)
    assert (attempt.state != AttemptState.INTENT) is is_soon


async def test_storage_that_cannot_be_written_is_logged_without_a_traceback(
    farm: Farm,
    files_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(files, "_CLEAN_AGAIN", 0.05)
    files_folder.parent.mkdir(parents=True, exist_ok=True)
    files_folder.write_bytes(b"")  # a file in the place of the folder
    await farm.runner()
    await until(lambda: any("marker_write" in one.getMessage() for one in caplog.records))
    said = [one for one in caplog.records if one.getMessage().startswith("Files: ")]
    assert {(one.levelno, one.exc_info) for one in said} == {(logging.WARNING, None)}


async def test_missing_bucket_is_logged_in_one_line(
    farm: Farm,
    bucket: BucketServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(files, "_CLEAN_AGAIN", 0.05)
    bucket_service._logged.clear()
    await in_thread(storages["files"].bucket.delete)()
    bucket.requests.clear()
    await farm.runner()
    await until(lambda: len(bucket.requests) >= 5)
    said = [one for one in caplog.records if one.exc_info or "NoSuchBucket" in one.getMessage()]
    assert [(one.levelno, one.exc_info) for one in said] == [(logging.WARNING, None)]
