"""Recalls: a prompt that waits at a backend is rendered elsewhere, and a prompt that starts
meanwhile goes on.
"""

from __future__ import annotations

from typing import Any

import pytest

from backends.comfyui.client import ComfyClient
from backends.models import Backend
from jobgroups.domain import schedule
from jobgroups.domain.estimates import TimingSample
from jobgroups.models import Attempt, JobGroup
from jobgroups.runner.service import RunnerService
from jobgroups.services.moves import prompt_recall
from jobgroups.services.timings import timings_store
from tests.harness.farm import Farm, both_versions, in_thread, until, until_row
from tests.harness.laws import executed_once

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the runner recall nothing."""
    monkeypatch.setattr(schedule, "_RECALL_GAIN_S", 1e6)


async def waiting(
    farm: Farm, version: str, seconds: float = 0.02, usual: float = 0.02
) -> tuple[RunnerService, JobGroup, Any]:
    """Have a prompt of the pool wait at gpu-1 behind one that is stuck; gpu-2 has rendered the five
    others.
    """
    sim = await farm.backend("gpu-1", seconds=seconds, version=version)
    sim.fault("stuck")
    await farm.backend("gpu-2", seconds=0.02)
    second = Backend.objects.filter(pk="gpu-2")
    await in_thread(second.update)(hold="pause")
    runner = await farm.runner(seen=["gpu-1", "gpu-2"])
    first = await farm.running("gpu-1")
    known = [TimingSample(first.workflow_digest, "gpu-1", "", usual, True)]
    await in_thread(timings_store)(known)
    group = await farm.submit("*", count=6)
    pending = await until_row(Attempt.objects.filter(child__group=group, state="accepted"))
    await in_thread(second.update)(hold="")
    farm.wake()
    await until(lambda: len(farm.recorded("ended", "gpu-2")) >= 5)
    return runner, group, pending


async def recall(farm: Farm, pending: Any) -> None:
    assert await in_thread(prompt_recall)(attempt_id=pending.pk)
    farm.wake()


async def completed(farm: Farm, group: JobGroup, *, on_first: int) -> list[Any]:
    """Hold that each job was rendered once, the named number of the pool's at gpu-1, and return the
    attempts.
    """
    assert (await farm.finished(group)).status == "completed"
    farm.sims["gpu-1"].clear_faults("stuck")
    await until(lambda: len(farm.recorded("ended", "gpu-1")) == 1 + on_first)
    jobs = executed_once([entry for sim in farm.sims.values() for entry in sim.audit_log.entries])
    assert len(set(jobs)) == len(jobs) == 7
    assert "interrupted" not in farm.kinds("gpu-1")
    return await farm.settled(group)


@both_versions
async def test_a_recalled_prompt_renders_elsewhere_once(farm: Farm, version: str) -> None:
    _, group, _ = await waiting(farm, version, usual=300)
    rows = await completed(farm, group, on_first=0)
    shown = [(one.backend_id, one.state, one.is_counted) for one in rows if one.stop_reason]
    assert shown == [("gpu-1", "interrupted", False)]


@both_versions
@pytest.mark.usefixtures("by_hand")
async def test_a_prompt_that_starts_before_its_recall_renders_once_where_it_is(
    farm: Farm, version: str
) -> None:
    runner, group, pending = await waiting(farm, version, seconds=1.0)
    await farm.kill(runner)
    await recall(farm, pending)
    farm.sims["gpu-1"].clear_faults("stuck")
    await until(lambda: len(farm.recorded("started", "gpu-1")) == 2)
    await farm.runner()
    rows = await completed(farm, group, on_first=1)
    assert all(one.is_counted and not one.stop_reason for one in rows)


@pytest.mark.usefixtures("by_hand")
async def test_a_recall_continues_after_its_runner_died_behind_the_deletion(farm: Farm) -> None:
    runner, group, pending = await waiting(farm, "0.33.0")
    await farm.kill(runner)
    await recall(farm, pending)
    async with ComfyClient(farm.sims["gpu-1"].url) as client:
        await client.delete_pending([pending.prompt_id])
    await farm.runner()
    rows = await completed(farm, group, on_first=0)
    assert [one.state for one in rows if one.stop_reason] == ["lost"]


@pytest.mark.usefixtures("by_hand")
async def test_a_prompt_that_ended_before_its_deletion_is_no_recall_without_a_history(
    farm: Farm,
) -> None:
    _, group, pending = await waiting(farm, "0.3.64")
    sim = farm.sims["gpu-1"]
    sim.fault("no_history", prompt_id=pending.prompt_id)
    late = sim.fault("slow_http", route="/queue", method="POST", seconds=60)
    await recall(farm, pending)
    await until(lambda: late.left == 0)
    sim.clear_faults("stuck")
    await sim.wait_for("ended", prompt_id=pending.prompt_id)
    sim.clear_faults("slow_http")
    assert len(await completed(farm, group, on_first=1)) == 6
