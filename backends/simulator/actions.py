"""The faults that happen to a process from outside: other clients, lost sockets."""

from __future__ import annotations

from typing import Any

from backends.simulator.faults import Fault
from backends.simulator.http_prompts import raise_flag, submit
from backends.simulator.server_state import ServerState

FOREIGN_CLIENT = "somebody-else"
_FOREIGN_STEPS = 10


def carry_out(state: ServerState, fault: Fault) -> None:
    """Do what was ordered, now."""
    client_id: str = fault["client_id"]
    match fault.name:
        case "drop_sockets":
            state.hub.drop(client_id)
        case "stall_sockets":
            state.hub.stall(client_id)
        case "deaf":
            state.hub.forget(client_id)
        case "clear_history":
            state.queue.history = {}
        case "delete_pending":
            _delete(state, fault["prompt_id"])
        case "interrupt":
            raise_flag(state)
        case "foreign_prompt":
            for index in range(fault["prompts"]):
                submit(state, _foreign(index, fault["seconds"], front=fault["front"]))


def _delete(state: ServerState, prompt_id: str) -> None:
    if prompt_id:
        state.queue.delete(prompt_id)
    else:
        state.queue.clear()


def _foreign(index: int, seconds: float, *, front: bool) -> dict[str, Any]:
    """A prompt as another client sends it: ten steps, a preview."""
    inputs: dict[str, Any] = {"seed": 1_000_000 + index, "steps": _FOREIGN_STEPS, "cfg": 7.0}
    inputs |= {"sampler_name": "euler", "delay": seconds / _FOREIGN_STEPS}
    prompt = {
        "1": {"class_type": "TestSampler", "inputs": inputs},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }
    return {"prompt": prompt, "client_id": FOREIGN_CLIENT, "front": front}
