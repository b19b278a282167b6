"""Usage as JSON, and as a CSV file."""

import csv
from collections.abc import Iterable, Sequence
from typing import Final

from django.http import HttpResponse
from rest_framework.request import Request

from jobgroups.api.permissions import principal_of
from jobgroups.api.requests.query_params import UsageQuery
from jobgroups.api.views.base import ApiView, json_response
from jobgroups.api.views.groups import with_query
from jobgroups.domain.shapes.backends import Usage, UsageRow
from jobgroups.queries import usage

#: A spreadsheet takes a text that begins with one of these for a formula.
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


class UsageView(ApiView):
    def get(self, request: Request) -> HttpResponse:
        """Return GPU time, jobs, failures and retries by one to three dimensions."""
        query = UsageQuery.read_query(request.GET)
        by, first, last, offset = query["by"], query["from"], query["to"], query["offset"]
        page = usage.usage(
            principal_of(request), by, first, last, offset=offset, limit=query["limit"]
        )
        following = (
            with_query(request, offset=str(offset + query["limit"])) if page.has_more else None
        )
        if wants_csv(request, query["format"]):
            lines = (row.values() for row in page.rows)
            answer = csv_response(f"usage-{first}-{last}.csv", [*by, *usage.MEASURES], lines)
            if following:
                answer.headers["Link"] = f'<{following}>; rel="next"'
            return answer
        rows = tuple(
            UsageRow(dimensions={name: row.pop(name) for name in by}, **row) for row in page.rows
        )
        return json_response(
            Usage(
                first_day=first,
                last_day=last,
                since=page.since,
                by=tuple(by),
                results=rows,
                next=following,
            )
        )


def wants_csv(request: Request, form: str | None) -> bool:
    """Return whether a request wants CSV, by its parameter ``format`` or its ``Accept``."""
    return form == "csv" or (not form and "text/csv" in request.headers.get("Accept", ""))


def csv_response(name: str, heads: Sequence[str], rows: Iterable[Iterable[object]]) -> HttpResponse:
    """Return a CSV file to download, whose texts no spreadsheet takes for formulas."""
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    answer = HttpResponse(content_type="text/csv; charset=utf-8", headers=headers)
    for row in (heads, *rows):
        csv.writer(answer).writerow(
            f"'{cell}" if str(cell).startswith(_FORMULA) else cell for cell in row
        )
    return answer
