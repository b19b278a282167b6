"""A runner whose service loop dies is started again; one that was replaced is not."""

from __future__ import annotations

import asyncio

import pytest

from jobgroups.models import Runner
from jobgroups.runner import supervision
from jobgroups.runner.db import Database
from jobgroups.runner.discovery import discover
from jobgroups.runner.service import RunnerReplaced, RunnerService
from jobgroups.runner.supervision import SupervisedRunner
from tests.runner.conftest import Farm, in_thread, until

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def quick(settings: object) -> None:
    settings.DIRECTOR_TIME_SCALE = 0.1  # type: ignore[attr-defined]


async def test_a_service_loop_that_dies_is_started_again_and_the_rows_say_so(
    farm: Farm, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    await farm.backend(seconds=0.1)
    deaths = iter([True])
    pass_on = RunnerService._pass_on

    async def dies_once(self: RunnerService, database: Database) -> None:
        if next(deaths, False):
            raise RuntimeError("a defect on purpose")
        await pass_on(self, database)

    monkeypatch.setattr(RunnerService, "_pass_on", dies_once)
    runner = SupervisedRunner(name="local", hub=farm.hub, find_local=False)
    running = asyncio.get_running_loop().create_task(runner.run())
    try:
        group = await farm.submit("gpu-1")
        assert (await farm.finished(group)).status == "completed"
        row = await in_thread(Runner.objects.get)()
        assert (row.restarts, row.last_error) == (1, "RuntimeError: a defect on purpose")
    finally:
        runner.stop()
        await running


async def test_a_defect_in_one_backends_session_ends_no_other_and_is_opened_again(
    farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    from jobgroups.runner.session import BackendSession

    await farm.backend("gpu-1", seconds=0.1)
    await farm.backend("gpu-2", seconds=0.1)
    take_up = BackendSession._take_up
    deaths = iter([True, True])

    async def dies(self: BackendSession) -> None:
        if self.backend_id == "gpu-1" and next(deaths, False):
            raise RuntimeError("a defect on purpose")
        await take_up(self)

    monkeypatch.setattr(BackendSession, "_take_up", dies)
    await farm.runner()
    group = await farm.submit("gpu-1", "gpu-2")
    assert (await farm.finished(group)).status == "completed"


async def test_a_runner_whose_name_another_process_took_ends(farm: Farm, quick: None) -> None:
    runner = SupervisedRunner(name="local", hub=farm.hub, find_local=False)
    ready = asyncio.Event()
    running = asyncio.get_running_loop().create_task(runner.run(ready.set))
    await ready.wait()
    await in_thread(Runner.objects.update)(instance="another")
    with pytest.raises(RunnerReplaced, match="Another process runs under the name local"):
        await running


async def test_comfyuis_on_this_machine_are_found_also_later_ones_and_once(
    farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    from backends.models import Backend
    from backends.simulator import Simulator
    from jobgroups.runner import discovery

    monkeypatch.setattr(discovery, "LOOK_EVERY", 0.1)
    database = Database(threads=1, name="test-discovery")
    async with Simulator(name="early") as early, Simulator(name="late") as late:
        late_port = late.port
        ports = [early.port, late_port, 9]
        late.fault("refuse_connections", at="now", seconds=0.5)
        finding = asyncio.get_running_loop().create_task(
            discover(ports=ports, database=database, hub=farm.hub)
        )

        async def found() -> bool:
            return await in_thread(Backend.objects.count)() == 2

        try:
            await until(found)
            await asyncio.sleep(0.3)
            assert await found()
        finally:
            finding.cancel()
            await asyncio.wait([finding])
            database.close()
    ids = await in_thread(lambda: set(Backend.objects.values_list("id", flat=True)))()
    assert ids == {f"localhost_{early.port}", f"localhost_{late_port}"}


def test_settings_say_what_a_runner_needs(settings: object) -> None:
    settings.DIRECTOR_DEPTH = 3  # type: ignore[attr-defined]
    settings.DIRECTOR_TIME_SCALE = 0.5  # type: ignore[attr-defined]
    made = supervision.settings_of("local")
    assert (made.depth, made.timing.look_every) == (3, 2.5)
