"""Read model of the page of usage: a table by up to three dimensions, with a bar for the GPU time
of each row.
"""

from typing import Any, Final
from urllib.parse import urlencode

from django.http import QueryDict

from backends.errors import InvalidRequest
from backends.queries import backend_list
from jobgroups.api.requests.query_params import UsageQuery
from jobgroups.domain.access import Principal
from jobgroups.domain.clock import iso_or_none
from jobgroups.queries import usage

_DEFAULT: Final = ["submitter", "backend"]
_ROWS: Final = 200


def usage_page(principal: Principal, given: QueryDict) -> dict[str, Any]:
    """Return the usage by the dimensions and days in a URL; if they are invalid, the default with
    the error.
    """
    key = str(given.get("metadata", "")).strip()
    by = [*given.getlist("by"), *([f"{usage.METADATA}{key}"] if key else [])] or _DEFAULT
    params = QueryDict(mutable=True)
    params.update(
        {"by": ",".join(by), **{name: str(given.get(name, "")) for name in ("from", "to")}}
    )
    error = ""
    try:
        query = UsageQuery.read_query(params)
    except InvalidRequest as wrong:
        error, query = wrong.detail, UsageQuery.read_query(QueryDict(f"by={','.join(_DEFAULT)}"))
    by, first, last = query["by"], query["from"], query["to"]
    report = usage.usage(principal, by, first, last, offset=0, limit=_ROWS)
    heads = [name.removeprefix(usage.METADATA) for name in by]
    days = {"from": first.isoformat(), "to": last.isoformat()}
    names = {backend.id: backend.name for backend in backend_list()}
    return {
        "error": error,
        "by": by,
        "heads": heads,
        "dimensions": list(usage.DIMENSIONS),
        "key": next((head for head, name in zip(heads, by, strict=True) if head != name), ""),
        "first": first,
        "last": last,
        "since": iso_or_none(report.since),
        "rows": [
            row
            | {
                # A backend that was removed has only its id.
                "cells": [
                    names.get(row[name]) or row[name] if name == "backend" else row[name]
                    for name in by
                ],
                "gpu_time": _gpu_time(row["gpu_seconds"]),
            }
            for row in report.rows
        ],
        "most": max((row["gpu_seconds"] for row in report.rows), default=0.0) or 1.0,
        "csv": "/api/usage?"
        + urlencode({"by": ",".join(by), **days, "limit": 10_000, "format": "csv"}),
        "has_more": report.has_more,
    }


def _gpu_time(seconds: float) -> str:
    """Return hours, or minutes where these would round to 0.00."""
    hours = seconds / 3600
    return f"{hours:,.2f} h" if hours >= 0.1 else f"{seconds / 60:.1f} min"
