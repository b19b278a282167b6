"""Pauses and limits on real processes' loops: what waits at a backend comes back and starts again by
itself, and no more prompts are sent than a limit permits.
"""

from __future__ import annotations

import datetime as dt
import itertools

import pytest

from jobgroups.domain.clock import now
from jobgroups.models import Attempt
from jobgroups.services import pauses
from tests.harness.farm import Farm, both_versions, in_thread, until_row
from tests.harness.laws import executed_once

pytestmark = pytest.mark.django_db(transaction=True)


@both_versions
async def test_paused_prompt_comes_back_and_starts_when_the_pause_is_over(
    farm: Farm, version: str
) -> None:
    sim = await farm.backend("gpu-1", seconds=0.02, version=version)
    sim.fault("stuck")
    await farm.runner()
    first = await farm.running("gpu-1")
    group = await farm.submit("gpu-1")
    pending = await until_row(Attempt.objects.filter(child__group=group, state="accepted"))
    await in_thread(pauses.group_pause)(group_id=group.id)
    farm.wake()
    taken_back = await until_row(Attempt.objects.filter(pk=pending.pk, ended_at__isnull=False))
    assert (taken_back.state, taken_back.is_counted) == ("interrupted", False)
    ends_at = now() + dt.timedelta(seconds=0.5)
    await in_thread(pauses.group_pause)(group_id=group.id, until=ends_at)
    farm.wake()
    sim.clear_faults("stuck")
    assert (await farm.finished(group)).status == "completed"
    (again,) = await in_thread(list)(
        Attempt.objects.filter(child__group=group).exclude(pk=pending.pk)
    )
    assert again.created_at >= ends_at
    assert (await farm.finished(first)).status == "completed"
    assert len(executed_once(sim.audit_log.entries)) == 2


async def test_group_has_no_more_prompts_at_backends_than_its_limit(farm: Farm) -> None:
    for name in ("gpu-1", "gpu-2"):
        await farm.backend(name, seconds=0.05)
    group = await farm.submit("*", count=5, max_running=1)
    other = await farm.submit("*", count=5)
    await farm.runner()
    for done in (group, other):
        assert (await farm.finished(done)).status == "completed"
    of_group = Attempt.objects.filter(child__group=group).order_by("created_at")
    attempts = await in_thread(list)(of_group)
    assert len(attempts) == 5
    assert all(
        earlier.ended_at <= later.created_at for earlier, later in itertools.pairwise(attempts)
    )
