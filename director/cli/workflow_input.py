"""Reads a workflow: a file in the API format or the editor's, a PNG with a workflow, or standard
input.
"""

import difflib
import json
import sys
from pathlib import Path
from typing import Any, Final

import click

from director.cli import text
from director.cli.exit_status import usable, usage_error
from director.client import BadRequest, Director
from jobgroups.workflow import WorkflowInvalid, check_workflow
from jobgroups.workflow.validation import is_editor_format

_PNG: Final = b"\x89PNG\r\n\x1a\n"
#: Other images of ComfyUI's users; they are not read for a workflow.
_OTHER_IMAGES: Final = {b"\xff\xd8\xff": "a JPEG", b"RIFF": "a WebP", b"GIF8": "a GIF"}


def read_source(source: str) -> bytes:
    """Return the content of a file, or of standard input for ``-``; raise ``CommandError`` if it
    cannot be read.
    """
    if not source:
        raise usage_error("WORKFLOW is missing.", "It is empty; is the variable set?")
    if source == "-" and sys.stdin is None:
        raise usage_error("Standard input is closed.")
    path = Path(source)
    with usable("Standard input" if source == "-" else source):
        try:
            return sys.stdin.buffer.read() if source == "-" else path.read_bytes()
        except FileNotFoundError:
            raise usage_error(f"There is no file {source}.", _neighbours(path)) from None


def _neighbours(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f"There is no folder {folder} either."
    names = [file.name for file in folder.iterdir() if file.suffix in (".json", ".png")]
    near = difflib.get_close_matches(path.name, names, n=3, cutoff=0.5)
    return f"Did you mean {' or '.join(str(folder / name) for name in near)}?" if near else ""


def editor_in(content: bytes) -> dict[str, Any] | None:
    """Return the workflow in the result of ``read_source`` if it is a text in the editor's format."""
    try:
        workflow = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return None
    return workflow if is_editor_format(workflow) else None


def workflow_in(
    content: bytes, source: str, director: Director, *, warns: bool = True
) -> dict[str, Any]:
    """Return the workflow in the result of ``read_source``; the Director reads that of a PNG, and
    converts the editor's.

    Raises ``CommandError`` if it has no workflow that could be submitted; ``source`` is its name in
    the message. ``warns``: whether the warnings of a conversion are printed.
    """
    name = "Standard input" if source == "-" else source
    if content.startswith(_PNG):
        try:
            return director.workflow_from_png(content)
        except BadRequest as error:
            raise usage_error(f"{name}: {error.detail}", code=error.code) from error
    for start, kind in _OTHER_IMAGES.items():
        if content.startswith(start):
            raise usage_error(f"{name} is {kind}: ComfyUI stores its workflow in PNGs only.")
    workflow = _in_text(content, name)
    if is_editor_format(workflow):
        converted = director.convert(workflow)
        for warning in converted.warnings if warns else ():
            click.echo(text.plain_line(f"Warning: {warning}"), err=True)
        return converted.workflow
    try:
        check_workflow(workflow, field=name)
    except WorkflowInvalid as error:
        raise usage_error(str(error)) from None
    assert isinstance(workflow, dict)  # noqa: S101 checked above
    return workflow


def _in_text(content: bytes, name: str) -> object:
    if not content.strip():
        raise usage_error(f"{name} is empty.")
    try:
        return json.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise usage_error(f"{name} is neither JSON nor a PNG.") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise usage_error(f"{name} is not JSON: {error.msg} at {where}.") from None
    except RecursionError:
        raise usage_error(f"{name} is nested too deep for a workflow.") from None
