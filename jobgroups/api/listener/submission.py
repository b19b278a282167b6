"""From the body of ComfyUI's ``POST /prompt`` to the stored group of one job."""

import hashlib
import math
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import msgspec

from jobgroups import workflow
from jobgroups.api.listener.base import PromptRefused
from jobgroups.api.listener.references import file_references
from jobgroups.api.listener.validation import refused, validate
from jobgroups.api.requests import payloads
from jobgroups.api.submission import NotExecutable, one_job, submit_to_any
from jobgroups.domain.access import Principal
from jobgroups.domain.listener_records import is_prompt_id
from jobgroups.domain.partner_keys import SECRETS
from jobgroups.domain.states import PartialOutputs
from jobgroups.models import ListenerPrompt
from jobgroups.services.submission import Origin, prompt_replay
from jobgroups.workflow.prompt_check import missing_class

#: What ComfyUI answers is searched for a secret, and JSON must not escape it.
_SECRET_FORM: Final = re.compile(r"[A-Za-z0-9._~+/=-]{6,8192}")
_MAX_ID: Final = 200  #: Characters of a client id.
_MAX_PROGRAM: Final = 100


def submit_prompt(
    body: Mapping[str, Any],
    *,
    owner: str,
    program: str,
    identity: Mapping[str, Any],
    principal: Principal,
) -> tuple[ListenerPrompt, Mapping[str, Any]]:
    """Store the prompt of a body, or return the one that the owner's same body has made before;
    with ComfyUI's ``node_errors`` of the outputs that are not executed.

    Args:
        owner: its key, as of ``owner_of``.
        program: the ``User-Agent`` of the client.
        identity: the fields of a submission that say whose it is.
        principal: it may refer to what this one sees.

    Raises:
        PromptRefused: as ComfyUI refuses it.
        RequestError: it was not stored for another reason.
    """
    graph, extra_data = body.get("prompt"), body.get("extra_data") or {}
    if not isinstance(graph, dict) or not isinstance(extra_data, dict):
        raise PromptRefused("no_prompt", "No prompt provided", details="No prompt provided")
    targets = body.get("partial_execution_targets")
    secret_name, secret = _secret(extra_data)
    fields: dict[str, Any] = {
        "extra_data": {name: value for name, value in extra_data.items() if name not in SECRETS}
    }
    if secret:
        fields["secret"] = secret_name
    if targets is not None:
        fields["partial_execution_targets"] = targets
    origin = Origin(
        owner=owner,
        prompt_id=_prompt_id(body.get("prompt_id")),
        digest=hashlib.sha256(msgspec.json.encode(body, order="deterministic")).hexdigest(),
        client_id=str(body.get("client_id") or extra_data.get("client_id") or "")[:_MAX_ID],
        outputs=_outputs(graph, targets),
        fields=fields,
        program=program[:_MAX_PROGRAM],
        number=_number(body.get("number")),
        is_front=body.get("front") is True,
    )
    earlier = prompt_replay(origin)
    if earlier is not None:
        return earlier.group.listener_prompt, {}
    return _store(graph, origin, identity, principal, secret)


def _store(
    graph: dict[str, Any],
    origin: Origin,
    identity: Mapping[str, Any],
    principal: Principal,
    secret: str,
) -> tuple[ListenerPrompt, Mapping[str, Any]]:
    """Store a prompt that a machine executes, and return it with the ``node_errors`` of the others
    of its outputs.
    """
    for node_id, node in graph.items():
        if isinstance(node, dict) and "class_type" not in node:
            raise refused(missing_class(node_id, node))
    try:
        workflow.check_workflow(graph, field="prompt")
    except workflow.WorkflowInvalid as error:
        raise PromptRefused("invalid_prompt", error.message, details=error.field) from None
    targets = origin.fields.get("partial_execution_targets")
    references = file_references(graph, owner=origin.owner, principal=principal)
    checked = validate(
        graph,
        targets=targets if isinstance(targets, list) else None,
        resolved={(node_id, name) for node_id, inputs in references.items() for name in inputs},
    )
    if checked.outputs:
        origin = replace(origin, outputs=checked.outputs)
    fields = one_job(graph)
    for node_id, inputs in references.items():
        fields["parameters"].setdefault(node_id, {}).update(inputs)
    # A machine that can execute all outputs does it, if there is one.
    in_part = PartialOutputs.ACCEPT if checked.node_errors else PartialOutputs.FAIL
    fields["partial_outputs"] = in_part
    submission = replace(
        payloads.submission(fields, None), secret=secret, origin=origin, **identity
    )
    try:
        group = submit_to_any(submission, principal)
    except NotExecutable as error:
        raise _not_executable(error) from None
    return group.listener_prompt, checked.node_errors


def _not_executable(error: NotExecutable) -> PromptRefused:
    """Return the refusal of a prompt that no answering backend takes, as earlier failures and
    capabilities show.
    """
    entry = min(error.entries, key=lambda backend: len(backend["reasons"]))
    sentence = error.skipped.get(entry["backend_id"], "No machine can execute the prompt.")
    return PromptRefused("prompt_outputs_failed_validation", sentence, details=sentence)


def _prompt_id(given: Any) -> str:
    """Return the id of a prompt: the given one, which must be a UUID in its usual form."""
    if given is None:
        return str(uuid.uuid4())
    if is_prompt_id(given):
        return str(given)
    raise PromptRefused(
        "invalid_prompt_id",
        "prompt_id must be a valid UUID",
        details="prompt_id must be a UUID string in canonical lowercase hyphenated form; omit it "
        "to let the server generate one",
    )


def _number(given: Any) -> float | None:
    if given is None:
        return None
    try:
        number = float(given)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise PromptRefused("invalid_number", "number must be a finite number.")
    return number


def _outputs(graph: Mapping[str, Any], targets: Any) -> Sequence[str]:
    """Return the nodes that no other node of a graph uses, or those that are named."""
    if isinstance(targets, list):
        return [str(target) for target in targets if str(target) in graph]
    nodes = {name: node for name, node in graph.items() if isinstance(node, dict)}
    used = {
        value[0]
        for node in nodes.values()
        for value in (node.get("inputs") or {}).values()
        if workflow.is_link(value)
    }
    return [name for name in nodes if name not in used]


def _secret(extra_data: Mapping[str, Any]) -> tuple[str, str]:
    """Return the name and the value of the key for partner nodes; empty without one.

    Of two keys the one that does not expire is taken.
    """
    for name in SECRETS:
        value = extra_data.get(name)
        if value is None or value == "":
            continue
        if not (isinstance(value, str) and _SECRET_FORM.fullmatch(value)):
            message = (
                f"extra_data.{name} must have 6 to 8192 letters, digits and some of . _ ~ + / = -."
            )
            raise PromptRefused("invalid_secret", message)
        return name, value
    return "", ""
