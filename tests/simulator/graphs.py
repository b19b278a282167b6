"""Workflows for the simulator's tests."""

from __future__ import annotations

from typing import Any

Graph = dict[str, dict[str, Any]]


def sampler(seed: int = 1, steps: int = 4, delay: float = 0.0, *, prefix: str = "test", **inputs: Any) -> Graph:
    """TestSampler -> SaveImage, the recordings' workflow."""
    settings = {"seed": seed, "steps": steps, "cfg": 7.0, "sampler_name": "euler", "delay": delay}
    return {
        "1": {"class_type": "TestSampler", "inputs": settings | inputs},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": prefix}},
    }


def text_to_image(seed: int = 1, steps: int = 4, *, text: str = "a house", side: int = 512) -> Graph:
    """ComfyUI's default workflow, with the titles its editor gives."""
    loader: list[Any] = ["4", 0]
    return {
        "3": {
            "class_type": "KSampler",
            "inputs": {
                "seed": seed,
                "steps": steps,
                "cfg": 7.0,
                "sampler_name": "euler",
                "scheduler": "normal",
                "denoise": 1.0,
                "model": loader,
                "positive": ["6", 0],
                "negative": ["7", 0],
                "latent_image": ["5", 0],
            },
            "_meta": {"title": "KSampler"},
        },
        "4": {
            "class_type": "CheckpointLoaderSimple",
            "inputs": {"ckpt_name": "tiny_sd15.safetensors"},
            "_meta": {"title": "Load Checkpoint"},
        },
        "5": {
            "class_type": "EmptyLatentImage",
            "inputs": {"width": side, "height": side, "batch_size": 1},
            "_meta": {"title": "Empty Latent Image"},
        },
        "6": {
            "class_type": "CLIPTextEncode",
            "inputs": {"text": text, "clip": ["4", 1]},
            "_meta": {"title": "Positive"},
        },
        "7": {
            "class_type": "CLIPTextEncode",
            "inputs": {"text": "blurry", "clip": ["4", 1]},
            "_meta": {"title": "Negative"},
        },
        "8": {
            "class_type": "VAEDecode",
            "inputs": {"samples": ["3", 0], "vae": ["4", 2]},
            "_meta": {"title": "VAE Decode"},
        },
        "9": {
            "class_type": "SaveImage",
            "inputs": {"images": ["8", 0], "filename_prefix": "house"},
            "_meta": {"title": "Save Image"},
        },
    }


def plain_image(color: int = 1) -> Graph:
    """EmptyImage -> PreviewImage: nothing is sampled."""
    size = {"width": 64, "height": 64, "batch_size": 1}
    return {
        "1": {"class_type": "EmptyImage", "inputs": size | {"color": color}},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }


def reference_example(seed: int = 42) -> Graph:
    """One KSampler without a model and no output: only a lenient server runs it."""
    inputs = {"seed": seed, "steps": 3, "cfg": 7.5, "sampler_name": "euler"}
    return {"3": {"class_type": "KSampler", "inputs": inputs}}
