"""Converts workflows of ComfyUI's editor format in requests, by the node classes that online
backends describe.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from django.utils import timezone

from backends import inventory
from backends.errors import InvalidRequest
from backends.models import Reachability
from jobgroups.api.backend_selection import candidate_rows
from jobgroups.domain.pool import ANY_BACKEND
from jobgroups.errors import NothingDescribed
from jobgroups.serializers import to_json
from jobgroups.services.write_start import check_until
from jobgroups.workflow import embedded
from jobgroups.workflow.editor import class_types, convert
from jobgroups.workflow.editor_graph import ConversionFailed, NodeProblem
from jobgroups.workflow.validation import is_editor_format, shown_key

_SECONDS: Final = 5.0  #: Seconds for reading the descriptions, without the probes.
_MAX_ERRORS: Final = 100
#: Each prompt has it, and with it the answers of ComfyUI's queue and history.
_MAX_EDITOR_CHARACTERS: Final = 2**21


class Converted(NamedTuple):
    """The body of a request with its workflow in the API format, and warnings."""

    body: dict[str, Any]
    warnings: Sequence[str] = ()
    editor_json: str | None = None  #: As ``JobGroup.editor_json``.


def converted_body(body: dict[str, Any]) -> Converted:
    """Convert the workflow of a request if it has the editor's format.

    Raises:
        NothingDescribed: none of the named backends is online and answered in time.
        InvalidRequest: with every node that cannot be converted.
    """
    graph, named = body.get("workflow_json"), body.get("backend_ids")
    if not is_editor_format(graph):
        return Converted(body)
    names = (
        [backend_id for backend_id in named if isinstance(backend_id, str)]
        if isinstance(named, list)
        else []
    )
    rows = candidate_rows(names or [ANY_BACKEND])[0].values()
    online = [row for row in rows if row.reachability == Reachability.ONLINE]
    wanted = class_types(graph)
    since = time.monotonic() - inventory.FRESH_SECONDS
    known = inventory.node_classes(
        dict.fromkeys(online, wanted), since=since, until=check_until(_SECONDS)
    )
    classes: inventory.Classes = {}
    # Of several versions, the one of the backend that has most of the workflow's classes.
    for described in sorted(
        known.values(), key=lambda described: sum(map(bool, described.values()))
    ):
        classes |= {
            name: node_class
            for name, node_class in described.items()
            if node_class is not None or not classes.get(name)
        }
    if wanted and not classes:
        raise NothingDescribed
    try:
        converted, problems = convert(
            embedded.mark_values(graph), classes, now=timezone.localtime()
        )
    except ConversionFailed as failed:
        raise InvalidRequest(
            errors=[_error(error) for error in failed.errors[:_MAX_ERRORS]]
        ) from None
    text, too_long = editor_json(graph, embedded.take_places(converted))
    warnings = [
        f"Node {problem.node_id} ({problem.class_type}): {problem.message}" for problem in problems
    ]
    return Converted(body | {"workflow_json": converted}, [*warnings, *too_long], text)


def editor_json(
    editor: Mapping[str, Any], places: Mapping[str, Any]
) -> tuple[str | None, list[str]]:
    """Return what ``JobGroup.editor_json`` is for a workflow of the editor, and a warning if it is
    too long.
    """
    text = to_json({"workflow": editor, "places": places})
    if len(text) <= _MAX_EDITOR_CHARACTERS:
        return text, []
    limit = _MAX_EDITOR_CHARACTERS // 2**20
    return None, [
        f"Pictures get no workflow of the editor: it has more than {limit} Mi characters."
    ]


def _error(problem: NodeProblem) -> dict[str, str]:
    if not problem.node_id:
        return {"field": "workflow_json", "message": problem.message}
    message = f"{shown_key(problem.class_type)}: {problem.message}"
    return {"field": f"workflow_json.{shown_key(problem.node_id)}", "message": message}
