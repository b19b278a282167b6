"""Which interrupt ended a prompt: ours for another prompt, or a user's at the machine."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from jobgroups.runner.interrupts import Interrupts
from jobgroups.runner.timing import Timing
from tests.runner.conftest import SCALE, Farm, until


@pytest.mark.django_db(transaction=True)
async def test_user_interrupt_right_after_our_stop_ends_the_job(farm: Farm) -> None:
    sim = await farm.backend(seconds=3.0)
    await farm.runner(timing=replace(Timing.scaled(SCALE), struck_within=2.0))
    first = await farm.submit("gpu-1")
    second = await farm.submit("gpu-1")
    await farm.status_of(first, "running")

    async def both_there() -> bool:
        return [a.state for a in await farm.attempts(second)] == ["accepted"]

    await until(both_there)
    await farm.cancel(first)
    await farm.status_of(second, "running")
    sim.fault("interrupt", at="now")
    assert (await farm.finished(second)).status == "failed"
    (child,) = await farm.children(second)
    assert (child.error_type, child.attempt_count) == ("Interrupted", 1)
    assert [row.state for row in await farm.attempts(second)] == ["interrupted"]
    assert [row.state for row in await farm.attempts(first)] == ["interrupted"]


def sent(*targets: str) -> Interrupts:
    """Return the memory of a session that has just sent an interrupt for each target."""
    interrupts = Interrupts()
    for target in targets:
        with interrupts.sending(target):
            pass
    return interrupts


def used(interrupts: Interrupts, prompt_id: str, after: float = 0.0) -> bool:
    moment = time.monotonic() + after
    return interrupts.use(prompt_id, since=moment - 2.0, until=moment)


def test_interrupt_whose_target_completed_ends_one_other_prompt() -> None:
    interrupts = sent("target")
    assert used(interrupts, "next")
    assert not used(interrupts, "after next")


def test_interrupt_that_ended_its_target_ends_no_other_prompt() -> None:
    interrupts = sent("target")
    interrupts.target_ended("target")
    assert not used(interrupts, "next")


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
