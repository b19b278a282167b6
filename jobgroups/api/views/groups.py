"""Groups and their jobs: check, submit, list, read, cancel."""

from dataclasses import asdict
from typing import Final

from django.http import HttpResponse
from rest_framework.request import Request
from rest_framework.response import Response

from jobgroups import workflow
from jobgroups.api.requests import path_params, payloads
from jobgroups.api.requests.body import json_body
from jobgroups.api.requests.query_params import EventsQuery, GroupListQuery
from jobgroups.api.submission import submit
from jobgroups.api.views.base import ApiView
from jobgroups.api.workflow_check import check
from jobgroups.domain.states import ChildStatus
from jobgroups.errors import GroupNotFound
from jobgroups.queries import groups
from jobgroups.queries.assets import known_references
from jobgroups.serializers import serialize_submission, to_json
from jobgroups.services import cancellation

#: Events per page. Most have some hundred bytes, a few up to 1 MiB.
EVENTS_PAGE: Final = 500


class CheckView(ApiView):
    """``/api/workflows/check``"""

    def post(self, request: Request) -> Response:
        """Return which backends can execute a workflow, and why the others cannot."""
        values = payloads.check(json_body(request))
        prepared = workflow.build_template(values["workflow_json"], values["parameters"])
        known_references(prepared.workflow)
        return Response(check(prepared, values["backend_ids"], values["required_capabilities"]))


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
        page = groups.group_list(filters=groups.GroupFilter(**query), cursor=cursor, limit=limit)
        return page_response(request, page)


class GroupView(ApiView):
    """``/api/job-groups/{id}``"""

    def get(self, request: Request, group_id: str) -> Response:
        """Return a group with its jobs."""
        return Response(groups.group_snapshot(path_params.group_id(group_id)))

    def delete(self, request: Request, group_id: str) -> Response:
        """Cancel all jobs of a group that are not final."""
        done = cancellation.group_cancel(group_id=path_params.group_id(group_id))
        return Response(asdict(done))


class WorkflowView(ApiView):
    """``/api/job-groups/{id}/workflow``"""

    def get(self, request: Request, group_id: str) -> HttpResponse:
        """Return the workflow as it was submitted: the stored text."""
        text = groups.group_workflow(path_params.group_id(group_id))
        return HttpResponse(text, content_type="application/json")


class EventsView(ApiView):
    """``/api/job-groups/{id}/events``"""

    def get(self, request: Request, group_id: str) -> HttpResponse:
        """Return a page of stored events, with the text of the frames that sockets receive."""
        since = EventsQuery.read_query(request.query_params)["since"]
        if not groups.group_exists(path_params.group_id(group_id)):
            raise GroupNotFound(group_id)
        found = groups.group_events(group_id, since=since, limit=EVENTS_PAGE + 1)
        page, more = found[:EVENTS_PAGE], len(found) > EVENTS_PAGE
        following = _with_query(request, since=str(page[-1][0])) if more else None
        frames = ",".join(text for _, text in page)
        text = f'{{"events":[{frames}],"next":{to_json(following)}}}'
        return HttpResponse(text, content_type="application/json")


class JobView(ApiView):
    """``/api/job-groups/{id}/jobs/{job_id}``"""

    def get(self, request: Request, group_id: str, job_id: str) -> Response:
        """Return a job with its attempts."""
        group, job = path_params.group_id(group_id), path_params.job_id(job_id)
        return Response(groups.child_detail(group, job))

    def delete(self, request: Request, group_id: str, job_id: str) -> Response:
        """Cancel one job; the response has the fields of a group's cancellation."""
        group, job = path_params.group_id(group_id), path_params.job_id(job_id)
        by_us = cancellation.child_cancel(group_id=group, job_id=job)
        status = groups.child_detail(group, job)["status"]
        return Response(
            {
                "cancelled": status == ChildStatus.CANCELLED,
                "interrupted": int(by_us),
                "already_complete": int(status == ChildStatus.COMPLETED),
                "already_failed": int(status in (ChildStatus.FAILED, ChildStatus.TIMEOUT)),
            }
        )


def page_response(request: Request, page: groups.Page) -> Response:
    """Return a page of a list, with the URLs of its neighbours."""
    return Response(
        {
            "results": page.results,
            "next": _with_query(request, cursor=page.next_cursor),
            "previous": _with_query(request, cursor=page.previous_cursor),
        }
    )


def _with_query(request: Request, **params: str | None) -> str | None:
    """Return this request's URL with the parameters set; None if one of them is None."""
    query = request.query_params.copy()
    for name, value in params.items():
        if value is None:
            return None
        query[name] = value
    return request.build_absolute_uri(f"{request.path}?{query.urlencode()}")
