"""What ComfyUI makes of a picture for its clients: a preview, one of its channels, and a picture
with the alpha of a mask. Runs in a process of :mod:`drawing_processes <.drawing_processes>`.
"""

import io
from pathlib import Path
from typing import Final

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from jobgroups.outputs.resize import NotAnImage, opened

_PNG_LEVEL: Final = 4  #: As ComfyUI's.


def converted(path: str, channel: str, image_format: str, quality: int, takes_large: bool) -> bytes:
    """Return a picture in a format (``png``, ``webp``, ``jpeg``).

    Args:
        path: of the picture.
        channel: ``rgb``: without its transparency; ``a``: that alone; else all of it.
        quality: 1–100, of a format with losses.
        takes_large: whether large pictures are drawn; else they raise ``TooLarge``.

    Raises ``NotAnImage`` or ``FileNotFoundError``.
    """
    with Path(path).open("rb") as file, opened(file, takes_large=takes_large) as image:
        picture: Image.Image = image
        if channel == "a":
            picture = Image.new("RGBA", image.size)
            picture.putalpha(_alpha(image))
        elif channel == "rgb" or image_format == "jpeg":
            picture = image.convert("RGB")
        elif image.mode not in ("RGB", "RGBA"):
            picture = image.convert("RGBA" if image.has_transparency_data else "RGB")
        return _encoded(picture, image_format, quality=quality)


def masked(path: str, mask_path: str, takes_large: bool) -> bytes:
    """Return a picture as PNG with the alpha of a mask, and its texts: the workflow is among them.

    ``takes_large`` as of :func:`converted`. Raises ``NotAnImage`` or ``FileNotFoundError``.
    """
    with (
        Path(path).open("rb") as file,
        opened(file, takes_large=takes_large) as image,
        Path(mask_path).open("rb") as mask_file,
        opened(mask_file) as mask,
    ):
        if image.size != mask.size:
            raise NotAnImage(
                f"The mask has {mask.width}×{mask.height} pixels, its picture"
                f" {image.width}×{image.height}."
            )
        texts = PngInfo()
        for key, text in getattr(image, "text", {}).items():
            texts.add_text(key, text)
        picture = image.convert("RGBA")
        picture.putalpha(_alpha(mask))
        return _encoded(picture, "png", pnginfo=texts)


def _alpha(image: Image.Image) -> Image.Image:
    if image.has_transparency_data:
        return image.convert("RGBA").getchannel("A")
    return Image.new("L", image.size, 255)


def _encoded(picture: Image.Image, image_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    if image_format == "png":
        options["compress_level"] = _PNG_LEVEL
        options.pop("quality", None)
    picture.save(buffer, format=image_format, **options)
    return buffer.getvalue()
