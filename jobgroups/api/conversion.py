"""Converts workflows of ComfyUI's editor format in requests, by the node classes that online backends describe."""

import time
from typing import Any, Final

from django.utils import timezone

from backends import inventory
from backends.errors import InvalidRequest
from backends.models import Reachability
from jobgroups.api.backend_selection import candidate_rows
from jobgroups.domain.pool import ANY_BACKEND
from jobgroups.errors import NothingDescribed
from jobgroups.workflow.editor import class_types, convert
from jobgroups.workflow.editor_graph import ConversionFailed, NodeProblem
from jobgroups.workflow.validation import is_editor_format, shown_key

_SECONDS: Final = 5.0  #: Seconds for reading the descriptions, without the probes.
_MAX_ERRORS: Final = 100


def converted_body(body: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the body of a request with its workflow in the API format, and warnings.

    Raises:
        NothingDescribed: none of the named backends is online and answered in time.
        InvalidRequest: with every node that cannot be converted.
    """
    graph, named = body.get("workflow_json"), body.get("backend_ids")
    if not is_editor_format(graph):
        return body, []
    names = [one for one in named if isinstance(one, str)] if isinstance(named, list) else []
    rows = candidate_rows(names or [ANY_BACKEND])[0].values()
    online = [row for row in rows if row.reachability == Reachability.ONLINE]
    wanted = class_types(graph)
    start = time.monotonic()
    known = inventory.node_classes(
        dict.fromkeys(online, wanted), since=start - inventory.FRESH_SECONDS, until=start + _SECONDS
    )
    classes: inventory.Classes = {}
    # Of several versions, the one of the backend that has most of the workflow's classes.
    for found in sorted(known.values(), key=lambda one: sum(map(bool, one.values()))):
        classes |= {name: one for name, one in found.items() if one is not None or not classes.get(name)}
    if wanted and not classes:
        raise NothingDescribed
    try:
        converted, problems = convert(graph, classes, now=timezone.localtime())
    except ConversionFailed as failed:
        raise InvalidRequest(errors=[_error(one) for one in failed.errors[:_MAX_ERRORS]]) from None
    warnings = [f"Node {one.node_id} ({one.class_type}): {one.message}" for one in problems]
    return body | {"workflow_json": converted}, warnings


def _error(problem: NodeProblem) -> dict[str, str]:
    if not problem.node_id:
        return {"field": "workflow_json", "message": problem.message}
    message = f"{shown_key(problem.class_type)}: {problem.message}"
    return {"field": f"workflow_json.{shown_key(problem.node_id)}", "message": message}
