"""The farm as one machine, as the ComfyUI listener describes it: devices, versions, what it can do."""

import platform
import re
from typing import Any, Final

from django.conf import settings

from backends.comfyui.answers import DIRECTOR_KEY
from backends.comfyui.versions import release_of
from backends.models import Backend, Reachability
from jobgroups.queries.backends import current_backends

#: ComfyUI begins the name of a device with its type: ``cuda:0 NVIDIA GeForce RTX 4090``, ``cpu``.
_TYPE: Final = re.compile(r"[a-z]+")
#: In the place of a device where no machine is known: programs read the first one.
_NO_DEVICE: Final = {"name": "cpu", "vram_total": 0, "vram_free": 0}


def usable_backends() -> list[Backend]:
    """Return the enabled backends that answer; if none does, the enabled ones."""
    enabled = [row for row in current_backends().values() if row.enabled]
    online = [row for row in enabled if row.reachability == Reachability.ONLINE]
    return online or enabled


def system_stats() -> dict[str, Any]:
    """Return the farm as ``GET /system_stats`` of one ComfyUI: all devices, the largest first, and
    the oldest version.
    """
    rows = usable_backends()
    versions = [row.comfyui_version for row in rows if row.comfyui_version]
    devices = [device for row in rows for device in row.devices] or [_NO_DEVICE]
    devices.sort(key=lambda device: -(device.get("vram_total") or 0))
    system = {
        DIRECTOR_KEY: settings.DIRECTOR_VERSION,
        "os": platform.system().lower(),
        # Of the machines it is not known.
        "ram_total": 0,
        "ram_free": 0,
        "comfyui_version": min(versions, key=release_of, default=None),
        "required_frontend_version": None,
        "python_version": platform.python_version(),
        "pytorch_version": "",
        "embedded_python": False,
        "argv": [],
    }
    return {"system": system, "devices": list(map(_device, devices, range(len(devices))))}


def _device(stored: dict[str, Any], index: int) -> dict[str, Any]:
    name = str(stored.get("name") or "cpu")
    kind = match[0] if (match := _TYPE.match(name)) else "cpu"
    total, free = stored.get("vram_total") or 0, stored.get("vram_free") or 0
    return {
        "name": name,
        "type": kind,
        "index": None if kind == "cpu" else index,
        "vram_total": total,
        "vram_free": free,
        "torch_vram_total": total,
        "torch_vram_free": free,
    }


def features(max_upload_bytes: int) -> dict[str, Any]:
    """Return what the listener can do, as ``GET /features`` and the socket's ``feature_flags``.

    What is not here is not served: a list of assets, replacements of nodes.
    """
    return {
        "supports_preview_metadata": True,
        "max_upload_size": max_upload_bytes,
        "assets": False,
        "node_replacements": False,
    }
