"""From rows to what a driver starts with: the child's own workflow is made here, again if need be."""

from __future__ import annotations

import json
import logging
from collections import OrderedDict
from typing import Any, Final

from jobgroups import workflow
from jobgroups.domain.states import AttemptState
from jobgroups.models import Attempt
from jobgroups.runner.attempt import result
from jobgroups.runner.attempt.driver import AttemptSpec
from jobgroups.services.claims import Claim

logger = logging.getLogger(__name__)

#: Groups whose prepared workflow is kept: their children come one after the other.
_KEPT: Final = 32


class AttemptSpecs:
    """Makes courses; keeps the prepared workflows of the groups seen last."""

    def __init__(self) -> None:
        self._prepared: OrderedDict[str, workflow.WorkflowTemplate] = OrderedDict()

    def from_claim(self, claim: Claim) -> AttemptSpec:
        """Return the course of a fresh claim, whose prompt is still to be sent."""
        return AttemptSpec(
            attempt_id=claim.attempt_id,
            number=claim.number,
            prompt_id=claim.prompt_id,
            client_id=claim.client_id,
            group_id=claim.group_id,
            child_id=claim.child_id,
            timeout_s=claim.timeout_seconds,
            workflow=self._workflow(
                claim.group_id, claim.workflow_json, claim.parameters_json, claim.seed
            ),
            is_new=True,
        )

    def from_row(self, row: Attempt) -> AttemptSpec:
        """Return the course of a stored attempt (child and group loaded) that is taken up again."""
        group = row.child.group
        return AttemptSpec(
            attempt_id=row.pk,
            number=row.number,
            prompt_id=row.prompt_id,
            client_id=row.client_id,
            group_id=group.id,
            child_id=row.child_id,
            timeout_s=group.timeout_seconds,
            workflow=self._workflow_of(row),
            state=AttemptState(row.state),
            stop_requested=row.stop_requested_at is not None,
            started_at=row.started_at,
            node_outputs=json.loads(row.node_outputs_json),
            warnings=json.loads(row.warnings_json),
            answer=result.unconfirmed_stored(row.error_message, row.error_details_json)
            if row.state == AttemptState.UNCERTAIN
            else None,
            node_errors=None if row.node_errors_json is None else json.loads(row.node_errors_json),
        )

    def _workflow_of(self, row: Attempt) -> dict[str, Any]:
        """Return what was sent, for progress and titles; without them where it cannot be made.

        One row must not keep a session from taking up what stands at its backend.
        """
        group = row.child.group
        try:
            return self._workflow(
                group.id, group.workflow_json, group.parameters_json, row.child.seed
            )
        except Exception:
            logger.exception("The workflow of %s cannot be made again", row.child_id)
            return {}

    def _workflow(self, group_id: str, text: str, parameters: str, seed: int) -> dict[str, Any]:
        prepared = self._prepared.pop(group_id, None)
        if prepared is None:
            prepared = workflow.build_template(json.loads(text), json.loads(parameters))
        self._prepared[group_id] = prepared
        if len(self._prepared) > _KEPT:
            self._prepared.popitem(last=False)
        return workflow.with_seed(prepared, seed)
