"""Thumbnails out of files that nobody vouches for. Sync; runs in a thread of its own."""

from __future__ import annotations

import io
from typing import IO, Final

from PIL import Image, ImageOps

#: Formats that are decoded; Pillow knows dozens more, each a parser that could be attacked.
FORMATS: Final = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "AVIF")
#: Pixels of the largest picture that is decoded: 256 MiB as RGBA.
MAX_PIXELS: Final = 64 * 2**20
#: The longest file that is read for it: its pixels, not compressed at all.
MAX_SOURCE_BYTES: Final = 4 * MAX_PIXELS
#: A thumbnail is at most so many times as high as it is wide.
_TALLEST: Final = 3
_QUALITY: Final = 80


class NotDrawable(Exception):
    """It is no picture of a known format, a broken one, or one with too many pixels."""


def thumbnail(source: bytes | IO[bytes], width: int) -> bytes:
    """Return a WebP of at most ``width`` pixels' width, upright, never larger than the picture.

    The size is read from the header and checked before anything is decoded: a few kilobytes can
    claim gigabytes of pixels.

    Raises:
        NotDrawable: nothing can be drawn.
    """
    try:
        file = io.BytesIO(source) if isinstance(source, bytes) else source
        with Image.open(file, formats=FORMATS) as image:
            return _drawn(image, width)
    except NotDrawable:
        raise
    except Exception as error:
        # Pillow's decoders raise whatever they please on broken input: OSError, SyntaxError,
        # ValueError, struct.error, DecompressionBombError …
        raise NotDrawable(f"It cannot be read as a picture ({type(error).__name__}).") from error


def _drawn(image: Image.Image, width: int) -> bytes:
    if image.width * image.height > MAX_PIXELS:
        raise NotDrawable("It has too many pixels.")
    box = (width, width * _TALLEST)
    image.draft("RGB", box)  # JPEGs are decoded at a fraction of their size
    upright = ImageOps.exif_transpose(image)
    see_through = upright.has_transparency_data
    shown = upright.convert("RGBA" if see_through else "RGB")
    shown.thumbnail(box, Image.Resampling.LANCZOS, reducing_gap=2.0)
    buffer = io.BytesIO()
    shown.save(buffer, format="WEBP", quality=_QUALITY, method=4)
    return buffer.getvalue()
