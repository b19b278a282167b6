"""Moments that come once a year on a farm: each cost a render, a slot or the whole runner once."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Any

import pytest
from django.db import OperationalError

from backends.comfyui.event_socket import EventSocket
from backends.comfyui.protocol import Progress
from backends.models import Backend
from jobgroups.events.hub import Hub
from jobgroups.models import JobGroup
from jobgroups.runner.context import SessionContext
from jobgroups.runner.intervals import Intervals
from jobgroups.runner.service import RunnerReplaced, RunnerService
from jobgroups.runner.session.session import BackendSession
from jobgroups.runner.supervisor import RunnerSupervisor
from jobgroups.services import runners
from jobgroups.services.claims import child_claim
from jobgroups.services.leases import LEASE_TTL
from tests.harness.farm import SCALE, Farm, in_thread, text_to_image, until

pytestmark = pytest.mark.django_db(transaction=True)

#: No look helps out: what is not heard is not known.
ONLY_HEARING = replace(Intervals.scaled(SCALE), lookup_interval=60.0)


async def session_of(service: RunnerService, name: str = "gpu-1") -> BackendSession:
    """Wait until a backend's main socket hears, and return its session."""

    async def hearing() -> BackendSession | None:
        held = service._sessions.get(name)
        return held.session if held is not None and held.session.sockets.client_id else None

    found: BackendSession = await until(hearing)
    return found


def no_renewal_comes(service: RunnerService) -> None:
    """Have the runner's leases grow old, as in a process that was paused."""
    clock = service.lease_clock
    clock.renewed = lambda *_: None  # type: ignore[method-assign]
    for fence in list(clock._renewed):
        clock.add(fence, time.monotonic() - LEASE_TTL.total_seconds() * 0.6)


async def renewals_come_again(service: RunnerService) -> None:
    """Have the leases renewed again."""
    del service.lease_clock.renewed
    await in_thread(service._renew)()


async def test_an_absurd_number_of_steps_ends_no_runner(farm: Farm) -> None:
    await farm.backend(seconds=1.5)
    service = await farm.runner()
    group = await farm.submit("gpu-1", workflow=text_to_image(steps=3))
    await farm.status_of(group, "running")
    (driver,) = (await session_of(service)).attempts.drivers.values()
    driver.on_event(Progress(prompt_id=driver.prompt_id, node="3", value=1, max=10**30))

    async def stored() -> bool:
        return (await farm.children(group))[0].steps_total == 2**31 - 1

    await until(stored, 5)
    assert (await farm.finished(group)).status == "completed"
    assert not farm._tasks[service].done()


async def test_a_prompt_claimed_while_its_socket_breaks_is_heard_all_the_same(farm: Farm) -> None:
    sim = await farm.backend(seconds=2.0)
    session = await session_of(await farm.runner(intervals=ONLY_HEARING))
    call = session.context.database.run

    async def call_slowly(work: Any, *args: Any, **fields: Any) -> Any:
        found = await call(work, *args, **fields)
        if work is child_claim and found is not None:
            sim.fault("drop_sockets", at="now")
            while session.sockets.client_id in (None, fields["client_id"]):
                await asyncio.sleep(0.01)
        return found

    session.context.database.run = call_slowly  # type: ignore[method-assign]
    group = await farm.submit("gpu-1", workflow=text_to_image(steps=20))

    async def far() -> bool:
        return (await farm.children(group))[0].progress > 60

    await until(far, 10)
    assert (await farm.finished(group)).status == "completed"


async def test_other_headers_leave_a_running_prompt_heard(farm: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    await farm.backend(seconds=3.0)
    service = await farm.runner(intervals=ONLY_HEARING)
    group = await farm.submit("gpu-1", workflow=text_to_image(steps=20))
    await farm.status_of(group, "running")
    before = await session_of(service)
    # Far away, where a closing handshake takes a while.
    close = EventSocket.close

    async def close_slowly(socket: EventSocket) -> None:
        await asyncio.sleep(0.3)
        await close(socket)

    monkeypatch.setattr(EventSocket, "close", close_slowly)
    await in_thread(lambda: Backend.objects.filter(pk="gpu-1").update(headers={"X-Key": "b"}))()
    service.notify()

    async def replaced() -> bool:
        return await session_of(service) is not before

    await until(replaced)

    async def far() -> bool:
        return (await farm.children(group))[0].progress > 60

    await until(far, 8)
    assert (await farm.finished(group)).status == "completed"
    assert farm.kinds().count("started") == 1


async def test_a_prompt_hit_by_our_stop_is_rendered_again_though_the_history_is_slow(farm: Farm) -> None:
    sim = await farm.backend(seconds=0.6)
    sim.fault("interrupt_late", count=1, seconds=0.75)
    await farm.runner(intervals=replace(Intervals.scaled(SCALE), collateral_window=1.5, history_grace=5.0))
    first = await farm.submit("gpu-1")
    second = await farm.submit("gpu-1")
    await farm.status_of(first, "running")

    async def both_there() -> bool:
        return [row.state for row in await farm.attempts(second)] == ["accepted"]

    await until(both_there)
    (hit,) = await farm.attempts(second)
    sim.fault("slow_http", count=0, route=f"/history/{hit.prompt_id}", seconds=2.0)
    await farm.cancel(first)
    assert (await farm.finished(second)).status == "completed"
    states = [row.state for row in await farm.attempts(second)]
    assert states == ["interrupted", "success"]


async def test_nothing_is_sent_while_the_lease_may_be_anothers(farm: Farm) -> None:
    await farm.backend(seconds=0.1)
    service = await farm.runner()
    session = await session_of(service)
    no_renewal_comes(service)
    group = await farm.submit("gpu-1")
    woken = session.context.work_available
    # The second ring is taken when what the first one led to is over.
    for _ in range(2):
        await until(lambda: _was_looked_at(woken))
    assert "accepted" not in farm.kinds()
    assert await farm.attempts(group) == []
    await renewals_come_again(service)
    session.notify()
    assert (await farm.finished(group)).status == "completed"


async def _was_looked_at(woken: asyncio.Event) -> bool:
    """Whether the session took the ring and waits for another one."""
    if woken.is_set():
        return False
    woken.set()
    await asyncio.sleep(0.05)
    return not woken.is_set()


async def test_a_claim_whose_lease_grew_old_before_the_post_is_given_back(farm: Farm) -> None:
    await farm.backend(seconds=0.1)
    service = await farm.runner()
    session = await session_of(service)
    call = session.context.database.run

    async def call_late(work: Any, *args: Any, **fields: Any) -> Any:
        found = await call(work, *args, **fields)
        if work is child_claim and found is not None:
            no_renewal_comes(service)
        return found

    session.context.database.run = call_late  # type: ignore[method-assign]
    group = await farm.submit("gpu-1")

    async def given_back() -> bool:
        return [row.state for row in await farm.attempts(group)] == ["not_sent"]

    await until(given_back)
    assert "accepted" not in farm.kinds()
    session.context.database.run = call  # type: ignore[method-assign]
    await renewals_come_again(service)
    session.notify()
    assert (await farm.finished(group)).status == "completed"


async def test_nothing_is_interrupted_while_the_lease_may_be_anothers(farm: Farm) -> None:
    """The new holder of the lease may have sent a prompt of its own, which the flag would stop."""
    sim = await farm.backend(seconds=4.0)
    service = await farm.runner()
    session = await session_of(service)
    group = await farm.submit("gpu-1")
    await farm.status_of(group, "running")
    no_renewal_comes(service)
    await farm.cancel(group)
    await asyncio.sleep(10 * Intervals.scaled(SCALE).stop_retry)  # so often the prompt is looked for
    assert "interrupted" not in farm.kinds()
    await renewals_come_again(service)
    session.notify()
    await sim.wait_for("interrupted")
    (row,) = await farm.settled(group)
    assert row.state == "interrupted"


async def test_abandoned_prompt_is_not_deleted_while_the_lease_may_be_anothers(farm: Farm) -> None:
    sim = await farm.backend(seconds=5.0)
    # Given up after 1 s, sent again, and while that one renders the first one lands.
    sim.fault("late_post", count=1, seconds=2.2)
    service = await farm.runner(intervals=replace(Intervals.scaled(SCALE), accept_timeout=1.0))
    await session_of(service)
    group = await farm.submit("gpu-1")
    again = await sim.wait_for("started")
    no_renewal_comes(service)
    await until(lambda: _is_there(farm, "accepted", but=again["prompt_id"]))
    await asyncio.sleep(3 * Intervals.scaled(SCALE).probe)
    assert "deleted" not in farm.kinds()
    await renewals_come_again(service)
    await sim.wait_for("deleted")
    assert (await farm.finished(group)).status == "completed"


async def test_abandoned_prompt_is_not_interrupted_while_the_lease_may_be_anothers(farm: Farm) -> None:
    sim = await farm.backend(seconds=4.0)
    sim.fault("late_post", count=1, seconds=2.2)
    service = await farm.runner(intervals=replace(Intervals.scaled(SCALE), accept_timeout=1.0))
    await session_of(service)
    group = await farm.submit("gpu-1")

    async def is_uncertain() -> bool:
        return [row.state for row in await farm.attempts(group)] == ["uncertain"]

    await until(is_uncertain)
    no_renewal_comes(service)  # nor is it sent again

    async def is_given_up() -> bool:
        return [row.state for row in await farm.attempts(group)] == ["never_accepted"]

    await until(is_given_up)
    await farm.cancel(group)
    await sim.wait_for("started")
    await asyncio.sleep(3 * Intervals.scaled(SCALE).probe)
    assert "interrupted" not in farm.kinds()
    await renewals_come_again(service)
    await sim.wait_for("interrupted")


async def _is_there(farm: Farm, kind: str, *, but: str) -> bool:
    entries = farm.sims["gpu-1"].audit_log.entries
    return any(one["kind"] == kind and one.get("prompt_id") != but for one in entries)


async def test_silent_socket_is_replaced_when_no_status_follows_a_prompt(farm: Farm) -> None:
    sim = await farm.backend(seconds=1.0)
    service = await farm.runner(intervals=ONLY_HEARING)
    session = await session_of(service)
    before = session.sockets.client_id
    sim.fault("deaf", at="now")
    await farm.submit("gpu-1")

    async def is_replaced() -> bool:
        return session.sockets.client_id not in (None, before)

    await until(is_replaced, 5)
    heard = await farm.submit("gpu-1")
    assert (await farm.finished(heard, 10)).status == "completed"


async def test_a_row_that_cannot_be_prepared_again_keeps_no_backend_from_its_work(farm: Farm) -> None:
    await farm.backend(seconds=1.5)
    first = await farm.runner()
    group = await farm.submit("gpu-1")
    await farm.status_of(group, "running")
    await farm.kill(first)
    broken = JobGroup.objects.filter(pk=group.pk)
    await in_thread(lambda: broken.update(workflow_json='{"3": 5}'))()
    await farm.runner()
    assert (await farm.finished(group)).status == "completed"
    other = await farm.submit("gpu-1")
    assert (await farm.finished(other)).status == "completed"


async def test_a_queue_longer_than_is_read_is_no_absence(farm: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    sim = await farm.backend(seconds=1.0)
    service = await farm.runner()
    session = await session_of(service)
    sim.fault("endless", count=0, route="/queue", method="GET", megabytes_per_second=400.0)
    # A waiting prompt and nothing that runs makes the observer ask for the queue.
    sim.fault("worker_dead", at="now")
    group = await farm.submit("gpu-1")

    async def accepted() -> bool:
        return [row.state for row in await farm.attempts(group)] == ["accepted"]

    await until(accepted)
    answers: list[str] = []

    def note(context: SessionContext, error: Any) -> None:
        answers.append(error.code)

    monkeypatch.setattr(SessionContext, "request_failed", note)
    await until(lambda: _counted(answers, 3), 30)
    assert session.context.availability.is_available
    await farm.cancel(group)
    sim.clear_faults()


async def _counted(answers: list[str], number: int) -> bool:
    return answers.count("answer_too_large") >= number


async def test_a_runner_whose_name_was_taken_ends_with_one_sentence(farm: Farm) -> None:
    await farm.backend()
    ready = asyncio.Event()
    runner = RunnerSupervisor(name="local", hub=Hub(), find_local=False)
    running = asyncio.get_running_loop().create_task(runner.run(ready.set))
    await ready.wait()
    await in_thread(runners.runner_register)(name="local", instance="other", version="x")
    with pytest.raises(RunnerReplaced, match="runs under the name local"):
        await asyncio.wait_for(running, 15)


async def test_a_claim_whose_answer_was_lost_on_the_way_is_made_again(
    farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    await farm.backend(seconds=0.1)
    service = await farm.runner()
    session = await session_of(service)
    call, lost = session.context.database.run, []

    async def call_and_lose(work: Any, *args: Any, **fields: Any) -> Any:
        found = await call(work, *args, **fields)
        if work is child_claim and found is not None and not lost:
            lost.append(found)
            raise OperationalError("server closed the connection unexpectedly")
        return found

    monkeypatch.setattr(session.context.database, "run", call_and_lose)
    group = await farm.submit("gpu-1", "gpu-1")
    assert (await farm.finished(group)).status == "completed"
    rows = [row.state for row in await farm.attempts(group)]
    assert sorted(rows) == ["not_sent", "success", "success"]
    assert farm.kinds().count("accepted") == 2
