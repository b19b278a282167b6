"""Check whether a ComfyUI answers at an address, and which version."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from backends.comfyui.answers import Device
from backends.comfyui.client import ComfyClient
from backends.comfyui.exchange import Timeouts


@dataclass(frozen=True, slots=True)
class BackendReport:
    """A ComfyUI that answered.

    Attributes:
        url: canonical.
        version: None if the server does not send it.
        devices: its GPUs, or ``cpu``.
    """

    url: str
    version: str | None
    devices: tuple[Device, ...]


async def probe(url: str, *, headers: Mapping[str, str] | None = None, timeout: float = 1.5) -> BackendReport:
    """Query ``/system_stats`` over a connection of its own.

    Args:
        url: as ``normalise_url`` takes it.
        headers: as ``ComfyClient`` takes them.
        timeout: seconds for everything.

    Raises:
        ValueError: a malformed URL or header.
        BackendError: no ComfyUI answers there, with the reason.
    """
    # A connection that is not made in time differs from a silent backend.
    timeouts = Timeouts(connect_s=0.8 * timeout, silence_s=timeout, total_s=timeout)
    async with ComfyClient(url, headers=headers, timeouts=timeouts) as comfy:
        stats = await comfy.system_stats()
    return BackendReport(url=comfy.url, version=stats.version, devices=stats.devices)
