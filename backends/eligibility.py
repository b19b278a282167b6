"""Eligibility: whether a backend may be given a child now, and why not. The caller passes the time.

A backend that a submission names may be paused: its children wait for it. A backend that was not named must
work.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Final

from backends.capabilities import BackendCapabilities, missing_capabilities
from backends.models import Backend, Reachability
from backends.queries import backend_status
from backends.states import TAKES_CHILDREN, BackendState, BackendStatus

#: States in which a backend gets children that were not submitted to it.
_WORKS: Final = frozenset({BackendState.ONLINE, BackendState.BUSY})


def ineligible_reason(backend: Backend | None, required: Sequence[str], *, now: dt.datetime) -> str | None:
    """Return why a backend that a submission names gets no child, None if it gets one.

    Args:
        backend: None if no backend has the id.
        required: the capabilities that the submission requires.
        now: the time at which the backend's state is derived.
    """
    if backend is None:
        return "Unknown: no backend has this id."
    status = backend_status(backend, now=now)
    if status.state not in TAKES_CHILDREN or backend.reachability != Reachability.ONLINE:
        return _state_reason(backend, status)
    missing = missing_capabilities(capabilities_of(backend), required)
    return f"Lacks {', '.join(missing)}." if missing else None


def _state_reason(backend: Backend, status: BackendStatus) -> str:
    by = f" by {status.by}" if status.by else ""
    why = f": {status.reason}" if status.reason else ""
    match status.state:
        case BackendState.DISABLED:
            return f"Disabled{by}{why}" if by or why else "Disabled."
        case BackendState.QUARANTINED:
            return f"Quarantined{by}{why}"
        case BackendState.DRAINING:
            return f"Being drained{by}{why}" if by or why else "Being drained."
        case _:
            return f"Offline: {backend.status_reason or 'it has not answered yet'}"


def is_working(backend: Backend, *, now: dt.datetime) -> bool:
    """Return whether a backend answers and nothing holds it back."""
    return backend_status(backend, now=now).state in _WORKS


def capabilities_of(backend: Backend) -> BackendCapabilities:
    """Return what is known of a backend's capabilities."""
    return BackendCapabilities(tags=backend.tags, devices=backend.devices, comfyui_version=backend.comfyui_version)


def largest_vram(backend: Backend) -> int:
    """Return the memory of a backend's largest device in bytes, 0 if no size is known."""
    sizes = [device.get("vram_total") for device in backend.devices]
    return max((size for size in sizes if isinstance(size, int)), default=0)
