"""What the page *Record* shows."""

from functools import partial
from typing import Any

from django.http import QueryDict
from django.utils.http import urlencode

from director.pages.filters import PAGE_SIZE, page_after
from jobgroups.domain.audit import Action
from jobgroups.queries.audit import audit_list

_FILTERS = ("actor", "action", "target")


def audit_page(query: QueryDict) -> dict[str, Any]:
    """Return a page of the record, newest first, by the filters of the URL."""
    given = {
        name: str(query.get(name, "")).replace("\0", "").strip()[:200]
        for name in (*_FILTERS, "cursor")
    }
    filters = {name: given[name] for name in _FILTERS if given[name]}
    read: Any = partial(audit_list, limit=PAGE_SIZE, **filters)  # type: ignore[arg-type]  # texts
    page = page_after(given["cursor"], lambda cursor: read(cursor=cursor))
    kinds = dict.fromkeys(action.partition(".")[0] for action in Action)
    return {"page": page, "given": given, "kinds": list(kinds), "query": urlencode(filters)}
