"""The shape of errors of the ComfyUI listener: that of a prompt which ComfyUI refuses.

Views make their errors in it. Errors that arise before or around a view have our own shape, and are
translated at the edge.
"""

from collections.abc import Mapping
from typing import Any


def error_body(
    kind: str,
    message: str,
    *,
    details: str = "",
    extra_info: Mapping[str, Any] | None = None,
    node_errors: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return an error as ComfyUI's ``POST /prompt`` does; ``kind`` is its ``type``."""
    error = {"type": kind, "message": message, "details": details, "extra_info": extra_info or {}}
    return {"error": error, "node_errors": node_errors or {}}


def comfyui_error(status: int, own: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Return ComfyUI's status and body for an error in our own shape."""
    kind, message = own.pop("code"), own.pop("detail")
    return status, error_body(kind, message, extra_info=own)
