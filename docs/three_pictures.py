"""Put a demo's first three images side by side, as the README shows them.

``python docs/three_pictures.py demo-data/<run>/images docs/three-pictures.png``
"""

import sys
from pathlib import Path

from PIL import Image

WIDTH, GAP = 310, 10


def side_by_side(paths: list[Path]) -> Image.Image:
    """Return the images in a row, scaled to one width, with transparent gaps."""
    images = []
    for path in paths:
        with Image.open(path) as image:
            height = round(image.height * WIDTH / image.width)
            images.append(image.convert("RGBA").resize((WIDTH, height), Image.Resampling.LANCZOS))
    row = Image.new("RGBA", (len(images) * (WIDTH + GAP) - GAP, max(image.height for image in images)), (0, 0, 0, 0))
    for number, image in enumerate(images):
        row.paste(image, (number * (WIDTH + GAP), 0))
    return row


def main(folder: str, target: str) -> None:
    """Read the images of the folder and write the combined image."""
    first = sorted(Path(folder).glob("*_00001_.png"), key=lambda path: path.name.split("_")[1])
    if len(first) != 3:
        raise SystemExit(f"{folder} does not contain three images of the first group.")
    side_by_side(first).save(target, optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
