"""Every wait with a known cause ends. The bounds are shortened here; docs/waits.md lists them."""

import asyncio
import datetime as dt
import json
from dataclasses import replace
from typing import Any

import pytest

from backends.models import Backend
from backends.states import Hold
from jobgroups.domain.clock import now
from jobgroups.domain.states import RetryScope
from jobgroups.models import JobGroup
from jobgroups.queries.waiting_reasons import outlooks
from jobgroups.runner.attempt.driver import AttemptDriver
from jobgroups.runner.attempt.machine import Phase
from jobgroups.runner.service import RunnerService
from jobgroups.services import holds
from tests.harness.farm import QUICK, SOON_STUCK, Farm, in_thread, until, until_row
from tests.harness.graphs import sampler
from tests.harness.servers import free_port


async def bounded_runner(farm: Farm, **changes: Any) -> RunnerService:
    """Start a runner that moves jobs after 1 s of absence, and gives up after 2 s."""
    limits = {"move_after_s": 1.0, "give_up_s": 2.0, "max_answer_bytes": 2**20}
    return await farm.runner(**{"intervals": SOON_STUCK, **limits, **changes})


async def ends_unreachable(farm: Farm, group: JobGroup, because: str, within: float = 60.0) -> None:
    """Wait until the group's only job has failed, with its cause in the message."""
    child = await farm.failed(group, within)
    assert child.error_type == "ConnectionError"
    assert because in child.error_message


#: So that a test need not wait for the limits of bytes and seconds.
FASTER: dict[str, dict[str, Any]] = {
    "endless": {"megabytes_per_second": 100.0},
    "trickle": {"bytes_per_second": 10.0},
}
#: By backend: the fault, where it is, and what users read of it.
BROKEN_PROBES = {
    "endless": (
        "endless",
        "/system_stats",
        "GET /system_stats was answered with more than 1048576 bytes",
    ),
    "silent": ("hang_http", "/system_stats", "1.5 s passed without a byte"),
    "slow": ("trickle", "/prompt", "No whole answer came within 3 s"),
}


async def test_backend_with_a_broken_probe_is_unavailable_and_its_jobs_move_or_end(
    farm: Farm,
) -> None:
    await farm.backend("gpu-1", seconds=0.05)
    for name, (fault, route, _) in BROKEN_PROBES.items():
        sick = await farm.backend(name)
        sick.fault(fault, count=0, route=route, method="GET", **FASTER.get(fault, {}))
    # Far apart, so that each probe ends by its own limit.
    await bounded_runner(farm, timeouts=replace(QUICK, silence_s=1.5, total_s=3.0))
    await farm.seen("gpu-1")
    for name, (_, _, because) in BROKEN_PROBES.items():
        await until_row(Backend.objects.filter(pk=name, status_reason__contains=because))
    moves = await farm.submit(*BROKEN_PROBES, retry_elsewhere=RetryScope.ANY, max_attempts=2)
    stay = {name: await farm.submit(name) for name in BROKEN_PROBES}
    assert (await farm.finished(moves)).status == "completed"
    for name, (_, _, because) in BROKEN_PROBES.items():
        await ends_unreachable(farm, stay[name], because)
        seen = await farm.row(name)
        assert (seen.reachability, because in seen.status_reason) == ("offline", True)
        assert farm.kinds(name).count("accepted") == 0


async def test_event_sockets_alone_do_not_make_a_backend_available(farm: Farm) -> None:
    sick = await farm.backend("sick")
    sick.fault("hang_http", count=0, route="/system_stats")
    sessions = (await bounded_runner(farm, timeouts=QUICK))._sessions
    group = await farm.submit("sick")
    await until(lambda: "sick" in sessions)
    sockets = sessions["sick"].sockets

    async def reconnect_for_ever() -> None:
        dropped: set[str | None] = {None}
        while True:
            await until(lambda: sockets.client_id not in dropped)
            dropped.add(sockets.client_id)
            sick.fault("drop_sockets", at="now")

    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(reconnect_for_ever())
        await ends_unreachable(farm, group, "sick was not reachable for")
        task.cancel()


async def test_job_ends_when_the_event_socket_of_its_backend_never_opens(farm: Farm) -> None:
    for fault in ("hang_http", "html"):
        (await farm.backend(fault)).fault(fault, count=0, route="/ws")
    await bounded_runner(farm, timeouts=QUICK)
    for group in [await farm.submit(name) for name in farm.sims]:
        await ends_unreachable(farm, group, "vent socket")


async def test_job_is_sent_to_a_backend_whose_version_is_unreadable(farm: Farm) -> None:
    for number, version in enumerate(("", "nightly", "v0.3.64-12-gdeadbee")):
        await farm.backend(f"gpu-{number}", seconds=0.05, version=version)
    await bounded_runner(farm)
    await farm.completes(*farm.sims)


async def test_job_ends_when_new_connections_are_refused_and_kept_ones_work(farm: Farm) -> None:
    sick = await farm.backend("sick")
    await bounded_runner(farm)
    await farm.seen("sick")
    sick.fault("refuse_connections", at="now", seconds=60)
    group = await farm.submit("sick")
    await ends_unreachable(farm, group, "the connection was refused")
    assert len(await farm.attempts(group)) <= 2


async def test_uncertain_job_ends_when_no_look_up_succeeds(farm: Farm) -> None:
    faults = {"endless": "/queue", "trickle": "/history"}
    for fault in faults:
        await farm.backend(fault)
    # On a busy machine a probe, whose error would be the cause, takes longer than 0.8 s.
    await bounded_runner(farm, timeouts=replace(QUICK, silence_s=3.0, total_s=3.0))
    await farm.seen(*faults)
    for fault, route in faults.items():
        farm.sims[fault].fault("reset_http", count=1, route="/prompt", method="POST")
        farm.sims[fault].fault(fault, count=0, route=route, method="GET", **FASTER[fault])
    for group in [await farm.submit(name) for name in faults]:
        await ends_unreachable(farm, group, "no look-up of a prompt has succeeded")


async def test_long_queue_of_other_clients_is_no_failure_of_a_backend(farm: Farm) -> None:
    busy = await farm.backend("busy", seconds=0.5)
    await bounded_runner(farm)
    await farm.seen("busy")
    busy.fault("endless", count=0, route="/queue", method="GET", megabytes_per_second=100.0)
    groups = [await farm.submit("busy") for _ in range(4)]
    for group in groups:
        assert (await farm.finished(group)).status == "completed"


async def test_job_moves_or_ends_when_the_session_of_its_backend_always_fails(farm: Farm) -> None:
    # A row from before such an address was refused.
    await farm.register("sick", "http://xn--8hb.example:8188")
    await farm.backend("gpu-1", seconds=0.05)
    service = await bounded_runner(farm)
    await farm.seen("gpu-1")
    moves = await farm.submit("sick", retry_elsewhere=RetryScope.ANY, max_attempts=2)
    stays = await farm.submit("sick")
    assert (await farm.finished(moves)).status == "completed"
    await ends_unreachable(farm, stays, "The address has a malformed host name")
    seen = await farm.row("sick")
    assert seen.reachability == "offline"
    assert "The address has a malformed host name" in seen.status_reason
    assert service in farm._tasks


async def test_job_ends_when_every_slot_is_taken_by_a_prompt_that_cannot_be_followed(
    farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    await farm.backend("sick", seconds=60)
    perform = AttemptDriver._perform
    poisoned: set[str] = set()

    async def fails(self: AttemptDriver, outputs: Any) -> Any:
        if self.spec.group_id in poisoned and self.machine.phase is not Phase.SENDING:
            raise RuntimeError("an unexpected error on purpose")
        return await perform(self, outputs)

    monkeypatch.setattr(AttemptDriver, "_perform", fails)
    await bounded_runner(farm, depth=1)
    await farm.seen("sick")
    first = await farm.submit("sick")
    poisoned.add(first.id)
    second = await farm.submit("sick")
    await ends_unreachable(farm, second, "unexpected errors keep every prompt there")
    (broken,) = await farm.children(first)
    assert (broken.status, broken.error_type) == ("failed", "InternalError")


async def test_job_ends_when_a_prompt_before_it_does_not_stop(farm: Farm) -> None:
    versions = {"old": "0.3.56", "gpu-1": "0.3.64", "gpu-2": "0.33.0"}
    for name, version in versions.items():
        (await farm.backend(name, version=version)).fault("stuck", count=1, interruptible=False)
    await bounded_runner(farm, depth=1)
    hang = [await farm.submit(name, timeout_seconds=1) for name in versions]
    for name in versions:
        await farm.sims[name].wait_for("started")
    wait = [await farm.submit(name) for name in versions]
    for group in hang:
        assert (await farm.finished(group)).status == "failed"
    for group in wait:
        await ends_unreachable(farm, group, "its prompt was to be stopped")


def waiting_reason(group: JobGroup) -> str:
    """Return why the group's only job waits, as users read it."""
    rows = list(group.children.select_related("current_attempt"))
    (outlook,) = outlooks(group, rows).values()
    return outlook.waiting_reason or ""


async def test_job_ends_when_the_director_has_quarantined_its_backend_for_too_long(
    farm: Farm,
) -> None:
    await farm.backend("sick")
    await bounded_runner(farm)
    await farm.seen("sick")
    moment = now()
    await in_thread(Backend.objects.update)(
        quarantined_at=moment,
        quarantine_until=moment + dt.timedelta(days=365),
        quarantine_reason="3 failures within 10 min; last: stalled.",
    )
    group = await farm.submit("sick")
    farm.wake()
    await ends_unreachable(farm, group, "3 failures within 10 min; last: stalled")
    assert farm.kinds("sick").count("accepted") == 0


async def test_job_waits_for_a_backend_that_a_person_holds_and_its_reason_says_so(
    farm: Farm,
) -> None:
    for name in ("pause", "drain", "quarantine"):
        await farm.backend(name)
    await bounded_runner(farm)
    await farm.seen(*farm.sims)
    for held in (Hold.PAUSE, Hold.DRAIN):
        await in_thread(holds.backend_hold)(backend_id=held.value, hold=held, by="anna")
    await in_thread(holds.backend_quarantine)(backend_id="quarantine", by="anna", reason="smoke")
    groups = [await farm.submit(name) for name in farm.sims]
    # The runner has given up this one, which came later, after 2 s.
    await farm.register("gone", f"http://127.0.0.1:{free_port()}")
    gone = await farm.submit("gone")
    farm.wake()
    await ends_unreachable(farm, gone, "the connection was refused")
    for group in groups:
        assert [child.status for child in await farm.children(group)] == ["queued"]
        sentence = await in_thread(waiting_reason)(group)
        assert "by anna" in sentence
        assert "at most until" in sentence


async def test_job_without_an_event_for_stall_seconds_times_out(farm: Farm) -> None:
    sim = await farm.backend()
    sim.fault("stuck", step=2)
    await farm.runner()
    group = await farm.submit(workflow=sampler(steps=8), timeout_seconds=None, stall_seconds=2)
    child = await farm.failed(group)
    assert (child.status, child.failure_class) == ("timeout", "timeout")
    assert child.error_message == "Stalled: ComfyUI sent no event of it for 2 s"
    assert json.loads(child.error_details_json)["phase"] == "stalled"
    (attempt,) = await farm.settled(group)
    assert (attempt.state, attempt.error_message) == ("timeout", child.error_message)
    event = await in_thread(group.events.get)(type="child_timeout")
    assert json.loads(event.frame)["timeout_seconds"] is None


async def test_prompts_of_a_broken_event_socket_are_notified_when_it_is_open_again(
    farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    sim = await farm.start()
    sim.fault("stuck", step=2)
    opened: list[str] = []
    monkeypatch.setattr(
        AttemptDriver, "socket_opened", lambda self: opened.append(self.spec.group_id)
    )
    group = await farm.running()
    sim.fault("drop_sockets", at="now")
    await until(lambda: group.id in opened)
    sim.clear_faults()
    assert (await farm.finished(group)).status == "completed"
