"""Retries of a group or of one of its jobs, and moves of queued jobs."""

from django.http import HttpResponse
from rest_framework.request import Request

from jobgroups.api.permissions import signed
from jobgroups.api.requests.body import json_body, optional_json_body
from jobgroups.api.requests.payloads import GroupRetryRequest, JobRetryRequest, MoveRequest
from jobgroups.api.views.base import ApiView, json_response
from jobgroups.services import moves, retries


class GroupRetryView(ApiView):
    starts_jobs = True

    def post(self, request: Request, group_id: str) -> HttpResponse:
        """Start the group's next run for the named children, or for all that failed."""
        values = signed(request, GroupRetryRequest.read(optional_json_body(request)))
        done = retries.group_retry(group_id=group_id, **values)
        return json_response(done)


class JobRetryView(ApiView):
    starts_jobs = True

    def post(self, request: Request, group_id: str, job_id: str) -> HttpResponse:
        """Queue one child again: within the run, or in the next one if the group has ended."""
        values = signed(request, JobRetryRequest.read(optional_json_body(request)))
        done = retries.child_retry(group_id=group_id, job_id=job_id, **values)
        return json_response(done)


class JobMoveView(ApiView):
    def post(self, request: Request, group_id: str, job_id: str) -> HttpResponse:
        """Bind a queued child to another backend."""
        values = signed(request, MoveRequest.read(json_body(request)))
        done = moves.child_move(group_id=group_id, job_id=job_id, **values)
        return json_response(done)
