"""What an attempt's driver starts from, made from rows. The child's own workflow is prepared here.
Pure.
"""

from __future__ import annotations

import datetime as dt
import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from backends.comfyui.errors import PromptUnconfirmed
from jobgroups import workflow
from jobgroups.domain.outputs import MARK_KEY
from jobgroups.domain.prompt_sizes import LARGE_PROMPT_BYTES
from jobgroups.domain.states import AttemptState
from jobgroups.log_context import bound
from jobgroups.runner.attempt import result
from jobgroups.workflow import embedded

if TYPE_CHECKING:
    from jobgroups.models import Attempt

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptSpec:
    """What a driver starts from: a new claim, or a stored attempt that is resumed."""

    attempt_id: int
    number: int
    prompt_id: str
    client_id: str
    group_id: str
    child_id: str
    timeout_s: float
    #: Seconds without an event after which its time is up; infinity: any.
    stall_s: float = math.inf
    workflow: Mapping[str, Any]
    #: ``JobGroup.editor_json`` of a prompt that is still to be sent.
    editor_json: str | None = None
    #: ``JobGroup.prompt_fields_json`` of such a prompt, decoded.
    prompt_fields: Mapping[str, Any] = field(default_factory=dict)
    is_of_listener: bool = False  #: Whether it came through the ComfyUI listener.
    is_large: bool = False  #: Whether a machine has it at most once at a time.
    workflow_digest: str = ""
    uses_partner_nodes: bool | None = None  #: Whether a node is a partner's; None: not known.
    has_secret: bool = False  #: Whether the key for partner nodes is that of its submitter.
    #: INTENT for a new claim, whose prompt is still to be sent.
    state: AttemptState = AttemptState.INTENT
    is_new: bool = False
    stop_requested: bool = False
    started_at: dt.datetime | None = None  #: Wall clock, of a resumed attempt.
    node_outputs: Mapping[str, Mapping[str, Any]] | None = None
    warnings: Sequence[str] = ()  #: Warnings that are stored on the attempt.
    #: The answer to the POST, if it neither accepts nor refuses the prompt.
    answer: PromptUnconfirmed | None = None
    #: The outputs that ComfyUI refused; None: not known.
    node_errors: Mapping[str, Any] | None = None

    @property
    def shortest_limit_s(self) -> float:
        """How long a prompt may go on that is to be stopped and cannot be interrupted."""
        return min(self.timeout_s, self.stall_s)

    @property
    def mark(self) -> dict[str, Any]:
        """The part of ``extra_data`` that marks a prompt as ours in ComfyUI's queue and history."""
        return {MARK_KEY: {"group": self.group_id, "job": self.child_id, "attempt": self.number}}

    def extra_data(
        self, prompt: Mapping[str, Any], *, marks_outputs: bool, has_previews: bool
    ) -> dict[str, Any]:
        """Return the ``extra_data`` of a prompt: ComfyUI writes editor's workflow and mark into
        PNGs, too, or creates previews. What a program sent to the ComfyUI listener stays.
        """
        given: dict[str, Any] = self.prompt_fields.get("extra_data", {})
        pnginfo = given.get("extra_pnginfo")
        written: dict[str, Any] = dict(pnginfo) if isinstance(pnginfo, dict) else {}
        if self.editor_json is not None:
            # An object or absent: a null lets ComfyUI answer every list of jobs with 500.
            stored = json.loads(self.editor_json)
            written["workflow"] = embedded.fill_values(stored["workflow"], stored["places"], prompt)
        if marks_outputs:
            # Directly before the pixels: see ``MarkedPng``.
            written |= self.mark
        wanted = {"extra_pnginfo": written} if written else {}
        previews = {"preview_method": "auto"} if has_previews else {}
        return previews | given | self.mark | wanted

    @classmethod
    def from_claim(cls, row: Attempt) -> Self:
        """Return the spec of a new claim, whose prompt is still to be sent."""
        return cls._of(row, _workflow(row), is_new=True)

    @classmethod
    def from_row(cls, row: Attempt) -> Self:
        """Return the spec of a stored attempt that is resumed, with child, variant and group
        loaded.

        Its workflow is for progress and titles. It is empty if it cannot be prepared: one row must
        not keep a session from resuming the attempts at its backend.
        """
        try:
            sent = _workflow(row)
        except Exception:
            with bound(
                group=row.child.group_id,
                job=row.child_id,
                attempt=row.number,
                backend=row.backend_id,
            ):
                logger.exception("%s: workflow cannot be prepared again", row.child_id)
            sent = {}
        return cls._of(row, sent)

    @classmethod
    def _of(cls, row: Attempt, sent: Mapping[str, Any], *, is_new: bool = False) -> Self:
        group, is_uncertain = row.child.group, row.state == AttemptState.UNCERTAIN
        return cls(
            attempt_id=row.pk,
            number=row.number,
            prompt_id=row.prompt_id,
            client_id=row.client_id,
            group_id=group.id,
            child_id=row.child_id,
            timeout_s=group.timeout_seconds,
            stall_s=group.stall_seconds or math.inf,
            workflow=sent,
            editor_json=group.editor_json if is_new else None,
            prompt_fields=json.loads(group.prompt_fields_json or "{}") if is_new else {},
            is_of_listener=group.program is not None,
            is_large=len(group.workflow_json) > LARGE_PROMPT_BYTES,
            workflow_digest=(row.child.variant or group).workflow_digest,
            uses_partner_nodes=group.uses_partner_nodes,
            has_secret=group.has_secret,
            state=AttemptState(row.state),
            is_new=is_new,
            stop_requested=row.stop_requested_at is not None,
            started_at=row.started_at,
            node_outputs=json.loads(row.node_outputs_json),
            warnings=json.loads(row.warnings_json),
            answer=result.unconfirmed_stored(row.error_message, row.error_details_json)
            if is_uncertain
            else None,
            node_errors=None if row.node_errors_json is None else json.loads(row.node_errors_json),
        )


def _workflow(row: Attempt) -> dict[str, Any]:
    child, group = row.child, row.child.group
    template = workflow.build_template(
        json.loads(group.workflow_json), json.loads(group.parameters_json)
    )
    return workflow.with_seed(
        workflow.varied(template, json.loads(child.variation_json or "null")), child.seed
    )
