"""Groups and their jobs: submit, list, read, cancel."""

from __future__ import annotations

from dataclasses import asdict
from typing import Final

from django.http import HttpResponse
from rest_framework.request import Request
from rest_framework.response import Response

from jobgroups.api.requests import path_params, payloads
from jobgroups.api.requests.body import json_body
from jobgroups.api.requests.query_params import EventsQuery, GroupListQuery
from jobgroups.api.submission import submit
from jobgroups.api.views.base import ApiView
from jobgroups.api.views.pagination import with_query
from jobgroups.domain.states import ChildStatus
from jobgroups.errors import GroupNotFound
from jobgroups.queries import groups as selectors
from jobgroups.serializers import serialize_submission, to_json
from jobgroups.services import cancellation

#: Events per page. Most have some hundred bytes, a few up to 1 MiB.
EVENTS_PAGE: Final = 500


class SubmitView(ApiView):
    """``/api/job-group``"""

    def post(self, request: Request) -> Response:
        """Submit a group."""
        submission = payloads.submission(json_body(request), request.headers.get("Idempotency-Key"))
        made = submit(submission)
        headers = {"Idempotency-Replayed": "true"} if made.replayed else None
        return Response(serialize_submission(made.group, made.children), status=201, headers=headers)


class GroupListView(ApiView):
    """``/api/job-groups``"""

    def get(self, request: Request) -> Response:
        """List groups, newest first."""
        query = GroupListQuery.read_query(request.query_params)
        cursor, limit = query.pop("cursor"), query.pop("limit")
        page = selectors.group_list(filters=selectors.GroupFilter(**query), cursor=cursor, limit=limit)
        return Response(
            {
                "results": page.results,
                "next": with_query(request, cursor=page.next_cursor),
                "previous": with_query(request, cursor=page.previous_cursor),
            }
        )


class GroupView(ApiView):
    """``/api/job-groups/{id}``"""

    def get(self, request: Request, group_id: str) -> Response:
        """Return a group with its jobs."""
        return Response(selectors.group_snapshot(path_params.group_id(group_id)))

    def delete(self, request: Request, group_id: str) -> Response:
        """Cancel all jobs of a group that are not final."""
        done = cancellation.group_cancel(group_id=path_params.group_id(group_id))
        return Response(asdict(done))


class WorkflowView(ApiView):
    """``/api/job-groups/{id}/workflow``"""

    def get(self, request: Request, group_id: str) -> HttpResponse:
        """Return the workflow as it was submitted: the stored text."""
        text = selectors.group_workflow(path_params.group_id(group_id))
        return HttpResponse(text, content_type="application/json")


class EventsView(ApiView):
    """``/api/job-groups/{id}/events``"""

    def get(self, request: Request, group_id: str) -> HttpResponse:
        """Return a page of stored events, with the text of the frames that sockets receive."""
        since = EventsQuery.read_query(request.query_params)["since"]
        if not selectors.group_exists(path_params.group_id(group_id)):
            raise GroupNotFound(group_id)
        found = selectors.group_events(group_id, since=since, limit=EVENTS_PAGE + 1)
        page, more = found[:EVENTS_PAGE], len(found) > EVENTS_PAGE
        following = with_query(request, since=str(page[-1][0])) if more else None
        frames = ",".join(text for _, text in page)
        text = f'{{"events":[{frames}],"next":{to_json(following)}}}'
        return HttpResponse(text, content_type="application/json")


class JobView(ApiView):
    """``/api/job-groups/{id}/jobs/{job_id}``"""

    def get(self, request: Request, group_id: str, job_id: str) -> Response:
        """Return a job with its attempts."""
        group, job = path_params.group_id(group_id), path_params.job_id(job_id)
        return Response(selectors.child_detail(group, job))

    def delete(self, request: Request, group_id: str, job_id: str) -> Response:
        """Cancel one job; the response has the fields of a group's cancellation."""
        group, job = path_params.group_id(group_id), path_params.job_id(job_id)
        by_us = cancellation.child_cancel(group_id=group, job_id=job)
        status = selectors.child_detail(group, job)["status"]
        return Response(
            {
                "cancelled": status == ChildStatus.CANCELLED,
                "interrupted": int(by_us),
                "already_complete": int(status == ChildStatus.COMPLETED),
                "already_failed": int(status in (ChildStatus.FAILED, ChildStatus.TIMEOUT)),
            }
        )
