"""Answers to ``POST /prompt`` that neither accept nor refuse the prompt in ComfyUI's form."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from jobgroups.models import JobGroup
from jobgroups.runner.intervals import Intervals
from tests.harness.farm import SCALE, Farm, text_to_image, until
from tests.runner.test_faults import completes_once, executions

pytestmark = pytest.mark.django_db(transaction=True)

#: An uncertain prompt is looked up for a second.
QUICK = replace(Intervals.scaled(SCALE), accept_timeout=1.0)

#: Answers that the same prompt gets again: the fault, its options, and what the user reads of it.
REPEATED: dict[str, tuple[str, dict[str, Any], str]] = {
    "redirect": ("redirect", {"to": "https://ann:pw@sso.example/in?token=x"}, "(302) to https://sso"),
    "page": ("html", {}, "200 without a prompt_id: a web page"),
    "json": ("wrong_json", {}, 'prompt_id: "["something", {"else": 1}]"'),
    "404": ("status", {"status": 404, "body": "no such route"}, '404: "no such route"'),
}


def renamed(**inputs: Any) -> dict[str, Any]:
    """Return a workflow with a node of a class that ComfyUI 0.14 and later have under another name."""
    loader = {"class_type": "T2IAdapterLoader", "inputs": inputs}
    return {**text_to_image(), "10": loader}


async def states(farm: Farm, group: JobGroup) -> list[str]:
    return [row.state for row in await farm.attempts(group)]


async def test_exception_in_comfyui_is_a_refusal_after_one_lookup(farm: Farm) -> None:
    await farm.backend(version="0.33.0")
    await farm.runner()
    broken = await farm.submit("gpu-1", workflow=renamed())
    behind = await farm.submit("gpu-1")
    # Today's five tries took 16 s at this scale.
    assert (await farm.finished(broken, 4)).status == "failed"
    assert (await farm.finished(behind, 4)).status == "completed"
    assert await states(farm, broken) == ["refused"]
    (child,) = await farm.children(broken)
    assert (child.failure_class, child.error_type) == ("workflow_refused", "ValidationError")
    assert "500 Internal Server Error Server got itself in trouble" in child.error_message
    details = json.loads(child.error_details_json)
    assert (details["status"], details["answer"]) == (500, "500 Internal Server Error Server got itself in trouble")


async def test_renamed_class_without_meta_is_rendered(farm: Farm) -> None:
    """ComfyUI reads ``_meta`` of a node whose class it renames."""
    await farm.backend(version="0.33.0")
    await farm.runner()
    given = renamed(t2i_adapter_name="x.safetensors")
    group = await farm.submit("gpu-1", workflow=given)
    await completes_once(farm, group)
    assert json.loads((await farm.group(group)).workflow_json) == given


async def test_500_that_queued_is_no_refusal_while_no_lookup_succeeds(farm: Farm) -> None:
    sim = await farm.backend(seconds=0.2)
    sim.fault("prompt_500")
    sim.fault("status", status=503, route="/history", method="GET", count=2)
    await farm.runner()
    group = await farm.submit("gpu-1")
    await completes_once(farm, group)
    assert await states(farm, group) == ["success"]


@pytest.mark.parametrize("answer", REPEATED)
async def test_answer_of_no_comfyui_is_a_refusal_the_second_time(farm: Farm, answer: str) -> None:
    fault, options, said = REPEATED[answer]
    sim = await farm.backend()
    sim.fault(fault, route="/prompt", method="POST", count=0, **options)
    first = await farm.runner(intervals=QUICK)
    group = await farm.submit("gpu-1")

    async def uncertain() -> bool:
        return await states(farm, group) == ["uncertain"]

    await until(uncertain)
    # The answer is stored: a restart between the two answers does not lose the count.
    await farm.kill(first)
    await farm.runner(intervals=QUICK)
    await farm.finished(group, 10)
    old, refused = await farm.attempts(group)
    assert (old.state, refused.state) == ("never_accepted", "refused")
    (child,) = await farm.children(group)
    assert (child.status, child.failure_class) == ("failed", "unreachable")
    assert said in child.error_message
    assert said in old.error_message
    assert "token" not in child.error_message
    assert "pw" not in child.error_message
    assert farm.kinds().count("accepted") == 0


@pytest.mark.parametrize("answer", REPEATED)
async def test_answer_of_no_comfyui_that_comes_once_fails_nothing(farm: Farm, answer: str) -> None:
    fault, options, _ = REPEATED[answer]
    sim = await farm.backend()
    sim.fault(fault, route="/prompt", method="POST", count=1, **options)
    await farm.runner(intervals=QUICK)
    group = await farm.submit("gpu-1")
    await completes_once(farm, group)
    assert await states(farm, group) == ["never_accepted", "success"]


@pytest.mark.parametrize("status", [500, 502, 408, 425, 429])
async def test_answer_of_a_proxy_stays_uncertain(farm: Farm, status: int) -> None:
    sim = await farm.backend()
    sim.fault("status", status=status, body="Bad Gateway", route="/prompt", method="POST", count=2)
    await farm.runner(intervals=QUICK)
    group = await farm.submit("gpu-1")
    await completes_once(farm, group)
    assert await states(farm, group) == ["never_accepted", "never_accepted", "success"]


async def test_prompt_queued_under_another_id_is_rendered_once(farm: Farm) -> None:
    sim = await farm.backend(seconds=1.0)
    sim.fault("other_prompt_id")
    await farm.runner(intervals=QUICK)
    group = await farm.submit("gpu-1")
    await completes_once(farm, group)
    (attempt,) = await farm.attempts(group)
    assert list(executions(farm)) == [attempt.prompt_id]
