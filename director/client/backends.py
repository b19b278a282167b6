"""Backends, found ComfyUIs and the Director's health."""

from dataclasses import dataclass, field
from typing import Any

from director.client.decode import Moment, Parsed


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
class Backend(Parsed):
    """One registered ComfyUI.

    Attributes:
        status: ``online``, ``busy``, ``paused``, ``draining``, ``quarantined``, ``offline``,
            ``unknown`` or ``disabled``; ``status_reason``, ``status_since`` and ``status_by`` have
            the reason, the time and the user.
        partner_nodes_allowed: A user confirmed that it may get the API key for partner nodes.
        queue_ours: Prompts of the Director that are queued or run there.
        queue_foreign: Prompts of other clients.
        hold: ``pause`` or ``drain``; with ``evict`` its running jobs are requeued.
        changed_by: Who paused, drained, enabled or disabled it last; ``changed_reason`` and
            ``changed_at`` have the reason and the time.
        quarantine: None: not quarantined.
        on_probation: No prompt has succeeded since its quarantine ended.
        limitations: What cannot be done with it, as sentences: by its version, and why it gets no key for partner nodes.
        adopted_at: When discovery registered it automatically; None: a user registered or changed it.
    """

    backend_id: str
    name: str
    url: str
    enabled: bool
    status: str
    partner_nodes_allowed: bool = False
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
    limitations: tuple[str, ...] = ()
    last_seen_at: Moment | None = None
    adopted_at: Moment | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Exclusion(Parsed):
    """A workflow that a backend cannot run: jobs of the pool go to other backends.

    Attributes:
        kind: ``missing`` (a node class, model or file) or ``out_of_memory``.
        group_id: The group to which it is limited; None: all groups with the workflow.
        count: Failures since ``since``; the last one was at ``last_at``.
        reason: What ComfyUI said.
        until: When it ends by itself.
    """

    exclusion_id: int
    backend_id: str
    kind: str
    workflow_digest: str
    group_id: str | None = None
    count: int = 1
    reason: str = ""
    since: Moment | None = None
    last_at: Moment | None = None
    until: Moment | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckReason:
    """Why a backend cannot execute a workflow, or a part of it.

    Attributes:
        code: ``node_missing``, ``file_missing``, ``value_invalid``, ``input_missing``, ``capability_missing``,
            ``unavailable`` or ``excluded``.
        node_id: The node; None if the reason concerns the whole backend. Likewise ``class_type`` and ``input``.
        nearest: Names that the backend has and that are most like the missing one.
    """

    code: str
    message: str
    node_id: str | None = None
    class_type: str | None = None
    input: str | None = None
    nearest: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendCheck:
    """Whether one backend can execute a workflow.

    Attributes:
        can_run: It can, as far as that is known. With ``reasons``: in part.
        known: Every node class of the workflow could be read from it.
        state_reason: Why it takes no jobs now.
    """

    backend_id: str
    can_run: bool
    known: bool = False
    state_reason: str | None = None
    reasons: tuple[CheckReason, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowCheck(Parsed):
    """Which backends can execute a workflow; ``can_run`` is their number."""

    can_run: int
    backends: tuple[BackendCheck, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Health(Parsed):
    """Health of the Director: ``ok``, ``degraded`` or ``down``, and each check by name."""

    status: str
    version: str | None = None
    checks: dict[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found(Parsed):
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
