"""Filters of the list of groups: from a URL's query, and back."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from typing import Final
from urllib.parse import urlencode

from django.http import QueryDict

from backends.errors import InvalidRequest
from jobgroups.domain.access import Principal
from jobgroups.domain.states import GroupStatus
from jobgroups.queries.groups import GroupFilter, Page, listed_page

PAGE_SIZE: Final = 50
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
    before: str = ""  #: Cursor of a page of older groups.

    @property
    def any(self) -> bool:
        return self != Filters(before=self.before)

    def query(self, *, before: str = "") -> str:
        """Return the filters as a URL's query, for the page after ``before``."""
        return urlencode(
            {name: value for name, value in asdict(replace(self, before=before)).items() if value}
        )


def parse_filters(query: QueryDict) -> Filters:
    given = {
        field.name: str(query.get(field.name, "")).replace("\0", "").strip()[:_MAX_TEXT]
        for field in fields(Filters)
    }
    return Filters(
        **{name: value for name, value in given.items() if value in _VALUES.get(name, {value})}
    )


def filtered_page(filters: Filters, principal: Principal) -> Page:
    """Return a page of the groups that match and that a principal sees, newest first."""
    wanted = GroupFilter(
        principal=principal,
        status=filters.state,
        backend=filters.backend,
        submitter=filters.submitter,
        text=filters.text,
        archived=bool(filters.archived),
        is_open=bool(filters.hide),
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
