"""Initial values of the submit form: an earlier group, or the defaults of the installation."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, Final

from django.utils.text import capfirst

from jobgroups.domain import text
from jobgroups.domain.access import EVERYBODY, Principal
from jobgroups.domain.failures import RETRIED, TAXONOMY
from jobgroups.domain.states import PartialOutputs, Placement, RetryScope
from jobgroups.models import ChildJob, JobGroup
from jobgroups.queries.pool import pool_candidates
from jobgroups.queries.visibility import visible
from jobgroups.serializers import serialize_group
from jobgroups.workflow.parameters import Targets
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
    (
        failure_class.value,
        capfirst(text.failure_label(failure_class)),
        TAXONOMY[failure_class].sentence,
    )
    for failure_class in RETRIED
)
#: Policies for outputs that ComfyUI refuses.
PARTIAL_OUTPUTS: Final = (
    (PartialOutputs.ACCEPT.value, "Keep the other outputs, with a warning"),
    (PartialOutputs.FAIL.value, "Stop the job: it fails"),
)
DEFAULT_ATTEMPTS: Final = 3  #: Offered number of attempts if the installation has no retry policy.


def tagged_backends(rows: Iterable[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """Return each tag with the ids of its backends, in the order of the tags."""
    ids_by_tag: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        for tag in row["tags"]:
            ids_by_tag[tag].append(row["id"])
    return sorted(ids_by_tag.items())


def from_group(
    group_id: str, seed: str, job_id: str = "", *, principal: Principal = EVERYBODY
) -> dict[str, Any] | None:
    """Return the values of a group for the form; None if it does not exist for the principal.

    ``job_id``, or the ``seed`` of one of its children, repeats only that child on its backend, or
    in the pool, with the inputs of the child. Invalid values are ignored.
    """
    groups = JobGroup.objects.filter(visible(principal), pk=group_id)
    group = groups.defer("workflow_json").first()
    if group is None:
        return None
    children = list(
        ChildJob.objects.filter(group=group)
        .order_by("position")
        .values_list("backend_id", "seed", "id")
    )
    chosen = int(seed) if seed.isascii() and seed.isdigit() and len(seed) < 17 else None
    parameters, sweep = json.loads(group.parameters_json), json.loads(group.sweep_json or "null")
    if of_job := [child for child in children if child[2] == job_id]:
        children, chosen = of_job, of_job[0][1]
    elif chosen is not None and chosen <= MAX_SEED:
        children = [child for child in children if child[1] == chosen][:1] or children[:1]
    else:
        chosen = None
    if chosen is not None and children:
        variation = ChildJob.objects.values_list("variation_json", flat=True).get(pk=children[0][2])
        sweep, parameters = (
            None,
            _with_variation(group, parameters, json.loads(variation or "null")),
        )
    return {
        **serialize_group(group),
        # Of a group of another account its events are no concern of the new one.
        "webhook": json.loads(group.webhook_json or "null")
        if principal.sees_all or group.owner_id == principal.user_id
        else None,
        "count": len(children),
        "backend_ids": [backend_id for backend_id, *_ in children if backend_id],
        "candidates": pool_candidates(group.id) if group.placement == Placement.POOL else None,
        "parameters": parameters,
        "sweep": sweep,
        "jobs": _listed_jobs(group) if chosen is None and sweep is None else None,
        "base_seed": chosen,
        "required_capabilities": group.required_capabilities,
    }


def _with_variation(
    group: JobGroup, parameters: dict[str, Any], variation: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return parameters that set what those of a group and then the variation of a job set, one for
    each input.
    """
    if variation is None:
        return parameters
    targets, values = Targets(json.loads(group.workflow_json)), {}
    for each in (parameters, variation):
        for _, target, value in sorted(
            targets.read(each), key=lambda parameter: parameter[1].is_addressed
        ):
            values.update({f"{node_id}.{name}": value for node_id, name in target.slots})
    return values


def _listed_jobs(group: JobGroup) -> list[dict[str, Any]] | None:
    """Return the ``jobs`` of a group without their seeds; None if its jobs have no inputs and
    metadata of their own.
    """
    rows = group.children.order_by("position").values_list("variation_json", "metadata_json")
    if not any(map(any, rows)):
        return None
    return [
        {
            name: json.loads(text)
            for name, text in zip(("parameters", "metadata"), row, strict=True)
            if text
        }
        for row in rows
    ]
