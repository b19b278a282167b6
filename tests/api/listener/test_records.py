"""Queue, history, interrupt and jobs of the ComfyUI listener."""

from __future__ import annotations

from typing import Any

import pytest

from jobgroups.domain.failures import FailureClass
from jobgroups.domain.leases import FencingToken
from jobgroups.domain.states import AttemptState, StopReason
from jobgroups.models import Attempt
from tests.api.listener.conftest import GRAPH, Program, group_of, job_of
from tests.harness import factories

OUTPUT = {"9": {"images": [{"filename": "a_00001_.png", "subfolder": "x", "type": "output"}]}}


@pytest.fixture
def fence(farm: list[str]) -> FencingToken:
    return factories.lease("gpu-1")


def claim(prompt_id: str, fence: FencingToken) -> Attempt:
    return factories.claim_from_pool(fence, group_of(prompt_id))


def start(prompt_id: str, fence: FencingToken) -> Attempt:
    claimed = claim(prompt_id, fence)
    factories.start(claimed, fence)
    return claimed


def render(prompt_id: str, fence: FencingToken, **fields: Any) -> None:
    fields = {"node_outputs": OUTPUT, **fields}
    assert factories.finish(start(prompt_id, fence), fence, **fields)


def test_a_prompt_goes_from_the_queue_to_the_history(program: Program, fence: FencingToken) -> None:
    prompt_id = program.prompt(client_id="krita", extra_data={"extra_pnginfo": {"workflow": {}}})
    (number, shown_id, graph, extra_data, targets), *others = program.get("/queue")["queue_pending"]
    assert (shown_id, graph, targets, others) == (prompt_id, GRAPH, ["9"], [])
    assert isinstance(number, int)
    created = extra_data.pop("create_time")
    assert extra_data == {"client_id": "krita", "extra_pnginfo": {"workflow": {}}}
    assert program.get(f"/history/{prompt_id}") == program.get("/history") == {}
    claimed = start(prompt_id, fence)
    assert program.queue() == ([prompt_id], [])
    execution = {"cached_nodes": ["3"]}
    assert factories.finish(claimed, fence, node_outputs=OUTPUT, execution=execution)
    assert program.queue() == ([], [])
    entry = program.get(f"/api/history/{prompt_id}")[prompt_id]
    extra_data |= {"create_time": created}
    assert entry["prompt"] == [number, prompt_id, GRAPH, extra_data, ["9"]]
    file = {"filename": "a_00001_.png", "subfolder": f"{job_of(prompt_id).pk}/x", "type": "output"}
    assert entry["outputs"] == {"9": {"images": [file]}}
    assert entry["meta"]["9"]["display_node"] == "9"
    status = entry["status"]
    assert (status["status_str"], status["completed"]) == ("success", True)
    kinds = [kind for kind, _ in status["messages"]]
    assert kinds == ["execution_start", "execution_cached", "execution_success"]
    assert all(data["prompt_id"] == prompt_id for _, data in status["messages"])
    assert status["messages"][1][1]["nodes"] == ["3"]
    times = [data["timestamp"] for _, data in status["messages"]]
    assert created <= times[0] <= times[-1]
    assert program.get("/history") == {prompt_id: entry}


def test_interrupt_stops_the_presented_prompt_alone_and_no_retry_follows(
    program: Program, farm: list[str]
) -> None:
    fences = [factories.lease(backend_id) for backend_id in farm]
    first, second, third = (program.prompt(client_id="krita") for _ in range(3))
    order = (second, first, third)
    claims = {
        prompt_id: start(prompt_id, fence) for prompt_id, fence in zip(order, fences, strict=True)
    }
    assert program.queue() == ([*order], [])
    # It waits for a retry, so no end of it was shown: it is presented.
    factories.fail(claims[second], fences[0], FailureClass.OUT_OF_MEMORY)
    assert program.queue() == ([first, third], [second])
    assert program.get(f"/history/{second}") == {}
    program.post("/interrupt", {})
    assert program.queue() == ([first, third], [])
    program.post("/api/interrupt")
    assert program.queue() == ([third], [])
    assert claims[first].child.current_attempt_id == claims[first].pk
    claims[first].refresh_from_db()
    assert claims[first].stop_reason == StopReason.CANCEL
    # A retry would follow the end of a prompt that was stopped at its machine.
    factories.finish(claims[first], fences[1], AttemptState.INTERRUPTED)
    assert program.queue() == ([third], [])
    for prompt_id, kinds in (
        (second, ["execution_interrupted"]),
        (first, ["execution_start", "execution_cached", "execution_interrupted"]),
    ):
        status = program.get(f"/history/{prompt_id}")[prompt_id]["status"]
        assert [kind for kind, _ in status["messages"]] == kinds
        assert (status["status_str"], status["completed"]) == ("error", False)
