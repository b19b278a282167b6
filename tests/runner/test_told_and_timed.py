"""Events and pauses of a job between its attempts, prompts that are never sent, and the queries of
an idle runner.
"""

import itertools
import threading
import time
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from django.db.backends.utils import CursorWrapper
from pytest_django import Settings

from backends import queries as backend_queries
from backends.comfyui.client import ComfyClient
from backends.models import Backend
from jobgroups.domain.states import RetryScope
from jobgroups.runner.intervals import Intervals
from tests.harness.farm import SCALE, Farm, in_thread, session_of, until, until_row
from tests.harness.graphs import text_to_image

#: Nothing happens because somebody looked every few seconds: only a bell or a timer helps.
UNHURRIED = replace(Intervals.scaled(SCALE), poll=60.0, system_stats=600.0)


@pytest.mark.parametrize(
    ("backend", "fields"),
    [
        ("gpu-1", {"retry_elsewhere": RetryScope.NEVER}),
        ("*", {"retry_elsewhere": RetryScope.GROUP, "count": 1}),
    ],
    ids=["bound", "pool"],
)
async def test_a_child_is_tried_again_when_its_pause_is_over_and_not_at_the_next_look(
    farm: Farm, settings: Settings, backend: str, fields: dict[str, Any]
) -> None:
    settings.DIRECTOR_RETRY_BACKOFF_SECONDS = 0.5
    sim = await farm.backend("gpu-1")
    sim.fault("node_error", count=1)
    await farm.runner(intervals=UNHURRIED)
    group = await farm.submit(backend, max_attempts=2, **fields)
    await farm.in_states(group, "error")
    # As after the commit of the failure.
    farm.wake()
    done = await farm.finished(group, within=20)
    assert done.status == "completed"
    first, second = await farm.attempts(group)
    assert 0.2 < (second.created_at - first.ended_at).total_seconds() < 20


async def test_a_backend_that_speaks_is_not_asked_how_long_its_queue_is(
    farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says so itself, whenever that changes; once it is silent it is asked again."""
    was_active: list[bool] = []
    ask = ComfyClient.queue_remaining

    async def noted(client: ComfyClient, **options: Any) -> int:
        is_available = session.context.availability.is_available
        was_active.append(session.sockets.is_active and is_available)
        return await ask(client, **options)

    await farm.backend("gpu-1", seconds=3.0)
    service = await farm.runner()
    session = await session_of(service)
    monkeypatch.setattr(ComfyClient, "queue_remaining", noted)
    group = await farm.running("gpu-1", workflow=text_to_image(steps=40))
    await until(lambda: session.sockets.is_active)
    assert (await farm.finished(group, within=20)).status == "completed"
    await until(lambda: not session.sockets.is_active)
    before = len(was_active)
    await until(lambda: len(was_active) > before)
    assert not any(was_active)


async def test_backends_are_read_where_they_may_have_changed_and_not_for_each_group(
    farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them, by every runner: the one cost that would grow faster than a farm."""
    reads: list[float] = []
    read = backend_queries.desired_backends

    def noted() -> list[dict[str, Any]]:
        reads.append(time.monotonic())
        return read()

    monkeypatch.setattr(backend_queries, "desired_backends", noted)
    await farm.backend("gpu-1")
    service = await farm.runner(intervals=replace(Intervals.scaled(SCALE), poll=60.0))
    await farm.finished(await farm.submit("gpu-1"))

    async def are_none() -> bool:
        """Return whether three groups cause no read; the beginning of the session may cause one
        meanwhile.
        """
        reads.clear()
        for _ in range(3):
            await farm.completes("gpu-1")
        return not reads

    await until(are_none)
    service.notify()
    await until(lambda: bool(reads))


@pytest.fixture
def queries(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count the queries of the runner's database threads."""
    counts: Counter[str] = Counter()
    execute = CursorWrapper.execute

    def counted(cursor: Any, sql: Any, params: Any = None) -> Any:
        is_query = not str(sql).startswith(("BEGIN", "SAVEPOINT", "RELEASE", "ROLLBACK"))
        if is_query and threading.current_thread().name.startswith("runner-db"):
            counts[str(sql)] += 1
        return execute(cursor, sql, params)

    monkeypatch.setattr(CursorWrapper, "execute", counted)
    return counts


async def _per_probe(farm: Farm, queries: Counter[str]) -> float:
    """Return the number of queries for each probe of gpu-0: a busy machine delays both."""
    probes = 4
    await farm.looked_up(1, "/prompt", "gpu-0")
    queries.clear()
    await farm.looked_up(probes, "/prompt", "gpu-0")
    return queries.total() / probes


async def test_an_idle_session_asks_the_database_less_than_once_a_second(
    farm: Farm, queries: Counter[str]
) -> None:
    await farm.start("gpu-0")
    await farm.seen("gpu-0")
    await farm.dispatched()
    alone = await _per_probe(farm, queries)
    names = [f"gpu-{number}" for number in range(1, 5)]
    for name in names:
        await farm.backend(name)
    farm.wake()
    await farm.seen(*names)
    await farm.dispatched()
    assert alone > 0

    async def is_less() -> bool:
        return (await _per_probe(farm, queries) - alone) / len(names) / Intervals().probe < 1.0

    # After a moment in which the process does not run, what is due comes at once.
    await until(is_less)


async def test_a_backend_that_refuses_at_once_is_not_asked_without_a_pause(farm: Farm) -> None:
    """Else it has a hundred prompts a second, which the runner cannot give to the others meanwhile."""
    await farm.backend()
    await farm.runner(depth=1, intervals=Intervals(refusal_backoff=0.2))
    wrong = {"1": {"class_type": "KSampler", "inputs": {"seed": 1}}}
    group = await farm.submit(*["gpu-1"] * 4, workflow=wrong)
    await farm.finished(group)
    times = [(one.created_at, one.ended_at) for one in await farm.attempts(group)]
    assert len(times) == 4
    pauses = [
        (began - ended).total_seconds()
        for (_, ended), (began, _) in itertools.pairwise(times)
        if ended is not None
    ]
    assert all(0.19 <= one < 10 for one in pauses), pauses


async def test_a_graph_that_would_kill_the_backends_worker_is_never_sent(farm: Farm) -> None:
    await farm.start(seconds=0.05)
    poisoned = text_to_image()
    poisoned["3"]["inputs"]["extra"] = ["99", 0]
    group = await farm.submit("gpu-1", workflow=poisoned)
    child = await farm.failed(group)
    assert (child.status, child.error_type) == ("failed", "ValidationError")
    assert "'extra' is linked to node 99" in child.error_message
    assert farm.kinds() == []
    assert (await farm.finished(await farm.submit("gpu-1"))).status == "completed"


async def test_a_comfyui_that_would_render_twice_is_told_to_be_updated(farm: Farm) -> None:
    await farm.start(seconds=0.05, version="0.3.40")
    away = Backend.objects.filter(reachability="offline", status_reason__contains="too old")
    await until_row(away)
    await farm.submit("gpu-1")
    assert farm.kinds() == []


async def test_a_disabled_backend_fails_what_waits_and_finishes_what_was_sent(farm: Farm) -> None:
    sim = await farm.backend()
    sim.fault("stuck")
    await farm.runner(depth=1)
    group = await farm.running("gpu-1", "gpu-1")
    await in_thread(Backend.objects.update)(enabled=False)
    sim.clear_faults("stuck")
    await farm.finished(group)
    statuses = [child.status for child in await farm.children(group)]
    assert statuses == ["completed", "failed"]


async def test_progress_is_stored_as_it_comes_and_never_goes_back(farm: Farm) -> None:
    sim = await farm.backend()
    sim.fault("stuck", step=2)
    await farm.runner()
    group = await farm.submit("gpu-1", workflow=text_to_image(steps=15))
    seen = [0.0]

    async def rises(above: float) -> bool:
        seen.extend(child.progress for child in await farm.children(group))
        return seen[-1] > above

    for step in (4, 6, 8):
        await until(lambda above=seen[-1]: rises(above))
        sim.clear_faults("stuck")
        sim.fault("stuck", step=step)
    sim.clear_faults("stuck")
    await until(lambda: rises(99.0))
    assert (await farm.finished(group)).status == "completed"
    assert seen == sorted(seen)
