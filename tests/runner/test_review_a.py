from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from jobgroups.runner.timing import Timing
from jobgroups.services import runners
from tests.runner.conftest import SCALE, Farm, in_thread, text_to_image, until

pytestmark = pytest.mark.django_db(transaction=True)


async def test_absurd_steps_end_no_runner(farm: Farm) -> None:
    from backends.comfyui.protocol import Progress

    await farm.backend(seconds=2.0)
    service = await farm.runner()
    group = await farm.submit("gpu-1", workflow=text_to_image(steps=10))
    await farm.status_of(group, "running")
    session = service._held["gpu-1"].session
    (driver,) = session._drivers.values()
    driver.hear(Progress(prompt_id=driver.prompt_id, node="3", value=1, max=10**30))
    done = await farm.finished(group)
    assert done.status == "completed"
    assert not farm._tasks[service].done(), farm._tasks[service]


async def test_a_prompt_claimed_as_its_socket_breaks_is_still_heard(farm: Farm) -> None:
    sim = await farm.backend(seconds=3.0)
    service = await farm.runner(timing=replace(Timing.scaled(SCALE), look_every=30.0))
    await until(lambda: ready(service))
    session = service._held["gpu-1"].session
    claim = session.database.store

    async def slow(work, *args, **kwargs):
        found = await claim(work, *args, **kwargs)
        if getattr(work, "__name__", "") == "child_claim" and found is not None:
            old = session._client_id
            sim.fault("drop_sockets", at="now")
            while session._client_id in (old, None):
                await asyncio.sleep(0.01)
        return found

    session.database.store = slow
    group = await farm.submit("gpu-1")
    await farm.status_of(group, "running", 8)


async def ready(service):
    held = service._held.get("gpu-1")
    return held is not None and held.session._client_id


async def test_replaced(farm: Farm) -> None:
    from jobgroups.hub import Hub
    from jobgroups.runner.service import RunnerReplaced
    from jobgroups.runner.supervision import SupervisedRunner

    await farm.backend()
    one = SupervisedRunner(name="local", hub=Hub(), find_local=False)
    event = asyncio.Event()
    task = asyncio.get_running_loop().create_task(one.run(event.set))
    await event.wait()
    await in_thread(runners.runner_started)(name="local", instance="other", version="x")
    with pytest.raises(RunnerReplaced):
        await asyncio.wait_for(task, 10)


async def test_changed_headers_leave_running_prompts_heard(farm: Farm) -> None:
    from backends.models import Backend

    await farm.backend(seconds=4.0)
    service = await farm.runner(timing=replace(Timing.scaled(SCALE), look_every=30.0))
    group = await farm.submit("gpu-1", workflow=text_to_image(steps=20))
    await farm.status_of(group, "running")
    await in_thread(lambda: Backend.objects.filter(pk="gpu-1").update(headers={"X-A": "b"}))()
    service.wake()

    async def further() -> bool:
        return (await farm.children(group))[0].progress > 60

    await until(further, 8)
