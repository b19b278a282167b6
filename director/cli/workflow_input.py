"""The workflow that is to be rendered: a file in API format, a picture that has one, or stdin."""

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
#: Other pictures that ComfyUI's users have; none of them is read for a workflow.
_OTHER_PICTURES: Final = {b"\xff\xd8\xff": "a JPEG", b"RIFF": "a WebP", b"GIF8": "a GIF"}


def read_source(source: str) -> bytes:
    """Return the content of a file, or of standard input for ``-``.

    Raises:
        CommandError: there is no such file, or it cannot be read.
    """
    if source == "-":
        return _standard_input()
    if not source:
        raise usage_error("No workflow is named.", "It is empty; is the variable set?")
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
    names = [one.name for one in folder.iterdir() if one.suffix in (".json", ".png")]
    near = difflib.get_close_matches(path.name, names, n=3, cutoff=0.5)
    return f"Did you mean {' or '.join(str(folder / name) for name in near)}?" if near else ""


def workflow_in(content: bytes, source: str, director: Director) -> dict[str, Any]:
    """Return the workflow in what ``read_source`` gave.

    Args:
        source: what to call it.
        director: reads pictures: it alone knows how.

    Raises:
        CommandError: there is no workflow in it that could be submitted.
    """
    name = "Standard input" if source == "-" else source
    if content.startswith(_PNG):
        return _in_picture(content, name, director)
    for start, kind in _OTHER_PICTURES.items():
        if content.startswith(start):
            raise usage_error(f"{name} is {kind}: only in PNGs does ComfyUI leave its workflow.")
    return _in_text(content, name)


def _in_picture(content: bytes, name: str, director: Director) -> dict[str, Any]:
    try:
        return director.workflow_from_png(content)
    except BadRequest as error:
        raise CommandError(
            f"{name}: {error.detail}", Status.USAGE, details={"code": error.code}
        ) from error


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
    assert isinstance(workflow, dict)  # noqa: S101 as was checked
    return workflow
