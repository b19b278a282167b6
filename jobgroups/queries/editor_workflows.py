"""Reads the workflow of a group for ComfyUI's editor."""

import json
from typing import Any

from jobgroups.errors import GroupNotFound
from jobgroups.models import ChildJob
from jobgroups.queries.provenance import job_provenance
from jobgroups.workflow import embedded
from jobgroups.workflow.graph import Workflow


def editor_workflow(group_id: str) -> tuple[dict[str, Any] | None, Workflow]:
    """Return the workflow of the first job of a group, of the editor's format if the group came
    with one, else None; and in the API format.

    Raises ``GroupNotFound``.
    """
    rows = ChildJob.objects.filter(group_id=group_id).order_by("position")
    columns = ("editor_json", "prompt_fields_json", "program", "workflow_json")
    row = rows.values_list("pk", *(f"group__{name}" for name in columns)).first()
    if row is None:
        raise GroupNotFound(group_id)
    job_id, editor, fields, program, sent = row
    if program is not None:
        # As the program sent it: names of files are those of its owner.
        given = json.loads(fields or "{}").get("extra_data", {}).get("extra_pnginfo")
        written = given.get("workflow") if isinstance(given, dict) else None
        return written if isinstance(written, dict) else None, json.loads(sent)
    graph = job_provenance(group_id, job_id)["workflow"]
    if editor is None:
        return None, graph
    stored = json.loads(editor)
    return embedded.fill_values(stored["workflow"], stored["places"], graph), graph
