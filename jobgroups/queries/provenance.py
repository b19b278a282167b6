"""Reads how a job was made: the workflow as it was sent, its input files, and what is known of the
execution.
"""

import json
import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any, Final

from jobgroups import workflow
from jobgroups.domain.access import Principal
from jobgroups.domain.clock import iso
from jobgroups.domain.shapes.groups import JobOfFile
from jobgroups.errors import ProvenanceUnknown
from jobgroups.models import Capture, ChildJob
from jobgroups.queries.assets import input_names
from jobgroups.queries.outputs import no_child
from jobgroups.queries.visibility import visible
from jobgroups.serializers import serialize_attempt
from jobgroups.workflow.assets import asset_references, with_file_names

_TIMES: Final = ("created_at", "accepted_at", "started_at", "ended_at")
_OF_ATTEMPT: Final = ("number", "run", "backend_id", "prompt_id", "outcome", *_TIMES)


def job_provenance(group_id: str, job_id: str) -> dict[str, Any]:
    """Return how a job was made, by the attempt that decides it, else by its last one.

    What the attempt has not stored is null: it has not ended, or ComfyUI reported no end. Raises
    ``GroupNotFound`` or ``ChildNotFound``.
    """
    children = ChildJob.objects.select_related("group", "current_attempt")
    child = children.filter(pk=job_id, group_id=group_id).first()
    if child is None:
        raise no_child(group_id, job_id)
    attempt = child.current_attempt or child.attempts.order_by("-number").first()
    execution = json.loads((attempt and attempt.execution_json) or "{}")
    group = child.group
    template = workflow.build_template(
        json.loads(group.workflow_json),
        json.loads(group.parameters_json),
        json.loads(child.variation_json or "null"),
    )
    graph = workflow.with_seed(template, child.seed)
    references = list(asset_references(graph))
    # An asset may be deleted after the execution.
    names = execution.get("inputs") or input_names({asset_id for _, _, asset_id in references})
    return {
        "job_group_id": group.id,
        "job_id": child.id,
        "status": child.status,
        "seed": child.seed,
        "variation": json.loads(child.variation_json or "null"),
        "submitted_at": iso(group.created_at),
        "submitter": group.submitter or None,
        "workflow": with_file_names(graph, names),
        "inputs": [
            {
                "node_id": node,
                "input": name,
                "asset_id": asset_id,
                "hash": f"blake3:{PurePosixPath(names[asset_id]).stem}"
                if asset_id in names
                else None,
            }
            for node, name, asset_id in references
        ],
        "attempts": child.attempt_count,
        "attempt": attempt
        and {
            **{
                name: value
                for name, value in serialize_attempt(attempt).items()
                if name in _OF_ATTEMPT
            },
            **{
                name: execution.get(name)
                for name in ("outputs_reused", "cached_nodes", "node_seconds", "machine")
            },
        },
    }


def job_of_mark(mark: Mapping[str, Any] | None, principal: Principal) -> JobOfFile:
    """Return group, job and attempt of the mark in a file, if a principal sees them; raise
    ``ProvenanceUnknown``.
    """
    if mark is None:
        raise ProvenanceUnknown(
            "The PNG has no mark of a job: another client made it, its metadata were removed, "
            "ComfyUI runs with"
            " --disable-metadata, or it is older than the marks."
        )
    group_id, job_id, number = (str(mark.get(key)) for key in ("group", "job", "attempt"))
    # Invented ones are not searched: PostgreSQL refuses a NUL.
    is_ours = re.fullmatch(
        r"jg_[0-9a-f]{12} j_[0-9a-f]{12} [0-9]{1,9}", f"{group_id} {job_id} {number}"
    )
    if not is_ours:
        raise ProvenanceUnknown("The mark in the PNG is not one of the Director.")
    jobs = ChildJob.objects.filter(visible(principal, "group"), pk=job_id, group_id=group_id)
    if not jobs.exists():
        raise ProvenanceUnknown(
            f"The PNG was made by job {job_id} of group {group_id}, which is not known here: it "
            "was deleted, or it"
            " belongs to another Director."
        )
    return JobOfFile(job_group_id=group_id, job_id=job_id, attempt=int(number))


def job_of_content(digest: str, principal: Principal) -> JobOfFile | None:
    """Return group and job of the first captured file with a content, by its BLAKE3, that a
    principal sees; None if there is none.
    """
    rows = Capture.objects.filter(visible(principal, "child__group"), file__blake3=digest)
    job = rows.order_by("id").values_list("child__group_id", "child_id").first()
    return job and JobOfFile(job_group_id=job[0], job_id=job[1], found_by="hash")
