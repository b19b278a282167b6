"""What a child's watchers are told while it goes from one attempt to the next, and when that begins."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import replace
from typing import Any

import pytest
from pytest_django import Settings

from backends import queries as backend_selectors
from backends.comfyui.client import ComfyClient
from backends.states import Hold
from jobgroups.domain.states import RetryScope
from jobgroups.events.hub import Message
from jobgroups.models import ChildJob
from jobgroups.runner.attempt import driver as attempt_module
from jobgroups.runner.attempt import lookup
from jobgroups.runner.attempt.lookup import PromptLookup
from jobgroups.runner.intervals import Intervals
from jobgroups.services import holds
from tests.harness.farm import SCALE, Farm, in_thread, text_to_image, until

pytestmark = pytest.mark.django_db(transaction=True)

#: Nothing happens because somebody looked every few seconds: only a bell or a timer helps.
UNHURRIED = replace(Intervals.scaled(SCALE), poll=60.0, system_stats=600.0)


async def test_a_child_is_tried_again_when_its_pause_is_over_and_not_at_the_next_look(
    farm: Farm, settings: Settings
) -> None:
    settings.DIRECTOR_RETRY_BACKOFF_SECONDS = 0.5
    sim = await farm.backend("gpu-1")
    sim.fault("node_error", count=1)
    await farm.runner(intervals=UNHURRIED)
    group = await farm.submit("gpu-1", max_attempts=2, retry_elsewhere=RetryScope.NEVER)
    done = await farm.finished(group, within=15)
    assert done.status == "completed"
    first, second = await farm.attempts(group)
    assert 0.2 < (second.created_at - first.ended_at).total_seconds() < 5


async def test_what_is_given_back_and_goes_on_tells_no_progress_of_a_child_that_waits(
    farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[float, dict[str, Any]]] = []
    publish = farm.hub.publish

    def note(message: Message) -> None:
        told.extend((time.monotonic(), json.loads(one.text)) for one in message.progress)
        publish(message)

    monkeypatch.setattr(farm.hub, "publish", note)
    sim = await farm.backend("gpu-1", seconds=2.5)
    service = await farm.runner()
    group = await farm.submit("gpu-1")
    await farm.status_of(group, "running")

    async def progresses() -> bool:
        return len(told) > 2

    await until(progresses)
    # It cannot be told to stop, and renders on to its end.
    sim.fault("hang_http", route="/interrupt", count=0)
    await in_thread(holds.backend_hold)(backend_id="gpu-1", hold=Hold.PAUSE, at_once=True)
    service.notify()
    await farm.status_of(group, "queued")
    # The runner learns what it has stored a moment later.
    waits_since = time.monotonic() + 0.1
    done = await farm.finished(group)
    assert done.status == "completed"
    late = [frame for moment, frame in told if moment > waits_since]
    assert late == []
    child: ChildJob = (await farm.children(group))[0]
    assert child.progress == 100.0


async def test_a_prompt_that_is_heard_of_all_the_time_is_not_looked_for(
    farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A farm of hundreds would else be asked for its histories without a pause."""
    looks: list[str] = []

    async def noted(client: ComfyClient, prompt_id: str, **options: Any) -> PromptLookup:
        looks.append(prompt_id)
        return await lookup.look_up(client, prompt_id, **options)

    monkeypatch.setattr(attempt_module, "look_up", noted)
    await farm.backend("gpu-1", seconds=2.0)
    await farm.runner()
    group = await farm.submit("gpu-1", workflow=text_to_image(steps=40))
    assert (await farm.finished(group, within=15)).status == "completed"
    assert looks == []


async def test_a_backend_that_speaks_is_not_asked_how_long_its_queue_is(
    farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says so itself, whenever that changes; once it is silent it is asked again."""
    asked: list[float] = []
    ask = ComfyClient.queue_remaining

    async def noted(client: ComfyClient, **options: Any) -> int:
        asked.append(time.monotonic())
        return await ask(client, **options)

    monkeypatch.setattr(ComfyClient, "queue_remaining", noted)
    await farm.backend("gpu-1", seconds=2.0)
    await farm.runner()
    group = await farm.submit("gpu-1", workflow=text_to_image(steps=40))
    await farm.status_of(group, "running")
    began = time.monotonic()
    assert (await farm.finished(group, within=15)).status == "completed"
    ended = time.monotonic()
    assert [moment for moment in asked if began + 0.1 < moment < ended] == []

    async def again() -> bool:
        return any(moment > ended for moment in asked)

    await until(again)


async def test_backends_are_read_where_they_may_have_changed_and_not_for_each_group(
    farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them, by every runner: the one cost that would grow faster than a farm."""
    reads: list[float] = []
    read = backend_selectors.desired_backends

    def noted() -> list[dict[str, Any]]:
        reads.append(time.monotonic())
        return read()

    monkeypatch.setattr(backend_selectors, "desired_backends", noted)
    await farm.backend("gpu-1")
    service = await farm.runner(intervals=replace(Intervals.scaled(SCALE), poll=60.0))
    await farm.finished(await farm.submit("gpu-1"))
    # What the session's own beginning rang for is over.
    await asyncio.sleep(0.5)
    reads.clear()
    for _ in range(3):
        group = await farm.submit("gpu-1")
        assert (await farm.finished(group)).status == "completed"
    assert reads == []
    service.notify()

    async def again() -> bool:
        return bool(reads)

    await until(again, within=5)
