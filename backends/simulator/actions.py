"""The faults that happen to a process from outside: other clients, lost sockets."""

from __future__ import annotations

from typing import Any

from backends.simulator.faults import Fault
from backends.simulator.http_prompts import raise_flag, submit
from backends.simulator.life import ServerState

FOREIGN_CLIENT = "somebody-else"
_FOREIGN_STEPS = 10


def carry_out(life: ServerState, fault: Fault) -> None:
    """Do what was ordered, now."""
    client_id: str = fault["client_id"]
    match fault.name:
        case "drop_sockets":
            life.hub.drop(client_id)
        case "stall_sockets":
            life.hub.stall(client_id)
        case "deaf":
            life.hub.forget(client_id)
        case "clear_history":
            life.queue.history = {}
        case "delete_pending":
            _delete(life, fault["prompt_id"])
        case "interrupt":
            raise_flag(life)
        case "foreign_prompt":
            for index in range(fault["prompts"]):
                submit(life, _foreign(index, fault["seconds"], front=fault["front"]))


def _delete(life: ServerState, prompt_id: str) -> None:
    if prompt_id:
        life.queue.delete(prompt_id)
    else:
        life.queue.clear()


def _foreign(index: int, seconds: float, *, front: bool) -> dict[str, Any]:
    """A prompt as another client sends it: ten steps, a preview."""
    inputs: dict[str, Any] = {"seed": 1_000_000 + index, "steps": _FOREIGN_STEPS, "cfg": 7.0}
    inputs |= {"sampler_name": "euler", "delay": seconds / _FOREIGN_STEPS}
    prompt = {
        "1": {"class_type": "TestSampler", "inputs": inputs},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }
    return {"prompt": prompt, "client_id": FOREIGN_CLIENT, "front": front}
