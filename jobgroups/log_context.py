"""Fields of log lines: the request and the job that a line is about.

Code binds what it works on; the filter adds it to each line of the block, also of the tasks that
the block starts and of its work in database threads. The text format omits the fields, the JSON
format has them.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any, Final

from jobgroups.domain.newest import Newest

_MAX_CAUSES: Final = 10_000  #: Groups whose last request is known; the oldest is dropped first.

_fields: ContextVar[Mapping[str, Any]] = ContextVar("log fields", default=MappingProxyType({}))
#: By group, the last request to this process that changed it: the cause of what a runner in this
#: process does for it.
_causes: Final = Newest[str, str](_MAX_CAUSES)


def bind(**fields: Any) -> None:
    """Add fields to the lines of the rest of this task."""
    known = {**_fields.get(), **fields}
    if "request_id" not in known and (cause := _causes.get(known.get("group", ""))):
        known["request_id"] = cause
    _fields.set(known)


@contextmanager
def bound(**fields: Any) -> Iterator[None]:
    """Add fields to the lines of a block: ``request_id``, ``group``, ``job``, ``attempt``,
    ``backend``.
    """
    before = _fields.get()
    bind(**fields)
    try:
        yield
    finally:
        _fields.set(before)


def note_cause(group_id: str) -> None:
    """Remember that the current request, if there is one, has changed a group."""
    if request_id := _fields.get().get("request_id"):
        _causes.put(group_id, request_id)


class ContextFilter(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.__dict__ |= _fields.get()
        return True
