"""Workflows that a real ComfyUI with the nodes of ``comfy_nodes`` can run or must refuse."""

from __future__ import annotations

from typing import Any

Graph = dict[str, dict[str, Any]]

#: As the API reference prints it: its one node is no output node, and lacks most inputs.
REFERENCE_EXAMPLE: Graph = {
    "3": {
        "class_type": "KSampler",
        "inputs": {
            "seed": 42,
            "steps": 20,
            "cfg": 7.0,
            "sampler_name": "euler",
            "scheduler": "normal",
            "positive": "A cinematic cityscape at night",
            "negative": "blurry, low quality",
            "latent_image": {"filename": "batch_0"},
        },
    }
}


def sampled(prefix: str, *, steps: int = 4, seconds: float = 0.4) -> Graph:
    """Return sampler → SaveImage; the sampler takes ``seconds`` and can be interrupted."""
    return {
        "1": {"class_type": "DirectorTestSampler", "inputs": {"seed": 0, "steps": steps, "seconds": seconds}},
        "9": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": prefix}},
    }


def failing(prefix: str, *, message: str, exception: str) -> Graph:
    """Return sampler → node that raises → SaveImage."""
    graph = sampled(prefix)
    graph["5"] = {
        "class_type": "DirectorTestFail",
        "inputs": {"image": ["1", 0], "message": message, "exception": exception, "seconds": 0.0},
        "_meta": {"title": "The culprit"},
    }
    graph["9"]["inputs"]["images"] = ["5", 0]
    return graph


def deaf(prefix: str, *, seconds: float) -> Graph:
    """Return sampler → node that no interrupt reaches for ``seconds`` → SaveImage."""
    graph = sampled(prefix, steps=1, seconds=0.0)
    graph["5"] = {"class_type": "DirectorTestSleep", "inputs": {"image": ["1", 0], "seconds": seconds}}
    graph["9"]["inputs"]["images"] = ["5", 0]
    return graph


def text_to_image(prefix: str, checkpoint: str) -> Graph:
    """Return the usual graph of a checkpoint, small enough for a CPU: 64 × 64, four steps."""

    def text(words: str) -> dict[str, Any]:
        return {"class_type": "CLIPTextEncode", "inputs": {"text": words, "clip": ["4", 1]}}

    return {
        "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": checkpoint}},
        "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
        "6": text("a cinematic cityscape at night"),
        "7": text("blurry, low quality"),
        "3": {
            "class_type": "KSampler",
            "inputs": {
                "seed": 0,
                "steps": 4,
                "cfg": 7.0,
                "sampler_name": "euler",
                "scheduler": "normal",
                "denoise": 1.0,
                "model": ["4", 0],
                "positive": ["6", 0],
                "negative": ["7", 0],
                "latent_image": ["5", 0],
            },
        },
        "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 2]}},
        "9": {"class_type": "SaveImage", "inputs": {"images": ["8", 0], "filename_prefix": prefix}},
    }
