"""The failure report, and the failed jobs behind one of its rows."""

from django.http import HttpResponse
from rest_framework.request import Request

from jobgroups.api.permissions import principal_of
from jobgroups.api.requests.query_params import FailedJobsQuery, FailuresQuery
from jobgroups.api.views.base import ApiView, json_response
from jobgroups.queries import failures


class FailuresView(ApiView):
    def get(self, request: Request) -> HttpResponse:
        """Return recent failures by class, backend and workflow, the most frequent first."""
        window = FailuresQuery.read_query(request.GET)["window"]
        return json_response(failures.failure_report(principal_of(request), window))


class FailedJobsView(ApiView):
    def get(self, request: Request) -> HttpResponse:
        """Return the failed jobs behind a row by group."""
        query = FailedJobsQuery.read_query(request.GET)
        return json_response({"groups": failures.failed_jobs(principal_of(request), **query)})
