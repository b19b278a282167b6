"""The failure report, and the failed jobs behind one of its rows."""

from typing import Any

from django.http import HttpResponse
from rest_framework.request import Request

from jobgroups.api.requests.query_params import FailedJobsQuery, FailuresQuery
from jobgroups.api.views.base import ApiView, json_response
from jobgroups.domain.clock import iso
from jobgroups.queries import failures
from jobgroups.serializers import truncate


class FailuresView(ApiView):
    def get(self, request: Request) -> HttpResponse:
        """Return recent failures by class, backend and workflow, the most frequent first."""
        window = FailuresQuery.read_query(request.GET)["window"]
        found = failures.failure_report(window)
        return json_response(
            {
                "window": window,
                "since": iso(found.since),
                "failed_jobs": found.lost,
                "results": [_row_json(one) for one in found.rows],
                "recovered": [_row_json(one) for one in found.recovered],
                "left_out": found.more,
                "only_newest": failures.MAX_FAILURES if found.cut else None,
            }
        )


class FailedJobsView(ApiView):
    def get(self, request: Request) -> HttpResponse:
        """Return the failed jobs behind a row by group."""
        found = failures.failed_jobs(**FailedJobsQuery.read_query(request.GET))
        return json_response(
            {
                "groups": [
                    {"job_group_id": one.group_id, "name": one.name, "finished": one.finished, "job_ids": one.job_ids}
                    for one in found
                ]
            }
        )


def _row_json(row: failures.FailureRow) -> dict[str, Any]:
    example = row.example
    return {
        "failure_class": row.failure_class,
        "backend_id": row.backend_id or None,
        "workflow": row.workflow,
        "workflow_name": row.workflow_name,
        "groups": len(row.groups),
        "failures": row.failures,
        "failed_jobs": row.lost,
        "retrying": row.open,
        "first_at": iso(row.first),
        "last_at": iso(row.last),
        "example": example
        and {
            "job_group_id": example.group_id,
            "job_id": example.job_id,
            "attempt": example.attempt,
            "message": truncate(example.message),
            "at": iso(example.at),
        },
    }
