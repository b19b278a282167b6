"""Put a demo's first three images side by side, as the README shows them.

``python docs/three_pictures.py demo-data/<run>/images docs/three-pictures.png``
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

WIDTH, GAP = 310, 10


def side_by_side(paths: list[Path]) -> Image.Image:
    """Return the pictures at one width in a row; what is between them is transparent."""
    pictures = []
    for path in paths:
        with Image.open(path) as picture:
            height = round(picture.height * WIDTH / picture.width)
            pictures.append(
                picture.convert("RGBA").resize((WIDTH, height), Image.Resampling.LANCZOS)
            )
    row = Image.new(
        "RGBA",
        (len(pictures) * (WIDTH + GAP) - GAP, max(picture.height for picture in pictures)),
        (0, 0, 0, 0),
    )
    for number, picture in enumerate(pictures):
        row.paste(picture, (number * (WIDTH + GAP), 0))
    return row


def main(folder: str, target: str) -> None:
    """Read the folder, write the picture."""
    first = sorted(Path(folder).glob("*_00001_.png"), key=lambda path: path.name.split("_")[1])
    if len(first) != 3:
        raise SystemExit(f"{folder} has no three pictures of a first group.")
    side_by_side(first).save(target, optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
