"""The demo's workflow: text to image, in the API format of ComfyUI's editor."""

import json
from pathlib import Path
from typing import Any


def text_to_image() -> dict[str, Any]:
    """Return ComfyUI's default graph. The Director sets a different seed for every child."""
    path = Path(__file__).with_name("workflow.json")
    workflow: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return workflow


def with_video(workflow: dict[str, Any]) -> dict[str, Any]:
    """Return the graph with a video as a second output. The simulator paints another picture for
    each frame.
    """
    video = {
        "images": ["11", 0],
        "filename_prefix": "demo",
        "codec": "vp9",
        "fps": 2.0,
        "crf": 32.0,
    }
    return workflow | {
        "10": {"class_type": "RepeatLatentBatch", "inputs": {"samples": ["3", 0], "amount": 12}},
        "11": {"class_type": "VAEDecode", "inputs": {"samples": ["10", 0], "vae": ["4", 2]}},
        "12": {"class_type": "SaveWEBM", "inputs": video},
    }
