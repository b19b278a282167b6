"""What flows along the links of a simulated workflow: descriptions instead of tensors."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

MAX_SIDE = 2048  # pixels; larger images would cost seconds


@dataclass(frozen=True, slots=True)
class Picture:
    """One image; it is painted when it is saved."""

    seed: int = 0
    width: int = 512
    height: int = 512
    index: int = 0  # place in its batch
    theme: int = 0  # from the texts of the workflow: another text, another picture
    color: int | None = None  # 0xRRGGBB: a plain one (EmptyImage)
    file: Path | None = None  # loaded from a file (LoadImage)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels), as a tensor of an IMAGE has it."""
        return (self.height, self.width, 3)

    def sized(self, width: int, height: int) -> Picture:
        return replace(self, width=clamp(width), height=clamp(height))


class Batch(tuple[Picture, ...]):
    """An IMAGE: one or more images."""

    __slots__ = ()

    def __str__(self) -> str:
        """As an error report shows a tensor."""
        first = self[0]
        return f"tensor(..., size=({len(self)}, {first.height}, {first.width}, 3))"


@dataclass(frozen=True, slots=True)
class Latent:
    """A LATENT: the size of the image to come, and after sampling its seed."""

    width: int = 512
    height: int = 512
    batch_size: int = 1
    seed: int | None = None
    theme: int = 0
    source: Batch | None = None  # VAEEncode: the images it came from

    def __str__(self) -> str:
        """As a node shows a small latent as text."""
        return f"{{'samples': tensor({[[[[0.0] * 8] * 8] * 4]})}}"

    def pictures(self) -> Batch:
        """What decoding this latent gives."""
        if self.seed is None and self.source is not None:
            return self.source
        first = Picture(seed=self.seed or 0, theme=self.theme).sized(self.width, self.height)
        return Batch(replace(first, index=index) for index in range(self.batch_size))


@dataclass(frozen=True, slots=True)
class Film:
    """A VIDEO."""

    images: Batch
    fps: float


@dataclass(frozen=True, slots=True)
class Opaque:
    """Anything else on a link: a model, an encoder, a conditioning."""

    kind: str

    def __str__(self) -> str:
        """As an error report shows an object."""
        return f"<{self.kind} object>"


@dataclass(frozen=True, slots=True)
class Blocker:
    """ComfyUI's ExecutionBlocker: nodes that get one don't run and pass it on."""

    message: str | None


def clamp(side: int) -> int:
    return max(8, min(int(side), MAX_SIDE))


def theme_of(prompt: Any) -> int:
    """Return a number made from a workflow's texts: another text gives another image."""
    texts = sorted(
        value
        for node in prompt.values()
        if isinstance(node, dict) and isinstance(node.get("inputs"), dict)
        for key, value in node["inputs"].items()
        if key == "text" and isinstance(value, str)
    )
    digest = hashlib.blake2b("\n".join(texts).encode(errors="replace"), digest_size=4)
    return int.from_bytes(digest.digest(), "big")
