"""Paints a small landscape from a seed: cheap, pleasant, and different for each seed.

Painted with a palette (mode P): a 512-pixel image takes a few milliseconds to paint and encode,
so a hundred simulated prompts a second stay possible. Pillow lets other threads run meanwhile.
"""

import colorsys
import io
import json
import math
import random
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from PIL import Image, ImageDraw, ImageFont, ImageOps
from PIL.PngImagePlugin import PngInfo

from backends.simulator.values import Picture

Color = tuple[float, ...]

_SKY = 160  # palette entries 0-159: the sky, from top to horizon
_SUN, _GLOW, _INK, _PAPER = 160, 161, 254, 255
_HILLS = 170  # palette entries 170-...: one for each range of hills
_RANGES = 5
_font = lru_cache(maxsize=16)(ImageFont.load_default)
PREVIEW_SIDE = 512  # pixels; smaller previews are scaled up, as ComfyUI does (comfyui-protocol.md, "WebSocket")


def paint(picture: Picture, caption: str) -> Image.Image:
    if picture.file is not None:
        with Image.open(picture.file) as loaded:
            return loaded.convert("RGB").resize((picture.width, picture.height))
    size = (picture.width, picture.height)
    if picture.color is not None:
        red, green, blue = picture.color.to_bytes(3, "big")
        return Image.new("RGB", size, (red, green, blue))
    source = f"{picture.seed}/{picture.index}/{picture.theme}"
    image = _landscape(random.Random(source), size)  # noqa: S311 - art, no secret
    place = f" #{picture.index + 1}" if picture.index else ""
    _write_caption(image, f"seed {picture.seed}{place}", caption)
    return image


def encode_png(picture: Picture, caption: str, prompt: Any = None, pnginfo: dict[str, Any] | None = None) -> bytes:
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
    shown = ImageOps.contain(small, (PREVIEW_SIDE, PREVIEW_SIDE), Image.Resampling.BILINEAR)
    return encode(shown, "jpeg", quality=95)


def encode_animation(frames: Iterable[Image.Image], fps: float, kind: str = "webp") -> bytes:
    """A WebP or PNG that moves."""
    first, *rest = frames
    return encode(first, kind, save_all=True, append_images=rest, duration=round(1000 / fps), loop=0)


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def _landscape(rng: random.Random, size: tuple[int, int]) -> Image.Image:
    image = _sky(rng, size)
    image.putpalette(_palette(rng.random(), rng))
    draw = ImageDraw.Draw(image)
    _sun(draw, rng, size)
    for index in range(_RANGES):
        draw.polygon(_hills(rng, size, index), fill=_HILLS + index)
    return image


def _sky(rng: random.Random, size: tuple[int, int]) -> Image.Image:
    clouds = Image.frombytes("L", (6, 5), rng.randbytes(30))
    clouds = clouds.resize((64, 64), Image.Resampling.BICUBIC)
    gradient = Image.linear_gradient("L").resize((64, 64), Image.Resampling.BILINEAR)
    mixed = Image.blend(gradient, clouds, 0.28).resize(size, Image.Resampling.BILINEAR)
    steps = [min(_SKY - 1, value * _SKY // 210 // 4 * 4) for value in range(256)]
    indexes = mixed.point(steps)
    return Image.frombytes("P", size, indexes.tobytes())


def _palette(hue: float, rng: random.Random) -> list[int]:
    accent = (hue + rng.choice((0.08, 0.12, 0.42, 0.5, 0.58))) % 1.0
    colors: list[Color] = [(0.0, 0.0, 0.0)] * 256
    for index in range(_SKY):
        colors[index] = _between((hue, 0.62, 0.42), (accent, 0.38, 0.98), index / (_SKY - 1))
    colors[_SUN] = colorsys.hsv_to_rgb(accent, 0.16, 1.0)
    colors[_GLOW] = colorsys.hsv_to_rgb(accent, 0.28, 0.99)
    for index in range(_RANGES):
        colors[_HILLS + index] = _between((accent, 0.34, 0.74), (hue, 0.66, 0.16), index / (_RANGES - 1))
    colors[_INK] = (0.05, 0.06, 0.09)
    colors[_PAPER] = (0.97, 0.97, 0.95)
    return [round(channel * 255) for color in colors for channel in color]


def _between(first: Color, last: Color, part: float) -> Color:
    mixed = zip(colorsys.hsv_to_rgb(*first), colorsys.hsv_to_rgb(*last), strict=True)
    return tuple(a + (b - a) * part for a, b in mixed)


def _sun(draw: ImageDraw.ImageDraw, rng: random.Random, size: tuple[int, int]) -> None:
    width, height = size
    radius = min(size) * rng.uniform(0.07, 0.15)
    x, y = width * rng.uniform(0.15, 0.85), height * rng.uniform(0.18, 0.5)
    for color, scale in ((_GLOW, 1.25), (_SUN, 1.0)):
        reach = radius * scale
        draw.ellipse((x - reach, y - reach, x + reach, y + reach), fill=color)


def _hills(rng: random.Random, size: tuple[int, int], index: int) -> list[tuple[float, float]]:
    width, height = size
    base = height * (0.52 + 0.1 * index)
    waves = [(rng.uniform(0.6, 1.6) * (k + 1), rng.uniform(0, math.tau), height * 0.075 / (k + 1)) for k in range(3)]
    points = [(float(width), float(height)), (0.0, float(height))]
    for column in range(65):
        part = column / 64
        rise = sum(math.sin(part * math.tau * f + phase) * reach for f, phase, reach in waves)
        points.append((part * width, base - rise))
    return points


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
