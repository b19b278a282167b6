"""Backends that go offline in a render: crashed for good, or alive behind a broken network."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import pytest
from pytest_django import Settings

from backends.models import Backend
from backends.simulator import Simulator
from jobgroups.domain.states import RetryScope
from jobgroups.models import JobGroup
from jobgroups.queries import groups
from jobgroups.runner.intervals import Intervals
from tests.harness.farm import SCALE, Farm, in_thread, until

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def short_pause(settings: Settings) -> None:
    settings.DIRECTOR_RETRY_BACKOFF_SECONDS = 0.05


class Cable:
    """A TCP relay between the Director and a backend. Cut, it drops all connections and accepts none."""

    def __init__(self, sim: Simulator) -> None:
        self._target = urlsplit(sim.url)
        self._server: asyncio.Server | None = None
        self._ends: set[asyncio.StreamWriter] = set()
        self._port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    async def plug(self) -> None:
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for end in list(self._ends):
            end.transport.abort()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection(self._target.hostname, self._target.port)
        ends = {writer, there[1]}
        self._ends |= ends
        try:
            await asyncio.gather(self._pump(reader, there[1]), self._pump(there[0], writer))
        finally:
            self._ends -= ends

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while chunk := await reader.read(65_536):
                writer.write(chunk)
                await writer.drain()
        writer.close()


@contextlib.asynccontextmanager
async def cabled(farm: Farm, name: str = "gpu-1", **options: Any) -> AsyncIterator[Cable]:
    """Start a backend that the Director reaches through a cable."""
    sim = await farm._stack.enter_async_context(Simulator(name=name, **options))
    farm.sims[name] = sim
    cable = Cable(sim)
    await cable.plug()
    await farm.register(name, cable.url)
    try:
        yield cable
    finally:
        await cable.cut()


def started(farm: Farm, *names: str) -> list[str]:
    """Return the prompts that backends began to execute, by their audit logs."""
    return [
        entry["prompt_id"]
        for name in names or tuple(farm.sims)
        for entry in farm.sims[name].audit_log.entries
        if entry["kind"] == "started"
    ]


async def seen(*names: str) -> None:
    """Wait until the runner has probed each backend: else it is no candidate for a retry."""

    async def all_seen() -> bool:
        rows = Backend.objects.filter(pk__in=names, reachability="online").exclude(devices=[])
        return bool(await in_thread(rows.count)() == len(names))

    await until(all_seen)


async def attempts_of(farm: Farm, group: JobGroup) -> list[tuple[str, str, str]]:
    return [(row.backend_id, row.state, row.failure_class) for row in await farm.attempts(group)]


async def both_there(farm: Farm, group: JobGroup) -> None:
    """Wait until one prompt of the group runs and one is in its backend's queue."""

    async def is_there() -> bool:
        states = sorted(row.state for row in await farm.attempts(group))
        return states == ["accepted", "running"]

    await until(is_there)


async def submit(farm: Farm, *names: str, **fields: Any) -> JobGroup:
    fields = {"max_attempts": 3, "retry_elsewhere": RetryScope.ANY, **fields}
    return await farm.submit(*names or ("gpu-1",), **fields)


async def ended(farm: Farm, group: JobGroup, within: float = 20.0) -> JobGroup:
    done = await farm.finished(group, within)
    assert (await farm.types(group)).count("group_complete") == 1
    return done


# --- a backend that crashes and stays away --------------------------------------------------------


async def test_crash_without_retry_elsewhere_fails_the_job_as_lost_at_its_timeout(farm: Farm) -> None:
    sim = await farm.backend(seconds=20)
    await farm.backend("gpu-2")
    await farm.runner(move_after_s=0.3)
    await seen("gpu-1", "gpu-2")
    group = await farm.submit("gpu-1", timeout_seconds=3)
    await farm.status_of(group, "running")
    sim.crash()

    async def reason() -> str | None:
        snapshot = await in_thread(groups.group_snapshot)(group.id)
        return snapshot["child_jobs"][0]["waiting_reason"]

    said = await until(reason, 3)
    assert said.startswith("gpu-1 has not been reachable since ")
    assert "Fails at" in said
    await ended(farm, group)
    (child,) = await farm.children(group)
    assert (child.status, child.failure_class) == ("failed", "backend_lost")
    assert (child.error_type, child.attempt_count) == ("ConnectionError", 1)
    assert "gpu-1 went offline at " in child.error_message
    assert child.error_message.endswith(", while it rendered this job")
    assert (child.completed_at - child.started_at).total_seconds() >= 3
    assert await reason() is None
    assert started(farm, "gpu-2") == []
    # Back without a memory of the prompt: the first cause stays, and counts once.
    await sim.restart()
    (attempt,) = await farm.settled(group)
    assert (attempt.state, attempt.failure_class) == ("lost", "backend_lost")
    assert "went offline" in attempt.error_message


async def test_crash_just_before_the_timeout_is_called_lost(farm: Farm) -> None:
    sim = await farm.backend(seconds=20)
    # No probe fails before the time is up: the answer of the next one is waited for.
    intervals = replace(Intervals.scaled(SCALE), probe=1.5, reconnect_most=5.0)
    await farm.runner(intervals=intervals)
    group = await farm.submit("gpu-1", timeout_seconds=3)
    child = await farm.status_of(group, "running")
    await asyncio.sleep(2.8)
    sim.crash()
    await ended(farm, group)
    (child,) = await farm.children(group)
    assert (child.status, child.failure_class) == ("failed", "backend_lost")


async def test_crash_with_retry_elsewhere_moves_the_running_and_the_accepted_job(farm: Farm) -> None:
    sim = await farm.backend(seconds=20)
    await farm.backend("gpu-2", seconds=0.2)
    await farm.runner(move_after_s=0.5)
    await seen("gpu-1", "gpu-2")
    group = await submit(farm, "gpu-1", "gpu-1", max_attempts=2, timeout_seconds=60)
    await both_there(farm, group)
    sim.crash()
    done = await ended(farm, group, 15)
    assert (done.status, done.completed_count) == ("completed", 2)
    assert sorted(await attempts_of(farm, group)) == [
        ("gpu-1", "accepted", "unreachable"),
        ("gpu-1", "running", "backend_lost"),
        ("gpu-2", "success", ""),
        ("gpu-2", "success", ""),
    ]
    charged = {row.failure_class: row.is_counted for row in await farm.attempts(group)}
    assert (charged["backend_lost"], charged["unreachable"]) == (True, False)
    assert len(started(farm, "gpu-2")) == 2
    await sim.restart()
    assert {row.state for row in await farm.settled(group)} == {"lost", "success"}
    assert (await farm.types(group))[-1] == "group_complete"


async def test_job_accepted_at_a_dead_backend_without_retry_elsewhere_is_given_up(farm: Farm) -> None:
    sim = await farm.backend(seconds=20)
    await farm.backend("gpu-2")
    await farm.runner(move_after_s=0.3, give_up_s=1.5)
    await seen("gpu-1", "gpu-2")
    group = await farm.submit("gpu-1", "gpu-1", timeout_seconds=5)
    await both_there(farm, group)
    sim.crash()
    failed = await farm.status_of(group, "failed", 4)
    assert (failed.failure_class, failed.started_at) == ("unreachable", None)
    await ended(farm, group)
    classes = {child.failure_class for child in await farm.children(group)}
    assert classes == {"unreachable", "backend_lost"}


async def test_backend_that_is_back_and_forgot_the_prompt_at_its_timeout_lost_it(farm: Farm) -> None:
    sim = await farm.backend(seconds=20)
    await farm.runner()
    group = await farm.submit("gpu-1", timeout_seconds=2)
    child = await farm.status_of(group, "running")
    await sim.restart(down_s=0.1)
    # No look comes before the timeout: that finds the backend there, and the prompt nowhere.
    await ended(farm, group)
    (child,) = await farm.children(group)
    assert (child.status, child.failure_class) == ("failed", "backend_lost")
    assert "lost the prompt" in child.error_message


@pytest.mark.parametrize("end", ["stop", "kill"])
async def test_dead_backend_is_noticed_by_the_next_runner_too(farm: Farm, end: str) -> None:
    sim = await farm.backend(seconds=20)
    await farm.backend("gpu-2", seconds=0.2)
    first = await farm.runner(move_after_s=600.0)
    await seen("gpu-1", "gpu-2")
    moves = await submit(farm, "gpu-1", timeout_seconds=60)
    stays = await farm.submit("gpu-1", timeout_seconds=4)
    await farm.status_of(moves, "running")
    sim.crash()
    await (farm.stop(first) if end == "stop" else farm.kill(first))
    await farm.runner(move_after_s=0.5)
    assert (await ended(farm, moves, 15)).status == "completed"
    assert [row[2] for row in await attempts_of(farm, moves)] == ["backend_lost", ""]
    # What never began is sent again once its backend is back, and is no second render.
    await sim.restart()
    assert (await farm.status_of(stays, "running")).backend_id == "gpu-1"
    prompts = started(farm)
    assert len(prompts) == len(set(prompts)) == 3


async def test_cancel_while_the_backend_is_dead_ends_the_group_and_stops_the_prompt_later(farm: Farm) -> None:
    async with cabled(farm, seconds=6) as cable:
        sim = farm.sims["gpu-1"]
        await farm.backend("gpu-2")
        await farm.runner(move_after_s=1.0)
        await seen("gpu-1", "gpu-2")
        group = await submit(farm, timeout_seconds=60)
        await farm.status_of(group, "running")
        await cable.cut()
        await farm.cancel(group)
        assert (await ended(farm, group)).status == "cancelled"
        await asyncio.sleep(2.0)
        assert started(farm, "gpu-2") == []
        await cable.plug()
        (attempt,) = await farm.settled(group)
        assert attempt.state == "interrupted"
        assert sim.audit_log.find("interrupted") is not None


# --- a backend that lives behind a cut network ----------------------------------------------------


async def test_picture_finished_behind_a_cut_network_is_adopted_while_the_job_waits(farm: Farm) -> None:
    async with cabled(farm, seconds=1.5) as cable:
        await farm.backend("gpu-2", seconds=30)
        await farm.runner(move_after_s=0.5, depth=1)
        await seen("gpu-1", "gpu-2")
        # Its only other backend is busy, so the moved job waits there.
        busy = await farm.submit("gpu-2", timeout_seconds=60)
        await farm.status_of(busy, "running")
        group = await submit(farm, timeout_seconds=60)
        await farm.status_of(group, "running")
        await cable.cut()
        moved = await farm.status_of(group, "queued")
        assert moved.backend_id == "gpu-2"
        await farm.sims["gpu-1"].wait_for("ended")
        await cable.plug()
        assert (await ended(farm, group)).status == "completed"
        (child,) = await farm.children(group)
        assert (child.backend_id, child.attempt_count) == ("gpu-1", 1)
        assert await attempts_of(farm, group) == [("gpu-1", "success", "")]
        assert len(started(farm, "gpu-2")) == 1
        await farm.cancel(busy)


async def test_prompt_that_still_runs_when_its_backend_is_back_is_stopped(farm: Farm) -> None:
    async with cabled(farm, seconds=20) as cable:
        await farm.backend("gpu-2", seconds=0.5)
        await farm.runner(move_after_s=0.5)
        await seen("gpu-1", "gpu-2")
        group = await submit(farm, timeout_seconds=60)
        await farm.status_of(group, "running")
        await cable.cut()
        assert (await ended(farm, group)).status == "completed"
        (child,) = await farm.children(group)
        assert child.backend_id == "gpu-2"
        await cable.plug()
        rows = await farm.settled(group)
        assert [(row.state, row.failure_class) for row in rows] == [("interrupted", "backend_lost"), ("success", "")]
        # It takes work again.
        later = await farm.submit("gpu-1", timeout_seconds=60)
        await farm.status_of(later, "running")
        await farm.cancel(later)


async def test_short_cut_moves_nothing(farm: Farm) -> None:
    async with cabled(farm, seconds=2.0) as cable:
        await farm.backend("gpu-2")
        await farm.runner(move_after_s=3.0)
        await seen("gpu-1", "gpu-2")
        group = await submit(farm, "gpu-1", "gpu-1", timeout_seconds=60)
        await both_there(farm, group)
        await cable.cut()
        await asyncio.sleep(1.0)
        await cable.plug()
        assert (await ended(farm, group)).status == "completed"
        assert await attempts_of(farm, group) == [("gpu-1", "success", "")] * 2
        assert started(farm, "gpu-2") == []


async def test_backend_whose_events_arrive_is_not_offline_when_its_answers_do_not(farm: Farm) -> None:
    sim = await farm.backend(seconds=4.0)
    await farm.backend("gpu-2")
    await farm.runner(move_after_s=0.8)
    await seen("gpu-1", "gpu-2")
    group = await submit(farm, timeout_seconds=60)
    await farm.status_of(group, "running")
    sim.fault("reset_http", count=0)
    await asyncio.sleep(2.5)
    (child,) = await farm.children(group)
    assert (child.status, child.backend_id) == ("running", "gpu-1")
    sim.clear_faults()
    assert (await ended(farm, group)).status == "completed"
    assert started(farm, "gpu-2") == []


# --- a bad day ------------------------------------------------------------------------------------


async def test_forty_jobs_on_four_backends_of_which_one_dies(farm: Farm) -> None:
    names = ("gpu-1", "gpu-2", "gpu-3", "gpu-4")
    for name in names:
        await farm.backend(name, seconds=0.15)
    await farm.runner(move_after_s=0.5)
    await seen(*names)
    group = await submit(farm, *[names[n % 4] for n in range(40)], timeout_seconds=60)

    async def some_done() -> bool:
        return (await farm.group(group)).completed_count >= 6

    await until(some_done)
    farm.sims["gpu-2"].crash()
    done = await ended(farm, group, 60)
    assert (done.status, done.completed_count) == ("completed", 40)
    prompts = started(farm)
    assert len(prompts) == len(set(prompts))
    successes = [row for row in await attempts_of(farm, group) if row[1] == "success"]
    assert len(successes) == 40
    # What was being sent when it died was not sent, or never arrived.
    apart = ("success", "not_sent", "uncertain", "never_accepted")
    lost = {row[2] for row in await attempts_of(farm, group) if row[1] not in apart}
    assert lost <= {"backend_lost", "unreachable"}
    reasons = await in_thread(_reasons)(group)
    assert reasons
    assert not [one for one in reasons if ".." in one]


def _reasons(group: JobGroup) -> list[str]:
    rows = group.events.filter(type="child_retrying")
    return [json.loads(row.frame)["reason"] for row in rows]
