"""``stall_seconds``: a job ends when ComfyUI has sent no event of its prompt for so long."""

import asyncio
import json

import pytest

from tests.harness.farm import Farm, in_thread
from tests.harness.graphs import Graph, sampler

pytestmark = pytest.mark.django_db(transaction=True)


def silent(seconds: float) -> Graph:
    """Return a workflow with a node that sends no event for some seconds."""
    graph = sampler(steps=1)
    graph["3"] = {"class_type": "TestSlow", "inputs": {"image": ["1", 0], "seconds": seconds, "interruptible": True}}
    graph["2"]["inputs"]["images"] = ["3", 0]
    return graph


async def test_job_without_an_event_for_stall_seconds_times_out(farm: Farm) -> None:
    sim = await farm.backend()
    sim.fault("stuck", step=8)
    await farm.runner()
    # Seven steps take longer than the limit.
    graph = sampler(steps=8, delay=0.4)
    group = await farm.submit(workflow=graph, timeout_seconds=None, stall_seconds=2)
    await farm.finished(group)
    (child,) = await farm.children(group)
    assert (child.status, child.failure_class) == ("timeout", "timeout")
    assert child.error_message == "Stalled: ComfyUI sent no event of it for 2 s"
    assert json.loads(child.error_details_json)["phase"] == "stalled"
    (attempt,) = await farm.settled(group)
    assert (attempt.state, attempt.error_message) == ("timeout", child.error_message)
    assert 4.5 < (attempt.stop_requested_at - attempt.started_at).total_seconds() < 10
    event = await in_thread(group.events.get)(type="child_timeout")
    assert json.loads(event.frame)["timeout_seconds"] is None


async def test_timeout_seconds_counts_beside_stall_seconds(farm: Farm) -> None:
    await farm.start()
    group = await farm.submit(workflow=sampler(steps=20, delay=0.2), timeout_seconds=1, stall_seconds=3)
    await farm.finished(group)
    (child,) = await farm.children(group)
    assert (child.status, child.error_message) == ("timeout", "Timed out after 1 s")


@pytest.mark.parametrize("what", ["runner", "socket"])
async def test_stall_counts_from_the_moment_at_which_events_are_received_again(farm: Farm, what: str) -> None:
    sim = await farm.backend()
    first = await farm.runner()
    group = await farm.running(workflow=silent(3.2), timeout_seconds=None, stall_seconds=2)
    if what == "runner":
        await farm.kill(first)
        await asyncio.sleep(2.2)
        await farm.runner()
    else:
        await asyncio.sleep(1.5)
        sim.fault("drop_sockets", at="now")
    assert (await farm.finished(group)).status == "completed"
