"""What a ComfyUI, its network and its other users do to a render, and what becomes of the child.

Each fault is one that a real ComfyUI showed (the traps in comfyui-protocol.md) or that networks show. After each
the same is asked: executions per prompt at most one, one end, and the sentence a person reads.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from backends.comfyui.protocol import ExecutionError
from backends.models import Backend
from jobgroups.models import JobGroup
from jobgroups.runner.intervals import Intervals
from tests.harness.factories import allow_writes
from tests.harness.farm import SCALE, Farm, in_thread, text_to_image, until

pytestmark = pytest.mark.django_db(transaction=True)


def executions(farm: Farm, name: str = "gpu-1") -> Counter[str]:
    """Return how often each prompt was started, by the backend's audit log."""
    entries = farm.sims[name].audit_log.entries
    return Counter(entry["prompt_id"] for entry in entries if entry["kind"] == "started")


async def completes_once(farm: Farm, group: object, within: float = 30.0) -> None:
    """Wait for the group's end: completed, each prompt executed once, one end told."""
    done = await farm.finished(group, within)  # type: ignore[arg-type]
    assert done.status == "completed"
    assert set(executions(farm).values()) == {1}
    types = await farm.types(done)
    assert types.count("child_completed") == done.total_count
    assert types.count("group_complete") == 1


async def test_a_lost_answer_is_looked_for_and_not_sent_again(farm: Farm) -> None:
    sim = await farm.backend(seconds=0.5)
    sim.fault("lose_answer", count=1)
    await farm.runner()
    await completes_once(farm, await farm.submit("gpu-1"))
    assert len(executions(farm)) == 1


async def test_a_500_that_queued_the_prompt_all_the_same_is_one_render(farm: Farm) -> None:
    sim = await farm.backend(seconds=0.5)
    sim.fault("prompt_500", count=1)
    await farm.runner()
    await completes_once(farm, await farm.submit("gpu-1"))
    assert len(executions(farm)) == 1


async def test_events_that_overtake_the_answer_lose_nothing(farm: Farm) -> None:
    sim = await farm.backend(seconds=0.2)
    sim.fault("delay_answer", count=1, seconds=1.0)
    await farm.runner()
    await completes_once(farm, await farm.submit("gpu-1"))
    assert len(executions(farm)) == 1


async def test_a_post_that_never_arrived_is_sent_again_under_a_new_id(farm: Farm) -> None:
    sim = await farm.backend(seconds=0.1)
    sim.fault("reset_http", count=1, route="/prompt", method="POST")
    await farm.runner()
    group = await farm.submit("gpu-1")
    await completes_once(farm, group)
    states = [row.state for row in await farm.attempts(group)]
    assert states == ["never_accepted", "success"]
    (child,) = await farm.children(group)
    assert child.uncounted_attempts == 1


async def test_a_post_that_lands_after_all_looks_is_removed_and_shows_no_second_result(farm: Farm) -> None:
    sim = await farm.backend(seconds=1.0)
    # The looks last 3 s at this scale; the killed sender's bytes arrive well after that.
    sim.fault("late_post", count=1, seconds=7.0)
    await farm.runner()
    group = await farm.submit("gpu-1", "gpu-1", "gpu-1", "gpu-1")
    done = await farm.finished(group, 40)
    assert done.status == "completed"

    late = next(r for r in await farm.attempts(group) if r.state == "never_accepted")
    kinds = await until(lambda: _kinds_of(farm, late.prompt_id, {"deleted", "interrupted", "ended"}), 20)
    assert kinds
    assert (await farm.types(group)).count("child_completed") == 4
    assert max(executions(farm).values()) == 1


async def _kinds_of(farm: Farm, prompt_id: str, wanted: set[str]) -> set[str]:
    entries = farm.sims["gpu-1"].audit_log.entries
    return {e["kind"] for e in entries if e.get("prompt_id") == prompt_id} & wanted


async def test_a_late_history_is_waited_for(farm: Farm) -> None:
    sim = await farm.backend(seconds=0.1)
    sim.fault("late_history_entry", count=1, seconds=0.3)
    await farm.runner()
    await completes_once(farm, await farm.submit("gpu-1"))


async def test_a_history_that_stays_empty_leaves_the_end_to_the_frames(farm: Farm) -> None:
    sim = await farm.backend(seconds=0.1)
    sim.fault("no_history", count=2)
    sim.fault("node_error", count=1, message="bad latent")
    await farm.runner(depth=1)
    group = await farm.submit("gpu-1", "gpu-1")
    await farm.finished(group)
    failed, completed = await farm.children(group)
    assert (failed.status, failed.error_message) == ("failed", "bad latent")
    assert completed.status == "completed"
    assert ".png" in completed.outputs_json


async def test_sockets_that_break_are_opened_again_and_old_prompts_still_heard(farm: Farm) -> None:
    sim = await farm.backend(seconds=2.0)
    await farm.runner()
    group = await farm.submit("gpu-1", "gpu-1", workflow=text_to_image(steps=20))
    await farm.status_of(group, "running")
    sim.fault("drop_sockets", at="now")

    async def progresses() -> bool:
        return (await farm.children(group))[0].progress > 60

    await until(progresses)
    await completes_once(farm, group)


@pytest.mark.parametrize("fault", ["stall_sockets", "deaf"])
async def test_silent_sockets_cost_lateness_and_no_render(farm: Farm, fault: str) -> None:
    sim = await farm.backend(seconds=0.3)
    await farm.runner()
    await completes_once(farm, await farm.submit("gpu-1"))
    sim.fault(fault, at="now")
    await completes_once(farm, await farm.submit("gpu-1", "gpu-1", "gpu-1"))


async def test_a_backend_that_forgets_fails_what_ran_and_gets_again_what_waited(farm: Farm) -> None:
    sim = await farm.backend(seconds=1.5)
    await farm.runner()
    group = await farm.submit("gpu-1", "gpu-1")
    await farm.status_of(group, "running")

    async def both_there() -> bool:
        return [a.state for a in await farm.attempts(group)] == ["running", "accepted"]

    await until(both_there)
    await sim.restart(down_s=0.5)
    await farm.finished(group)
    lost, kept = await farm.children(group)
    assert (lost.status, lost.error_type) == ("failed", "ConnectionError")
    assert "lost the prompt" in lost.error_message
    assert kept.status == "completed"
    assert [row.state for row in await farm.attempts(group)] == ["lost", "lost", "success"]


async def test_a_dead_worker_behind_healthy_http_is_suspected_then_counts_as_away(farm: Farm) -> None:
    sim = await farm.backend(seconds=0.1)
    await farm.runner(give_up_s=1.0)
    await completes_once(farm, await farm.submit("gpu-1"))
    sim.fault("worker_dead", at="now")
    group = await farm.submit("gpu-1")

    async def suspected() -> bool:
        row = await in_thread(Backend.objects.get)(pk="gpu-1")
        return "nothing runs" in row.status_reason

    await until(suspected, 4)
    await farm.finished(group, 20)
    (child,) = await farm.children(group)
    assert (child.status, child.error_type) == ("failed", "ConnectionError")
    assert "nothing runs" in child.error_message


async def test_somebody_at_the_machine_interrupts_and_the_child_says_so(farm: Farm) -> None:
    sim = await farm.backend(seconds=5)
    await farm.runner()
    group = await farm.submit("gpu-1")
    await farm.status_of(group, "running")
    sim.fault("interrupt", at="now")
    await farm.finished(group)
    (child,) = await farm.children(group)
    assert (child.status, child.error_type) == ("failed", "Interrupted")


async def test_somebody_deletes_our_waiting_prompt_and_it_is_sent_again(farm: Farm) -> None:
    sim = await farm.backend(seconds=1.5)
    await farm.runner()
    group = await farm.submit("gpu-1", "gpu-1")

    async def both_there() -> bool:
        return [a.state for a in await farm.attempts(group)] == ["running", "accepted"]

    await until(both_there)
    sim.fault("delete_pending", at="now")
    await completes_once(farm, group)
    assert [row.state for row in await farm.attempts(group)] == ["success", "lost", "success"]


async def test_a_lost_interrupt_is_repeated_until_the_end_is_seen(farm: Farm) -> None:
    sim = await farm.backend(seconds=20)
    sim.fault("interrupt_lost", count=2)
    await farm.runner()
    group = await farm.submit("gpu-1")
    await farm.status_of(group, "running")
    await farm.cancel(group)
    (row,) = await farm.settled(group)
    assert row.state == "interrupted"
    assert farm.kinds().count("interrupted") >= 3


async def test_a_prompt_hit_by_the_stop_of_ours_is_rendered_again(farm: Farm) -> None:
    sim = await farm.backend(seconds=0.6)
    # The flag rises when the first has ended and the second runs.
    sim.fault("interrupt_late", count=1, seconds=0.75)
    await farm.runner(intervals=replace(Intervals.scaled(SCALE), collateral_window=2.0))
    first = await farm.submit("gpu-1")
    second = await farm.submit("gpu-1")
    await farm.status_of(first, "running")

    async def both_there() -> bool:
        return [a.state for a in await farm.attempts(second)] == ["accepted"]

    await until(both_there)
    await farm.cancel(first)
    done = await farm.finished(second)
    assert done.status == "completed"
    states = [row.state for row in await farm.attempts(second)]
    assert states == ["interrupted", "success"]


async def test_a_node_that_cannot_be_stopped_keeps_its_place_until_it_ends(farm: Farm) -> None:
    sim = await farm.backend(seconds=1.5)
    sim.fault("uninterruptible", count=0)
    await farm.runner()
    group = await farm.submit("gpu-1")
    await farm.status_of(group, "running")
    await farm.cancel(group)
    later = await farm.submit("gpu-1")
    assert (await farm.finished(later)).status == "completed"
    (row,) = await farm.settled(group)
    started = (await farm.attempts(later))[0].created_at
    assert row.ended_at <= started


async def test_a_cancel_against_the_post_in_flight_removes_what_arrives(farm: Farm) -> None:
    sim = await farm.backend(seconds=10)
    sim.fault("delay_answer", count=1, seconds=1.0)
    await farm.runner()
    group = await farm.submit("gpu-1")
    await sim.wait_for("accepted")
    await farm.cancel(group)
    (row,) = await farm.settled(group)
    assert row.state == "interrupted"
    assert (await farm.group(group)).status == "cancelled"


async def test_an_end_that_races_a_timeout_wins(farm: Farm) -> None:
    sim = await farm.backend(seconds=1.0)
    # Its frames are lost, so the end is first seen by the look that precedes the timeout.
    await farm.runner(intervals=_deaf_timing())
    group = await farm.submit("gpu-1", timeout_seconds=2)
    await farm.status_of(group, "running")
    sim.fault("stall_sockets", at="now")
    done = await farm.finished(group)
    assert done.status == "completed"


def _deaf_timing() -> Intervals:
    return Intervals(lookup_interval=60.0, probe=0.2, reconnect_most=0.5)


async def test_a_real_end_is_found_at_once_when_the_backend_comes_back(farm: Farm) -> None:
    sim = await farm.backend(seconds=1.0)
    await farm.runner()
    group = await farm.submit("gpu-1")
    await farm.status_of(group, "running")
    sim.fault("refuse_connections", at="now", seconds=1.5)
    sim.fault("drop_sockets", at="now")
    await completes_once(farm, group)


ROUTES = ["hang_http", "reset_http", "html", "nonsense", "wrong_json", "redirect", "endless", "cut"]


@pytest.mark.parametrize("fault", ROUTES)
async def test_a_backend_that_answers_nonsense_is_away_with_a_reason_and_disturbs_no_other(
    farm: Farm, fault: str
) -> None:
    sick = await farm.backend("sick", seconds=0.1)
    await farm.backend("gpu-1", seconds=0.05)
    await farm.runner(give_up_s=600.0)
    sick.fault(fault, count=0)
    group = await farm.submit(*["gpu-1"] * 5)
    held = await farm.submit("sick")
    started = time.monotonic()
    assert (await farm.finished(group)).status == "completed"
    assert time.monotonic() - started < 6
    assert (await farm.group(held)).status == "running"

    async def shown() -> bool:
        row = await in_thread(Backend.objects.get)(pk="sick")
        return row.reachability == "offline" and bool(row.status_reason)

    if fault != "hang_http":  # found by its timeouts, which no scale shortens
        await until(shown, 15)
    sick.clear_faults()
    await farm.finished(held, 60)
    assert max(executions(farm, "sick").values()) == 1


async def test_forty_children_on_three_backends_on_a_bad_day(farm: Farm) -> None:
    for name in ("gpu-1", "gpu-2", "gpu-3"):
        await farm.backend(name, seconds=0.1)
    farm.sims["gpu-1"].fault("node_error", count=3, after=2)
    farm.sims["gpu-1"].fault("lose_answer", count=2, after=4)
    farm.sims["gpu-2"].fault("node_error", count=2, after=1)
    farm.sims["gpu-2"].fault("prompt_500", count=2, after=3)
    await farm.runner()
    names = [("gpu-1", "gpu-2", "gpu-3")[n % 3] for n in range(40)]
    group = await farm.submit(*names)
    await until(lambda: _completed(farm, group, 8))
    farm.sims["gpu-3"].fault("restart", at="now", down=1.0)
    farm.sims["gpu-2"].fault("drop_sockets", at="now")
    done = await farm.finished(group, 60)
    assert done.status == "partial_complete"
    assert 5 <= done.failed_count <= 6
    for name in ("gpu-1", "gpu-2", "gpu-3"):
        assert max(executions(farm, name).values()) == 1
    types = await farm.types(group)
    finals = Counter(t for t in types if t in ("child_completed", "child_failed"))
    assert finals.total() == 40
    assert types[-1] == "group_complete"


async def _completed(farm: Farm, group: object, count: int) -> bool:
    return (await farm.group(group)).completed_count >= count  # type: ignore[arg-type]


# --- what must never happen, each tried on purpose ------------------------------------------------


async def _sent_and_not_answered(farm: Farm, **fault: Any) -> JobGroup:
    """Submit a child whose POST arrives and is answered much later."""
    sim = farm.sims["gpu-1"]
    sim.fault("delay_answer", count=1, **{"seconds": 20.0, **fault})
    group = await farm.submit("gpu-1")
    await sim.wait_for("accepted")
    return group


async def test_the_intent_is_stored_before_anything_reaches_the_backend(farm: Farm) -> None:
    await farm.backend(seconds=2.0)
    await farm.runner(depth=1)
    group = await _sent_and_not_answered(farm, seconds=1.0)
    (sent,) = farm.sims["gpu-1"].prompts
    stored = [row.prompt_id for row in await farm.attempts(group)]
    assert stored == [sent["prompt_id"]]


async def test_an_intent_found_at_the_start_is_looked_for_and_not_sent_again(farm: Farm) -> None:
    await farm.backend(seconds=1.0)
    first = await farm.runner()
    group = await _sent_and_not_answered(farm)
    await farm.kill(first)
    assert [row.state for row in await farm.attempts(group)] == ["intent"]
    await farm.runner()
    await completes_once(farm, group)
    assert len(executions(farm)) == 1
    assert [row.state for row in await farm.attempts(group)] == ["success"]


async def test_a_post_that_lands_during_the_looks_is_one_render(farm: Farm) -> None:
    sim = await farm.backend(seconds=0.1)
    # The looks last 3 s at this scale.
    sim.fault("late_post", count=1, seconds=1.2)
    await farm.runner()
    group = await farm.submit("gpu-1")
    await completes_once(farm, group)
    assert [row.state for row in await farm.attempts(group)] == ["success"]


async def test_looks_that_were_not_answered_prove_no_absence(farm: Farm) -> None:
    sim = await farm.backend(seconds=0.1)
    # Absent at the first look; then nobody answers, and it lands when the 3 s would be over.
    sim.fault("late_post", count=1, seconds=4.2)
    sim.fault("reset_http", count=5, after=2, route="/history")
    await farm.runner()
    group = await farm.submit("gpu-1")
    await completes_once(farm, group)
    assert [row.state for row in await farm.attempts(group)] == ["success"]


async def test_a_prompt_that_lands_after_its_child_went_on_is_deleted_unstarted(farm: Farm) -> None:
    sim = await farm.backend(seconds=5.0)
    # Given up after 1 s, sent again, and while that one renders the first one lands.
    sim.fault("late_post", count=1, seconds=3.0)
    await farm.runner(intervals=replace(Intervals.scaled(SCALE), accept_timeout=1.0))
    group = await farm.submit("gpu-1")
    deleted = await sim.wait_for("deleted")
    late, _ = await farm.attempts(group)
    assert (late.prompt_id, late.state) == (deleted["prompt_id"], "never_accepted")
    await completes_once(farm, group)
    assert executions(farm)[late.prompt_id] == 0


async def test_an_end_that_a_look_just_misses_is_no_loss(farm: Farm) -> None:
    sim = await farm.backend(seconds=0.5)
    # No frame tells the end: it is looked for while it is in neither the queue nor the history.
    sim.fault("late_history_entry", count=1, seconds=0.6)
    await farm.runner(intervals=replace(Intervals.scaled(SCALE), lookup_interval=0.2, stop_retry=1.5))
    group = await farm.submit("gpu-1")
    await farm.status_of(group, "running")
    sim.fault("stall_sockets", at="now")
    await completes_once(farm, group)


async def test_an_error_frame_alone_ends_nothing(farm: Farm) -> None:
    await farm.backend(seconds=1.0)
    service = await farm.runner()
    group = await farm.submit("gpu-1", workflow=text_to_image(steps=10))
    await farm.status_of(group, "running")
    (driver,) = service._sessions["gpu-1"].session.attempts.drivers.values()
    # As where one of two outputs is blocked: the other one is rendered all the same.
    driver.on_event(ExecutionError(prompt_id=driver.prompt_id, exception_message="Execution Blocked"))
    await completes_once(farm, group)


async def test_a_cancelled_prompt_that_waits_is_deleted_and_never_starts(farm: Farm) -> None:
    sim = await farm.backend(seconds=0.1)
    await farm.runner()
    sim.fault("foreign_prompt", at="now", seconds=2.0)
    group = await farm.submit("gpu-1")

    async def accepted() -> bool:
        return [row.state for row in await farm.attempts(group)] == ["accepted"]

    await until(accepted)
    await farm.cancel(group)
    (row,) = await farm.settled(group, 10)
    assert row.state == "interrupted"
    assert row.started_at is None
    assert executions(farm)[row.prompt_id] == 0
    assert "interrupted" not in farm.kinds()


async def test_an_interrupt_that_comes_too_late_hits_no_stranger(farm: Farm) -> None:
    sim = await farm.backend(seconds=0.1)
    service = await farm.runner()
    group = await farm.submit("gpu-1")
    await completes_once(farm, group)
    (over,) = await farm.attempts(group)
    sim.fault("foreign_prompt", at="now", seconds=1.0)
    stranger = sim.prompts[-1]["prompt_id"]
    await sim.wait_for("started", prompt_id=stranger)
    await service._sessions["gpu-1"].session.context.interrupter.interrupt(over.prompt_id)
    assert (await sim.wait_for("ended", prompt_id=stranger))["outcome"] == "success"
    assert farm.kinds().count("interrupted") == 1


async def test_waiting_in_the_backends_queue_takes_nothing_of_the_timeout(farm: Farm) -> None:
    sim = await farm.backend(seconds=0.1)
    await farm.runner()
    sim.fault("foreign_prompt", at="now", seconds=2.0)
    group = await farm.submit("gpu-1", timeout_seconds=1)
    assert (await farm.finished(group)).status == "completed"


async def test_a_stop_asked_for_while_no_runner_lived_is_honoured_by_the_next(farm: Farm) -> None:
    await farm.backend(seconds=20)
    first = await farm.runner()
    group = await farm.submit("gpu-1")
    await farm.status_of(group, "running")
    await farm.kill(first)
    await farm.cancel(group)
    await farm.runner()
    (row,) = await farm.settled(group, 5)
    assert row.state == "interrupted"


async def test_a_database_that_takes_no_writes_for_a_while_costs_lateness_only(
    farm: Farm, caplog: pytest.LogCaptureFixture
) -> None:
    sim = await farm.backend(seconds=1.0)
    service = await farm.runner(threads=1)
    group = await farm.submit("gpu-1")
    await farm.status_of(group, "running")
    database = service._sessions["gpu-1"].session.context.database
    await database.run(allow_writes, allowed=False)
    await sim.wait_for("ended")

    def refused() -> int:
        return sum(record.levelno >= logging.WARNING for record in caplog.records)

    async def refused_often_or_over() -> bool:
        return refused() >= 4 or farm._tasks[service].done()

    await until(refused_often_or_over, 10)
    assert not farm._tasks[service].done()
    assert (await farm.group(group)).completed_at is None
    await database.run(allow_writes, allowed=True)
    await completes_once(farm, group)
    assert [row.state for row in await farm.attempts(group)] == ["success"]
