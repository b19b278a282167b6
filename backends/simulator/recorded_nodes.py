"""The small nodes of the protocol's recordings: one that fails, one that sleeps, and so on."""

from __future__ import annotations

from typing import Any

from backends.simulator.node_context import NodeContext, NodeFailure, Outcome
from backends.simulator.values import Blocker

_FAILURES = {
    "runtime": (
        "RuntimeError",
        "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of "
        "23.54 GiB of which 1.10 GiB is free.",
    ),
    "value": ("ValueError", "bad value on purpose"),
}
_FAILURES["oom"] = ("torch.OutOfMemoryError", _FAILURES["runtime"][1])


async def fail(ctx: NodeContext, inputs: dict[str, Any]) -> Outcome:
    """TestFail: raises after a while, or with kind "none" passes its image on."""
    await ctx.wait(inputs["after"])
    if inputs["kind"] in _FAILURES:
        raise NodeFailure(*_FAILURES[inputs["kind"]])
    return Outcome((inputs["image"],))


async def slow(ctx: NodeContext, inputs: dict[str, Any]) -> Outcome:
    """TestSlow: takes its time, with or without looking at the interrupt flag."""
    await ctx.wait(inputs["seconds"], interruptible=inputs["interruptible"])
    return Outcome((inputs["image"],))


async def expand(ctx: NodeContext, inputs: dict[str, Any]) -> Outcome:
    """TestExpand: puts two nodes in its place, named `<id>.0.0.<n>`."""
    prefix = f"{ctx.node_id}.0.0."
    sampler = {"seed": inputs["seed"], "steps": inputs["steps"], "cfg": 7.0}
    sampler |= {"sampler_name": "euler", "delay": 0.05}
    slow_inputs = {"image": [f"{prefix}1", 0], "seconds": 0.05, "interruptible": True}
    nodes = {
        f"{prefix}1": {"class_type": "TestSampler", "inputs": sampler},
        f"{prefix}2": {"class_type": "TestSlow", "inputs": slow_inputs},
    }
    return Outcome(([f"{prefix}2", 0],), expand=nodes)


async def block(_ctx: NodeContext, inputs: dict[str, Any]) -> Outcome:
    """TestBlock: keeps what comes after it from running, with a message or in silence."""
    return Outcome((Blocker(inputs["message"] or None),))


async def text(ctx: NodeContext, inputs: dict[str, Any]) -> Outcome:
    """TestText: a text as a binary frame, and as its output."""
    ctx.state.hub.send_text(ctx.node_id, inputs["text"], ctx.run.client_id)
    return Outcome(ui={"text": [inputs["text"]]})
