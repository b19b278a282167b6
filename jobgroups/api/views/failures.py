"""The failure report, and the failed jobs behind one of its rows."""

from django.http import HttpResponse
from rest_framework.request import Request

from jobgroups.api.requests.query_params import FailedJobsQuery, FailuresQuery
from jobgroups.api.views.base import ApiView, json_response
from jobgroups.queries import failures


class FailuresView(ApiView):
    def get(self, request: Request) -> HttpResponse:
        """Return recent failures by class, backend and workflow, the most frequent first."""
        return json_response(
            failures.failure_report(FailuresQuery.read_query(request.GET)["window"])
        )


class FailedJobsView(ApiView):
    def get(self, request: Request) -> HttpResponse:
        """Return the failed jobs behind a row by group."""
        return json_response(
            {"groups": failures.failed_jobs(**FailedJobsQuery.read_query(request.GET))}
        )
