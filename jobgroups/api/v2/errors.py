"""The error shape of the Comfy API v2: ``{"error": {"code", "message", "details"}}``.

Each error is made in our own shape, wherever it arises, and translated at the edge.
"""

from typing import Any, Final

from jobgroups.errors import ComfyApiError

#: HTTP status or our own code → status and code of the contract.
_CONTRACT: Final[dict[int | str, tuple[int, str]]] = {
    401: (401, "unauthorized"),
    403: (403, "forbidden"),
    404: (404, "not_found"),
    410: (404, "not_found"),
    "too_many_requests": (429, "rate_limited"),
    "queue_full": (429, "rate_limited"),
}
#: The contract allows no detail of the implementation in these messages.
_UPSTREAM: Final = (
    "The Director cannot process this now. Send the request again later; its log has the cause."
)


def is_comfy_api(path: str) -> bool:
    """Return whether a path is one of the Comfy API v2."""
    return path == "/api/v2" or path.startswith("/api/v2/")


def comfy_api_error(status: int, own: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Return the contract's status and body for an error in our own shape."""
    own_code, message = own.pop("code"), own.pop("detail")
    code = own_code
    if status >= 500:
        code, message = "upstream_error", _UPSTREAM
    elif status == 400 and own_code != "bad_request":  # that is a request that no view has received
        status = 422
    elif own_code not in {kind.code for kind in ComfyApiError.__subclasses__()}:
        status, code = _CONTRACT.get(own_code) or _CONTRACT.get(status, (status, code))
    details = own if code == own_code else {"code": own_code, **own}
    return status, {"error": {"code": code, "message": message, "details": details or None}}
