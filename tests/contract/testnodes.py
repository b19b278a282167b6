"""The Test* nodes of the recordings, for a real ComfyUI: copy this file into its custom_nodes folder.

The recordings' own nodes are not public; these were written from what the recordings show of them.
Nothing here is imported by the tests: only a ComfyUI has torch and the `comfy` packages.
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


class TestSampler:
    """Reports steps, sends previews on request, honours interrupts."""

    CATEGORY = "testing"
    FUNCTION = "run"
    RETURN_TYPES = ("IMAGE",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - ComfyUI's name
        """The inputs, as recorded in /object_info."""
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
        """Take the steps; the progress bar raises when interrupted."""
        bar, image = comfy.utils.ProgressBar(steps), noise(seed, width, height)
        picture = Image.fromarray((image[0] * 255).byte().numpy())
        for step in range(1, steps + 1):
            time.sleep(delay)
            bar.update_absolute(step, steps, ("JPEG", picture, 512) if preview else None)
        return (image,)


class TestFail:
    """Raises after a while, or doesn't."""

    CATEGORY = "testing"
    FUNCTION = "run"
    RETURN_TYPES = ("IMAGE",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - ComfyUI's name
        """The inputs, as recorded in /object_info."""
        kinds = ["runtime", "oom", "value", "none"]
        after = ("FLOAT", {"default": 0.0, "min": 0.0, "max": 600.0})
        return {"required": {"image": ("IMAGE",), "kind": (kinds,), "after": after}}

    def run(self, image: Any, kind: str, after: float) -> tuple[Any]:
        """Wait, then fail as requested."""
        wait(after)
        if kind == "runtime":
            raise RuntimeError(OUT_OF_MEMORY)
        if kind == "oom":
            raise torch.OutOfMemoryError(OUT_OF_MEMORY)
        if kind == "value":
            raise ValueError("bad value on purpose")
        return (image,)


class TestSlow:
    """Sleeps; ignores interrupts if it is to."""

    CATEGORY = "testing"
    FUNCTION = "run"
    RETURN_TYPES = ("IMAGE",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - ComfyUI's name
        """The inputs, as recorded in /object_info."""
        return {
            "required": {
                "image": ("IMAGE",),
                "seconds": ("FLOAT", {"default": 2.0, "min": 0.0, "max": 3600.0}),
                "interruptible": ("BOOLEAN", {"default": True}),
            }
        }

    def run(self, image: Any, seconds: float, interruptible: bool) -> tuple[Any]:
        """Sleep."""
        (wait if interruptible else time.sleep)(seconds)
        return (image,)


class TestExpand:
    """Becomes a TestSampler and a TestSlow."""

    CATEGORY = "testing"
    FUNCTION = "run"
    RETURN_TYPES = ("IMAGE",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - ComfyUI's name
        """The inputs, as recorded in /object_info."""
        steps = ("INT", {"default": 2, "min": 1, "max": 1000})
        return {"required": {"seed": SEED, "steps": steps}}

    def run(self, seed: int, steps: int) -> dict[str, Any]:
        """Give the graph to run in this node's place."""
        graph = GraphBuilder()
        settings = {"cfg": 7.0, "sampler_name": "euler", "delay": 0.05}
        sampler = graph.node("TestSampler", seed=seed, steps=steps, **settings)
        slow = graph.node("TestSlow", image=sampler.out(0), seconds=0.05, interruptible=True)
        return {"result": (slow.out(0),), "expand": graph.finalize()}


class TestBlock:
    """Blocks what follows, with a message or silently."""

    CATEGORY = "testing"
    FUNCTION = "run"
    RETURN_TYPES = ("IMAGE",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - ComfyUI's name
        """The inputs, as recorded in /object_info."""
        return {"required": {"image": ("IMAGE",), "message": ("STRING", {"default": ""})}}

    def run(self, image: Any, message: str) -> tuple[Any]:
        """Block."""
        return (ExecutionBlocker(message or None),)


class TestText:
    """Sends a text as progress and as output."""

    CATEGORY = "testing"
    FUNCTION = "run"
    OUTPUT_NODE = True
    RETURN_TYPES: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - ComfyUI's name
        """The inputs, as recorded in /object_info."""
        text = ("STRING", {"default": "hello"})
        return {"required": {"text": text}, "hidden": {"unique_id": "UNIQUE_ID"}}

    def run(self, text: str, unique_id: str) -> dict[str, Any]:
        """Send it."""
        PromptServer.instance.send_progress_text(text, unique_id)
        return {"ui": {"text": [text]}, "result": ()}


CLASSES = (TestSampler, TestFail, TestSlow, TestExpand, TestBlock, TestText)
NODE_CLASS_MAPPINGS = {cls.__name__: cls for cls in CLASSES}
NODE_DISPLAY_NAME_MAPPINGS = {"TestSampler": "Test Sampler", "TestFail": "Test Fail", "TestSlow": "Test Slow"}
