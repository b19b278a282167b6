"""Capabilities of a backend, and which required ones it does not have. Pure.

A backend has each of its tags, ``gpu:…`` for each of its devices, ``comfyui:…`` for its version,
and ``partner-nodes`` if it gets the installation's key for them, or ``partner-nodes-own-key`` if it
gets the key of a job's submitter.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

#: Parts that ComfyUI adds to a device's name: ``cuda:0 NVIDIA GeForce RTX 4090 : cudaMallocAsync``.
_DEVICE_INDEX: Final = re.compile(r"^[a-z]+:\d+\s+")
_ALLOCATOR: Final = re.compile(r"\s+:\s+\S+$")
#: The capability of executing nodes that a partner of Comfy.org is paid for. No tag stands for it.
PARTNER_NODES: Final = "partner-nodes"
OWN_KEY: Final = "partner-nodes-own-key"  #: The same, for a job whose submitter has sent a key.


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendCapabilities:
    """What a backend's capabilities are derived from."""

    tags: Sequence[str]
    devices: Sequence[Mapping[str, Any]]  #: ``{"name": …}`` each, as ComfyUI names it.
    comfyui_version: str  #: "" if it is not known.
    #: Why it gets no key for partner nodes, as a sentence; None: it gets a key.
    partner_refusal: str | None = "It gets no key for partner nodes."
    #: Why the installation has no key for them, as a sentence; None: it has one.
    key_refusal: str | None = None


def gpu_slug(device_name: str) -> str:
    """Return ``nvidia-geforce-rtx-4090`` for ComfyUI's name of the device, "" for a CPU."""
    plain = _ALLOCATOR.sub("", _DEVICE_INDEX.sub("", device_name))
    slug = re.sub(r"[^a-z0-9]+", "-", plain.lower()).strip("-")
    return "" if slug == "cpu" else slug


def missing_capabilities(known: BackendCapabilities, required: Iterable[str]) -> list[str]:
    return [capability for capability in required if not _has(known, capability)]


def lacks_reason(known: BackendCapabilities, required: Iterable[str]) -> str | None:
    """Return which required capabilities a backend does not have, as a sentence; None if it has
    all.
    """
    missing = missing_capabilities(known, required)
    for capability in missing:
        if capability in (PARTNER_NODES, OWN_KEY):
            return _key_refusal(known, capability)
    return f"Lacks {', '.join(missing)}." if missing else None


def needed_capabilities(
    required: Iterable[str], uses_partner_nodes: bool | None, *, has_own_key: bool = False
) -> list[str]:
    """Return what a backend must have for a workflow: the capabilities of its submission, and that
    for partner nodes.

    ``has_own_key``: its submitter has sent the key for them.
    """
    return (
        [*required, OWN_KEY if has_own_key else PARTNER_NODES]
        if uses_partner_nodes
        else list(required)
    )


def _key_refusal(known: BackendCapabilities, capability: str) -> str | None:
    return (known.key_refusal if capability == PARTNER_NODES else None) or known.partner_refusal


def _has(known: BackendCapabilities, capability: str) -> bool:
    if capability in (PARTNER_NODES, OWN_KEY):
        return _key_refusal(known, capability) is None
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
