"""Which interrupt ended a prompt: ours for another prompt, or a user's at the machine."""

import time
from dataclasses import replace
from typing import Any

from backends.models import Backend
from jobgroups.queries import groups
from jobgroups.runner.interrupts import InterruptLog
from jobgroups.runner.intervals import Intervals
from tests.harness.farm import SCALE, Farm, both_versions, in_thread, until, until_row

#: One stop request, since a repeated one may end another prompt; the next is in its window, however
#: slow the test is.
ONE_STOP = replace(
    Intervals.scaled(SCALE), stop_retry=300.0, targeted_retry=300.0, collateral_window=60.0
)


@both_versions
async def test_user_interrupt_right_after_our_stop_ends_the_job(farm: Farm, version: str) -> None:
    sim = await farm.backend(version=version)
    sim.fault("stuck", count=0)
    await farm.runner(intervals=ONE_STOP)
    first = await farm.submit("gpu-1")
    second = await farm.submit("gpu-1")
    await farm.status_of(first, "running")
    await farm.in_states(second, "accepted")
    await farm.cancel(first)
    await farm.status_of(second, "running")
    sim.fault("interrupt", at="now")
    child = await farm.failed(second)
    assert (child.error_type, child.attempt_count) == ("Interrupted", 1)
    assert await farm.states(second) == ["interrupted"]
    assert await farm.states(first) == ["interrupted"]


async def test_old_comfyui_is_interrupted_while_only_prompts_of_ours_are_there(farm: Farm) -> None:
    versions = {"old": "0.3.56", "unreadable": "unreadable"}
    for name, version in versions.items():
        (await farm.backend(name, version=version)).fault("stuck")
    await farm.runner(intervals=ONE_STOP)
    firsts = [await farm.running(name) for name in versions]
    seconds = [await farm.submit(name) for name in versions]
    for first, second in zip(firsts, seconds, strict=True):
        await farm.in_states(second, "accepted")
        await farm.cancel(first)
    for first, second in zip(firsts, seconds, strict=True):
        (row,) = await farm.settled(first)
        assert (row.state, row.error_message) == ("interrupted", "Cancelled")
        assert (await farm.finished(second)).status == "completed"
        assert await farm.states(second) == ["success"]
    assert all(farm.kinds(name).count("interrupted") == 1 for name in versions)


async def test_old_comfyui_is_not_interrupted_while_a_foreign_prompt_waits(farm: Farm) -> None:
    sim = await farm.start(version="0.3.56")
    sim.fault("stuck")
    group = await farm.running("gpu-1")
    sim.fault("foreign_prompt", at="now", seconds=0.1)
    foreign = sim.prompts[-1]["prompt_id"]
    await farm.cancel(group)
    why = "ComfyUI 0.3.56 is not known to stop one prompt by its id, and 1 prompt of other clients"
    await until(lambda: noted(farm, group, why))
    assert (await farm.children(group))[0].status == "cancelled"
    sim.clear_faults("stuck")
    await sim.wait_for("ended", prompt_id=foreign)
    assert sim.audit_log.find("interrupted") is None
    (row,) = await farm.settled(group)
    assert (row.state, row.error_message) == ("success", None)
    await until_row(Backend.objects.filter(status_reason=""))


async def test_old_comfyui_is_interrupted_once_no_foreign_prompt_waits(farm: Farm) -> None:
    sim = await farm.start(seconds=600.0, version="0.3.56")
    group = await farm.running("gpu-1")
    sim.fault("foreign_prompt", at="now", prompts=2)
    await farm.cancel(group)
    await until(lambda: noted(farm, group, "2 prompts of other clients"))
    sim.fault("delete_pending", at="now")
    (row,) = await farm.settled(group)
    assert (row.state, row.error_message) == ("interrupted", "Cancelled")
    await until_row(Backend.objects.filter(status_reason=""))


async def noted(farm: Farm, group: Any, why: str) -> bool:
    """Whether job and backend say why the stopped prompt still renders."""
    (child,) = await farm.children(group)
    detail = await in_thread(groups.child_detail)(group.id, child.id)
    note = detail["attempts"][0]["left_running"] or ""
    is_noted = note.startswith("It still renders: ") and why in note
    return is_noted and why in (await farm.row()).status_reason


def sent(*targets: str) -> InterruptLog:
    """Return the memory of a session that has just sent an interrupt for each target."""
    interrupts = InterruptLog()
    for target in targets:
        with interrupts.sending(target):
            pass
    return interrupts


def used(interrupts: InterruptLog, prompt_id: str, after: float = 0.0) -> bool:
    moment = time.monotonic() + after
    return interrupts.use(prompt_id, since=moment - 2.0, until=moment)


def test_repeated_interrupt_may_end_its_target_and_one_other_prompt() -> None:
    interrupts = sent("target", "target")
    # The end is reported by the driver and by the history.
    interrupts.target_ended("target")
    interrupts.target_ended("target")
    assert used(interrupts, "next")
    assert not used(interrupts, "after next")


def test_interrupt_ends_no_prompt_that_ended_before_it_or_long_after() -> None:
    interrupts = sent("target")
    assert not used(interrupts, "next", after=-1.0)
    assert not used(interrupts, "next", after=3.0)
    assert not used(interrupts, "target")
    assert interrupts.targets("next", since=0.0, until=time.monotonic()) == {"target"}
