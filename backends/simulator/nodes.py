"""What each node class does. Classes without an entry here run as `anything`."""

from __future__ import annotations

import os
import random
import string
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from backends.simulator import pictures, recorded_nodes, sampling
from backends.simulator.node_context import NodeContext, Outcome, Runner
from backends.simulator.progress import Preview
from backends.simulator.values import Batch, Latent, Opaque, Picture, clamp


async def empty_latent(_ctx: NodeContext, inputs: dict[str, Any]) -> Outcome:
    """An empty latent: it sets the size of the image."""
    size = clamp(inputs.get("width", 512)), clamp(inputs.get("height", 512))
    return Outcome((Latent(*size, batch_size=inputs.get("batch_size", 1)),))


async def vae_decode(_ctx: NodeContext, inputs: dict[str, Any]) -> Outcome:
    """The image of a latent."""
    return Outcome((inputs["samples"].pictures(),))


async def vae_encode(_ctx: NodeContext, inputs: dict[str, Any]) -> Outcome:
    """A latent as large as the pixels given."""
    pixels = inputs["pixels"]
    first = pixels[0]
    latent = Latent(first.shape[1], first.shape[0], len(pixels), source=pixels)
    return Outcome((latent,))


async def random_noise(_ctx: NodeContext, inputs: dict[str, Any]) -> Outcome:
    """The seed of SamplerCustomAdvanced."""
    return Outcome((Latent(seed=inputs["noise_seed"]),))


async def empty_image(_ctx: NodeContext, inputs: dict[str, Any]) -> Outcome:
    """Plain images of one colour."""
    picture = Picture(color=inputs["color"]).sized(inputs["width"], inputs["height"])
    return Outcome((Batch(replace(picture, index=i) for i in range(inputs["batch_size"])),))


async def image_scale(_ctx: NodeContext, inputs: dict[str, Any]) -> Outcome:
    """The same images in another size."""
    images: Batch = inputs["image"]
    first = images[0]
    width = inputs["width"] or round(first.width * inputs["height"] / first.height)
    height = inputs["height"] or round(first.height * inputs["width"] / first.width)
    return Outcome((Batch(p.sized(width or first.width, height or first.height) for p in images),))


async def scale_by(_ctx: NodeContext, inputs: dict[str, Any]) -> Outcome:
    """Images scaled by a factor."""
    factor, images = inputs["scale_by"], inputs["image"]
    return Outcome((Batch(p.sized(p.width * factor, p.height * factor) for p in images),))


async def repeat_images(_ctx: NodeContext, inputs: dict[str, Any]) -> Outcome:
    """A batch of the same images several times."""
    return Outcome((Batch(tuple(inputs["image"]) * inputs["amount"]),))


async def batch_images(_ctx: NodeContext, inputs: dict[str, Any]) -> Outcome:
    """Two batches one after the other."""
    return Outcome((Batch((*inputs["image1"], *inputs["image2"])),))


async def load_image(ctx: NodeContext, inputs: dict[str, Any]) -> Outcome:
    """An image from the input folder. Raises OSError, as Pillow does for a file that is none."""
    path = ctx.state.folders.path(inputs["image"])
    width, height = await ctx.state.run_in_thread(_size_of, path)
    return Outcome((Batch([Picture(width=width, height=height, file=Path(path))]), Opaque("MASK")))


def _size_of(path: str) -> tuple[int, int]:
    with Image.open(path) as image:
        image.load()
        return image.size


async def primitive(_ctx: NodeContext, inputs: dict[str, Any]) -> Outcome:
    """A constant."""
    return Outcome((inputs["value"],))


async def save_image(ctx: NodeContext, inputs: dict[str, Any]) -> Outcome:
    """Save images permanently."""
    images, prefix = inputs["images"], inputs.get("filename_prefix", "ComfyUI")
    return await save_pictures(ctx, images, str(prefix), "output")


async def preview_image(ctx: NodeContext, inputs: dict[str, Any]) -> Outcome:
    """Save images in the temp folder, under a prefix that lives as long as the node."""
    letters = random.choices(string.ascii_lowercase, k=5)  # noqa: S311 - a file name
    suffix = ctx.memory.setdefault("suffix", "".join(letters))
    return await save_pictures(ctx, inputs["images"], f"ComfyUI_temp_{suffix}", "temp")


async def save_pictures(ctx: NodeContext, images: Any, prefix: str, kind: str) -> Outcome:
    """Paint and write images. Raises AttributeError for what is no IMAGE; OutsideFolder."""
    height, width, _ = images[0].shape
    saved = []
    for number, picture in enumerate(images):
        name, subfolder = await ctx.state.run_in_thread(
            _save, ctx, picture, kind, prefix.replace("%batch_num%", str(number)), (width, height)
        )
        saved.append({"filename": name, "subfolder": subfolder, "type": kind})
    return Outcome(ui={"images": saved})


def _save(ctx: NodeContext, picture: Picture, kind: str, prefix: str, size: tuple[int, int]) -> tuple[str, str]:
    folders = ctx.state.folders
    name, subfolder = folders.next_file(kind, prefix, *size)
    extra_data = ctx.run.extra_data
    pnginfo = extra_data.get("extra_pnginfo") if isinstance(extra_data, dict) else None
    chunks = pnginfo if isinstance(pnginfo, dict) else None
    data = pictures.encode_png(picture, ctx.state.config.name, ctx.run.prompt, chunks)
    path = Path(folders.of(kind), subfolder, name)
    path.write_bytes(data)
    if ahead := ctx.state.config.file_clock:
        moment = time.time() + ahead
        os.utime(path, (moment, moment))
    return name, subfolder


async def save_image_websocket(ctx: NodeContext, inputs: dict[str, Any]) -> Outcome:
    """Send images as binary frames instead of saving them (comfyui-protocol.md, "WebSocket")."""
    images: Batch = inputs["images"]
    for number, picture in enumerate(images):
        data = await ctx.state.run_in_thread(pictures.encode_png, picture, ctx.state.config.name)
        ctx.step(number, len(images), Preview(data, "png"))
    return Outcome()


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
    found = next((v for v in inputs.values() if isinstance(v, wanted.get(kind, Opaque))), None)
    if kind in wanted:
        fresh = {"IMAGE": Batch([Picture(theme=ctx.run.theme)]), "LATENT": Latent()}
        return found if found is not None else fresh.get(kind, 0)
    if isinstance(kind, list):
        return kind[0] if kind else None
    plain = {"STRING": "", "BOOLEAN": False}
    return plain.get(kind, Opaque(str(kind), ctx.run.theme))


RUNNERS: dict[str, Runner] = {
    "EmptyLatentImage": empty_latent,
    "EmptySD3LatentImage": empty_latent,
    "EmptyImage": empty_image,
    "ImageBatch": batch_images,
    "ImageScale": image_scale,
    "ImageScaleBy": scale_by,
    "LoadImage": load_image,
    "LoadImageOutput": load_image,
    "PreviewImage": preview_image,
    "PrimitiveBoolean": primitive,
    "PrimitiveFloat": primitive,
    "PrimitiveInt": primitive,
    "PrimitiveString": primitive,
    "PrimitiveStringMultiline": primitive,
    "RandomNoise": random_noise,
    "RepeatImageBatch": repeat_images,
    "SaveImage": save_image,
    "SaveImageWebsocket": save_image_websocket,
    "TestBlock": recorded_nodes.block,
    "TestExpand": recorded_nodes.expand,
    "TestFail": recorded_nodes.fail,
    "TestSampler": sampling.test_sampler,
    "TestSlow": recorded_nodes.slow,
    "TestText": recorded_nodes.text,
    "VAEDecode": vae_decode,
    "VAEDecodeTiled": vae_decode,
    "VAEEncode": vae_encode,
    **dict.fromkeys(sampling.SAMPLERS, sampling.ksampler),
}


def runner(class_type: str) -> Runner:
    """What runs a class."""
    return RUNNERS.get(class_type, anything)
