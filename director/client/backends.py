"""What a backend is, and how the Director itself is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from director.client.decode import Moment, as_object, build
from director.client.groups import Raw


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A GPU (or the CPU) of a backend; memory in bytes."""

    name: str
    vram_total: int | None = None
    vram_free: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """One registered ComfyUI.

    Attributes:
        status: ``online``, ``busy``, ``offline`` or ``disabled``; ``status_reason`` says why.
        queue_ours: Prompts of the Director that stand or run there.
        queue_foreign: Prompts of other people.
    """

    backend_id: str
    name: str
    url: str
    enabled: bool
    status: str
    status_reason: str | None = None
    status_since: Moment | None = None
    queue_ours: int = 0
    queue_foreign: int = 0
    running: int = 0
    tags: tuple[str, ...] = ()
    devices: tuple[Device, ...] = ()
    comfyui_version: str | None = None
    last_seen_at: Moment | None = None
    raw: Raw = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """How the Director is: ``ok``, ``degraded`` or ``down``, and each check by name."""

    status: str
    version: str | None = None
    checks: dict[str, Any] = field(default_factory=dict, hash=False)
    raw: Raw = field(default_factory=dict, repr=False, compare=False)


def parse_backend(value: Any) -> Backend:
    """Return the backend in one JSON object.

    Raises:
        UnexpectedAnswer: It is none.
    """
    backend = as_object(value)
    return build(Backend, {**backend, "raw": backend})


def parse_health(value: Any) -> Health:
    """Return the answer of the health endpoint, healthy or not.

    Raises:
        UnexpectedAnswer: It is none.
    """
    health = as_object(value)
    return build(Health, {**health, "raw": health})
