"""Requests of the Comfy API v2. Unknown fields are ignored: the contract may add some."""

import contextlib
import hashlib
from typing import Any, Final

from django.http import HttpRequest

from backends.errors import FieldInvalid
from jobgroups.api.permissions import principal_of
from jobgroups.api.requests import fields
from jobgroups.api.requests.payloads import idempotency_key_problem
from jobgroups.api.requests.upload import Upload

_MAX_PATH: Final = 1024  #: Characters of a path.


class MintedAsset(fields.RequestSerializer):
    """The body of ``from-hash``."""

    unknown = None

    hash = fields.Line(100)
    file_path = fields.Line(_MAX_PATH, required=False)
    expires_in = fields.Integer(60, 604_800, required=False)


class UploadedAsset(fields.RequestSerializer):
    """The form of an upload, beside its file."""

    unknown = None

    content_type = fields.Line(100)
    file_path = fields.Line(_MAX_PATH)
    expected_hash = fields.Line(100, required=False)
    expires_in = fields.Integer(60, 604_800, required=False)

    @classmethod
    def of(cls, upload: Upload) -> dict[str, Any]:
        """Return the checked fields of a form, whose values are texts."""
        given = {
            name: upload.texts(name)
            for name in ("content_type", "file_path", "expected_hash", "expires_in")
        }
        form: dict[str, Any] = {name: texts[-1] for name, texts in given.items() if texts}
        with contextlib.suppress(KeyError, ValueError):
            form["expires_in"] = int(form["expires_in"][:10])
        return cls.read(form)


def base_url(request: HttpRequest) -> str:
    """Return the address by which the client reaches the Director, with a slash at its end."""
    return request.build_absolute_uri("/")


def content_url(base: str, asset_id: str) -> str:
    return f"{base}api/v2/assets/{asset_id}/content"


def idempotency_key(request: HttpRequest, kind: str) -> str | None:
    """Return what is stored for the ``Idempotency-Key`` of a request, if it has one. ``kind``: of
    what it makes.
    """
    given = request.headers.get("Idempotency-Key")
    if given is None:
        return None
    if problem := idempotency_key_problem(given):
        raise FieldInvalid("Idempotency-Key", problem)
    user_id = principal_of(request).user_id  # an account cannot use the key of another one
    own = given if user_id is None else f"{user_id}:{given}"
    return f"{kind}:{hashlib.sha256(own.encode()).hexdigest()}"
