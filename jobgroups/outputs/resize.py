"""Thumbnails out of files that nobody vouches for. Sync; runs in a thread of its own."""

from __future__ import annotations

import contextlib
import io
import threading
from typing import IO, Final

from PIL import Image

#: Formats that are decoded; Pillow knows dozens more, each a parser that could be attacked.
FORMATS: Final = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "AVIF")
#: Pixels of the largest picture that is decoded: 256 MiB, as Pillow takes 4 bytes for each.
MAX_PIXELS: Final = 64 * 2**20
#: Formats whose decoders hold several copies of the whole picture, and how many pixels these may have.
_MAX_PIXELS_OF: Final = {"WEBP": MAX_PIXELS // 4, "AVIF": MAX_PIXELS // 2}
#: Pixels of the longest side: Pillow keeps a pointer for each row.
MAX_SIDE: Final = 2**16
#: The longest file that is read for it: its pixels, not compressed at all.
MAX_SOURCE_BYTES: Final = 4 * MAX_PIXELS
#: Pictures with more pixels are drawn one at a time, so that the memory is that of one.
_SMALL_PIXELS: Final = 4 * 2**20
#: A thumbnail is at most so many times as high as it is wide.
_TALLEST: Final = 3
#: Pixels that are converted at once: a conversion of the whole picture would double its memory.
_STRIP_PIXELS: Final = 2**20
_QUALITY: Final = 80
#: The tag of EXIF that says how a camera was held, and what makes such a picture upright.
_ORIENTATION: Final = 0x0112
_UPRIGHT: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_large_drawn = threading.Lock()


class NotAnImage(Exception):
    """It is no picture of a known format, a broken one, or one that is too large."""


def thumbnail(source: bytes | IO[bytes], width: int) -> bytes:
    """Return a WebP of at most ``width`` pixels' width, upright, never larger than the picture.

    The size is read from the header and checked before anything is decoded: a few kilobytes can
    claim gigabytes of pixels. What is decoded takes 4 bytes a pixel and little more.

    Raises:
        NotAnImage: nothing can be drawn.
    """
    try:
        file = io.BytesIO(source) if isinstance(source, bytes) else source
        with Image.open(file, formats=FORMATS) as image:
            return _encode(image, width)
    except NotAnImage:
        raise
    except Exception as error:
        # Pillow's decoders raise whatever they please on broken input: OSError, SyntaxError,
        # ValueError, struct.error, DecompressionBombError …
        raise NotAnImage(f"It cannot be read as a picture ({type(error).__name__}).") from error


def _encode(image: Image.Image, width: int) -> bytes:
    pixels = image.width * image.height
    if pixels > _MAX_PIXELS_OF.get(image.format or "", MAX_PIXELS):
        raise NotAnImage("It has too many pixels.")
    if max(image.size) > MAX_SIDE:
        raise NotAnImage(f"One of its sides has more than {MAX_SIDE} pixels.")
    with _large_drawn if pixels > _SMALL_PIXELS else contextlib.nullcontext():
        small = _upright(image, width)
    buffer = io.BytesIO()
    small.save(buffer, format="WEBP", quality=_QUALITY, method=4)
    return buffer.getvalue()


def _upright(image: Image.Image, width: int) -> Image.Image:
    turn = _UPRIGHT.get(image.getexif().get(_ORIENTATION, 1))
    is_on_its_side = turn is not None and turn not in (
        Image.Transpose.FLIP_LEFT_RIGHT,
        Image.Transpose.FLIP_TOP_BOTTOM,
        Image.Transpose.ROTATE_180,
    )
    box = (width * _TALLEST, width) if is_on_its_side else (width, width * _TALLEST)
    scale = min(box[0] / image.width, box[1] / image.height, 1)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    image.draft("RGB", size)  # JPEGs are decoded at a fraction of their size
    small = _resized(image, size)
    return small if turn is None else small.transpose(turn)


def _resized(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Return a picture in RGB or RGBA of another size: narrowed in strips of rows, then flattened.

    Rows do not depend on each other when a picture is narrowed, so the strips leave no seams.
    """
    # Transparent pixels must not lend their colour to others: RGBa has colours multiplied by alpha.
    mode = "RGBa" if image.has_transparency_data else "RGB"
    narrow = Image.new(mode, (size[0], image.height))
    rows = max(1, _STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        strip = strip.convert("RGBA").convert("RGBa") if mode == "RGBa" else strip.convert("RGB")
        strip = strip.resize((size[0], strip.height), Image.Resampling.LANCZOS, reducing_gap=2.0)
        narrow.paste(strip, (0, top))
    small = narrow.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)
    return small.convert("RGBA") if mode == "RGBa" else small
