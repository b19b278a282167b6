"""ComfyUI accepts a prompt and refuses some of its outputs: a warning, or a failure if the group
wants all.
"""

import json
from typing import Any

import pytest

from backends.simulator import Simulator
from jobgroups.domain.states import PartialOutputs, RetryScope
from jobgroups.models import Attempt, JobGroup
from tests.harness.farm import SOON_STUCK, Farm, until_row
from tests.harness.graphs import text_to_image
from tests.runner.test_retry_elsewhere import outcome

FAIL = PartialOutputs.FAIL
REFUSED = "ComfyUI refused a part of the workflow: "
NO_IMAGES = "node 10 (SaveImage): Required input is missing: images"
ANSWER_LOST = "node 10 (SaveImage): it was refused, and ComfyUI's answer was lost"
SPECIAL = "special.safetensors"


def one_of_two(**options: Any) -> dict[str, Any]:
    """Return a workflow whose second output lacks an input."""
    graph = text_to_image(**options)
    graph["10"] = {"class_type": "SaveImage", "inputs": {"filename_prefix": "second"}}
    return graph


def second_model() -> dict[str, Any]:
    """Return a workflow whose second output needs a model that not every backend has."""
    graph = text_to_image(steps=10)
    graph["10"] = {"class_type": "SaveImage", "inputs": {"filename_prefix": "second"}}
    graph["10"]["inputs"]["images"] = ["11", 0]
    inputs: dict[str, Any] = {"samples": ["5", 0], "vae": ["12", 2]}
    graph["11"] = {"class_type": "VAEDecode", "inputs": inputs}
    graph["12"] = {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": SPECIAL}}
    return graph


async def completed(farm: Farm, group: JobGroup) -> Any:
    assert (await farm.finished(group)).status == "completed"
    (child,) = await farm.children(group)
    return child


async def failed(farm: Farm, group: JobGroup) -> Any:
    """Wait for a group of one job that fails, and return the job. Its prompt was seen to end
    before.
    """
    child = await farm.failed(group)
    assert all(one.ended_at is not None for one in await farm.attempts(group))
    assert (child.status, child.outputs_json) == ("failed", None)
    assert (await farm.types(group)).count("group_complete") == 1
    return child


def ends(sim: Simulator) -> list[str]:
    """Return how prompts ended, by the backend's audit log."""
    return [one["outcome"] for one in sim.audit_log.entries if one["kind"] == "ended"]


async def test_refused_output_is_a_warning_with_node_and_cause(farm: Farm) -> None:
    await farm.start()
    group = await farm.submit(workflow=one_of_two())
    child = await completed(farm, group)
    warnings = [f"ComfyUI did not execute output {NO_IMAGES}"]
    assert json.loads(child.warnings_json) == warnings
    assert len(json.loads(child.outputs_json)["images"]) == 1
    (attempt,) = await farm.attempts(group)
    assert list(json.loads(attempt.node_errors_json)) == ["10"]
    assert json.loads(attempt.warnings_json) == warnings


async def test_complete_prompt_has_no_warning_and_causes_no_query(farm: Farm) -> None:
    sim = await farm.backend()
    sim.fault("lose_answer")
    # Every node leads to the output that is executed: no class needs to be looked up.
    sim.fault("status", count=0, route="/object_info")
    await farm.runner()
    group = await farm.submit(partial_outputs=FAIL, uses_partner_nodes=False)
    child = await completed(farm, group)
    assert child.warnings_json == "[]"
    assert "status" not in [one["name"] for one in sim.audit_log.entries if one["kind"] == "fault"]
    (attempt,) = await farm.attempts(group)
    assert attempt.node_errors_json == "{}"


async def test_refused_output_fails_the_job_when_the_group_wants_all(farm: Farm) -> None:
    sim = await farm.start(seconds=30.0)
    group = await farm.submit(workflow=one_of_two(), partial_outputs=FAIL, max_attempts=3)
    child = await failed(farm, group)
    assert child.error_message == REFUSED + NO_IMAGES
    assert (child.failure_class, child.error_type) == ("workflow_refused", "ValidationError")
    assert list(json.loads(child.error_details_json)["node_errors"]) == ["10"]
    (attempt,) = await farm.attempts(group)
    assert (attempt.state, attempt.stop_reason) == ("interrupted", "partly_refused")
    assert (attempt.failure_class, attempt.error_message) == (
        "workflow_refused",
        REFUSED + NO_IMAGES,
    )
    assert ends(sim) in (["interrupted"], [])
    assert attempt.ended_at <= child.completed_at


async def test_model_missing_for_one_output_is_found_elsewhere(farm: Farm) -> None:
    small = await farm.backend("gpu-1", seconds=30.0)
    both = (SPECIAL, "tiny_sd15.safetensors")
    await farm.backend("gpu-2", seconds=0.2, checkpoints=both)
    await farm.runner(seen=["gpu-1", "gpu-2"])
    group = await farm.submit(
        "gpu-1",
        workflow=second_model(),
        partial_outputs=FAIL,
        max_attempts=2,
        retry_elsewhere=RetryScope.ANY,
    )
    assert await outcome(farm, group) == [
        ("gpu-1", "interrupted", "node_or_model_missing"),
        ("gpu-2", "success", ""),
    ]
    child = await completed(farm, group)
    assert (child.backend_id, child.warnings_json) == ("gpu-2", "[]")
    # Its prompt at the first backend had ended before the other one was sent.
    ended = [one for one in small.audit_log.entries if one["kind"] in ("ended", "deleted")][-1]
    (sent,) = farm.sims["gpu-2"].prompts
    assert ended["time"] < sent["time"]


async def test_success_that_precedes_the_stop_is_no_result_when_the_group_wants_all(
    farm: Farm,
) -> None:
    sim = await farm.backend(seconds=0.3)
    sim.fault("interrupt_lost", count=0)
    await farm.runner()
    group = await farm.submit(workflow=one_of_two(), partial_outputs=FAIL)
    child = await failed(farm, group)
    assert (child.failure_class, child.error_message) == ("workflow_refused", REFUSED + NO_IMAGES)
    (attempt,) = await farm.attempts(group)
    assert (attempt.state, attempt.failure_class) == ("success", "workflow_refused")
    assert "child_completed" not in await farm.types(group)
    assert len(farm.recorded("started")) == 1


@pytest.mark.parametrize("state", ["running", "ended"])
async def test_lost_answer_leaves_a_warning_that_names_the_node(farm: Farm, state: str) -> None:
    sim = await farm.start(seconds=0.0 if state == "ended" else 1.5)
    sim.fault("lose_answer")
    group = await farm.submit(workflow=one_of_two())
    child = await completed(farm, group)
    assert json.loads(child.warnings_json) == [f"ComfyUI did not execute output {ANSWER_LOST}"]
    assert len(sim.prompts) == 1


@pytest.mark.parametrize(("seconds", "state"), [(0.0, "success"), (30.0, "interrupted")])
async def test_lost_answer_of_an_ended_prompt_fails_the_job_when_the_group_wants_all(
    farm: Farm, seconds: float, state: str
) -> None:
    sim = await farm.backend(seconds=seconds)
    sim.fault("lose_answer")
    await farm.runner()
    group = await farm.submit(workflow=one_of_two(), partial_outputs=FAIL)
    child = await failed(farm, group)
    assert (child.failure_class, child.error_message) == ("workflow_refused", REFUSED + ANSWER_LOST)
    (attempt,) = await farm.attempts(group)
    assert (attempt.state, attempt.failure_class) == (state, "workflow_refused")
    assert len(sim.prompts) == 1


@pytest.mark.parametrize(("crash", "end"), [(False, "stalled"), (True, "unreachable")])
async def test_prompt_that_cannot_be_stopped_delays_the_failure_for_a_bounded_time(
    farm: Farm, crash: bool, end: str
) -> None:
    sim = await farm.backend(seconds=60.0)
    sim.fault("interrupt_lost", count=0)
    await farm.runner(intervals=SOON_STUCK)
    group = await farm.submit(workflow=one_of_two(), partial_outputs=FAIL)
    if crash:
        await sim.wait_for("started")
        sim.crash()
    child = await farm.failed(group)
    assert (child.failure_class, child.error_message) == ("workflow_refused", REFUSED + NO_IMAGES)
    (attempt,) = await farm.attempts(group)
    assert (attempt.ended_at, attempt.failure_class) == (None, end)
    if crash:
        await sim.restart()
    else:
        sim.clear_faults()
    (attempt,) = await farm.settled(group)
    assert (attempt.state, attempt.failure_class) == ("lost" if crash else "interrupted", end)


BLOCKED = "ComfyUI did not execute node 11 (SaveImage): Execution Blocked: no face"


def blocked_output(steps: int = 4) -> dict[str, Any]:
    """Return a workflow of two outputs, the second one blocked with a message."""
    graph = text_to_image(steps=steps)
    graph["10"] = {"class_type": "TestBlock", "inputs": {"image": ["8", 0], "message": "no\nface"}}
    save = {"images": ["10", 0], "filename_prefix": "blocked"}
    graph["11"] = {"class_type": "SaveImage", "inputs": save}
    return graph


async def test_blocked_node_is_a_warning_with_its_message(farm: Farm) -> None:
    await farm.start()
    group = await farm.submit(workflow=blocked_output())
    assert json.loads((await completed(farm, group)).warnings_json) == [BLOCKED]
    (attempt,) = await farm.attempts(group)
    assert json.loads(attempt.warnings_json) == [BLOCKED]


async def test_blocked_node_is_a_warning_when_the_runner_dies_before_the_end(farm: Farm) -> None:
    # The message comes over the socket alone: the next runner has it from the attempt's row.
    sim = await farm.backend()
    sim.fault("stuck", step=5)
    first = await farm.runner()
    graph = blocked_output(steps=10)
    # Blocked before the long part, which is an output of its own.
    graph["10"]["inputs"]["image"] = ["12", 0]
    size = {"width": 64, "height": 64, "batch_size": 1, "color": 1}
    graph["12"] = {"class_type": "EmptyImage", "inputs": size}
    group = await farm.submit(workflow={"12": graph.pop("12"), **graph})
    await until_row(Attempt.objects.filter(child__group=group).exclude(warnings_json="[]"))
    await farm.kill(first)
    await farm.runner()
    sim.clear_faults()
    assert json.loads((await completed(farm, group)).warnings_json) == [BLOCKED]
