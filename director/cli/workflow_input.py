"""Reads a workflow: a file in API format, a PNG with a workflow, or standard input."""

from __future__ import annotations

import difflib
import json
import sys
from pathlib import Path
from typing import Any, Final

from director.cli.exit_status import CommandError, Status, usage_error
from director.client import BadRequest, Director
from jobgroups.workflow import WorkflowInvalid, check_workflow

_PNG: Final = b"\x89PNG\r\n\x1a\n"
#: Other images of ComfyUI's users; they are not read for a workflow.
_OTHER_IMAGES: Final = {b"\xff\xd8\xff": "a JPEG", b"RIFF": "a WebP", b"GIF8": "a GIF"}


def read_source(source: str) -> bytes:
    """Return the content of a file, or of standard input for ``-``.

    Raises:
        CommandError: There is no such file, or it cannot be read.
    """
    if source == "-":
        return _standard_input()
    if not source:
        raise usage_error("WORKFLOW is missing.", "It is empty; is the variable set?")
    path = Path(source)
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise usage_error(f"There is no file {source}.", _neighbours(path)) from None
    except OSError as error:
        raise usage_error(f"{source} cannot be read: {error.strerror or error}.") from None


def _standard_input() -> bytes:
    if sys.stdin is None:
        raise usage_error("Standard input is closed.")
    try:
        return sys.stdin.buffer.read()
    except OSError as error:
        raise usage_error(f"Standard input cannot be read: {error.strerror or error}.") from None


def _neighbours(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f"There is no folder {folder} either."
    names = [file.name for file in folder.iterdir() if file.suffix in (".json", ".png")]
    near = difflib.get_close_matches(path.name, names, n=3, cutoff=0.5)
    return f"Did you mean {' or '.join(str(folder / name) for name in near)}?" if near else ""


def workflow_in(content: bytes, source: str, director: Director) -> dict[str, Any]:
    """Return the workflow in the result of ``read_source``.

    Args:
        source: Its name in messages.
        director: Reads the workflow of a PNG.

    Raises:
        CommandError: It has no workflow that could be submitted.
    """
    name = "Standard input" if source == "-" else source
    if content.startswith(_PNG):
        return _in_png(content, name, director)
    for start, kind in _OTHER_IMAGES.items():
        if content.startswith(start):
            raise usage_error(f"{name} is {kind}: ComfyUI stores its workflow in PNGs only.")
    return _in_text(content, name)


def _in_png(content: bytes, name: str, director: Director) -> dict[str, Any]:
    try:
        return director.workflow_from_png(content)
    except BadRequest as error:
        raise CommandError(f"{name}: {error.detail}", Status.USAGE, details={"code": error.code}) from error


def _in_text(content: bytes, name: str) -> dict[str, Any]:
    if not content.strip():
        raise usage_error(f"{name} is empty.")
    try:
        workflow = json.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise usage_error(f"{name} is neither JSON nor a PNG.") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise usage_error(f"{name} is not JSON: {error.msg} at {where}.") from None
    except RecursionError:
        raise usage_error(f"{name} is nested too deep for a workflow.") from None
    try:
        check_workflow(workflow, field=name)
    except WorkflowInvalid as error:
        raise usage_error(str(error)) from None
    assert isinstance(workflow, dict)  # noqa: S101 checked above
    return workflow
