"""Errors that a client receives as JSON: their base, and those of fields and of backends. A pure
module.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar


class RequestError(Exception):
    code: ClassVar[str] = "error"
    status: ClassVar[int] = 400
    #: The sentence for the client, with a place for each argument of the error.
    text: ClassVar[str] = "{}"
    headers: Mapping[str, str] = MappingProxyType({})  #: Of the response, beside the usual ones.

    def __init_subclass__(
        cls, code: str | None = None, status: int | None = None, retry_after: int | None = None
    ) -> None:
        cls.code, cls.status = code or cls.code, status or cls.status
        if retry_after is not None:
            cls.headers = {"Retry-After": str(retry_after)}

    def __init__(self, *values: object, extra: Mapping[str, Any] | None = None) -> None:
        self.detail = self.text.format(*values)
        super().__init__(self.detail)
        #: More keys for the JSON body, beside ``detail`` and ``code``.
        self.extra: dict[str, Any] = dict(extra or {})


class InvalidRequest(RequestError, code="invalid_request"):
    """The request's body, parameters or headers are invalid; nothing was stored."""

    def __init__(self, detail: str = "", *, errors: Sequence[Mapping[str, str]] = ()) -> None:
        """``errors`` has ``field`` and ``message`` of each invalid field; the first one is the
        default of ``detail``.
        """
        if errors and not detail:
            more = f" ({len(errors) - 1} more in errors.)" if len(errors) > 1 else ""
            detail = f"{errors[0]['field']}: {errors[0]['message']}{more}"
        super().__init__(detail, extra={"errors": list(errors)} if errors else None)


class FieldInvalid(InvalidRequest):
    """A field of a request, or of a setting, is invalid.

    ``field`` is its path (``workflow_json.3.inputs``) in printable characters; ``message`` is a
    sentence without values of the request.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(errors=[{"field": field, "message": message}])
        self.field = field
        self.message = message


class BackendExists(RequestError, code="backend_exists", status=409):
    def __init__(self, detail: str, backend_id: str) -> None:
        super().__init__(detail, extra={"backend_id": backend_id})


class AddressNotFound(RequestError, code="address_not_found", status=404):
    text = "No ComfyUI was found at this address."
