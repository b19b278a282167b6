"""What a completed job's user must know besides its files: nodes that ComfyUI did not execute."""

from __future__ import annotations

import json
from typing import Any

import pytest

from jobgroups.models import JobGroup
from tests.harness.farm import Farm, text_to_image, until

pytestmark = pytest.mark.django_db(transaction=True)


def blocked_output(steps: int = 4) -> dict[str, Any]:
    """Return a workflow of two outputs, the second one blocked with a message."""
    graph = text_to_image(steps=steps)
    graph["10"] = {"class_type": "TestBlock", "inputs": {"image": ["8", 0], "message": "no\nface"}}
    graph["11"] = {"class_type": "SaveImage", "inputs": {"images": ["10", 0], "filename_prefix": "blocked"}}
    return graph


async def warnings_of(farm: Farm, group: JobGroup) -> list[str]:
    """Wait for the end of a group of one job that completes, and return the job's warnings."""
    done = await farm.finished(group)
    assert done.status == "completed"
    (child,) = await farm.children(group)
    found: list[str] = json.loads(child.warnings_json)
    return found


BLOCKED = "ComfyUI did not execute node 11 (SaveImage): Execution Blocked: no face"


async def test_blocked_node_is_a_warning_with_its_message(farm: Farm) -> None:
    await farm.backend()
    await farm.runner()
    group = await farm.submit(workflow=blocked_output())
    assert await warnings_of(farm, group) == [BLOCKED]
    (attempt,) = await farm.attempts(group)
    assert json.loads(attempt.warnings_json) == [BLOCKED]


async def test_blocked_node_is_a_warning_when_the_runner_dies_before_the_end(farm: Farm) -> None:
    # The message comes over the socket alone: the next runner has it from the attempt's row.
    await farm.backend(seconds=3.0)
    first = await farm.runner()
    graph = blocked_output(steps=10)
    # Blocked before the long part, which is an output of its own.
    graph["10"]["inputs"]["image"] = ["12", 0]
    size = {"width": 64, "height": 64, "batch_size": 1, "color": 1}
    graph["12"] = {"class_type": "EmptyImage", "inputs": size}
    group = await farm.submit(workflow={"12": graph.pop("12"), **graph})

    async def stored() -> bool:
        return any(row.warnings_json != "[]" for row in await farm.attempts(group))

    await until(stored)
    assert not (await farm.group(group)).completed_at
    await farm.kill(first)
    await farm.runner()
    assert await warnings_of(farm, group) == [BLOCKED]
