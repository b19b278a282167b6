"""Initial values of the submit form: an earlier group, or the defaults of the installation."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, Final

from jobgroups.domain import text
from jobgroups.domain.failures import RETRIED, TAXONOMY
from jobgroups.domain.states import PartialOutputs, Placement, RetryScope
from jobgroups.models import ChildJob, JobGroup
from jobgroups.queries.pool import pool_candidates
from jobgroups.workflow.seeds import MAX_SEED

#: Retry policies: value of the form, label. ``no`` is one attempt.
ON_FAILURE: Final = (
    ("no", "No retry"),
    (RetryScope.NEVER.value, "Retry on the same backend"),
    (RetryScope.GROUP.value, "Retry on any chosen backend"),
    (RetryScope.ANY.value, "Retry on any backend"),
)
#: Failure classes that are retried: value of the form, name, explanation.
RETRY_ON: Final = tuple(
    (one.value, text.capitalize(text.failure_label(one)), TAXONOMY[one].sentence) for one in RETRIED
)
#: Policies for outputs that ComfyUI refuses.
PARTIAL_OUTPUTS: Final = (
    (PartialOutputs.ACCEPT.value, "Keep the other outputs, with a warning"),
    (PartialOutputs.FAIL.value, "Stop the job: it fails"),
)
_DEFAULT_ATTEMPTS: Final = 3  #: Offered number of attempts if the installation has no retry policy.


def retry_defaults(max_attempts: int, elsewhere: str) -> dict[str, str | int]:
    """Return the initial retry policy of jobs that are submitted to backends."""
    if max_attempts == 1 and elsewhere == RetryScope.NEVER:
        return {"elsewhere": "no", "attempts": _DEFAULT_ATTEMPTS}
    return {"elsewhere": elsewhere, "attempts": max_attempts}


def tagged_backends(rows: Iterable[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """Return each tag with the ids of its backends, in the order of the tags."""
    found: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        for tag in row["tags"]:
            found[tag].append(row["id"])
    return sorted(found.items())


def from_group(group_id: str, seed: str) -> dict[str, Any] | None:
    """Return the values of a group for the form; None if it does not exist.

    ``seed`` is that of one of its children, to repeat only that child on its backend, or in the pool. Invalid values
    are ignored.
    """
    group = JobGroup.objects.filter(pk=group_id).defer("workflow_json").first()
    if group is None:
        return None
    children = list(ChildJob.objects.filter(group=group).order_by("position").values_list("backend_id", "seed"))
    chosen = int(seed) if seed.isascii() and seed.isdigit() and len(seed) < 17 else None
    if chosen is not None and chosen <= MAX_SEED:
        children = [one for one in children if one[1] == chosen][:1] or children[:1]
    else:
        chosen = None
    return {
        "group_id": group.id,
        "count": len(children),
        "backend_ids": [backend_id for backend_id, _ in children if backend_id],
        "candidates": pool_candidates(group.id) if group.placement == Placement.POOL else None,
        "parameters": json.loads(group.parameters_json),
        "metadata": json.loads(group.metadata_json),
        "seed_strategy": group.seed_strategy,
        "submitter": group.submitter,
        "base_seed": chosen,
        "timeout_seconds": group.time_limit,
        "stall_seconds": group.stall_seconds,
        "retention_days": group.retention_days,
        "max_attempts": group.max_attempts,
        "retry_elsewhere": group.retry_elsewhere,
        "retry_on": group.retry_on,
        "partial_outputs": group.partial_outputs,
        "required_capabilities": group.required_capabilities,
    }
