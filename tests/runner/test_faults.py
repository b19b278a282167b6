"""Faults that a real ComfyUI or a network has shown: each prompt is executed at most once and ends
once.
"""

import json
import logging
from dataclasses import replace
from typing import Any

import pytest

from backends.models import Backend
from jobgroups.database import threads
from jobgroups.domain.clock import now
from jobgroups.domain.newest import Newest
from jobgroups.models import AbandonedPrompt, JobGroup
from jobgroups.runner.intervals import Intervals
from tests.harness.factories import allow_writes
from tests.harness.farm import SCALE, SOON_STUCK, Farm, both_versions, in_thread, until, until_row
from tests.harness.graphs import text_to_image


async def completes_once(farm: Farm, group: JobGroup, *states: str) -> None:
    """Wait for the group's end: completed by attempts in these states, each prompt executed once,
    one end sent.
    """
    done = await farm.finished(group)
    assert done.status == "completed"
    prompts = farm.recorded("started", "gpu-1")
    assert len(prompts) == len(set(prompts)) > 0
    types = await farm.types(done)
    assert types.count("child_completed") == done.total_count
    assert types.count("group_complete") == 1
    assert not states or await farm.states(group) == [*states]


@pytest.mark.parametrize(
    ("seconds", "faults", "changes", "states"),
    [
        (0.3, {"lose_answer": {}}, {}, ["success"]),
        (0.3, {"prompt_500": {}}, {}, ["success"]),
        (0.3, {"delay_answer": {"seconds": 1.0}}, {}, ["success"]),
        (0.3, {"late_history_entry": {"seconds": 0.3}}, {}, ["success"]),
        (0.1, {"late_post": {"seconds": 1.2}}, {}, ["success"]),
        (
            0.2,
            {
                "prompt_500": {},
                "status": {"status": 503, "route": "/history", "method": "GET", "count": 2},
            },
            {},
            ["success"],
        ),
        (
            0.0,
            {
                "status": {
                    "status": 502,
                    "body": "Bad Gateway",
                    "route": "/prompt",
                    "method": "POST",
                    "count": 2,
                }
            },
            {"accept_timeout": 1.0},
            ["never_accepted", "never_accepted", "success"],
        ),
        (0.2, {"other_500": {"queued": True}}, {}, ["success"]),
        (0.2, {"other_500": {}}, {"accept_timeout": 1.0}, ["never_accepted", "success"]),
        (1.0, {"other_prompt_id": {}}, {"accept_timeout": 1.0}, ["success"]),
    ],
)
async def test_prompt_with_an_odd_or_lost_answer_is_rendered_once(
    farm: Farm,
    seconds: float,
    faults: dict[str, dict[str, Any]],
    changes: dict[str, float],
    states: list[str],
) -> None:
    sim = await farm.backend(seconds=seconds)
    for fault, options in faults.items():
        sim.fault(fault, **options)
    await farm.runner(intervals=replace(Intervals.scaled(SCALE), **changes))
    group = await farm.submit("gpu-1")
    await completes_once(farm, group, *states)
    assert farm.recorded("started") == [(await farm.attempts(group))[-1].prompt_id]


async def test_a_prompt_is_not_absent_while_no_lookup_succeeds(farm: Farm) -> None:
    sim = await farm.backend(seconds=0.1)
    sim.fault("late_post", seconds=60)
    failed = sim.fault("reset_http", count=7, after=2, route="/history")
    await farm.runner()
    group = await farm.submit("gpu-1")
    await until(lambda: failed.left == 0)
    # The first of these look-ups is over: the prompt is absent again.
    await farm.looked_up(2, "/history")
    (attempt,) = await farm.attempts(group)
    uncertain_for = (now() - attempt.uncertain_since).total_seconds()
    assert uncertain_for > Intervals.scaled(SCALE).accept_timeout
    sim.clear_faults("late_post")
    await completes_once(farm, group, "success")


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


@pytest.mark.parametrize(("fault", "version"), [("stall_sockets", "0.3.64"), ("deaf", "0.33.0")])
async def test_silent_sockets_cost_lateness_and_no_render(
    farm: Farm, fault: str, version: str
) -> None:
    sim = await farm.start(seconds=0.3, version=version)
    await completes_once(farm, await farm.submit("gpu-1"))
    sim.fault(fault, at="now")
    await completes_once(farm, await farm.submit("gpu-1", "gpu-1", "gpu-1"))


async def test_a_backend_that_forgets_fails_what_ran_and_gets_again_what_waited(farm: Farm) -> None:
    sim = await farm.start()
    sim.fault("stuck")
    group = await farm.running("gpu-1", "gpu-1")
    await farm.in_states(group, "running", "accepted")
    await sim.restart(down_s=0.5)
    await farm.finished(group)
    lost, kept = await farm.children(group)
    assert (lost.status, lost.error_type) == ("failed", "ConnectionError")
    assert "lost the prompt" in lost.error_message
    assert kept.status == "completed"
    assert await farm.states(group) == ["lost", "lost", "success"]


async def test_a_dead_worker_behind_healthy_http_is_suspected_then_counts_as_away(
    farm: Farm,
) -> None:
    sim = await farm.backend(seconds=0.1)
    await farm.runner(give_up_s=1.0, intervals=replace(SOON_STUCK, suspect_after=0.5))
    await completes_once(farm, await farm.submit("gpu-1"))
    sim.fault("worker_dead", at="now")
    group = await farm.submit("gpu-1")
    await until_row(Backend.objects.filter(status_reason__contains="nothing runs"))
    child = await farm.failed(group)
    assert (child.status, child.error_type) == ("failed", "ConnectionError")
    assert "nothing runs" in child.error_message


async def test_somebody_deletes_our_waiting_prompt_and_it_is_sent_again(farm: Farm) -> None:
    sim = await farm.start()
    sim.fault("stuck")
    group = await farm.submit("gpu-1", "gpu-1")
    await farm.in_states(group, "running", "accepted")
    sim.fault("delete_pending", at="now")
    sim.clear_faults("stuck")
    await completes_once(farm, group, "success", "lost", "success")


@pytest.mark.parametrize(
    ("version", "waits"),
    [("0.3.56", "stop_retry"), ("0.3.57", "targeted_retry"), ("0.33.0", "targeted_retry")],
)
async def test_a_lost_interrupt_is_repeated_until_the_end_is_seen(
    farm: Farm, version: str, waits: str
) -> None:
    sim = await farm.backend(seconds=600, version=version)
    sim.fault("interrupt_lost", count=2)
    # Only a repetition after the right pause ends the prompt.
    await farm.runner(
        intervals=replace(Intervals(stop_retry=300.0, targeted_retry=300.0), **{waits: 0.1})
    )
    group = await farm.running("gpu-1")
    await farm.cancel(group)
    (row,) = await farm.settled(group)
    assert row.state == "interrupted"
    assert farm.kinds().count("interrupted") >= 3


@pytest.mark.parametrize("history_delay", [0.0, 2.0])
async def test_a_prompt_hit_by_the_stop_of_ours_is_rendered_again(
    farm: Farm, history_delay: float
) -> None:
    sim = await farm.backend()
    sim.fault("stuck")
    intervals = replace(
        Intervals.scaled(SCALE), collateral_window=60.0, history_grace=60.0, stalled_after=60.0
    )
    await farm.runner(intervals=intervals)
    first = await farm.submit("gpu-1")
    second = await farm.submit("gpu-1")
    await farm.status_of(first, "running")
    await farm.in_states(second, "accepted")
    (stopped,), (hit,) = await farm.attempts(first), await farm.attempts(second)
    sim.fault("interrupt_lost", count=0, prompt_id=stopped.prompt_id)
    if history_delay:
        sim.fault("slow_http", count=0, route=f"/history/{hit.prompt_id}", seconds=history_delay)
    await farm.cancel(first)
    await sim.wait_for("interrupted", target=stopped.prompt_id)
    # Its flag rises when the first has ended and the second runs.
    sim.clear_faults("stuck")
    sim.fault("stuck")
    await sim.wait_for("started", prompt_id=hit.prompt_id)
    sim.fault("interrupt", at="now")
    assert (await farm.finished(second)).status == "completed"
    assert await farm.states(second) == ["interrupted", "success"]


async def test_next_prompt_is_sent_before_a_stop_ends_if_the_stop_cannot_hit_it(farm: Farm) -> None:
    # An old ComfyUI, a new one, and one whose jobs do not answer, as after a downgrade.
    versions = {"old": "0.3.64", "new": "0.33.0", "downgraded": "0.33.0"}
    for name, version in versions.items():
        sim = await farm.backend(name, version=version)
        sim.fault("uninterruptible", count=0)
        sim.fault("stuck", interruptible=False)
    farm.sims["downgraded"].fault("status", count=0, route="/jobs", status=404, body="")
    await farm.runner(intervals=replace(Intervals.scaled(SCALE), stalled_after=60.0))
    first = {name: await farm.running(name) for name in versions}
    for group in first.values():
        await farm.cancel(group)
    for sim in farm.sims.values():
        await sim.wait_for("interrupted")
    later = {name: await farm.submit(name) for name in versions}
    await farm.in_states(later["new"], "accepted")
    await farm.dispatched()
    for sim in farm.sims.values():
        sim.clear_faults("stuck")
    for name in versions:
        assert (await farm.finished(later[name])).status == "completed"
        (stopped,), (sent,) = await farm.settled(first[name]), await farm.attempts(later[name])
        log = farm.sims[name].audit_log.entries
        entries = [(one["kind"], one.get("target") or one.get("prompt_id")) for one in log]
        # The GPU is not idle until the next prompt is sent.
        is_early = entries.index(("accepted", sent.prompt_id)) < entries.index(
            ("ended", stopped.prompt_id)
        )
        assert is_early == (name == "new")
        assert ("interrupted", stopped.prompt_id) in entries
        assert ("interrupted", sent.prompt_id) not in entries


@both_versions
async def test_a_cancel_against_the_post_in_flight_removes_what_arrives(
    farm: Farm, version: str
) -> None:
    sim = await farm.backend(seconds=600, version=version)
    sim.fault("delay_answer", seconds=60)
    await farm.runner()
    group = await farm.submit("gpu-1")
    await sim.wait_for("accepted")
    await farm.cancel(group)
    sim.clear_faults()
    (row,) = await farm.settled(group)
    assert row.state == "interrupted"
    assert (await farm.group(group)).status == "cancelled"


async def _sent_and_not_answered(farm: Farm) -> JobGroup:
    """Submit a child whose POST arrives and is answered much later."""
    sim = farm.sims["gpu-1"]
    sim.fault("delay_answer", seconds=60)
    group = await farm.submit("gpu-1")
    await sim.wait_for("accepted")
    return group


async def test_the_intent_is_stored_before_anything_reaches_the_backend(farm: Farm) -> None:
    sim = await farm.backend()
    await farm.runner(depth=1)
    group = await _sent_and_not_answered(farm)
    (sent,) = sim.prompts
    stored = [row.prompt_id for row in await farm.attempts(group)]
    assert stored == [sent["prompt_id"]]
    sim.clear_faults()


async def test_an_intent_found_at_the_start_is_looked_for_and_not_sent_again(farm: Farm) -> None:
    await farm.backend(seconds=0.1)
    first = await farm.runner()
    group = await _sent_and_not_answered(farm)
    await farm.kill(first)
    assert await farm.states(group) == ["intent"]
    await farm.runner()
    await completes_once(farm, group, "success")
    assert len(farm.recorded("started")) == 1


async def test_a_prompt_that_lands_after_its_child_went_on_is_deleted_unstarted(farm: Farm) -> None:
    sim = await farm.backend()
    # Given up after 1 s, sent again, and while that one renders the first one lands.
    sim.fault("reset_http", route="/prompt", method="POST")
    sim.fault("stuck")
    await farm.runner(intervals=replace(Intervals.scaled(SCALE), accept_timeout=1.0))
    group = await farm.submit("gpu-1")
    await farm.in_states(group, "never_accepted", "running")
    late, _ = await farm.attempts(group)
    await farm.land(late)
    deleted = await sim.wait_for("deleted")
    assert deleted["prompt_id"] == late.prompt_id
    sim.clear_faults("stuck")
    await completes_once(farm, group)
    assert late.prompt_id not in farm.recorded("started")


@both_versions
async def test_a_cancelled_prompt_that_waits_is_deleted_and_never_starts(
    farm: Farm, version: str
) -> None:
    sim = await farm.start(seconds=0.1, version=version)
    sim.fault("foreign_prompt", at="now", seconds=600.0)
    group = await farm.submit("gpu-1")
    await farm.in_states(group, "accepted")
    await farm.cancel(group)
    (row,) = await farm.settled(group)
    assert row.state == "interrupted"
    assert row.started_at is None
    assert row.prompt_id not in farm.recorded("started")
    assert "interrupted" not in farm.kinds()


@both_versions
async def test_an_interrupt_that_comes_too_late_hits_no_stranger(farm: Farm, version: str) -> None:
    sim = await farm.backend(seconds=0.1, version=version)
    service = await farm.runner()
    group = await farm.submit("gpu-1")
    await completes_once(farm, group)
    (over,) = await farm.attempts(group)
    sim.fault("foreign_prompt", at="now", seconds=1.0)
    stranger = sim.prompts[-1]["prompt_id"]
    await sim.wait_for("started", prompt_id=stranger)
    await service._sessions["gpu-1"].context.interrupter.interrupt(over.prompt_id)
    assert (await sim.wait_for("ended", prompt_id=stranger))["outcome"] == "success"
    assert {"interrupted", "cancelled"} & set(farm.kinds())


@pytest.mark.parametrize("broken", ["/queue", "/jobs"])
async def test_prompt_is_looked_up_and_stopped_as_a_job_or_as_before(
    farm: Farm, broken: str
) -> None:
    sim = await farm.backend(seconds=600, version="0.33.0")
    # As after a downgrade: an older ComfyUI has no jobs.
    sim.fault("status", count=0, route=broken, status=404, body="")
    await farm.runner()
    group = await farm.running("gpu-1")
    await farm.cancel(group)
    (row,) = await farm.settled(group)
    assert row.state == "interrupted"
    assert ("cancelled" in farm.kinds()) == (broken == "/queue")


async def test_a_stop_asked_for_while_no_runner_lived_is_honoured_by_the_next(farm: Farm) -> None:
    await farm.backend(seconds=60)
    first = await farm.runner()
    group = await farm.running("gpu-1")
    await farm.kill(first)
    await farm.cancel(group)
    await farm.runner()
    (row,) = await farm.settled(group)
    assert row.state == "interrupted"


async def test_a_database_that_takes_no_writes_for_a_while_costs_lateness_only(
    farm: Farm, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "_logged", Newest(100, seconds=0.0))  # each is logged
    sim = await farm.backend()
    sim.fault("stuck")
    service = await farm.runner(threads=1)
    group = await farm.running("gpu-1")
    database = service._sessions["gpu-1"].context.database
    await database.run(allow_writes, allowed=False)
    sim.clear_faults("stuck")
    await sim.wait_for("ended")

    def refused() -> int:
        return sum(record.levelno >= logging.WARNING for record in caplog.records)

    await until(lambda: refused() >= 4 or farm._tasks[service].done())
    assert not farm._tasks[service].done()
    assert (await farm.group(group)).completed_at is None
    await database.run(allow_writes, allowed=True)
    await completes_once(farm, group, "success")


#: An uncertain prompt is looked up for a second.
QUICK = replace(Intervals.scaled(SCALE), accept_timeout=1.0)

#: Answers that the same prompt gets again: the fault, its options, what the user reads of it, and
#: the failure class.
REPEATED: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "redirect": (
        "redirect",
        {"to": "https://ann:pw@sso.example/in?token=x"},
        "(302) to https://sso",
        "unreachable",
    ),
    "404": (
        "status",
        {"status": 404, "body": "no such route"},
        '404: "no such route"',
        "unreachable",
    ),
    "500": (
        "status",
        {"status": 500, "body": "no such key"},
        '500: "no such key"',
        "workflow_refused",
    ),
}


def renamed(**inputs: Any) -> dict[str, Any]:
    """Return a workflow with a node of a class that ComfyUI 0.14 and later have under another name."""
    loader = {"class_type": "T2IAdapterLoader", "inputs": inputs}
    return {**text_to_image(), "10": loader}


@pytest.mark.parametrize(
    ("version", "failure"), [("0.3.64", "cuda_fatal"), ("0.33.0", "out_of_memory")]
)
async def test_tips_of_comfyui_tell_exhausted_memory_from_a_broken_gpu(
    farm: Farm, version: str, failure: str
) -> None:
    sim = await farm.backend(version=version)
    sim.fault(
        "node_error", type="torch.AcceleratorError", message="hipErrorOutOfMemory: out of memory"
    )
    await farm.runner()
    group = await farm.submit("gpu-1")
    child = await farm.failed(group)
    assert (child.failure_class, child.error_message) == (
        failure,
        "hipErrorOutOfMemory: out of memory",
    )


async def test_exception_in_comfyui_is_a_refusal_after_one_lookup(farm: Farm) -> None:
    await farm.start(version="0.33.0")
    broken = await farm.submit("gpu-1", workflow=renamed())
    behind = await farm.submit("gpu-1")
    child = await farm.failed(broken)
    assert (await farm.finished(behind)).status == "completed"
    assert await farm.states(broken) == ["refused"]
    assert (child.failure_class, child.error_type) == ("workflow_refused", "ValidationError")
    assert "500 Internal Server Error Server got itself in trouble" in child.error_message
    details = json.loads(child.error_details_json)
    assert (details["status"], details["answer"]) == (
        500,
        "500 Internal Server Error Server got itself in trouble",
    )


async def test_renamed_class_without_meta_is_rendered(farm: Farm) -> None:
    """ComfyUI reads ``_meta`` of a node whose class it renames."""
    await farm.start(version="0.33.0")
    given = renamed(t2i_adapter_name="x.safetensors")
    group = await farm.submit("gpu-1", workflow=given)
    await completes_once(farm, group)
    assert json.loads((await farm.group(group)).workflow_json) == given


@pytest.mark.parametrize("answer", REPEATED)
async def test_answer_of_no_comfyui_is_a_refusal_the_second_time(farm: Farm, answer: str) -> None:
    fault, options, said, failure = REPEATED[answer]
    sim = await farm.backend()
    sim.fault(fault, route="/prompt", method="POST", count=0, **options)
    first = await farm.runner(intervals=QUICK)
    group = await farm.submit("gpu-1")
    await farm.in_states(group, "uncertain")
    # The answer is stored: a restart between the two answers does not lose the count.
    await farm.kill(first)
    await farm.runner(intervals=QUICK)
    child = await farm.failed(group)
    old, refused = await farm.attempts(group)
    assert (old.state, refused.state) == ("never_accepted", "refused")
    assert (child.status, child.failure_class) == ("failed", failure)
    assert await in_thread(AbandonedPrompt.objects.count)() == 2
    assert said in child.error_message
    assert said in old.error_message
    assert "token" not in child.error_message
    assert "pw" not in child.error_message
    assert farm.kinds().count("accepted") == 0
