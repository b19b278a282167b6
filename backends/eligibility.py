"""Eligibility: whether a backend may be given a child now, and why not. The caller passes the time.

A backend that a submission names may be paused: its children wait for it. A backend that was not
named must work.
"""

import datetime as dt
from collections.abc import Sequence
from typing import Final

from django.conf import settings

from backends.capabilities import PARTNER_NODES, BackendCapabilities, lacks_reason
from backends.comfyui.versions import Feature, has, limitations
from backends.hours import never_opens
from backends.models import Backend, Reachability
from backends.queries import backend_status
from backends.states import TAKES_CHILDREN, BackendState, BackendStatus

_NO_KEY: Final = "Partner nodes need an API key of Comfy.org: set DIRECTOR_COMFY_ORG_API_KEY."


def ineligible_reason(
    backend: Backend | None, required: Sequence[str], *, now: dt.datetime
) -> str | None:
    """Return why a backend that a submission names gets no child, None if it gets one.

    ``backend`` is None if no backend has the id; ``required`` are the submission's capabilities.
    """
    if backend is None:
        return "Unknown: no backend has this id."
    status = backend_status(backend, now=now)
    if status.state not in TAKES_CHILDREN or backend.reachability != Reachability.ONLINE:
        return _state_reason(backend, status)
    return lacks_reason(capabilities_of(backend), required)


def _state_reason(backend: Backend, status: BackendStatus) -> str:
    by = f" by {status.by}" if status.by else ""
    why = f": {status.reason}" if status.reason else ""
    match status.state:
        case BackendState.QUARANTINED:
            return f"Quarantined{by}{why}"
        case BackendState.DISABLED | BackendState.DRAINING as state:
            what = "Disabled" if state is BackendState.DISABLED else "Being drained"
            return f"{what}{by}{why or ('' if by else '.')}"
        case _:
            return f"Offline: {backend.status_reason or 'it has not answered yet'}"


def may_take_later(backend: Backend, *, now: dt.datetime) -> bool:
    """Return whether jobs of the pool may wait for a backend: it is not away or leaving.

    One that is paused, quarantined or not probed yet may take them later.
    """
    state = backend_status(backend, now=now).state
    is_leaving = state in (BackendState.DISABLED, BackendState.DRAINING)
    return not is_leaving and backend.unreachable_since is None


def is_working(backend: Backend, *, now: dt.datetime) -> bool:
    """Return whether a backend answers and nothing holds it back."""
    return backend_status(backend, now=now).state in (BackendState.ONLINE, BackendState.BUSY)


def capabilities_of(backend: Backend) -> BackendCapabilities:
    return BackendCapabilities(
        tags=backend.tags,
        devices=backend.devices,
        comfyui_version=backend.comfyui_version,
        partner_refusal=_partner_refusal(backend),
        key_refusal=None if settings.DIRECTOR_COMFY_ORG_API_KEY else _NO_KEY,
    )


def limitations_of(backend: Backend) -> list[str]:
    """Return what cannot be done with a backend, as sentences: by its version, why it gets no
    key if it may get it, and hours that never open.
    """
    refusal = (
        lacks_reason(capabilities_of(backend), [PARTNER_NODES])
        if backend.partner_nodes_allowed
        else None
    )
    closed = ["Its hours never open: it gets no job."] if never_opens(backend.hours) else []
    return [*limitations(backend.comfyui_version), *([refusal] if refusal else []), *closed]


def _partner_refusal(backend: Backend) -> str | None:
    if not backend.partner_nodes_allowed:
        return "Not confirmed for partner nodes: allow them on this backend."
    if not has(backend.comfyui_version, Feature.HIDDEN_KEYS):
        version = backend.comfyui_version or "of unknown version"
        return (
            f"ComfyUI {version} shows the key of partner nodes to its other users: update it to "
            "0.3.68."
        )
    return None


def largest_vram(backend: Backend) -> int:
    """Return the memory of a backend's largest device in bytes, 0 if no size is known."""
    sizes = [device.get("vram_total") for device in backend.devices]
    return max((size for size in sizes if isinstance(size, int)), default=0)
