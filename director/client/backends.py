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
class Quarantine:
    """Why a backend is set aside; ``until`` None: until somebody releases it, ``by`` None: by itself."""

    since: Moment
    until: Moment | None = None
    reason: str | None = None
    by: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """One registered ComfyUI.

    Attributes:
        status: ``online``, ``busy``, ``paused``, ``draining``, ``quarantined``, ``offline``,
            ``unknown`` or ``disabled``; ``status_reason``, ``status_since`` and ``status_by`` say
            why, since when and by whom.
        queue_ours: Prompts of the Director that stand or run there.
        queue_foreign: Prompts of other people.
        hold: ``pause`` or ``drain``; with ``evict`` what ran there is given back.
        changed_by: Who paused, drained, enabled or disabled it last; ``changed_reason`` and ``changed_at``
            say why and when.
        quarantine: Since when it is set aside, until when, why and by whom; None: it is not.
        on_probation: It was let out of quarantine and has not succeeded since.
        adopted_at: When discovery registered it without a question; None: a person registered or changed it.
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
    """How the Director is: ``ok``, ``degraded`` or ``down``, and each check by name."""

    status: str
    version: str | None = None
    checks: dict[str, Any] = field(default_factory=dict, hash=False)
    raw: Raw = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """An address that was looked at, registered or not.

    Attributes:
        ok: A ComfyUI answers there.
        backend_id: Under which it is registered, None if it is not.
        reason: What is wrong, in words; None where it answers.
        ignored: A person decided that it is not offered. Discovery also sets ``first_seen_at``,
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


def parse_found(value: Any) -> Found:
    """Return what was found at one address.

    Raises:
        UnexpectedAnswer: It is nothing of the kind.
    """
    found = as_object(value)
    return build(Found, {**found, "raw": found})


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
