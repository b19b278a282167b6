"""What clients ask in a URL's query, checked. Nothing here asks the database."""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from django.http import QueryDict

from jobgroups import workflow
from jobgroups.api.requests.fields import Fields
from jobgroups.domain.failures import FailureClass
from jobgroups.domain.states import GroupStatus
from jobgroups.queries.failures import DEFAULT_WINDOW, WINDOWS
from jobgroups.queries.groups import MAX_PAGE, GroupFilter
from jobgroups.workflow.seeds import MAX_SEED, SeedStrategy
from jobgroups.workflow.validation import shown_key

DEFAULT_PAGE: Final = 50
#: Each is a join, of which SQLite has 64.
_MAX_METADATA_FILTERS: Final = 10
#: Characters of what is kept to be searched for (``services.groups``); longer ones match nothing.
_MAX_METADATA_KEY: Final = 100
_MAX_METADATA_VALUE: Final = 200
_DIGITS: Final = re.compile(r"[0-9]{1,16}")
#: What ``selectors.group_list`` writes: its way, and the group it starts behind.
_CURSOR: Final = re.compile(
    r"[fb]\|[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}\.[0-9]{3}Z\|jg_[0-9a-f]{12}"
)
#: The blank in ``…T07:00:00.000 01:00``, which was a ``+``.
_LOST_PLUS: Final = re.compile(r"(?<=[T:.0-9]{8}) (?=[0-9]{2}:?[0-9]{2}$)")


@dataclass(frozen=True, slots=True)
class ListQuery:
    """Which page of the list of groups is asked for."""

    narrowed: GroupFilter
    cursor: str | None
    limit: int


def list_query(query: QueryDict) -> ListQuery:
    """Check the query of the list of groups.

    Raises:
        InvalidRequest: with every parameter that is wrong or not known. An unknown one is refused:
            ignored, it would give more than was asked for.
    """
    reader = _Query(query)
    found = ListQuery(
        GroupFilter(
            status=reader.choice("status", list(GroupStatus)),
            backend=reader.text("backend"),
            submitter=reader.submitter(),
            metadata=reader.metadata(),
            created_after=reader.moment("created_after"),
            created_before=reader.moment("created_before"),
        ),
        cursor=reader.cursor(),
        limit=reader.integer("limit", low=1, high=MAX_PAGE, default=DEFAULT_PAGE),
    )
    reader.finish()
    return found


def since_query(query: QueryDict) -> int:
    """Return the event number after which events are asked for, 0 where it is not said.

    Raises:
        InvalidRequest: it is no such number, or something else is asked besides.
    """
    reader = _Query(query)
    since = reader.integer("since", low=0, high=MAX_SEED, default=0)
    reader.finish()
    return since


@dataclass(frozen=True, slots=True)
class OutputQuery:
    """How an output is wanted.

    Attributes:
        width: of a thumbnail; None: the original.
        redirect: whether the client may be sent to the backend; a page may not go there.
    """

    width: int | None
    redirect: bool


def output_query(query: QueryDict, widths: Sequence[int]) -> OutputQuery:
    """Return what ``?w=`` and ``?redirect=no`` say.

    Raises:
        InvalidRequest: the width is none of ``widths``, or something else is asked besides.
    """
    reader = _Query(query)
    width = reader.choice("w", [str(one) for one in widths])
    redirect = reader.choice("redirect", ["yes", "no"])
    reader.finish()
    return OutputQuery(None if width is None else int(width), redirect != "no")


def which_query(query: QueryDict) -> str:
    """Return ``all`` or ``starred``, the former where ``?which=`` is not said.

    Raises:
        InvalidRequest: it is neither, or something else is asked besides.
    """
    reader = _Query(query)
    which = reader.choice("which", ["all", "starred"])
    reader.finish()
    return which or "all"


@dataclass(frozen=True, slots=True)
class SeedsQuery:
    """Which seeds are asked for; without a base one is drawn."""

    strategy: SeedStrategy
    base_seed: int | None
    count: int


def seeds_query(query: QueryDict, most: int) -> SeedsQuery:
    """Check the query of the seeds' preview.

    Args:
        most: seeds that can be asked for.

    Raises:
        InvalidRequest: with every parameter that is wrong or not known.
    """
    reader = _Query(query)
    strategy = reader.choice("strategy", list(SeedStrategy))
    base = reader.integer("base_seed", low=0, high=MAX_SEED, default=-1)
    count = reader.integer("count", low=1, high=most, default=1)
    reader.finish()
    return SeedsQuery(
        SeedStrategy(strategy or SeedStrategy.RANDOM), None if base < 0 else base, count
    )


@dataclass(frozen=True, slots=True)
class FailedJobsQuery:
    """The jobs of which row of failures are asked for."""

    window: str
    failure_class: str
    backend_id: str
    workflow: str


def failures_query(query: QueryDict) -> str:
    """Return the window of failures that is asked for with ``?window=``, a day where it is not said.

    Raises:
        InvalidRequest: there is no such window, or something else is asked besides.
    """
    reader = _Query(query)
    window = reader.choice("window", list(WINDOWS))
    reader.finish()
    return window or DEFAULT_WINDOW


def failed_jobs_query(query: QueryDict) -> FailedJobsQuery:
    """Check the query of the jobs behind a row of failures.

    Raises:
        InvalidRequest: with every parameter that is wrong, missing or not known.
    """
    reader = _Query(query)
    window = reader.choice("window", list(WINDOWS))
    failure_class = reader.choice("failure_class", list(FailureClass))
    backend_id = reader.text("backend_id")
    workflow = reader.text("workflow")
    reader.require("failure_class", "backend_id")
    reader.finish()
    return FailedJobsQuery(
        window or DEFAULT_WINDOW, failure_class or "", backend_id or "", workflow or ""
    )


class _Query:
    """The parameters of a URL: texts, of which some must read as something else."""

    def __init__(self, query: QueryDict) -> None:
        self._said: dict[str, str | None] = {}
        self._fields = Fields(self._said)
        for name in query:
            values = query.getlist(name)
            if self._is_readable(name, values):
                # ``?status=`` says as little as its absence.
                self._said[name] = values[0] or None

    def _is_readable(self, name: str, values: list[str]) -> bool:
        """Note what is wrong with a parameter whatever it means; nobody reads it then."""
        if not self._fields.check(lambda: workflow.check_text(name, field="query")):
            return False
        shown = shown_key(name)
        if len(values) > 1:
            self._fields.note(shown, "Must not be given more than once.")
            return False
        return self._fields.check(lambda: workflow.check_text("".join(values), field=shown))

    def text(self, name: str) -> str | None:
        return self._fields.text(name, longest=500)

    def submitter(self) -> str | None:
        """Read a submitter, whose name is kept without the blanks around it."""
        return (self.text("submitter") or "").strip() or None

    def choice(self, name: str, allowed: Sequence[str]) -> str | None:
        return self._fields.choice(name, allowed)

    def require(self, *names: str) -> None:
        """Note those that were not said."""
        for name in names:
            if self._said.get(name) is None:
                self._fields.note(name, "Is required.")

    def integer(self, name: str, *, low: int, high: int, default: int) -> int:
        value = self.text(name)
        if value is None:
            return default
        if _DIGITS.fullmatch(value) and low <= int(value) <= high:
            return int(value)
        self._fields.note(name, f"Must be an integer from {low} to {high}.")
        return default

    def moment(self, name: str) -> dt.datetime | None:
        """Read a date or a time; without a zone it is UTC. A ``+`` that was not encoded is a blank."""
        value = self.text(name)
        if value is None:
            return None
        try:
            moment = dt.datetime.fromisoformat(_LOST_PLUS.sub("+", value))
            zoned = moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)
            return zoned.astimezone(dt.UTC)
        except (ValueError, OverflowError):
            self._fields.note(name, "Must be a time such as 2026-02-01T07:00:00.000Z.")
            return None

    def cursor(self) -> str | None:
        """Return a cursor of the form that pages give; any other text could say anything."""
        value = self.text("cursor")
        if value is None:
            return None
        with contextlib.suppress(ValueError):
            if _CURSOR.fullmatch(base64.urlsafe_b64decode(f"{value}===").decode("ascii")):
                return value
        self._fields.note("cursor", "Is not one that this list gave; start without it.")
        return None

    def metadata(self) -> dict[str, str]:
        """Read each ``metadata.KEY``; an empty value is one that can be searched for."""
        names = [name for name in self._said if name.startswith("metadata.")]
        for name in names:
            self._fields.mark_read(name)
        if len(names) > _MAX_METADATA_FILTERS:
            self._fields.note("metadata", f"At most {_MAX_METADATA_FILTERS} keys can be asked for.")
        wanted = {name.removeprefix("metadata."): self._said[name] or "" for name in names}
        for key, value in wanted.items():
            self._check_searchable(key, value)
        return wanted

    def _check_searchable(self, key: str, value: str) -> None:
        """Note a key or a value that no group can be found by, however much it has it."""
        for what, text, most in (
            ("keys", key, _MAX_METADATA_KEY),
            ("values", value, _MAX_METADATA_VALUE),
        ):
            if len(text) > most:
                message = f"Cannot be searched for: only {what} of up to {most} characters can."
                self._fields.note(shown_key(f"metadata.{key}"), message)

    def finish(self) -> None:
        for name in self._fields.unknown():
            self._fields.note(name, "Is not a parameter of this path.")
        self._fields.finish()
