"""Three ComfyUI nodes: one works in steps, one fails on purpose, one sleeps.

Runs inside ComfyUI only (``torch`` and ``comfy`` are its modules). Images are
ComfyUI's: float tensors ``[batch, height, width, 3]`` with values in 0 … 1.
"""

from __future__ import annotations

import math
import time
from typing import Any

import comfy.model_management
import comfy.utils
import torch

CATEGORY = "director/testing"
SLICE_SECONDS = 0.02
"""How long the sampler sleeps between two looks at the interrupt flag."""

SpecifiedInputs = dict[str, dict[str, tuple[Any, ...]]]


def picture(seed: int, side: int) -> torch.Tensor:
    """A smooth picture of ``side`` × ``side`` pixels that only ``seed`` decides.

    Returns:
        Shape ``[1, side, side, 3]``, values in 0 … 1. Waves, not noise, so that
        a person who looks at two of them sees which is which.
    """
    generator = torch.Generator().manual_seed(seed % 2**63)
    turns = torch.rand(3, 3, generator=generator) * 2 * math.pi
    axis = torch.linspace(0.0, 1.0, side)
    rows, columns = torch.meshgrid(axis, axis, indexing="ij")
    waves = [torch.sin(turns[i, 0] * 2 * rows + turns[i, 1] * 2 * columns + turns[i, 2]) for i in range(3)]
    return (torch.stack(waves, dim=-1) * 0.5 + 0.5).unsqueeze(0)


def sleep_interruptibly(seconds: float) -> None:
    """Sleep in slices.

    Raises:
        comfy.model_management.InterruptProcessingException: somebody posted
            ``/interrupt`` for the running prompt.
    """
    end = time.monotonic() + seconds
    while True:
        comfy.model_management.throw_exception_if_processing_interrupted()
        left = end - time.monotonic()
        if left <= 0:
            return
        time.sleep(min(left, SLICE_SECONDS))


class DirectorTestSampler:
    """Makes an image of its seed in ``steps`` steps that take ``seconds`` in all.

    Reports every step as KSampler does and honours an interrupt within 20 ms.
    """

    CATEGORY = CATEGORY
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "sample"

    @classmethod
    def INPUT_TYPES(cls) -> SpecifiedInputs:  # noqa: N802 - ComfyUI's name
        return {
            "required": {
                "seed": ("INT", {"default": 0, "min": 0, "max": 2**64 - 1}),
                "steps": ("INT", {"default": 8, "min": 1, "max": 10_000}),
                "seconds": ("FLOAT", {"default": 1.0, "min": 0.0, "max": 3600.0}),
            },
            "optional": {"side": ("INT", {"default": 256, "min": 8, "max": 4096})},
        }

    def sample(self, seed: int, steps: int, seconds: float, side: int = 256) -> tuple[torch.Tensor]:
        bar = comfy.utils.ProgressBar(steps)
        for step in range(1, steps + 1):
            sleep_interruptibly(seconds / steps)
            bar.update_absolute(step, steps)
        return (picture(seed, side),)


class DirectorTestFail:
    """Raises ``exception`` with ``message``, after ``seconds``."""

    CATEGORY = CATEGORY
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "fail"
    EXCEPTIONS = {
        "RuntimeError": RuntimeError,
        "ValueError": ValueError,
        # ComfyUI adds its tips to this one, and names it torch.OutOfMemoryError.
        "OutOfMemoryError": torch.OutOfMemoryError,
    }

    @classmethod
    def INPUT_TYPES(cls) -> SpecifiedInputs:  # noqa: N802 - ComfyUI's name
        return {
            "required": {
                "image": ("IMAGE",),
                "message": ("STRING", {"default": "failed on purpose"}),
                "exception": (list(cls.EXCEPTIONS),),
                "seconds": ("FLOAT", {"default": 0.0, "min": 0.0, "max": 3600.0}),
            }
        }

    def fail(self, image: torch.Tensor, message: str, exception: str, seconds: float) -> None:
        sleep_interruptibly(seconds)
        raise self.EXCEPTIONS[exception](message)


class DirectorTestSleep:
    """Passes its image on after ``seconds`` in which no interrupt reaches it.

    It stands for native code: a VAE decode, a model being loaded.
    """

    CATEGORY = CATEGORY
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "sleep"

    @classmethod
    def INPUT_TYPES(cls) -> SpecifiedInputs:  # noqa: N802 - ComfyUI's name
        return {"required": {"image": ("IMAGE",), "seconds": ("FLOAT", {"default": 2.0, "min": 0.0, "max": 3600.0})}}

    def sleep(self, image: torch.Tensor, seconds: float) -> tuple[torch.Tensor]:
        time.sleep(seconds)
        return (image,)


NODE_CLASS_MAPPINGS = {
    "DirectorTestSampler": DirectorTestSampler,
    "DirectorTestFail": DirectorTestFail,
    "DirectorTestSleep": DirectorTestSleep,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "DirectorTestSampler": "Director Test Sampler",
    "DirectorTestFail": "Director Test Fail",
    "DirectorTestSleep": "Director Test Sleep",
}
