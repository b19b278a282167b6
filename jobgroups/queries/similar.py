"""Finds the workflow that has run and is most like another one: its times estimate what has never
run.
"""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache
from math import inf
from typing import Any, Final

from jobgroups.domain.estimates import Estimates
from jobgroups.models import ChildJob, JobGroup, Variant
from jobgroups.workflow import WorkflowTemplate, build_template
from jobgroups.workflow.digest import distance, features

_NEWEST: Final = 200  #: The newest groups, and variants of the pool, among which it is searched.
_COMPARED: Final = 40  #: Workflows that are compared at most: each is read once, in about 1 ms.


def known_digests(
    digests: Sequence[str], template_of: Callable[[int], WorkflowTemplate], estimates: Estimates
) -> list[str]:
    """Return for each workflow the digest whose times estimate it: its own if it has run, else that
    of the workflow with the same nodes and links and the nearest values, else its own.

    ``template_of`` returns the workflow with a number in ``digests``.
    """
    known = estimates.digests
    if all(digest in known for digest in digests):
        return list(digests)
    candidates = _candidates(known)
    return [
        digest if digest in known else _nearest(template_of(number), candidates) or digest
        for number, digest in enumerate(digests)
    ]


def _nearest(template: WorkflowTemplate, candidates: Mapping[str, Mapping[Any, Any]]) -> str:
    wanted = features(template.workflow, template.seed_slots)
    distances = {digest: distance(wanted, found) for digest, found in candidates.items()}
    nearest = min(distances, key=distances.__getitem__, default="")
    return nearest if distances.get(nearest, inf) < inf else ""


def _candidates(known: Collection[str]) -> dict[str, Mapping[Any, Any]]:
    """Return the features of the workflows that have run lately, by digest."""
    groups = JobGroup.objects.order_by("-created_at").values_list("workflow_digest", "id")
    variants = Variant.objects.order_by("-id").values_list("workflow_digest", "group_id", "id")
    sources: dict[str, tuple[str, int | None]] = {}
    for digest, group_id in groups[:_NEWEST]:
        sources.setdefault(digest, (group_id, None))
    for digest, group_id, variant_id in variants[:_NEWEST]:
        sources.setdefault(digest, (group_id, variant_id))
    listed = [digest for digest in sources if digest in known][:_COMPARED]
    found = {digest: _features_of(digest, *sources[digest]) for digest in listed}
    return {digest: values for digest, values in found.items() if values}


@lru_cache(maxsize=1_000)
def _features_of(
    digest: str,  # noqa: ARG001 the key: the group may be deleted
    group_id: str,
    variant_id: int | None,
) -> Mapping[Any, Any]:
    group = JobGroup.objects.filter(pk=group_id).only("workflow_json", "parameters_json").first()
    if group is None:
        return {}
    workflow, parameters = json.loads(group.workflow_json), json.loads(group.parameters_json)
    variation = None
    if variant_id is not None:
        children = ChildJob.objects.filter(group_id=group_id, variant_id=variant_id)
        variation = children.values_list("variation_json", flat=True).first()
    template = build_template(workflow, parameters, json.loads(variation or "null"))
    return features(template.workflow, template.seed_slots)
