"""Reads the fields of a JSON object strictly, and notes all that is wrong before it refuses.

JSON's types are not mixed up: ``"300"``, ``300.0`` and ``true`` are no integers. An optional field
that is ``null`` counts as left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final, TypeVar

from jobgroups.errors import InvalidRequest
from jobgroups.serializers import compact
from jobgroups.workflow import FieldInvalid
from jobgroups.workflow.graph import is_integer
from jobgroups.workflow.validation import shown_key

T = TypeVar("T")

#: C0, DEL and C1, and Unicode's own line and paragraph separators.
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class Fields:
    """One object's fields, each read once. ``finish`` raises what was found wrong, all at once."""

    def __init__(self, body: Mapping[str, Any]) -> None:
        self._body = body
        self._read: set[str] = set()
        self._errors: list[dict[str, str]] = []

    # --- values -----------------------------------------------------------------------------------

    def integer(self, name: str, *, low: int, high: int, why: str = "") -> int | None:
        """Return an integer from ``low`` to ``high``."""
        value: int | None = self._value(name)
        if value is None or (is_integer(value) and low <= value <= high):
            return value
        self.note(name, f"Must be an integer from {low} to {high}{why}.")
        return None

    def flag(self, name: str) -> bool | None:
        """Return a boolean."""
        value = self._value(name)
        if value is None or isinstance(value, bool):
            return value
        self.note(name, "Must be true or false.")
        return None

    def choice(self, name: str, allowed: Collection[str]) -> str | None:
        """Return one of the strings that are allowed."""
        value = self._value(name)
        if value is None or (isinstance(value, str) and value in allowed):
            return value
        self.note(name, f"Must be one of {', '.join(allowed)}.")
        return None

    def meant(self, name: str, meanings: Sequence[tuple[bool | str, T]]) -> T | None:
        """Return what a value stands for: each that is allowed, with its meaning."""
        value = self._value(name)
        if value is None:
            return None
        for said, meaning in meanings:
            # By type too: 1 is not true.
            if type(value) is type(said) and value == said:
                return meaning
        self.note(name, f"Must be one of {', '.join(compact(said) for said, _ in meanings)}.")
        return None

    def text(self, name: str, *, longest: int, required: bool = False) -> str | None:
        """Return a string that is not empty."""
        value: str | None = self._value(name, required=required)
        if value is None or _is_text(value, longest):
            return value
        self.note(name, f"Must be a string of 1 to {longest} characters.")
        return None

    def line(self, name: str, *, longest: int) -> str | None:
        """Return a string of one line, the blanks around it left out; not empty."""
        value = self._value(name)
        if value is None:
            return None
        line = value.strip() if isinstance(value, str) else value
        if not _is_text(line, longest):
            self.note(
                name, f"Must be a string of 1 to {longest} characters, blanks around it aside."
            )
        elif _CONTROL.search(line):
            self.note(name, "Must not contain line breaks or other control characters.")
        else:
            return str(line)
        return None

    def texts(
        self, name: str, *, longest: int, most: int | None = None, required: bool = False
    ) -> list[str] | None:
        """Return a list of strings, none of them empty; a required one has at least one."""
        value = self._value(name, required=required)
        if value is None:
            return None
        if not isinstance(value, list):
            self.note(name, "Must be a list of strings.")
        elif required and not value:
            self.note(name, "Must have at least one entry.")
        elif most is not None and len(value) > most:
            self.note(name, f"Must have at most {most} entries.")
        else:
            return self._entries(name, value, longest)
        return None

    def mapping(self, name: str, *, required: bool = False) -> dict[str, Any] | None:
        """Return an object, whatever is in it."""
        value = self._value(name, required=required)
        if value is None or isinstance(value, dict):
            return value
        self.note(name, "Must be an object.")
        return None

    def _entries(self, name: str, values: list[Any], longest: int) -> list[str] | None:
        wrong = [at for at, value in enumerate(values) if not _is_text(value, longest)]
        for at in wrong[:10]:
            self.note(f"{name}.{at}", f"Must be a string of 1 to {longest} characters.")
        return None if wrong else values

    def _value(self, name: str, *, required: bool = False) -> Any:
        self._read.add(name)
        value = self._body.get(name)
        if value is None and required:
            self.note(name, "Is required.")
        return value

    # --- what is wrong ----------------------------------------------------------------------------

    def note(self, field: str, message: str) -> None:
        """Note that a field is wrong."""
        self._errors.append({"field": field, "message": message})

    def mark_read(self, name: str) -> None:
        """Count a field as known although nothing is read out of it here."""
        self._read.add(name)

    def check(self, look: Callable[[], object]) -> bool:
        """Call ``look`` and note the field that it finds wrong; return whether it found none."""
        try:
            look()
        except FieldInvalid as error:
            self.note(error.field, error.message)
            return False
        return True

    def unknown(self) -> list[str]:
        """Return the names that nobody read, fit to be shown."""
        return [shown_key(name) for name in self._body if name not in self._read]

    def finish(self, refuse: type[InvalidRequest] = InvalidRequest) -> None:
        """Raise ``refuse`` with everything that was noted; return if that is nothing."""
        if self._errors:
            raise refuse(_sentence(self._errors), errors=self._errors)


def _is_text(value: object, longest: int) -> bool:
    return isinstance(value, str) and 1 <= len(value) <= longest


def _sentence(errors: list[dict[str, str]]) -> str:
    first = f"{errors[0]['field']}: {errors[0]['message']}"
    more = len(errors) - 1
    return f"{first} ({more} more in errors.)" if more else first
