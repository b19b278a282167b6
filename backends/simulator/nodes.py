"""What each node class does. Classes without a runner here run as `anything`."""

import hashlib
import os
import random
import string
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

from PIL import Image

from backends.simulator import pictures, releases, sampling
from backends.simulator.catalog import PARTNER
from backends.simulator.faults import OUT_OF_MEMORY
from backends.simulator.media import encode_webm
from backends.simulator.node_context import NodeContext, NodeFailure, Outcome, Preview, Runner
from backends.simulator.values import Batch, Blocker, Film, Latent, Opaque, Picture, clamp

RUNNERS: dict[str, Runner] = {
    "TestSampler": sampling.test_sampler,
    **dict.fromkeys(sampling.SAMPLERS, sampling.ksampler),
}


def _runs(*classes: str) -> Callable[[Runner], Runner]:
    def register(run: Runner) -> Runner:
        RUNNERS.update(dict.fromkeys(classes, run))
        return run

    return register


def _gives(*classes: str) -> Callable[[Callable[[dict[str, Any]], Any]], Runner]:
    """Register a function that returns the only output of a node."""

    def register(output: Callable[[dict[str, Any]], Any]) -> Runner:
        async def run(_ctx: NodeContext, inputs: dict[str, Any]) -> Outcome:
            return Outcome((output(inputs),))

        return _runs(*classes)(run)

    return register


_gives("PrimitiveBoolean", "PrimitiveFloat", "PrimitiveInt")(itemgetter("value"))
_gives("PrimitiveString", "PrimitiveStringMultiline")(itemgetter("value"))
_gives("VAEDecode", "VAEDecodeTiled")(lambda inputs: inputs["samples"].pictures())
_gives("RandomNoise")(lambda inputs: Latent(seed=inputs["noise_seed"]))
_gives("RepeatImageBatch")(lambda inputs: Batch(tuple(inputs["image"]) * inputs["amount"]))
_gives("ImageBatch")(lambda inputs: Batch((*inputs["image1"], *inputs["image2"])))


@_gives("EmptyLatentImage", "EmptySD3LatentImage")
def _empty_latent(inputs: dict[str, Any]) -> Latent:
    size = clamp(inputs.get("width", 512)), clamp(inputs.get("height", 512))
    return Latent(*size, batch_size=inputs.get("batch_size", 1))


@_gives("RepeatLatentBatch")
def _repeat_latent(inputs: dict[str, Any]) -> Latent:
    samples: Latent = inputs["samples"]
    return replace(samples, batch_size=samples.batch_size * inputs["amount"])


@_gives("VAEEncode")
def _vae_encode(inputs: dict[str, Any]) -> Latent:
    pixels = inputs["pixels"]
    height, width, _ = pixels[0].shape
    return Latent(width, height, len(pixels), source=pixels)


@_gives("EmptyImage")
def _empty_image(inputs: dict[str, Any]) -> Batch:
    picture = Picture(color=inputs["color"]).sized(inputs["width"], inputs["height"])
    return Batch(replace(picture, index=i) for i in range(inputs["batch_size"]))


@_gives("ImageScale")
def _image_scale(inputs: dict[str, Any]) -> Batch:
    images: Batch = inputs["image"]
    first = images[0]
    width = inputs["width"] or round(first.width * inputs["height"] / first.height)
    height = inputs["height"] or round(first.height * inputs["width"] / first.width)
    return Batch(p.sized(width or first.width, height or first.height) for p in images)


@_gives("ImageScaleBy")
def _scale_by(inputs: dict[str, Any]) -> Batch:
    factor, images = inputs["scale_by"], inputs["image"]
    return Batch(p.sized(p.width * factor, p.height * factor) for p in images)


@_runs("LoadImage", "LoadImageOutput")
async def load_image(ctx: NodeContext, inputs: dict[str, Any]) -> Outcome:
    """An image from the input folder. Raises OSError, as Pillow does for a file that is none."""
    path = ctx.state.folders.path(inputs["image"])
    width, height = await ctx.state.run_in_thread(_size_of, path)
    return Outcome((Batch([Picture(width=width, height=height, file=Path(path))]), Opaque("MASK")))


def _size_of(path: str) -> tuple[int, int]:
    with Image.open(path) as image:
        image.load()
        return image.size


@_runs("SaveImage")
async def save_image(ctx: NodeContext, inputs: dict[str, Any]) -> Outcome:
    images, prefix = inputs["images"], inputs.get("filename_prefix", "ComfyUI")
    return await save_pictures(ctx, images, str(prefix), "output")


@_runs("PreviewImage")
async def preview_image(ctx: NodeContext, inputs: dict[str, Any]) -> Outcome:
    """Save images in the temp folder."""
    return await save_pictures(ctx, inputs["images"], _temporary_prefix(ctx), "temp")


def _temporary_prefix(ctx: NodeContext) -> str:
    """A prefix that lives as long as the node."""
    letters = random.choices(string.ascii_lowercase, k=5)  # noqa: S311 - a file name
    memory = ctx.state.cache.memory(ctx.node_id, ctx.class_type)
    return f"ComfyUI_temp_{memory.setdefault('suffix', ''.join(letters))}"


async def save_pictures(ctx: NodeContext, images: Any, prefix: str, kind: str) -> Outcome:
    """Paint and write images. Raises AttributeError for what is no IMAGE; OutsideFolder."""
    height, width, _ = images[0].shape
    saved = []
    for number, picture in enumerate(images):
        name = prefix.replace("%batch_num%", str(number))
        saved.append(
            await ctx.state.run_in_thread(_save, ctx, picture, kind, name, (width, height))
        )
    return Outcome(ui={"images": saved})


def _save(
    ctx: NodeContext, picture: Picture, kind: str, prefix: str, size: tuple[int, int]
) -> dict[str, str]:
    extra_data = ctx.run.facts["extra_data"]
    pnginfo = extra_data.get("extra_pnginfo") if isinstance(extra_data, dict) else None
    chunks = pnginfo if isinstance(pnginfo, dict) else None
    data = pictures.encode_png(picture, ctx.state.config.name, ctx.run.graph.prompt, chunks)
    return _write(ctx, data, kind, prefix, size=size)


def _write(
    ctx: NodeContext,
    data: bytes,
    kind: str,
    prefix: str,
    *,
    size: tuple[int, int] = (0, 0),
    ending: str = "_.png",
) -> dict[str, str]:
    """Write a file under the next free name, and return it as ComfyUI reports it. Raises
    OutsideFolder.
    """
    folders = ctx.state.folders
    name, subfolder = folders.next_file(kind, prefix, *size, ending)
    path = Path(folders.of(kind), subfolder, name)
    path.write_bytes(data)
    if ahead := ctx.state.config.file_clock:
        moment = time.time() + ahead
        os.utime(path, (moment, moment))
    return {"filename": name, "subfolder": subfolder, "type": kind}


def _saves_video(
    class_type: str, extension: str, encode: Callable[[Iterable[Image.Image], float], bytes]
) -> None:
    """Register a class that saves its images as one file, which ComfyUI reports among the images."""

    def save(ctx: NodeContext, inputs: dict[str, Any]) -> dict[str, str]:
        film = (
            inputs["video"] if class_type == "SaveVideo" else Film(inputs["images"], inputs["fps"])
        )
        batch = film.images
        frames = (pictures.paint(image, ctx.state.config.name).convert("RGB") for image in batch)
        size = batch[0].width, batch[0].height
        data = encode(frames, film.fps)
        return _write(
            ctx, data, "output", inputs["filename_prefix"], size=size, ending=f"_.{extension}"
        )

    async def run(ctx: NodeContext, inputs: dict[str, Any]) -> Outcome:
        return Outcome(
            ui={"images": [await ctx.state.run_in_thread(save, ctx, inputs)], "animated": [True]}
        )

    _runs(class_type)(run)


_saves_video("SaveAnimatedPNG", "png", partial(pictures.encode_animation, kind="png"))
_saves_video("SaveAnimatedWEBP", "webp", pictures.encode_animation)
_saves_video(
    "SaveVideo", "mp4", encode_webm
)  # only by its name: an MP4 needs a codec that is not here
_saves_video("SaveWEBM", "webm", encode_webm)
_gives("CreateVideo")(lambda inputs: Film(inputs["images"], inputs["fps"]))


_SOUNDS = {
    "PreviewAudio": "flac",
    "SaveAudio": "flac",
    "SaveAudioMP3": "mp3",
    "SaveAudioOpus": "opus",
}


@_runs(*_SOUNDS)
async def _save_audio(ctx: NodeContext, inputs: dict[str, Any]) -> Outcome:
    """Save two seconds of silence."""
    kind = _SOUNDS[ctx.class_type]
    data = Path(__file__).with_name(f"silence.{kind}").read_bytes()
    prefix, folder = inputs.get("filename_prefix"), "output"
    if prefix is None:
        prefix, folder = _temporary_prefix(ctx), "temp"
    ending = f".{kind}" if ctx.state.config.release >= releases.RECORDED else f"_.{kind}"
    return Outcome(ui={"audio": [_write(ctx, data, folder, prefix, ending=ending)]})


@_runs("SaveLatent")
async def _save_latent(ctx: NodeContext, inputs: dict[str, Any]) -> Outcome:
    data = str(inputs["samples"]).encode()
    return Outcome(
        ui={"latents": [_write(ctx, data, "output", inputs["filename_prefix"], ending="_.latent")]}
    )


@_runs("SaveImageWebsocket")
async def save_image_websocket(ctx: NodeContext, inputs: dict[str, Any]) -> Outcome:
    """Send images as binary frames instead of saving them (comfyui-protocol.md, "WebSocket")."""
    images: Batch = inputs["images"]
    for number, picture in enumerate(images):
        data = await ctx.state.run_in_thread(pictures.encode_png, picture, ctx.state.config.name)
        ctx.step(number, len(images), Preview(data, "png"))
    return Outcome()


@_runs(
    "CheckpointLoader",
    "CheckpointLoaderSimple",
    "ImageOnlyCheckpointLoader",
    "UNETLoader",
    "unCLIPCheckpointLoader",
)
async def _load_model(ctx: NodeContext, inputs: dict[str, Any]) -> Outcome:
    """Take the time of reading a model, which no interrupt ends."""
    await ctx.wait(ctx.state.config.load_seconds, interruptible=False)
    return await anything(ctx, inputs)


_gives("ETN_Translate")(itemgetter("text"))


@_runs("ETN_LoadImageCache")
async def _load_cached(ctx: NodeContext, inputs: dict[str, Any]) -> Outcome:
    """An image that was put under an id."""
    image = ctx.state.images.get(inputs["id"])
    if image is None:
        raise NodeFailure("ValueError", f"Image with ID {inputs['id']} not found in cache.")
    path = Path(ctx.state.folders.of("temp"), f"etn-{hashlib.sha256(image[0]).hexdigest()}")

    def keep() -> tuple[int, int]:
        path.write_bytes(image[0])
        return _size_of(str(path))

    width, height = await ctx.state.run_in_thread(keep)
    return Outcome((Batch([Picture(width=width, height=height, file=path)]), Opaque("MASK")))


@_runs("ETN_SaveImageCache")
async def _save_cached(ctx: NodeContext, inputs: dict[str, Any]) -> Outcome:
    """Keep images under ids, by which they are fetched over HTTP."""
    saved = []
    for picture in inputs["images"]:
        data = await ctx.state.run_in_thread(pictures.encode_png, picture, ctx.state.config.name)
        image_id = uuid.uuid4().hex
        ctx.state.images[image_id] = data, "image/png"
        saved.append(
            {"source": "http", "id": image_id, "content-type": "image/png", "type": "output"}
        )
    return Outcome(ui={"images": saved})


# The small nodes of the protocol's recordings.

_FAILURES = {
    "oom": ("torch.OutOfMemoryError", OUT_OF_MEMORY),
    "runtime": ("RuntimeError", OUT_OF_MEMORY),
    "value": ("ValueError", "bad value on purpose"),
}


@_runs("TestFail")
async def _fail(ctx: NodeContext, inputs: dict[str, Any]) -> Outcome:
    await ctx.wait(inputs["after"])
    if inputs["kind"] in _FAILURES:
        raise NodeFailure(*_FAILURES[inputs["kind"]])
    return Outcome((inputs["image"],))


@_runs(PARTNER)
async def _partner(ctx: NodeContext, inputs: dict[str, Any]) -> Outcome:
    """Call a partner, who refuses a request without a key."""
    await ctx.wait(inputs["seconds"])
    given = ctx.run.facts["extra_data"] or {}
    if not (given.get("api_key_comfy_org") or given.get("auth_token_comfy_org")):
        raise NodeFailure("Exception", "Unauthorized: Please login first to use this node.")
    return Outcome((Batch([Picture(seed=inputs["seed"])]),))


@_runs("TestSlow")
async def _slow(ctx: NodeContext, inputs: dict[str, Any]) -> Outcome:
    await ctx.wait(inputs["seconds"], interruptible=inputs["interruptible"])
    return Outcome((inputs["image"],))


@_runs("TestExpand")
async def _expand(ctx: NodeContext, inputs: dict[str, Any]) -> Outcome:
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


# Keeps what comes after it from running, with a message or in silence.
_gives("TestBlock")(lambda inputs: Blocker(inputs["message"] or None))


@_runs("TestText")
async def _text(ctx: NodeContext, inputs: dict[str, Any]) -> Outcome:
    ctx.state.hub.send_text(ctx.node_id, inputs["text"], ctx.run.facts["client_id"])
    return Outcome(ui={"text": [inputs["text"]]})


async def anything(ctx: NodeContext, inputs: dict[str, Any]) -> Outcome:
    """A class without a runner: passes on what fits its outputs, or shows its images."""
    catalog = ctx.state.catalog
    batch = next((value for value in inputs.values() if isinstance(value, Batch)), None)
    if catalog.is_output(ctx.class_type):
        if batch is None:
            return Outcome(ui={"text": [str(value) for value in inputs.values()]})
        prefix = str(inputs.get("filename_prefix", ctx.class_type))
        return await save_pictures(ctx, batch, prefix, "output")
    return Outcome(tuple(_stand_in(ctx, kind, inputs) for kind in catalog.returns(ctx.class_type)))


def _stand_in(ctx: NodeContext, kind: Any, inputs: dict[str, Any]) -> Any:
    """A value for an output slot: one of the inputs if it's of that kind, else a new one."""
    wanted: dict[str, type] = {"IMAGE": Batch, "LATENT": Latent, "INT": int, "FLOAT": float}
    match = next((v for v in inputs.values() if isinstance(v, wanted.get(kind, Opaque))), None)
    if kind in wanted:
        fresh = {"IMAGE": Batch([Picture(theme=ctx.run.theme)]), "LATENT": Latent()}
        return match if match is not None else fresh.get(kind, 0)
    if isinstance(kind, list):
        return kind[0] if kind else None
    plain = {"STRING": "", "BOOLEAN": False}
    return plain.get(kind, Opaque(str(kind)))
