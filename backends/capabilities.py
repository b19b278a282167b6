"""Capabilities of a backend, and which required ones it does not have. Pure.

A backend has each of its tags, ``gpu:…`` for each of its devices and ``comfyui:…`` for its version.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

#: Parts that ComfyUI adds to a device's name: ``cuda:0 NVIDIA GeForce RTX 4090 : cudaMallocAsync``.
_DEVICE_INDEX: Final = re.compile(r"^[a-z]+:\d+\s+")
_ALLOCATOR: Final = re.compile(r"\s+:\s+\S+$")


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendCapabilities:
    """What a backend's capabilities are derived from."""

    tags: Sequence[str]
    devices: Sequence[Mapping[str, Any]]  #: ``{"name": …}`` each, as ComfyUI names it.
    comfyui_version: str  #: "" if it is not known.


def gpu_slug(device_name: str) -> str:
    """Return ``nvidia-geforce-rtx-4090`` for ComfyUI's name of the device, "" for a CPU."""
    plain = _ALLOCATOR.sub("", _DEVICE_INDEX.sub("", device_name))
    slug = re.sub(r"[^a-z0-9]+", "-", plain.lower()).strip("-")
    return "" if slug == "cpu" else slug


def missing_capabilities(known: BackendCapabilities, required: Iterable[str]) -> list[str]:
    """Return the required capabilities that a backend does not have, in the order given."""
    return [one for one in required if not _has(known, one)]


def lacks_reason(known: BackendCapabilities, required: Iterable[str]) -> str | None:
    """Return which required capabilities a backend does not have, as a sentence; None if it has all."""
    missing = missing_capabilities(known, required)
    return f"Lacks {', '.join(missing)}." if missing else None


def _has(known: BackendCapabilities, capability: str) -> bool:
    if capability in known.tags:
        return True
    kind, _, wanted = capability.lower().partition(":")
    if not wanted:
        return False
    if kind == "gpu":
        slugs = [gpu_slug(str(device.get("name", ""))) for device in known.devices]
        # One or more whole words of the name: "rtx-4090", "4090".
        return any(f"-{wanted}-" in f"-{slug}-" for slug in slugs if slug)
    if kind == "comfyui":
        # "0.3" includes "0.3.64".
        return f"{known.comfyui_version.lower().removeprefix('v')}.".startswith(f"{wanted}.")
    return False
