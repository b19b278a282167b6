"""A runner whose service loop dies is started again; one that was replaced is not."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt

import pytest

from jobgroups.database.threads import DatabaseThreads
from jobgroups.models import Runner
from jobgroups.runner import supervisor
from jobgroups.runner.discovery import discover
from jobgroups.runner.service import RunnerReplaced, RunnerService
from jobgroups.runner.supervisor import RunnerSupervisor
from tests.api.bad_servers import WRONGS, bad_server
from tests.harness.farm import Farm, in_thread, until

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def quick(settings: object) -> None:
    settings.DIRECTOR_TIME_SCALE = 0.1  # type: ignore[attr-defined]


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
    runner = RunnerSupervisor(name="local", hub=farm.hub, find_local=False)
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
    from jobgroups.runner.session.attempts import ActiveAttempts

    await farm.backend("gpu-1", seconds=0.1)
    await farm.backend("gpu-2", seconds=0.1)
    take_up = ActiveAttempts.resume_all
    deaths = iter([True, True])

    async def dies(self: ActiveAttempts) -> None:
        if self._context.backend_id == "gpu-1" and next(deaths, False):
            raise RuntimeError("a defect on purpose")
        await take_up(self)

    monkeypatch.setattr(ActiveAttempts, "resume_all", dies)
    await farm.runner()
    group = await farm.submit("gpu-1", "gpu-2")
    assert (await farm.finished(group)).status == "completed"


async def test_a_runner_whose_name_another_process_took_ends(farm: Farm, quick: None) -> None:
    runner = RunnerSupervisor(name="local", hub=farm.hub, find_local=False)
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
    database = DatabaseThreads(threads=1, name="test-discovery")
    async with Simulator(name="early") as early, Simulator(name="late") as late:
        late_port = late.port
        ports = [early.port, late_port, 9]
        late.fault("refuse_connections", at="now", seconds=0.5)
        finding = asyncio.get_running_loop().create_task(discover(ports=ports, database=database, hub=farm.hub))

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


async def test_what_is_no_comfyui_is_neither_registered_nor_offered(
    farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    from backends.models import Backend, FoundBackend
    from backends.simulator import Simulator
    from jobgroups.runner import discovery

    monkeypatch.setattr(discovery, "LOOK_EVERY", 0.1)
    database = DatabaseThreads(threads=1, name="test-discovery")
    quick_wrongs = sorted({*WRONGS} - {"endless", "nothing"})
    with contextlib.ExitStack() as servers:
        ports = [int(servers.enter_context(bad_server(wrong)).rsplit(":", 1)[1]) for wrong in quick_wrongs]
        async with Simulator(name="first") as first, Simulator(name="second") as second:
            finding = asyncio.get_running_loop().create_task(
                discover(ports=[*ports, first.port], database=database, hub=farm.hub)
            )
            try:
                await until(in_thread(Backend.objects.exists))
            finally:
                finding.cancel()
                await asyncio.wait([finding])
            # A person has decided, so that what is found from now on is offered.
            await in_thread(Backend.objects.update)(adopted_at=None)
            finding = asyncio.get_running_loop().create_task(
                discover(ports=[*ports, first.port, second.port], database=database, hub=farm.hub)
            )
            try:
                await until(in_thread(FoundBackend.objects.exists))
                await asyncio.sleep(0.3)
            finally:
                finding.cancel()
                await asyncio.wait([finding])
                database.close()
    backends = await in_thread(lambda: list(Backend.objects.values_list("id", flat=True)))()
    found = await in_thread(lambda: list(FoundBackend.objects.values_list("url", flat=True)))()
    assert backends == [f"localhost_{first.port}"]
    assert found == [f"http://localhost:{second.port}"]


async def test_an_adopted_comfyui_that_left_is_removed_and_registered_when_it_answers(
    farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    from backends import discovery as rule
    from backends.models import Backend
    from backends.services import backend_observed
    from backends.simulator import Simulator
    from jobgroups.runner import discovery

    monkeypatch.setattr(discovery, "LOOK_EVERY", 0.1)
    monkeypatch.setattr(rule, "DEPARTURE_AFTER", dt.timedelta(0))
    database = DatabaseThreads(threads=1, name="test-discovery")
    async with Simulator(name="guest") as guest:
        finding = asyncio.get_running_loop().create_task(discover(ports=[guest.port], database=database, hub=farm.hub))
        backend_id = f"localhost_{guest.port}"
        known = in_thread(Backend.objects.filter(pk=backend_id).exists)

        async def gone() -> bool:
            return not await known()

        try:
            await until(known)
            # The session of a runner last saw it away; it answers all the same, and stays.
            await in_thread(backend_observed)(backend_id=backend_id, reachable=False)
            await asyncio.sleep(0.4)
            assert await known()
            guest.fault("refuse_connections", at="now", seconds=1.5)
            await until(gone)
            await until(known)
        finally:
            finding.cancel()
            await asyncio.wait([finding])
            database.close()


def test_settings_say_what_a_runner_needs(settings: object) -> None:
    settings.DIRECTOR_DEPTH = 3  # type: ignore[attr-defined]
    settings.DIRECTOR_TIME_SCALE = 0.5  # type: ignore[attr-defined]
    made = supervisor.runner_settings("local")
    assert (made.depth, made.intervals.lookup_interval) == (3, 2.5)
