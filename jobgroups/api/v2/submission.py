"""From the body of ``POST /api/v2/jobs`` to the stored group of one job."""

import re
import secrets
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, cast

from backends.errors import FieldInvalid
from jobgroups import workflow
from jobgroups.api.conversion import editor_json
from jobgroups.api.requests import payloads
from jobgroups.api.submission import NotExecutable, one_job, submit_to_any
from jobgroups.domain.access import Principal
from jobgroups.errors import (
    GroupDeleted,
    IdempotencyConflict,
    IdempotencyKeyReuse,
    InvalidWorkflow,
    MetadataInvalid,
    WorkflowFormatUi,
)
from jobgroups.models import JobGroup
from jobgroups.services.asset_records import resolve
from jobgroups.services.submission import group_replay
from jobgroups.workflow.validation import is_editor_format, shown_key

LABELS: Final = "A key has 1 to 100 characters, a value is a string of at most 200."
_MAX_LABELS: Final = 16
_RESERVED: Final = ("inputs", "webhook_url")
_KEY: Final = "api_key_comfy_org"
_PNGINFO: Final = "extra_pnginfo"
#: As ``DIRECTOR_COMFY_ORG_API_KEY``: what ComfyUI answers is searched for it, and JSON must not
#: escape it.
_KEY_FORM: Final = re.compile(r"[A-Za-z0-9._~+=-]{8,512}")


def submit_job(
    body: Mapping[str, Any],
    idempotency_key: str | None,
    owner: Mapping[str, Any],
    principal: Principal,
) -> JobGroup:
    """Check a submission and store it. ``idempotency_key`` is the one to store, ``owner`` says
    whose the job is; it may refer to what ``principal`` sees.

    Raises ``InvalidWorkflow``, ``WorkflowFormatUi``, ``MissingAsset``, ``MetadataInvalid``,
    ``InvalidRequest``, ``IdempotencyKeyReuse`` or ``RunnerAbsent``.
    """
    for name in _RESERVED:
        if name in body:
            raise FieldInvalid(name, "Is reserved. Leave it out.")
    labels = {} if body.get("metadata") is None else _labels(body["metadata"])
    secret, editor, warnings = _extra_data(body.get("extra_data"))
    graph = resolve(_check_graph(body.get("workflow")), principal)
    fields = {**one_job(graph), "metadata": labels, "partial_outputs": "fail"}
    submission = replace(
        payloads.submission(fields, idempotency_key, warnings=warnings),
        editor_json=editor,
        # A repeated request has another one, and is refused.
        idempotency_digest=secrets.token_hex(32),
        secret=secret,
        **owner,
    )
    try:
        if idempotency_key:
            group_replay(
                submitter=submission.submitter,
                owner_id=submission.owner_id,
                key=idempotency_key,
                digest=submission.idempotency_digest,
            )
        return submit_to_any(submission, principal)
    except NotExecutable as refused:
        raise _refusal(refused.entries, refused.skipped) from None
    except (IdempotencyConflict, GroupDeleted):
        raise IdempotencyKeyReuse from None


def _refusal(entries: list[dict[str, Any]], skipped: Mapping[str, str]) -> InvalidWorkflow:
    """Return the error of a workflow that no answering backend takes, by the one that lacks least."""
    entry = min(entries, key=lambda backend: len(backend["reasons"]))
    nodes: dict[str, list[dict[str, Any]]] = {}
    for node_reason in entry["reasons"]:
        if node_reason.node_id is not None:
            reason = {
                "field": node_reason.input,
                "reason": node_reason.code,
                "class_type": node_reason.class_type,
                "message": node_reason.message,
            }
            nodes.setdefault(node_reason.node_id, []).append(reason)
    sentence = skipped.get(entry["backend_id"]) or "No backend can execute the workflow now."
    return InvalidWorkflow(f"{entry['backend_id']}: {sentence}", nodes)


def _check_graph(graph: Any) -> workflow.Workflow:
    """Return a graph that a ComfyUI can read."""
    if is_editor_format(graph):
        raise WorkflowFormatUi
    try:
        workflow.check_workflow(graph, field="workflow")
    except workflow.WorkflowInvalid as error:
        path = error.field.removeprefix("workflow").removeprefix(".")
        node_id = path.removesuffix(".class_type").removesuffix(".inputs")
        wrong = {
            "field": path[len(node_id) + 1 :] or None,
            "reason": "node_invalid",
            "message": error.message,
        }
        raise InvalidWorkflow(str(error), {node_id: [wrong]} if path else {}) from None
    if (loose := workflow.dangling_link(graph)) is not None:
        node_id, name, source = map(shown_key, loose)
        message = (
            f"Node {node_id}: its input {name} is linked to node {source}, which does not exist."
        )
        raise InvalidWorkflow(
            message, {node_id: [{"field": name, "reason": "input_missing", "message": message}]}
        )
    return cast(workflow.Workflow, graph)


def is_label(key: str, value: Any) -> bool:
    """Return whether a pair of ``metadata`` can be stored and searched."""
    return (
        1 <= len(key) <= 100
        and isinstance(value, str)
        and len(value) <= 200
        and "\0" not in key + value
    )


def _labels(given: Any) -> dict[str, str]:
    if not isinstance(given, dict):
        raise MetadataInvalid(f"metadata must be an object. {LABELS}")
    if len(given) > _MAX_LABELS:
        raise MetadataInvalid(
            f"metadata has {len(given)} pairs; at most {_MAX_LABELS} are allowed."
        )
    for key, value in given.items():
        if not is_label(key, value):
            raise MetadataInvalid(f"metadata, {shown_key(key)!r}: {LABELS}")
    return given


def _extra_data(given: Any) -> tuple[str, str | None, list[str]]:
    """Return the key in ``extra_data``, ``JobGroup.editor_json`` and warnings. No error repeats
    what was given.
    """
    if given is None:
        return "", None, []
    if not isinstance(given, dict) or not given or not {_KEY, _PNGINFO}.issuperset(given):
        message = (
            f"Must be an object with {_KEY} and {_PNGINFO} alone; leave it out without one of them."
        )
        raise FieldInvalid("extra_data", message)
    key = given.get(_KEY, "")
    if _KEY in given and not (isinstance(key, str) and _KEY_FORM.fullmatch(key)):
        message = "Must have 8 to 512 letters, digits and some of . _ ~ + = -."
        raise FieldInvalid(f"extra_data.{_KEY}", message)
    written = given.get(_PNGINFO, {})
    if not isinstance(written, dict) or not {"workflow"}.issuperset(written):
        raise FieldInvalid(f"extra_data.{_PNGINFO}", "Must be an object with workflow alone.")
    if "workflow" not in written:
        return key, None, []
    if not isinstance(written["workflow"], dict):
        raise FieldInvalid(
            f"extra_data.{_PNGINFO}.workflow", "Must be an object; leave it out without one."
        )
    return key, *editor_json(written["workflow"], {})
