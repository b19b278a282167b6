"""Sampling without a model: steps that take time, report progress and check the interrupt flag."""

import asyncio
import math
from typing import Any

from backends.simulator import pictures, releases
from backends.simulator.node_context import NodeContext, NodeFailure, Outcome, Preview
from backends.simulator.values import Batch, Latent, Picture

# seconds; ComfyUI ends each step before it checks the flag, and tests wait for no longer one
_WHOLE_STEP = 0.2

SAMPLERS = frozenset({"KSampler", "KSamplerAdvanced", "SamplerCustom", "SamplerCustomAdvanced"})


async def sample(
    ctx: NodeContext,
    steps: int,
    step_seconds: float,
    picture: Picture,
    *,
    preview_always: bool = False,
) -> None:
    """Run the steps. Raises Interrupted; NodeFailure for an ordered error."""
    look = ctx.state.faults.take("uninterruptible", **ctx.run.facts) is None
    pixels = picture.width * picture.height
    names = ("", ctx.node_id, ctx.class_type)
    failing = ctx.state.node_failure(names, pixels=pixels, **ctx.run.facts)
    slow = ctx.state.faults.take("slow", **ctx.run.facts)
    slow_seconds = step_seconds + slow["seconds"] / steps if slow else 0.0
    may_stop = look and max(step_seconds, slow_seconds) > _WHOLE_STEP
    clock = asyncio.get_running_loop().time
    start = clock()
    ctx.run.sampled = True
    for step in range(1, steps + 1):
        if failing is not None and step > failing["step"]:
            break
        stuck = ctx.state.faults.take("stuck", step=step, **ctx.run.facts)
        while stuck is not None and not stuck.cleared.is_set():
            await ctx.wait(0.05, interruptible=stuck["interruptible"])
        while (
            slow
            and not slow.cleared.is_set()
            and (left := start + step * slow_seconds - clock()) > 0
        ):
            await ctx.wait(min(left, 0.05), interruptible=may_stop)
        await ctx.wait(start + step * step_seconds - clock(), interruptible=may_stop)
        preview = await _preview(ctx, picture, step / steps, always=preview_always)
        ctx.step(step, steps, preview, look=look)
        await ctx.state.apply_due_faults("step", step, **ctx.run.facts)
    if failing is not None:
        raise NodeFailure(failing["type"], failing["message"])


async def _preview(
    ctx: NodeContext, picture: Picture, done: float, *, always: bool
) -> Preview | None:
    fps = _previews_per_second(ctx)
    now = asyncio.get_running_loop().time()
    due = fps > 0 and now - ctx.run.last_preview >= 1 / fps
    if not due and not always:
        return None
    ctx.run.last_preview = now
    return Preview(
        await ctx.state.run_in_thread(pictures.encode_preview, picture, ctx.state.config.name, done)
    )


def _previews_per_second(ctx: NodeContext) -> float:
    """The server's rate, unless the prompt chooses its previews; those come with each step."""
    config, extra_data = ctx.state.config, ctx.run.facts["extra_data"]
    method = extra_data.get("preview_method") if config.release >= releases.PREVIEW_METHOD else None
    if method == "none":
        return 0.0
    return config.preview_fps or (math.inf if method in ("auto", "latent2rgb", "taesd") else 0.0)


def steps_of(ctx: NodeContext, wanted: Any) -> int:
    steps = ctx.state.config.steps or wanted
    return max(1, int(steps)) if isinstance(steps, int | float) else 20


async def ksampler(ctx: NodeContext, inputs: dict[str, Any]) -> Outcome:
    latent = next((value for value in inputs.values() if isinstance(value, Latent)), Latent())
    seed = next((v for k in ("seed", "noise_seed") if isinstance(v := inputs.get(k), int)), 0)
    noise = inputs.get("noise")
    if isinstance(noise, Latent) and noise.seed is not None:
        seed = noise.seed
    done = Latent(latent.width, latent.height, latent.batch_size, seed, ctx.run.theme)
    steps = steps_of(ctx, inputs.get("steps"))
    step_seconds = ctx.state.config.seconds / max(1, ctx.run.samplers) / steps
    await sample(ctx, steps, step_seconds, done.pictures()[0])
    return Outcome((done, done))


async def test_sampler(ctx: NodeContext, inputs: dict[str, Any]) -> Outcome:
    """TestSampler of the recordings: its own delay per step, an image at once."""
    width, height = inputs.get("width", 512), inputs.get("height", 512)
    picture = Picture(seed=inputs["seed"], theme=ctx.run.theme).sized(width, height)
    await sample(
        ctx, inputs["steps"], inputs["delay"], picture, preview_always=bool(inputs.get("preview"))
    )
    return Outcome((Batch([picture]),))
