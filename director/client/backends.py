"""Backends, found ComfyUIs and the Director's health."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from director.client.decode import Moment
from director.client.groups import Raw


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A GPU (or the CPU) of a backend; memory in bytes."""

    name: str
    vram_total: int | None = None
    vram_free: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Quarantine:
    """Reason and duration of a quarantine; ``until`` None: until a user releases it, ``by`` None: automatic."""

    since: Moment
    until: Moment | None = None
    reason: str | None = None
    by: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """One registered ComfyUI.

    Attributes:
        status: ``online``, ``busy``, ``paused``, ``draining``, ``quarantined``, ``offline``,
            ``unknown`` or ``disabled``; ``status_reason``, ``status_since`` and ``status_by`` have
            the reason, the time and the user.
        queue_ours: Prompts of the Director that are queued or run there.
        queue_foreign: Prompts of other clients.
        hold: ``pause`` or ``drain``; with ``evict`` its running jobs are requeued.
        changed_by: Who paused, drained, enabled or disabled it last; ``changed_reason`` and
            ``changed_at`` have the reason and the time.
        quarantine: None: not quarantined.
        on_probation: No prompt has succeeded since its quarantine ended.
        adopted_at: When discovery registered it automatically; None: a user registered or changed it.
    """

    backend_id: str
    name: str
    url: str
    enabled: bool
    status: str
    status_reason: str | None = None
    status_since: Moment | None = None
    status_by: str | None = None
    queue_ours: int = 0
    queue_foreign: int = 0
    running: int = 0
    hold: str | None = None
    evict: bool = False
    changed_by: str | None = None
    changed_reason: str | None = None
    changed_at: Moment | None = None
    quarantine: Quarantine | None = None
    on_probation: bool = False
    tags: tuple[str, ...] = ()
    devices: tuple[Device, ...] = ()
    comfyui_version: str | None = None
    last_seen_at: Moment | None = None
    adopted_at: Moment | None = None
    raw: Raw = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """Health of the Director: ``ok``, ``degraded`` or ``down``, and each check by name."""

    status: str
    version: str | None = None
    checks: dict[str, Any] = field(default_factory=dict, hash=False)
    raw: Raw = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """An address that was probed, registered or not.

    Attributes:
        ok: A ComfyUI answers there.
        backend_id: Id of the registered backend, None if it is not registered.
        reason: Why it does not answer as a ComfyUI.
        ignored: A user chose not to be offered it. Discovery also sets ``first_seen_at``,
            ``last_seen_at`` and ``ignored_at``.
    """

    url: str
    ok: bool = True
    backend_id: str | None = None
    comfyui_version: str | None = None
    devices: tuple[Device, ...] = ()
    reason: str | None = None
    ignored: bool = False
    first_seen_at: Moment | None = None
    last_seen_at: Moment | None = None
    ignored_at: Moment | None = None
    raw: Raw = field(default_factory=dict, repr=False, compare=False)
