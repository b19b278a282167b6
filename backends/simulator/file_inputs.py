"""The classes that load a file by its name: the check with which they refuse a missing one, and
whether a node must run again although its inputs are the same (ComfyUI's IS_CHANGED).

ComfyUI calls IS_CHANGED with linked inputs as None and writes the answer into the node of the
prompt it runs: `is_changed: [answer]`, or NaN if asking failed (ComfyUI execution.py,
IsChangedCache). So it is part of what is saved with an image, NaN included, and a client that sends
such a prompt again finds it in queue and history.
"""

import hashlib
import math
import time
from pathlib import Path
from typing import Any, NamedTuple

from backends.simulator.folders import Folders
from backends.simulator.graph import Node, is_link


class FileInput(NamedTuple):
    """The input with the file's name, the function that checks it, and its word for the file."""

    name: str
    check: str
    noun: str

    def complaint(self, inputs: dict[str, Any], folders: Folders) -> str | None:
        """What is wrong with a node's file, or None.

        ComfyUI calls the check with a link as None, and also if the input is missing. Raises
        TypeError then, and AttributeError for any name that is no text.
        """
        if self.name not in inputs:
            raise TypeError(f"{self.check}() missing 1 required positional argument: '{self.name}'")
        value = inputs[self.name]
        if folders.exists(None if is_link(value) else value):
            return None
        return f"Invalid {self.noun} file: {value}"


_IMAGE = FileInput("image", "LoadImage.VALIDATE_INPUTS", "image")
FILE_INPUTS = {
    "LoadAudio": FileInput("audio", "LoadAudio.VALIDATE_INPUTS", "audio"),
    "LoadImage": _IMAGE,
    "LoadImageMask": _IMAGE._replace(check="LoadImageMask.VALIDATE_INPUTS"),
    "LoadImageOutput": _IMAGE,
    "LoadLatent": FileInput("latent", "LoadLatent.VALIDATE_INPUTS", "latent"),
    "LoadVideo": FileInput("file", "LoadVideo.validate_inputs", "video"),
    "WebcamCapture": _IMAGE,
}


def change_value(node: Node, folders: Folders) -> Any:
    """A node's answer, noted in the node; False for a class without IS_CHANGED.

    An answer that is there already is kept. Raises KeyError for a node without "inputs".
    """
    class_type, inputs = node["class_type"], node["inputs"]
    if class_type != "SaveImageWebsocket" and class_type not in FILE_INPUTS:
        return False
    if "is_changed" not in node:
        try:
            node["is_changed"] = [_answer(class_type, inputs, folders)]
        except (AttributeError, KeyError, OSError, TypeError, ValueError):
            node["is_changed"] = math.nan
    return node["is_changed"]


def _answer(class_type: str, inputs: dict[str, Any], folders: Folders) -> float | str:
    """The time, or what changes with the file. Raises what asking ComfyUI's classes raises."""
    if class_type == "SaveImageWebsocket":
        return time.time()
    value = inputs[FILE_INPUTS[class_type].name]
    path = Path(folders.path(None if is_link(value) else value))
    if class_type == "LoadVideo":
        return path.stat().st_mtime
    return hashlib.sha256(path.read_bytes()).hexdigest()


def has_nan(value: Any) -> bool:
    """Return whether a JSON value contains a NaN: it then equals no value, itself included."""
    if isinstance(value, dict):
        return any(map(has_nan, value.values()))
    if isinstance(value, list):
        return any(map(has_nan, value))
    return isinstance(value, float) and math.isnan(value)
