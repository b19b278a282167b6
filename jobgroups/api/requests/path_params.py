"""Identifiers in paths. A text that cannot be an identifier is not looked up, and only repeated in printable form."""

import re
from collections.abc import Callable
from functools import partial

from jobgroups.errors import AssetNotFound, BackendNotFound, ChildNotFound, GroupNotFound
from jobgroups.workflow.validation import shown_key


def _checked(unknown: Callable[[str], Exception], text: str) -> str:
    """Return an id, or raise the error of an unknown one: PostgreSQL refuses a NUL."""
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", text):
        raise unknown(shown_key(text))
    return text


group_id = partial(_checked, GroupNotFound)
job_id = partial(_checked, ChildNotFound)
backend_id = partial(_checked, BackendNotFound)
asset_id = partial(_checked, AssetNotFound)


def number(text: str) -> int:
    """Return the number of an exclusion or a delivery; 0, which none has, for a text that is no number."""
    return int(text) if re.fullmatch(r"[0-9]{1,18}", text) else 0
