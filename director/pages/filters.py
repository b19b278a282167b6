"""Filters of the list of groups: from a URL's query, and back."""

import contextlib
import datetime as dt
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Final
from urllib.parse import urlencode

from django.http import QueryDict

from backends.errors import InvalidRequest
from jobgroups.domain.access import Principal
from jobgroups.domain.clock import now
from jobgroups.domain.states import GroupStatus
from jobgroups.queries.groups import GroupFilter, Page, listed_page

PAGE_SIZE: Final = 50
DAY: Final = dt.timedelta(days=1)
_MAX_TEXT: Final = 200
#: The values of a filter that has no others.
_VALUES: Final[dict[str, set[str]]] = {
    "state": {*GroupStatus},
    "hide": {"finished"},
    "archived": {"yes"},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """Filters of the list, named as in a URL. Empty: any value. Invalid values are ignored."""

    state: str = ""
    backend: str = ""
    text: str = ""
    submitter: str = ""
    hide: str = ""  #: ``finished``: only groups that have not ended.
    archived: str = ""  #: ``yes``: archived groups instead of the others.
    since: str = ""  #: Day in UTC on which the first groups were submitted.
    until: str = ""  #: Day of the last ones.
    before: str = ""  #: Cursor of a page of older groups.

    @property
    def any(self) -> bool:
        return self != Filters(before=self.before)

    @property
    def has_more(self) -> bool:
        """Return whether one of the filters counts that the page folds: last week has a button."""
        since = "" if self.since == last_week() else self.since
        return any((since, self.until, self.backend, self.submitter, self.archived))

    def query(self, *, before: str = "") -> str:
        """Return the filters as a URL's query, for the page after ``before``."""
        return address(asdict(replace(self, before=before)))


def texts(query: QueryDict, *names: str) -> dict[str, str]:
    """Return values of a URL's query, as a database can have them; empty: not given."""
    return {name: str(query.get(name, "")).replace("\0", "").strip()[:_MAX_TEXT] for name in names}


def address(values: Mapping[str, object]) -> str:
    """Return those values that are not empty as a URL's query."""
    return urlencode({name: value for name, value in values.items() if value})


def parse_filters(query: QueryDict) -> Filters:
    given = texts(query, *(field.name for field in fields(Filters)))
    given |= {name: day_text(parse_day(given[name])) for name in ("since", "until")}
    return Filters(
        **{name: value for name, value in given.items() if value in _VALUES.get(name, {value})}
    )


def parse_day(text: str) -> dt.datetime | None:
    """Return the beginning of a day in UTC, which an address has as ``2026-12-01``; of another text
    None.
    """
    with contextlib.suppress(ValueError):
        day = dt.date.fromisoformat(text)
        if 2000 <= day.year < 3000:
            return dt.datetime.combine(day, dt.time(), dt.UTC)
    return None


def day_text(day: dt.datetime | None) -> str:
    return day.date().isoformat() if day else ""


def last_week() -> str:
    """Return the first day of the filter "last week"."""
    return day_text(now() - 7 * DAY)


def filtered_page(filters: Filters, principal: Principal) -> Page:
    """Return a page of the groups that match and that a principal sees, newest first."""
    until = parse_day(filters.until)
    wanted = GroupFilter(
        principal=principal,
        status=filters.state,
        backend=filters.backend,
        submitter=filters.submitter,
        text=filters.text,
        archived=bool(filters.archived),
        is_open=bool(filters.hide),
        created_after=parse_day(filters.since),
        created_before=until and until + DAY,
    )
    return page_after(
        filters.before,
        lambda cursor: listed_page(wanted, lambda row: row, cursor=cursor, limit=PAGE_SIZE),
    )


def page_after(cursor: str, read: Callable[[str | None], Page]) -> Page:
    """Return what ``read`` returns of a cursor; of one that no page gave, the first page."""
    try:
        return read(cursor or None)
    except InvalidRequest:
        return read(None)
