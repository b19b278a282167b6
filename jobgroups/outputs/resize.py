"""Makes thumbnails of untrusted files within bounds of memory. Runs in a process of
:mod:`drawing_processes <.drawing_processes>`.
"""

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

from PIL import ExifTags, Image, ImageOps

#: Formats that are decoded; each further parser of Pillow would be an attack surface.
FORMATS: Final = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "AVIF")
#: Pixels of the largest image that is decoded: 256 MiB at Pillow's 4 bytes per pixel.
MAX_PIXELS: Final = 64 * 2**20
#: Lower limits for formats whose decoders hold several copies of the image.
_MAX_PIXELS_OF: Final = {"WEBP": MAX_PIXELS // 4, "AVIF": MAX_PIXELS // 2}
MAX_SIDE: Final = 2**16  #: Pixels of the longest side: Pillow holds a pointer per row.
#: The longest file that is read: the largest image without compression.
MAX_SOURCE_BYTES: Final = 4 * MAX_PIXELS
_SMALL_PIXELS: Final = 4 * 2**20  #: Images with more pixels are large.
_MAX_RATIO: Final = 3  #: Maximum ratio of height to width of a thumbnail.
#: Pixels that are converted at once: converting the whole image would double its memory.
_STRIP_PIXELS: Final = 2**20
_QUALITY: Final = 80


class NotAnImage(Exception):
    """The file is not an image of a known format, is broken, or too large."""


class TooLarge(NotAnImage):
    """The image is large, and only small ones are to be drawn."""


def draw(source: bytes | str, width: int, takes_large: bool) -> bytes:
    """Return the thumbnail of a picture, of its content or its path; raise ``FileNotFoundError`` or
    ``NotAnImage``.
    """
    if isinstance(source, bytes):
        return thumbnail(source, width, takes_large=takes_large)
    with Path(source).open("rb") as file:
        return thumbnail(file, width, takes_large=takes_large)


def thumbnail(source: bytes | IO[bytes], width: int, *, takes_large: bool = True) -> bytes:
    """Return a WebP with a width of at most ``width`` pixels, upright, never enlarged, or raise
    ``NotAnImage``.

    The size in the header is checked before decoding: a few kilobytes can claim gigabytes of
    pixels. Decoding takes little more than 4 bytes per pixel.
    """
    with opened(source, takes_large=takes_large) as image:
        buffer = io.BytesIO()
        _upright(image, width).save(buffer, format="WEBP", quality=_QUALITY, method=4)
        return buffer.getvalue()


@contextlib.contextmanager
def opened(source: bytes | IO[bytes], *, takes_large: bool = True) -> Iterator[Image.Image]:
    """Open a picture whose size is within the bounds; raise ``NotAnImage`` for it, and for what is
    done with it.
    """
    try:
        file = io.BytesIO(source) if isinstance(source, bytes) else source
        with Image.open(file, formats=FORMATS) as image:
            _check_size(image, takes_large)
            yield image
    except NotAnImage:
        raise
    except Image.DecompressionBombError:
        raise NotAnImage("It has too many pixels.") from None
    except Exception as error:
        # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error,
        # DecompressionBombError … for broken input.
        raise NotAnImage(f"It cannot be read as a picture ({type(error).__name__}).") from error


def _check_size(image: Image.Image, takes_large: bool) -> None:
    pixels = image.width * image.height
    if pixels > _MAX_PIXELS_OF.get(image.format or "", MAX_PIXELS):
        raise NotAnImage("It has too many pixels.")
    if max(image.size) > MAX_SIDE:
        raise NotAnImage(f"One of its sides has more than {MAX_SIDE} pixels.")
    if pixels > _SMALL_PIXELS and not takes_large:
        raise TooLarge


def _upright(image: Image.Image, width: int) -> Image.Image:
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    is_on_its_side = orientation in (5, 6, 7, 8)
    box = (width * _MAX_RATIO, width) if is_on_its_side else (width, width * _MAX_RATIO)
    scale = min(box[0] / image.width, box[1] / image.height, 1)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    image.draft("RGB", size)  # a JPEG is decoded at a fraction of its size
    small = _resize(image, size)
    small.getexif()[ExifTags.Base.Orientation] = orientation
    return ImageOps.exif_transpose(small)


def _resize(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Return an image in RGB or RGBA of another size: first the width in strips of rows, then the
    height.

    Rows do not depend on each other when the width changes, so the strips leave no seams.
    """
    # RGBa, premultiplied by alpha: transparent pixels must not add their colour to others.
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
