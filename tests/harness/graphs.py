"""Workflows that the simulator renders as a ComfyUI does."""

import io
import struct
import uuid
import zlib
from pathlib import Path
from typing import Any, Final

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from director.demo import workflow

Graph = dict[str, dict[str, Any]]


def node(class_type: str = "KSampler", title: str | None = None, **inputs: Any) -> dict[str, Any]:
    made: dict[str, Any] = {"class_type": class_type, "inputs": inputs}
    return made if title is None else {**made, "_meta": {"title": title}}


def text_to_image(
    seed: int = 1, steps: int = 4, *, prefix: str = "out", side: int = 512, checkpoint: str = ""
) -> Graph:
    """Return ComfyUI's default workflow: sampler "3", checkpoint "4", size "5", SaveImage "9"."""
    graph = workflow.text_to_image()
    graph["3"]["inputs"] |= {"seed": seed, "steps": steps}
    graph["5"]["inputs"] |= {"width": side, "height": side}
    graph["9"]["inputs"]["filename_prefix"] = prefix
    if checkpoint:
        graph["4"]["inputs"]["ckpt_name"] = checkpoint
    return graph


def picture(seed: int = 1) -> Graph:
    """Return a workflow that needs little memory."""
    return text_to_image(seed, side=64)


def sampler(
    seed: int = 1, steps: int = 4, delay: float = 0.0, *, prefix: str = "test", **inputs: Any
) -> Graph:
    """Return TestSampler → SaveImage; ``delay`` is the seconds of each step."""
    settings = {"seed": seed, "steps": steps, "cfg": 7.0, "sampler_name": "euler", "delay": delay}
    return {
        "1": {"class_type": "TestSampler", "inputs": settings | inputs},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": prefix}},
    }


def strangers_id(number: int) -> str:
    """Return the prompt id of another client's ``number``th prompt; newer ComfyUIs take no other
    form.
    """
    return str(uuid.UUID(int=number))


def strangers_picture(seed: int, seconds: float = 0.1) -> Graph:
    """Return another client's workflow, with a duration of its own."""
    graph = sampler(seed, delay=seconds / 4)
    return graph | {"2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}}


def plain_image(color: int = 1) -> Graph:
    """Return EmptyImage → PreviewImage: nothing is sampled."""
    size = {"width": 64, "height": 64, "batch_size": 1}
    return {
        "1": {"class_type": "EmptyImage", "inputs": size | {"color": color}},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }


def media(
    seed: int = 1, *, frames: int = 4, side: int = 64, fps: float = 2.0, text: str = "a poem"
) -> Graph:
    """Return a workflow that saves a film ("10"), an animation ("11"), a sound ("13") and a text
    ("15"), no picture.
    """
    graph = text_to_image(seed, side=side)
    graph["5"]["inputs"]["batch_size"] = frames
    del graph["9"]
    film = {"images": ["8", 0], "fps": fps}
    webm = {"filename_prefix": "video/film", "codec": "vp9", "crf": 32.0}
    webp = {"filename_prefix": "moving", "lossless": False, "quality": 80, "method": "default"}
    return graph | {
        "10": {"class_type": "SaveWEBM", "inputs": film | webm},
        "11": {"class_type": "SaveAnimatedWEBP", "inputs": film | webp},
        "12": {
            "class_type": "EmptyAudio",
            "inputs": {"duration": 2.0, "sample_rate": 8_000, "channels": 1},
        },
        "13": {
            "class_type": "SaveAudio",
            "inputs": {"audio": ["12", 0], "filename_prefix": "audio/sound"},
        },
        "14": {"class_type": "PrimitiveString", "inputs": {"value": text}},
        "15": {"class_type": "PreviewAny", "inputs": {"source": ["14", 0]}},
    }


def partner(seed: int = 1) -> Graph:
    """Return a workflow whose picture a partner makes, who is paid."""
    return {
        "1": {"class_type": "TestPartner", "inputs": {"seed": seed, "seconds": 0.0}},
        "2": {
            "class_type": "SaveImage",
            "inputs": {"images": ["1", 0], "filename_prefix": "partner"},
        },
    }


def reference_example(seed: int = 42) -> Graph:
    """Return one KSampler without a model and no output: only a lenient server runs it."""
    inputs = {"seed": seed, "steps": 3, "cfg": 7.5, "sampler_name": "euler"}
    return {"3": {"class_type": "KSampler", "inputs": inputs}}


def black_png(
    width: int, height: int, *, rows: int = 0, one_bit: bool = False, **texts: str
) -> bytes:
    """Return a PNG that claims a size and has so many rows of black pixels, in RGB or of one bit
    each.
    """

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", width, height, *((1, 0) if one_bit else (8, 2)), 0, 0, 0)
    noted = [chunk(b"tEXt", f"{key}\0{text}".encode("latin-1")) for key, text in texts.items()]
    packing = zlib.compressobj(1)
    row = bytes(1 + (-(-width // 8) if one_bit else 3 * width)) if rows else b""
    packed = b"".join(packing.compress(row) for _ in range(rows)) + packing.flush()
    chunks = [chunk(b"IHDR", head), *noted, chunk(b"IDAT", packed), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


#: The demo, as the editor saves it.
EDITOR_FILE: Final = Path(__file__).with_name("editor_workflow.json")


def png(**texts: str) -> bytes:
    """Return a PNG with these text chunks: ComfyUI's have the workflow as ``prompt``."""
    chunks, file = PngInfo(), io.BytesIO()
    for key, text in texts.items():
        chunks.add_text(key, text)
    Image.new("RGB", (8, 8)).save(file, "PNG", pnginfo=chunks)
    return file.getvalue()
