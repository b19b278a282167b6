"""Sampling without a model: steps that take time, report progress and check the interrupt flag."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from backends.simulator import pictures
from backends.simulator.node_context import NodeContext, NodeFailure, Outcome
from backends.simulator.progress import Preview
from backends.simulator.values import Batch, Latent, Picture

SAMPLERS = frozenset({"KSampler", "KSamplerAdvanced", "SamplerCustom", "SamplerCustomAdvanced"})
_DEFAULT_STEPS = 20


@dataclass(frozen=True, slots=True)
class Plan:
    """How one sampler runs: steps, seconds each, and the image it works towards."""

    steps: int
    step_seconds: float
    picture: Picture
    preview_always: bool = False


async def sample(ctx: NodeContext, plan: Plan) -> None:
    """Run the steps. Raises Interrupted; NodeFailure for an ordered error."""
    look = ctx.state.faults.take("uninterruptible", **ctx.run.facts) is None
    failing = _ordered_error(ctx, plan.picture)
    slow = ctx.state.faults.take("slow", **ctx.run.facts)
    step_seconds = plan.step_seconds + (slow["seconds"] / plan.steps if slow else 0.0)
    clock = asyncio.get_running_loop().time
    start = clock()
    ctx.run.sampled = True
    for step in range(1, plan.steps + 1):
        if failing is not None and step > failing["step"]:
            raise NodeFailure(failing["type"], failing["message"])
        await _stay_stuck(ctx, step)
        await ctx.wait(start + step * step_seconds - clock(), interruptible=look)
        preview = await _preview(ctx, plan, step)
        ctx.step(step, plan.steps, preview, look=look)
        await ctx.state.apply_due_faults("step", step, **ctx.run.facts)
    if failing is not None:
        raise NodeFailure(failing["type"], failing["message"])


def _ordered_error(ctx: NodeContext, picture: Picture) -> Any:
    """The order that this sampler shall fail, if there's one."""
    names = ("", ctx.node_id, ctx.class_type)
    pixels = picture.width * picture.height
    return ctx.state.node_failure(names, pixels=pixels, **ctx.run.facts)


async def _stay_stuck(ctx: NodeContext, step: int) -> None:
    fault = ctx.state.faults.take("stuck", step=step, **ctx.run.facts)
    while fault is not None and ctx.state.faults.is_ordered(fault):
        await ctx.wait(0.05, interruptible=fault["interruptible"])


async def _preview(ctx: NodeContext, plan: Plan, step: int) -> Preview | None:
    """An image for this step, if previews are on and the last one was long enough ago."""
    fps = ctx.state.config.preview_fps
    now = asyncio.get_running_loop().time()
    due = fps > 0 and now - ctx.run.last_preview >= 1 / fps
    if not due and not plan.preview_always:
        return None
    ctx.run.last_preview = now
    caption = ctx.state.config.name
    image = await ctx.state.run_in_thread(pictures.encode_preview, plan.picture, caption, step / plan.steps)
    return Preview(image)


def shared_step_seconds(ctx: NodeContext, steps: int) -> float:
    """A step's share of the prompt's seconds, which all its samplers divide."""
    return ctx.state.config.seconds / max(1, ctx.run.samplers) / steps


def steps_of(ctx: NodeContext, wanted: Any) -> int:
    """The number of steps: the server's setting, else the workflow's, else 20."""
    steps = ctx.state.config.steps or wanted
    return max(1, int(steps)) if isinstance(steps, int | float) else _DEFAULT_STEPS


async def ksampler(ctx: NodeContext, inputs: dict[str, Any]) -> Outcome:
    """KSampler, KSamplerAdvanced and their kin: a latent with a seed in it."""
    latent = next((value for value in inputs.values() if isinstance(value, Latent)), Latent())
    seed = next((v for k in ("seed", "noise_seed") if isinstance(v := inputs.get(k), int)), 0)
    noise = inputs.get("noise")
    if isinstance(noise, Latent) and noise.seed is not None:
        seed = noise.seed
    done = Latent(latent.width, latent.height, latent.batch_size, seed, ctx.run.theme)
    steps = steps_of(ctx, inputs.get("steps"))
    await sample(ctx, Plan(steps, shared_step_seconds(ctx, steps), done.pictures()[0]))
    return Outcome((done, done))


async def test_sampler(ctx: NodeContext, inputs: dict[str, Any]) -> Outcome:
    """TestSampler of the recordings: its own delay per step, an image at once."""
    width, height = inputs.get("width", 512), inputs.get("height", 512)
    picture = Picture(seed=inputs["seed"], theme=ctx.run.theme).sized(width, height)
    plan = Plan(inputs["steps"], inputs["delay"], picture, bool(inputs.get("preview")))
    await sample(ctx, plan)
    return Outcome((Batch([picture]),))
