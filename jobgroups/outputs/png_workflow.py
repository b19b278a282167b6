"""Reads what ComfyUI writes into each PNG before the pixels: the workflow, and the mark of the
Director.
"""

import io
import json
from typing import Any

from PIL.PngImagePlugin import PngImageFile

from backends.errors import FieldInvalid
from jobgroups.domain.outputs import MARK_KEY
from jobgroups.errors import NoWorkflow, ProvenanceUnknown
from jobgroups.workflow import check_text, check_workflow
from jobgroups.workflow.validation import is_editor_format


def workflow_in_png(content: bytes) -> dict[str, Any]:
    """Return the workflow of a PNG's text chunks, or raise ``NoWorkflow``.

    That is the ``prompt`` in the API format, or, without one, the ``workflow`` in the editor's
    format.
    """
    texts = _texts(content)
    name = "prompt" if "prompt" in texts else "workflow"
    if not isinstance(text := texts.get(name), str):
        raise NoWorkflow(
            "The PNG has no workflow in it: ComfyUI did not save it, or its metadata were removed."
        )
    try:
        workflow: dict[str, Any] = _without_marks(json.loads(text))
        if name == "prompt" or not is_editor_format(workflow):
            check_workflow(workflow)
        check_text(workflow, field="workflow_json", outer=1)
    except FieldInvalid as error:
        raise NoWorkflow(f"The workflow in the PNG cannot be used: {error}") from error
    except (ValueError, RecursionError):
        raise NoWorkflow("The workflow in the PNG is not JSON.") from None
    return workflow


def mark_in_png(content: bytes) -> dict[str, Any] | None:
    """Return the mark that the Director had ComfyUI write into a PNG, None without one; it may be
    invented.

    Raises ``ProvenanceUnknown`` if this is not the beginning of a PNG.
    """
    try:
        mark = json.loads(str(_texts(content).get(MARK_KEY)))
    except NoWorkflow:
        raise ProvenanceUnknown(
            "The file is not a PNG that can be read: no mark of a job can be in it."
        ) from None
    except (ValueError, RecursionError):
        return None
    return mark if isinstance(mark, dict) else None


def _texts(content: bytes) -> dict[Any, Any]:
    try:
        # The chunks before the pixels, of an image of any size: nothing is decoded. Pillow limits
        # the length of the texts, also decompressed.
        with PngImageFile(io.BytesIO(content)) as image:
            return dict(image.info)
    except Exception as error:
        # Pillow raises OSError, SyntaxError, ValueError, struct.error … for broken input.
        raise NoWorkflow("The body is not a PNG that can be read.") from error


def _without_marks(workflow: Any) -> Any:
    """Remove ``is_changed``, often NaN, which ComfyUI adds to nodes while it runs them."""
    if not isinstance(workflow, dict):
        return workflow
    return {
        node_id: {key: value for key, value in node.items() if key != "is_changed"}
        if isinstance(node, dict)
        else node
        for node_id, node in workflow.items()
    }
