"""Read model of the gallery: the outputs of all groups in a grid."""

from typing import Any, Final

from django.http import QueryDict

from director.pages.filters import DAY, address, day_text, last_week, page_after, parse_day, texts
from director.pages.outputs import duration_text
from jobgroups.domain.access import Principal, Right, may
from jobgroups.domain.file_names import default_name
from jobgroups.domain.shapes import Raw
from jobgroups.models import JobGroup
from jobgroups.queries.output_list import KINDS, OutputFilter, output_list
from jobgroups.queries.owners import owned_by

_ON_PAGE: Final = 60
_TEXTS: Final = ("text", "model", "group", "submitter", "backend")
_NAMES: Final = (*_TEXTS, "kind", "starred", "size", "since", "until")
#: Width by height in percent, of which ``gallery.css`` has rules: pages have no style of an
#: element.
_RATIOS: Final = (50, 67, 75, 100, 133, 150, 178, 240)


def gallery(principal: Principal, query: QueryDict) -> dict[str, Any]:
    """Return a page of outputs by the query of its URL; invalid values are ignored."""
    given = texts(query, *_NAMES, "cursor")
    cursor = given.pop("cursor")
    since, until = parse_day(given["since"]), parse_day(given["until"])
    width, _, height = given["size"].partition("x")
    is_size = all(text.isdecimal() and len(text) < 7 for text in (width, height))
    chosen = {
        **given,
        "kind": given["kind"] if given["kind"] in KINDS else "",
        "starred": "yes" if given["starred"] else "",
        "size": given["size"] if is_size else "",
        "since": day_text(since),
        "until": day_text(until),
    }
    filters = OutputFilter(
        principal=principal,
        **{name: chosen[name] for name in _TEXTS if chosen[name]},
        kind=chosen["kind"] or None,
        size=(int(width), int(height)) if is_size else None,
        starred=True if chosen["starred"] else None,
        completed_after=since,
        completed_before=until and until + DAY,
    )
    page = page_after(cursor, lambda cursor: output_list(filters, cursor=cursor, limit=_ON_PAGE))
    week = last_week()
    is_week = (chosen["since"], chosen["until"]) == (week, "")
    has_more = any(
        chosen[name] for name in _NAMES if name not in ("text", "starred", is_week and "since")
    )
    columns = JobGroup.objects.filter(pk__in={row["job_group_id"] for row in page.results})
    may_change = {
        group_id: may(principal, Right.OPERATE, owned_by(owner_id, shared_at))
        for group_id, owner_id, shared_at in columns.values_list("pk", "owner_id", "shared_at")
    }
    return {
        "chosen": chosen | {"has_more": has_more},
        "any": any(chosen.values()),
        "week": week,
        "older": address({**chosen, "cursor": page.next_cursor}) if page.next_cursor else "",
        "outputs": [
            {**_tile(row), "may_change": may_change.get(row["job_group_id"], False)}
            for row in page.results
        ],
    }


def _tile(row: Raw) -> dict[str, Any]:
    """Return an output with what ``parts/tile.html`` shows of its file and its job."""
    name, percent = (
        row["filename"],
        100 * (row["width"] or 1) / (row["height"] or row["width"] or 1),
    )
    return {
        **row,
        "ratio": min(_RATIOS, key=lambda ratio: abs(ratio - percent)),
        "saved_as": default_name(row["seed"], row["backend_id"], name),
        "card": {"title": f"{row['seed']} · {row['backend_id']}"},
        "file": {
            "filename": name,
            "url": row["file_url"],
            "thumbnail": row["thumbnail_url"],
            "kind": row["kind"],
            "lasts": duration_text(row["duration"]),
        },
    }
