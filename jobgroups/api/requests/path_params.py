"""Identifiers in paths. A text that cannot be an identifier is not looked up, and only repeated in
printable form.
"""

import re
from typing import Final

from django.http import Http404

from backends.errors import RequestError
from jobgroups.errors import AssetNotFound, BackendNotFound, ChildNotFound, GroupNotFound
from jobgroups.workflow.validation import shown_key

#: The parameters of paths that are ids, with the error of an unknown one.
_UNKNOWN: Final[dict[str, type[RequestError]]] = {
    "group_id": GroupNotFound,
    "job_id": ChildNotFound,
    "backend_id": BackendNotFound,
    "asset_id": AssetNotFound,
}
#: Those that are other keys.
_NAMES: Final = frozenset({"account", "setting", "token_id"})


def check_id(name: str, text: str) -> None:
    """Raise the error of an unknown id, if the parameter with this name is one, and ``Http404`` for
    the name of a row with a NUL: PostgreSQL refuses it.
    """
    if name in _NAMES and "\0" in text:
        raise Http404
    if name in _UNKNOWN and not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", text):
        raise _UNKNOWN[name](shown_key(text))


def number(text: str) -> int:
    """Return the number of an exclusion or a delivery; 0, which none has, for a text that is no
    number.
    """
    return int(text) if re.fullmatch(r"[0-9]{1,18}", text) else 0
