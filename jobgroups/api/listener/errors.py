"""The shape of errors of the ComfyUI listener: that of a prompt which ComfyUI refuses.

Views make their errors in it. Errors that arise before or around a view have our own shape, and are
translated at the edge.
"""

import json
from collections.abc import Mapping
from typing import Any

import msgspec
from django.http import JsonResponse
from django.http.response import HttpResponseBase


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


def comfyui_error(response: HttpResponseBase) -> HttpResponseBase:
    """Return a response, an error in our own shape in ComfyUI's; headers stay.

    Our own are ``JsonResponse``: an error that a machine answered stays as it is.
    """
    if response.status_code < 400 or not isinstance(response, JsonResponse):
        return response
    body = json.loads(response.content)
    if "error" not in body:
        kind, message = body.pop("code"), body.pop("detail")
        response.content = msgspec.json.encode(error_body(kind, message, extra_info=body))
        if "Content-Length" in response.headers:
            response.headers["Content-Length"] = str(len(response.content))
    return response
