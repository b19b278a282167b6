"""The classes that load a file by its name, and the check with which they refuse a missing one."""

from __future__ import annotations

from typing import Any, NamedTuple

from backends.simulator.folders import Folders
from backends.simulator.graph import is_link


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
