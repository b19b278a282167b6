"""Paints circles from a seed: cheap, and different for each seed. The caption names the seed and
the backend.

Painted with a palette (mode P): a 512-pixel image takes a few milliseconds to paint and encode,
so a hundred simulated prompts a second stay possible. Pillow lets other threads run meanwhile.
"""

import io
import json
import random
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Final

from PIL import Image, ImageDraw, ImageFont, ImageOps
from PIL.PngImagePlugin import PngInfo

from backends.simulator.values import Picture

_CIRCLES: Final = 40  #: Palette entries 1-40; entry 0 is the ground.
_INK, _PAPER = 254, 255
_font = lru_cache(maxsize=16)(ImageFont.load_default)
# pixels; smaller previews are scaled up, as ComfyUI does (comfyui-protocol.md, "WebSocket")
PREVIEW_SIDE = 512


def paint(picture: Picture, caption: str) -> Image.Image:
    if picture.file is not None:
        with Image.open(picture.file) as loaded:
            return loaded.convert("RGB").resize((picture.width, picture.height))
    size = (picture.width, picture.height)
    if picture.color is not None:
        red, green, blue = picture.color.to_bytes(3, "big")
        return Image.new("RGB", size, (red, green, blue))
    source = f"{picture.seed}/{picture.index}/{picture.theme}"
    image = _circles(random.Random(source), size)  # noqa: S311 - art, no secret
    place = f" #{picture.index + 1}" if picture.index else ""
    _write_caption(image, f"seed {picture.seed}{place}", caption)
    return image


def encode_png(
    picture: Picture, caption: str, prompt: Any = None, pnginfo: dict[str, Any] | None = None
) -> bytes:
    """A PNG with ComfyUI's text chunks: `prompt`, and each key of `extra_pnginfo`."""
    chunks = PngInfo()
    if prompt is not None:
        chunks.add_text("prompt", json.dumps(prompt))
    for key, value in (pnginfo or {}).items():
        chunks.add_text(key, json.dumps(value))
    return encode(paint(picture, caption), "png", pnginfo=chunks, compress_level=1)


def encode_preview(picture: Picture, caption: str, done: float) -> bytes:
    """A JPEG as a sampler shows it: blurred at first, clear in the end (`done` 0 to 1)."""
    image = paint(picture, caption).convert("RGB")
    grain = max(1, round(16 * (1 - done)))
    small = image.resize((max(1, image.width // grain), max(1, image.height // grain)))
    preview = ImageOps.contain(small, (PREVIEW_SIDE, PREVIEW_SIDE), Image.Resampling.BILINEAR)
    return encode(preview, "jpeg", quality=95)


def encode_animation(frames: Iterable[Image.Image], fps: float, kind: str = "webp") -> bytes:
    """A WebP or PNG that moves."""
    first, *rest = frames
    return encode(
        first, kind, save_all=True, append_images=rest, duration=round(1000 / fps), loop=0
    )


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def _circles(rng: random.Random, size: tuple[int, int]) -> Image.Image:
    image = Image.new("P", size)
    image.putpalette(rng.randbytes(3 * _INK) + bytes([13, 15, 23, 247, 247, 242]))
    draw = ImageDraw.Draw(image)
    for color in range(1, _CIRCLES + 1):
        x, y, radius = (rng.random() * length for length in (*size, min(size) / 4))
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=color)
    return image


def _write_caption(image: Image.Image, title: str, caption: str) -> None:
    side = min(image.size)
    font = _font(max(9, side // 22))
    draw = ImageDraw.Draw(image)
    draw.fontmode = "1"  # a palette has no shades between ink and paper
    text = f"{title}\n{caption}"
    margin = side // 32
    left, top, right, bottom = draw.multiline_textbbox((0, 0), text, font=font)
    corner = (margin, image.height - margin - bottom)
    box = (corner[0] + left, corner[1] + top, corner[0] + right, corner[1] + bottom)
    draw.rectangle((box[0] - 6, box[1] - 5, box[2] + 6, box[3] + 5), fill=_INK)
    draw.multiline_text(corner, text, fill=_PAPER, font=font)
