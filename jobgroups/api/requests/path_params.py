"""Identifiers in paths. A text that cannot be an identifier is not looked up, and only repeated in printable form."""

from __future__ import annotations

import re
from typing import Final

from jobgroups.errors import BackendNotFound, ChildNotFound, GroupNotFound
from jobgroups.workflow.validation import shown_key

_IDENTIFIER: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")


def group_id(text: str) -> str:
    """Return the id of a group, or raise ``GroupNotFound``: PostgreSQL refuses a NUL."""
    if not _IDENTIFIER.fullmatch(text):
        raise GroupNotFound(shown_key(text))
    return text


def job_id(text: str) -> str:
    """Return the id of a child, or raise ``ChildNotFound``."""
    if not _IDENTIFIER.fullmatch(text):
        raise ChildNotFound(shown_key(text))
    return text


def backend_id(text: str) -> str:
    """Return the id of a backend, or raise ``BackendNotFound``."""
    if not _IDENTIFIER.fullmatch(text):
        raise BackendNotFound(shown_key(text))
    return text
