"""The record of who did what, as JSON and as a CSV file."""

from typing import ClassVar

from django.http import HttpResponse
from rest_framework.request import Request

from jobgroups.api.requests.query_params import AuditQuery
from jobgroups.api.views.base import ApiView
from jobgroups.api.views.groups import page_response, with_query
from jobgroups.api.views.usage import csv_response, wants_csv
from jobgroups.domain.access import Right
from jobgroups.queries.audit import audit_list
from jobgroups.serializers import to_json

_COLUMNS = ("created_at", "actor", "address", "token_id", "action", "target", "details")


class AuditView(ApiView):
    reads: ClassVar[Right] = Right.OPERATE

    def get(self, request: Request) -> HttpResponse:
        """List who did what, newest first."""
        query = AuditQuery.read_query(request.GET)
        is_csv = wants_csv(request, query.pop("format"))
        page = audit_list(**query)
        if not is_csv:
            return page_response(request, page)
        rows = ({**entry, "details": to_json(entry["details"])} for entry in page.results)
        answer = csv_response(
            "audit.csv", _COLUMNS, ([row[name] for name in _COLUMNS] for row in rows)
        )
        if following := with_query(request, cursor=page.next_cursor):
            answer.headers["Link"] = f'<{following}>; rel="next"'
        return answer
