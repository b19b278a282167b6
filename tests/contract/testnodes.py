"""The Test* nodes of the recordings, for a real ComfyUI: copy this file into its custom_nodes
folder.

The recordings' own nodes are not public; these were written from what the recordings show of them.
``tests/real`` needs them too. The tests import nothing of it: only a ComfyUI has torch and `comfy`.
"""

from __future__ import annotations

import time
from typing import Any, ClassVar

import comfy.model_management
import comfy.utils
import torch
from comfy_execution.graph import ExecutionBlocker
from comfy_execution.graph_utils import GraphBuilder
from PIL import Image
from server import PromptServer

SEED = ("INT", {"default": 0, "min": 0, "max": 2**64 - 1})
TICK = 0.05  # seconds between two looks at the interrupt flag
OUT_OF_MEMORY = (
    "CUDA out of memory. Tried to allocate 20.00 GiB. "
    "GPU 0 has a total capacity of 23.54 GiB of which 1.10 GiB is free."
)


def wait(seconds: float) -> None:
    """Sleep, unless interrupted."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        comfy.model_management.throw_exception_if_processing_interrupted()
        time.sleep(min(TICK, left))


def noise(seed: int, width: int, height: int) -> Any:
    """An IMAGE drawn from the seed."""
    generator = torch.Generator().manual_seed(seed % 2**63)
    return torch.rand(1, height, width, 3, generator=generator)


class Node:
    """What the nodes have in common; ``INPUT_TYPES`` are as recorded in /object_info."""

    CATEGORY = "testing"
    FUNCTION = "run"
    RETURN_TYPES: ClassVar[tuple[str, ...]] = ("IMAGE",)


class TestSampler(Node):
    """Reports steps, sends previews on request, honours interrupts."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - ComfyUI's name
        side = ("INT", {"default": 64, "min": 8, "max": 4096})
        return {
            "required": {
                "seed": SEED,
                "steps": ("INT", {"default": 4, "min": 1, "max": 10000}),
                "cfg": ("FLOAT", {"default": 7.0, "min": 0.0, "max": 100.0}),
                "sampler_name": ("STRING", {"default": "euler"}),
                "delay": ("FLOAT", {"default": 0.1, "min": 0.0, "max": 60.0}),
            },
            "optional": {"width": side, "height": side, "preview": ("BOOLEAN", {"default": False})},
        }

    def run(
        self,
        seed: int,
        steps: int,
        cfg: float,
        sampler_name: str,
        delay: float,
        width: int = 64,
        height: int = 64,
        preview: bool = False,
    ) -> tuple[Any]:
        bar, image = comfy.utils.ProgressBar(steps), noise(seed, width, height)
        picture = Image.fromarray((image[0] * 255).byte().numpy())
        for step in range(1, steps + 1):
            time.sleep(delay)
            bar.update_absolute(step, steps, ("JPEG", picture, 512) if preview else None)
        return (image,)


class TestFail(Node):
    """Raises after a while, or doesn't."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - ComfyUI's name
        kinds = ["runtime", "oom", "value", "none"]
        after = ("FLOAT", {"default": 0.0, "min": 0.0, "max": 600.0})
        return {"required": {"image": ("IMAGE",), "kind": (kinds,), "after": after}}

    def run(self, image: Any, kind: str, after: float) -> tuple[Any]:
        wait(after)
        if kind == "runtime":
            raise RuntimeError(OUT_OF_MEMORY)
        if kind == "oom":
            raise torch.OutOfMemoryError(OUT_OF_MEMORY)
        if kind == "value":
            raise ValueError("bad value on purpose")
        return (image,)


class TestSlow(Node):
    """Sleeps; ignores interrupts if it is to."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - ComfyUI's name
        return {
            "required": {
                "image": ("IMAGE",),
                "seconds": ("FLOAT", {"default": 2.0, "min": 0.0, "max": 3600.0}),
                "interruptible": ("BOOLEAN", {"default": True}),
            }
        }

    def run(self, image: Any, seconds: float, interruptible: bool) -> tuple[Any]:
        (wait if interruptible else time.sleep)(seconds)
        return (image,)


class TestExpand(Node):
    """Becomes a TestSampler and a TestSlow."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - ComfyUI's name
        steps = ("INT", {"default": 2, "min": 1, "max": 1000})
        return {"required": {"seed": SEED, "steps": steps}}

    def run(self, seed: int, steps: int) -> dict[str, Any]:
        graph = GraphBuilder()
        settings = {"cfg": 7.0, "sampler_name": "euler", "delay": 0.05}
        sampler = graph.node("TestSampler", seed=seed, steps=steps, **settings)
        slow = graph.node("TestSlow", image=sampler.out(0), seconds=0.05, interruptible=True)
        return {"result": (slow.out(0),), "expand": graph.finalize()}


class TestBlock(Node):
    """Blocks what follows, with a message or silently."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - ComfyUI's name
        return {"required": {"image": ("IMAGE",), "message": ("STRING", {"default": ""})}}

    def run(self, image: Any, message: str) -> tuple[Any]:
        return (ExecutionBlocker(message or None),)


class TestText(Node):
    """Sends a text as progress and as output."""

    OUTPUT_NODE = True
    RETURN_TYPES = ()

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - ComfyUI's name
        text = ("STRING", {"default": "hello"})
        return {"required": {"text": text}, "hidden": {"unique_id": "UNIQUE_ID"}}

    def run(self, text: str, unique_id: str) -> dict[str, Any]:
        PromptServer.instance.send_progress_text(text, unique_id)
        return {"ui": {"text": [text]}, "result": ()}


CLASSES = (TestSampler, TestFail, TestSlow, TestExpand, TestBlock, TestText)
NODE_CLASS_MAPPINGS = {cls.__name__: cls for cls in CLASSES}
NODE_DISPLAY_NAME_MAPPINGS = {
    "TestSampler": "Test Sampler",
    "TestFail": "Test Fail",
    "TestSlow": "Test Slow",
}
