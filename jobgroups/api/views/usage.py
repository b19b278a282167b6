"""Usage as JSON, and as a CSV file."""

import csv
from typing import Any, Final

from django.http import HttpResponse
from rest_framework.request import Request

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
        page = usage.usage(by, first, last, offset=offset, limit=query["limit"])
        following = (
            with_query(request, offset=str(offset + query["limit"])) if page.has_more else None
        )
        if query["format"] == "csv" or (
            not query["format"] and "text/csv" in request.headers.get("Accept", "")
        ):
            answer = _csv(by, page.rows)
            answer.headers["Content-Disposition"] = (
                f'attachment; filename="usage-{first}-{last}.csv"'
            )
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


def _csv(by: list[str], rows: list[dict[str, Any]]) -> HttpResponse:
    answer = HttpResponse(content_type="text/csv; charset=utf-8")
    for row in ([*by, *usage.MEASURES], *(row.values() for row in rows)):
        csv.writer(answer).writerow(
            f"'{cell}" if str(cell).startswith(_FORMULA) else cell for cell in row
        )
    return answer
