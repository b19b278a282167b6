"""The end of a prompt, as it is stored."""

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jobgroups.domain.failures import FailureClass
from jobgroups.domain.states import AttemptState, ErrorType


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptResult:
    """The end of a prompt as ComfyUI reported it."""

    state: AttemptState
    outputs: Mapping[str, Any]
    node_outputs: Mapping[str, Any] = field(default_factory=dict)
    error_message: str | None = None
    error_type: ErrorType | None = None
    error_details: Mapping[str, Any] | None = None
    #: Why it failed; of a success: why it is none that a person could use.
    failure: FailureClass | None = None
    warnings: tuple[str, ...] = ()
    #: New rows (``StoredFile``) of the pictures that came as frames, by their names; their files
    #: are in the storage. None: no node sends any.
    files: Mapping[str, Any] | None = None
    #: The nodes of ``node_outputs`` that ComfyUI executed: it has written their files. Its cache
    #: named the files of the others.
    executed: frozenset[str] = frozenset()
    #: Of each of these nodes, its ``workflow.origins``.
    origins: Mapping[str, str] = field(default_factory=dict)
    #: When it ended, by the backend's clock; None where its history does not say.
    backend_ended_at: dt.datetime | None = None
    #: Seconds for which it executed; None: not known.
    seconds: float | None = None
    #: The outputs that ComfyUI refused, if that is known only now: its answer was lost.
    node_errors: Mapping[str, Any] | None = None
    #: False where it never came to execute: it was deleted from the backend's queue.
    ran: bool = True
    #: What cannot be derived from other rows: ``outputs_reused``, ``cached_nodes`` (null: not
    #: known), ``node_seconds``, ``machine`` (``SystemStats.to_json``, as of the execution),
    #: ``inputs`` (asset id to its file name at the backend).
    execution: Mapping[str, Any] = field(default_factory=dict)
    #: Last reported progress: step, completed steps, total steps.
    last_step: tuple[str | None, int, int] | None = None
