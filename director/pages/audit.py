"""What the page *Record* shows."""

from collections.abc import Mapping
from functools import partial
from typing import Any, Final

from django.http import QueryDict
from django.utils.http import urlencode

from director.accounts.models import Token
from director.pages.filters import PAGE_SIZE, page_after, texts
from director.pages.names import names_by_id
from jobgroups.domain.access import Principal
from jobgroups.domain.audit import Action
from jobgroups.domain.text import first_of
from jobgroups.queries.audit import audit_list

_FILTERS = ("actor", "action", "target")
_MOST: Final = 12  #: Ids that a line lists.


def audit_page(principal: Principal, query: QueryDict) -> dict[str, Any]:
    """Return a page of the record, newest first, by the filters of the URL."""
    given = texts(query, *_FILTERS, "cursor")
    filters = {name: given[name] for name in _FILTERS if given[name]}
    read: Any = partial(audit_list, limit=PAGE_SIZE, **filters)  # type: ignore[arg-type]  # texts
    page = page_after(given["cursor"], lambda cursor: read(cursor=cursor))
    kinds = dict.fromkeys(action.partition(".")[0] for action in Action)
    entries = page.results
    names = names_by_id((entry["target"] or "" for entry in entries), principal)
    tokens = Token.objects.in_bulk({entry["token_id"] or "" for entry in entries})
    rows = [
        {
            "entry": entry,
            "target": names.get(entry["target"], entry["target"]),
            "token": token.name if (token := tokens.get(entry["token_id"])) else entry["token_id"],
            "details": _details(entry["details"]),
        }
        for entry in entries
    ]
    return {
        "page": page,
        "rows": rows,
        "given": given,
        "kinds": list(kinds),
        "query": urlencode(filters),
    }


def _details(details: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the details of an action as names and texts."""
    return [(name.replace("_", " "), _text(value)) for name, value in details.items()]


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, list):
        return str(value)
    return first_of([str(one) for one in value], _MOST)
