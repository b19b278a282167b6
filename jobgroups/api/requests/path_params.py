"""Identifiers in paths. A text that cannot be an identifier is not looked up, and only repeated in printable form."""

import re
from collections.abc import Callable

from jobgroups.errors import AssetNotFound, BackendNotFound, ChildNotFound, GroupNotFound
from jobgroups.workflow.validation import shown_key


def group_id(text: str) -> str:
    """Return the id of a group, or raise ``GroupNotFound``: PostgreSQL refuses a NUL."""
    return _checked(text, GroupNotFound)


def job_id(text: str) -> str:
    """Return the id of a child, or raise ``ChildNotFound``."""
    return _checked(text, ChildNotFound)


def backend_id(text: str) -> str:
    """Return the id of a backend, or raise ``BackendNotFound``."""
    return _checked(text, BackendNotFound)


def asset_id(text: str) -> str:
    """Return the id of an asset, or raise ``AssetNotFound``."""
    return _checked(text, AssetNotFound)


def _checked(text: str, unknown: Callable[[str], Exception]) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", text):
        raise unknown(shown_key(text))
    return text


def exclusion_id(text: str) -> int:
    """Return the number of an exclusion; 0, which none has, for a text that is no number."""
    return int(text) if re.fullmatch(r"[0-9]{1,18}", text) else 0
