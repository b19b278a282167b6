"""Races that cost a render, a slot or the whole runner once, and backends that are handed over."""

import asyncio
import time
from dataclasses import replace
from typing import Any

import pytest
from django.db import OperationalError

from backends.comfyui.event_socket import EventSocket
from backends.comfyui.protocol import Progress
from backends.models import Backend
from jobgroups.domain.states import AttemptState
from jobgroups.models import JobGroup, Lease
from jobgroups.runner.attempt.spec import AttemptSpec
from jobgroups.runner.intervals import Intervals
from jobgroups.runner.service import RunnerService
from jobgroups.runner.session.session import BackendSession
from jobgroups.services import attempts
from jobgroups.services.claims import ClaimRequest, ClaimResult
from jobgroups.services.leases import LEASE_TTL
from tests.harness.farm import SCALE, Farm, in_thread, session_of, until, until_row
from tests.harness.graphs import text_to_image

#: No look helps out: what is not heard is not known.
ONLY_HEARING = replace(Intervals.scaled(SCALE), lookup_interval=60.0)


async def at_work(
    farm: Farm, seconds: float, **changes: Any
) -> tuple[RunnerService, BackendSession]:
    """Start a backend whose prompts take some seconds and a runner; return it and the backend's
    session.
    """
    await farm.backend(seconds=seconds)
    service = await farm.runner(**changes)
    return service, await session_of(service)


def no_renewal_comes(service: RunnerService) -> None:
    """Have the runner's leases grow old, as in a process that was paused."""
    service._take_renewal = lambda *_: None  # type: ignore[method-assign]
    for session in service._sessions.values():
        session.context.renewed_at = time.monotonic() - LEASE_TTL.total_seconds() * 0.6


async def renewals_come_again(service: RunnerService) -> None:
    del service._take_renewal
    service._take_renewal(*await in_thread(service._renew)())


async def test_an_absurd_number_of_steps_ends_no_runner(farm: Farm) -> None:
    sim = await farm.backend()
    sim.fault("stuck", step=2)
    service = await farm.runner()
    group = await farm.running("gpu-1", workflow=text_to_image(steps=3))
    (driver,) = (await session_of(service)).attempts.drivers.values()
    driver.on_event(Progress(prompt_id=driver.machine.prompt_id, node="3", value=1, max=10**30))
    await until_row(group.children.filter(steps_total=2**31 - 1))
    sim.clear_faults()
    assert (await farm.finished(group)).status == "completed"
    assert not farm._tasks[service].done()


async def test_a_prompt_claimed_while_its_socket_breaks_is_heard_all_the_same(farm: Farm) -> None:
    sim = await farm.backend(seconds=2.0)
    session = await session_of(await farm.runner(intervals=ONLY_HEARING))
    claims = session.context.runner.claims
    claim = claims.claim

    async def claim_slowly(request: ClaimRequest) -> ClaimResult:
        result = await claim(request)
        if result.claim is not None:
            sim.fault("drop_sockets", at="now")
            await until(lambda: session.sockets.client_id not in (None, request.client_id))
        return result

    claims.claim = claim_slowly  # type: ignore[method-assign]
    group = await farm.submit("gpu-1", workflow=text_to_image(steps=20))
    await until_row(group.children.filter(position=0, progress__gt=60))
    assert (await farm.finished(group)).status == "completed"


async def test_start_that_comes_before_the_acceptance_is_stored_is_stored_with_it(
    farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, session = await at_work(farm, 0.3)
    completer, writes = session.context.runner.completer, []
    store = completer.store

    async def note(group_id: str, work: Any, **fields: Any) -> Any:
        writes.append(work)
        return await store(group_id, work, **fields)

    monkeypatch.setattr(completer, "store", note)
    with completer._sets._turn:
        group = await farm.submit("gpu-1")
        drivers = session.attempts.drivers
        await until(lambda: any(one.machine.evidence.has_started for one in drivers.values()))
    assert (await farm.finished(group)).status == "completed"
    assert writes == [attempts.attempt_accepted, attempts.attempt_ended]
    (child,) = await farm.children(group)
    assert child.started_at is not None


async def test_other_headers_leave_a_running_prompt_heard(
    farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    sim = await farm.backend()
    sim.fault("stuck", step=5)
    service = await farm.runner(intervals=ONLY_HEARING)
    group = await farm.running("gpu-1", workflow=text_to_image(steps=20))
    before = await session_of(service)
    # Far away, where a closing handshake takes a while.
    close = EventSocket.close

    async def close_slowly(socket: EventSocket) -> None:
        await asyncio.sleep(0.3)
        await close(socket)

    monkeypatch.setattr(EventSocket, "close", close_slowly)
    await in_thread(lambda: Backend.objects.filter(pk="gpu-1").update(headers={"X-Key": "b"}))()
    service.notify()

    async def is_replaced() -> bool:
        return await session_of(service) is not before

    await until(is_replaced)
    sim.clear_faults()
    await until_row(group.children.filter(position=0, progress__gt=60))
    assert (await farm.finished(group)).status == "completed"
    assert farm.kinds().count("started") == 1


async def test_nothing_is_sent_while_the_lease_may_be_anothers(farm: Farm) -> None:
    service, session = await at_work(farm, 0.1)
    no_renewal_comes(service)
    # One that began before may find the job, and gives it back.
    await until(lambda: session.claimer.has_no_pending_claim)
    group = await farm.submit("gpu-1")
    await farm.dispatched()
    assert "accepted" not in farm.kinds()
    assert await farm.attempts(group) == []
    await renewals_come_again(service)
    session.context.work_available.set()
    assert (await farm.finished(group)).status == "completed"


async def test_abandoned_prompt_is_not_deleted_while_the_lease_may_be_anothers(farm: Farm) -> None:
    sim = await farm.backend(seconds=600.0)
    # Given up after 1 s, sent again, and while that one renders the first one lands.
    sim.fault("reset_http", route="/prompt", method="POST")
    service = await farm.runner(intervals=replace(Intervals.scaled(SCALE), accept_timeout=1.0))
    await session_of(service)
    group = await farm.submit("gpu-1")
    await farm.in_states(group, "never_accepted", "running")
    no_renewal_comes(service)
    await farm.land((await farm.attempts(group))[0])
    await farm.looked_up()
    assert "deleted" not in farm.kinds()
    await renewals_come_again(service)
    await sim.wait_for("deleted")


async def test_abandoned_prompt_is_not_interrupted_while_the_lease_may_be_anothers(
    farm: Farm,
) -> None:
    sim = await farm.backend(seconds=600.0)
    sim.fault("reset_http", route="/prompt", method="POST")
    sim.fault("status", route="/queue", method="GET", count=0)
    service = await farm.runner(intervals=replace(Intervals.scaled(SCALE), accept_timeout=1.0))
    await session_of(service)
    group = await farm.submit("gpu-1")
    await farm.in_states(group, "uncertain")
    no_renewal_comes(service)  # nor is it sent again
    sim.clear_faults("status")
    await farm.in_states(group, "never_accepted")
    await farm.cancel(group)
    await farm.land((await farm.attempts(group))[0])
    await sim.wait_for("started")
    await farm.looked_up()
    assert "interrupted" not in farm.kinds()
    await renewals_come_again(service)
    await sim.wait_for("interrupted")


async def test_silent_socket_is_replaced_when_no_status_follows_a_prompt(farm: Farm) -> None:
    _, session = await at_work(farm, 1.0, intervals=ONLY_HEARING)
    sim = farm.sims["gpu-1"]
    before = session.sockets.client_id
    sim.fault("deaf", at="now")
    await farm.submit("gpu-1")
    await until(lambda: session.sockets.client_id not in (None, before))
    heard = await farm.submit("gpu-1")
    assert (await farm.finished(heard)).status == "completed"


async def test_one_comfyui_at_two_addresses_gets_two_client_ids(farm: Farm) -> None:
    sim = await farm.backend()
    await in_thread(Backend.objects.create)(id="again", name="again", url=sim.url)
    service = await farm.runner()
    sessions = [await session_of(service, name) for name in ("gpu-1", "again")]
    assert len({session.sockets.client_id for session in sessions}) == 2


async def test_a_row_that_cannot_be_prepared_again_keeps_no_backend_from_its_work(
    farm: Farm,
) -> None:
    sim = await farm.backend()
    sim.fault("stuck")
    first = await farm.runner()
    group = await farm.running("gpu-1")
    await farm.kill(first)
    broken = JobGroup.objects.filter(pk=group.pk)
    await in_thread(lambda: broken.update(workflow_json='{"3": 5}'))()
    sim.clear_faults("stuck")
    await farm.runner()
    assert (await farm.finished(group)).status == "completed"
    await farm.completes("gpu-1")


async def test_a_claim_whose_answer_was_lost_on_the_way_is_made_again(
    farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, session = await at_work(farm, 0.1)
    sets = session.context.runner.claims._sets
    call, lost = sets._run, []

    async def call_and_lose(*args: Any) -> Any:
        results = await call(*args)
        if not lost and any(result.claim for result in results.values()):
            lost.append(results)
            raise OperationalError("server closed the connection unexpectedly")
        return results

    monkeypatch.setattr(sets, "_run", call_and_lose)
    group = await farm.completes("gpu-1", "gpu-1")
    assert sorted(await farm.states(group)) == ["not_sent", "success", "success"]
    assert farm.kinds().count("accepted") == 2


async def driving(session: BackendSession, state: AttemptState) -> None:
    drivers = session.attempts.drivers
    await until(lambda: any(driver.machine.state is state for driver in drivers.values()))


async def test_a_backend_that_is_being_sent_to_is_not_given_up(farm: Farm) -> None:
    _, session = await at_work(farm, 600.0)
    sim = farm.sims["gpu-1"]
    await until(lambda: session.can_hand_over)
    sim.fault("delay_answer", seconds=60)
    group = await farm.submit("gpu-1")
    await driving(session, AttemptState.INTENT)
    assert not session.can_hand_over, "its answer is still to come"
    sim.clear_faults("delay_answer")
    await driving(session, AttemptState.RUNNING)
    # It runs by itself. A claim for a further slot may be under way.
    await until(lambda: session.can_hand_over)
    await farm.cancel(group)
    drivers = session.attempts.drivers
    await until(
        lambda: not drivers or any(driver.machine.stop_pending for driver in drivers.values())
    )
    assert not drivers or not session.can_hand_over, "a stop is pending"
    await farm.finished(group)


async def test_a_backend_that_is_to_go_claims_nothing_more_until_it_stays(farm: Farm) -> None:
    service, session = await at_work(farm, 0.1)
    # Alone it would keep it. A claim of its start may be under way.
    service._rebalance = lambda *_: None  # type: ignore[method-assign]
    session.start_handover()
    await until(lambda: session.claimer.has_no_pending_claim)
    group = await farm.submit("gpu-1")
    await farm.dispatched()
    assert await farm.attempts(group) == []
    session.cancel_handover()
    assert (await farm.finished(group)).status == "completed"


async def test_a_runner_that_stood_still_just_before_it_sent_sends_nothing(
    farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    service, session = await at_work(farm, 0.1)
    mark = AttemptSpec.mark

    def marked_late(spec: Any) -> dict[str, Any]:
        no_renewal_comes(service)
        return mark.fget(spec)

    monkeypatch.setattr(AttemptSpec, "mark", property(marked_late))
    group = await farm.submit("gpu-1")
    await farm.in_states(group, "not_sent")
    assert "accepted" not in farm.kinds()
    monkeypatch.undo()
    await renewals_come_again(service)
    session.context.work_available.set()
    assert (await farm.finished(group)).status == "completed"


async def test_a_lease_is_held_only_of_what_is_driven(farm: Farm) -> None:
    """Else it is renewed with the others for ever, and no runner drives the backend."""
    await farm.backend("gpu-1")
    await farm.backend("gpu-2")
    service = await farm.runner()
    await session_of(service, "gpu-1")
    await session_of(service, "gpu-2")
    await in_thread(Backend.objects.filter(pk="gpu-1").update)(enabled=False)
    farm.wake()
    await until_row(Lease.objects.filter(backend_id="gpu-1", runner=""))
    assert (await in_thread(Lease.objects.get)(backend_id="gpu-2")).runner == "local"
