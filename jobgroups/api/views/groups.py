"""Groups and their jobs: check, submit, list, read, cancel."""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from functools import partial
from typing import ClassVar, Final

from django.http import HttpRequest, HttpResponse, HttpResponseNotModified
from django.http.response import HttpResponseBase
from django.utils.cache import get_conditional_response
from rest_framework.request import Request

from jobgroups import workflow
from jobgroups.api.answers import answers
from jobgroups.api.conversion import converted_body
from jobgroups.api.long_polls import long_polls
from jobgroups.api.permissions import changing_owner, check_priority, identity, principal_of, signed
from jobgroups.api.plan import plan
from jobgroups.api.requests import payloads
from jobgroups.api.requests.body import json_body, optional_json_body
from jobgroups.api.requests.payloads import ByRequest, PauseRequest
from jobgroups.api.requests.query_params import (
    DEFAULT_PAGE,
    EventsQuery,
    EventStreamQuery,
    GroupListQuery,
    StatusQuery,
)
from jobgroups.api.sse import sse_frame, sse_response
from jobgroups.api.submission import submit_body
from jobgroups.api.views.base import ApiView, json_response
from jobgroups.api.workflow_check import JobKinds, check, offered_choices
from jobgroups.database.pools import act, probe_threads
from jobgroups.domain.access import Right, may
from jobgroups.domain.pauses import FARM
from jobgroups.domain.shapes.backends import ConvertedWorkflow
from jobgroups.domain.shapes.groups import CancelResult
from jobgroups.domain.states import ChildStatus
from jobgroups.errors import GroupNotFound
from jobgroups.queries import group_status, groups
from jobgroups.queries.assets import check_references
from jobgroups.queries.group_status import Answer
from jobgroups.queries.pauses import current_pauses
from jobgroups.serializers import serialize_pause, serialize_submission, to_json
from jobgroups.services import cancellation, shares
from jobgroups.services.groups import group_change, group_delete, group_deletion
from jobgroups.services.pauses import group_pause, group_resume, queue_pause, queue_resume
from jobgroups.streams.feed import TOO_SLOW_FRAME, error_frame, group_feed
from jobgroups.streams.stream import Frame

EVENTS_PAGE: Final = 500  #: Events per page. Most have some hundred bytes, a few up to 1 MiB.


class CheckView(ApiView):
    changes: ClassVar[Right] = Right.SUBMIT
    changes_in = probe_threads

    def post(self, request: Request) -> HttpResponse:
        """Return which backends can execute a workflow, why the others cannot, and the choices of
        its inputs.
        """
        values = payloads.check(converted_body(json_body(request)).body)
        template = values["template"]
        check_references(template.references, principal_of(request))
        answer = check(JobKinds(template), values["backend_ids"], values["required_capabilities"])
        return json_response(
            answer
            | offered_choices(template, [backend["backend_id"] for backend in answer["backends"]])
        )


class ConvertView(ApiView):
    changes: ClassVar[Right] = Right.SUBMIT

    def post(self, request: Request) -> HttpResponse:
        """Return a workflow of the editor's format in the API format."""
        body, warnings, _ = converted_body(payloads.ConvertRequest.read(json_body(request)))
        workflow.check_workflow(body["workflow_json"])
        return json_response(
            ConvertedWorkflow(workflow=body["workflow_json"], warnings=tuple(warnings))
        )


class PlanView(ApiView):
    changes: ClassVar[Right] = Right.SUBMIT

    def post(self, request: Request) -> HttpResponse:
        """Return what a submission would make."""
        body, warnings, _ = converted_body(json_body(request))
        submission = payloads.submission(body, None, warnings=warnings)
        return json_response(plan(submission, principal_of(request)))


class SubmitView(ApiView):
    changes: ClassVar[Right] = Right.SUBMIT
    starts_jobs = True

    def post(self, request: Request) -> HttpResponse:
        """Submit a group."""
        body, key = json_body(request), request.headers.get("Idempotency-Key")
        owner = identity(request, body.get("submitter"))
        made = submit_body(body, key, owner, principal_of(request))
        headers = {"Idempotency-Replayed": "true"} if made.replayed else None
        answer = serialize_submission(made.group, made.children)
        if not made.children:
            answer["children_next"] = request.build_absolute_uri(
                groups.children_path(made.group.id)
            )
        return json_response(answer, status=201, headers=headers)


class GroupListView(ApiView):
    def get(self, request: Request) -> HttpResponse:
        """List groups, newest first."""
        query = GroupListQuery.read_query(request.GET)
        cursor, limit = query.pop("cursor"), query.pop("limit")
        filters = groups.GroupFilter(principal=principal_of(request), **query)
        page = groups.group_list(filters=filters, cursor=cursor, limit=limit)
        return page_response(request, page)


class GroupView(ApiView):
    async def get(self, request: HttpRequest, group_id: str) -> HttpResponseBase:
        """Return a group with its jobs, without them, or with a page of them."""
        # DRF takes 0.1 ms for the parameters, even if there are none.
        query = StatusQuery.read_query(request.GET) if request.GET else {}
        since, after, limit = (query.get(name) for name in ("since", "children_after", "limit"))
        if since is not None:
            permit = partial(self.permit, request, {"group_id": group_id})
            principal = principal_of(request)
            if not await long_polls.has_moved(
                group_id,
                since=since,
                seconds=query["wait"],
                permit=None if principal.sees_all else permit,
                account=principal.user_id,
            ):
                # Without the ETag of this moment: progress may have changed the answer that the
                # client has.
                return HttpResponseNotModified(headers={"Cache-Control": "no-cache"})
            await permit()  # it may not be shared any more
        if query.get("children") == "0":
            return await _head(request, group_id)
        if after is None and limit is None:
            answer = await answers.get(group_status.read_status, group_id)
            if answer.jobs:
                return encoded_response(request, answer)
            return _with_next(
                request, answer, request.build_absolute_uri(groups.children_path(group_id))
            )
        return await self._page(request, group_id, after, limit or DEFAULT_PAGE)

    async def _page(
        self, request: HttpRequest, group_id: str, after: int | None, limit: int
    ) -> HttpResponseBase:
        first = 0 if after is None else after + 1
        answer = await answers.get(group_status.read_page, group_id, first, limit)
        following = (
            None if answer.last is None else with_query(request, children_after=str(answer.last))
        )
        return _with_next(request, answer, following)

    async def patch(self, request: HttpRequest, group_id: str) -> HttpResponseBase:
        """Set the name or the priority of a group, archive it or end that; return the group without
        its jobs.
        """
        values = payloads.GroupRequest.read(json_body(request))
        check_priority(principal_of(request), values["priority"])
        await act(group_change, group_id=group_id, **values)
        return await _head(request, group_id)

    async def delete(self, _request: HttpRequest, group_id: str) -> HttpResponse:
        """Cancel all jobs of a group that are not final."""
        return json_response(await act(cancellation.group_cancel, group_id=group_id))


class CancelView(ApiView):
    changes: ClassVar[Right] = Right.SUBMIT

    def get(self, request: Request) -> HttpResponse:
        """Return what a cancel of all open groups would cancel."""
        return json_response(groups.open_work(changing_owner(request)))

    def post(self, request: Request) -> HttpResponse:
        """Cancel all open groups; with accounts those of the account, for operators all."""
        payloads.CancelRequest.read(optional_json_body(request))
        return json_response(cancellation.groups_cancel(owner_id=changing_owner(request)))


class NextView(ApiView):
    async def post(self, request: HttpRequest, group_id: str) -> HttpResponseBase:
        """Bring a group to the front of the queue, or before another one; return the group without
        its jobs.
        """
        before = payloads.NextRequest.read(optional_json_body(request))["before"]
        if before is None:
            in_level = may(principal_of(request), Right.OPERATE)
            await act(shares.group_next, group_id=group_id, in_level=in_level)
        else:
            await act(shares.group_move, group_id=group_id, before=before)
        return await _head(request, group_id)


class GroupPauseView(ApiView):
    async def post(self, request: HttpRequest, group_id: str, *, paused: bool) -> HttpResponseBase:
        """Pause a group, or resume it; return it without its jobs."""
        fields = PauseRequest if paused else ByRequest
        values = signed(request, fields.read(optional_json_body(request)))
        service: Callable[..., None] = group_pause if paused else group_resume
        await act(service, group_id=group_id, **values)
        return await _head(request, group_id)


class QueuePauseView(ApiView):
    def post(self, request: Request, *, paused: bool) -> HttpResponse:
        """Pause the whole farm, or resume it; return its pause."""
        fields, service = (PauseRequest, queue_pause) if paused else (ByRequest, queue_resume)
        service(**signed(request, fields.read(optional_json_body(request))))
        return json_response({"paused": serialize_pause(current_pauses().by_target.get(FARM))})


class DeletionView(ApiView):
    def get(self, request: Request, group_id: str) -> HttpResponse:
        """Return what a deletion of the group would remove."""
        return json_response(group_deletion(group_id=group_id))

    def post(self, request: Request, group_id: str) -> HttpResponse:
        """Delete the group; return what was removed."""
        payloads.DeletionRequest.read(optional_json_body(request))
        return json_response(group_delete(group_id=group_id))


class WorkflowView(ApiView):
    def get(self, request: Request, group_id: str) -> HttpResponse:
        """Return the workflow as it was submitted: the stored text."""
        text = groups.group_workflow(group_id)
        return HttpResponse(text, content_type="application/json")


class EventsView(ApiView):
    def get(self, request: Request, group_id: str) -> HttpResponse:
        """Return a page of stored events, with the text of the frames that sockets receive."""
        since = EventsQuery.read_query(request.GET)["since"]
        if not groups.group_exists(group_id):
            raise GroupNotFound(group_id)
        events = groups.group_events(group_id, since=since, limit=EVENTS_PAGE + 1)
        page, more = events[:EVENTS_PAGE], len(events) > EVENTS_PAGE
        following = with_query(request, since=str(page[-1][0])) if more else None
        frames = ",".join(text for _, text in page)
        text = f'{{"events":[{frames}],"next":{to_json(following)}}}'
        return HttpResponse(text, content_type="application/json")


class EventStreamView(ApiView):
    async def get(self, request: HttpRequest, group_id: str) -> HttpResponseBase:
        """Return the stream of a group as Server-Sent Events, from an event on or with the snapshot
        first.
        """
        given = request.GET.copy()
        # A browser that reconnects sends it with the URL of the first request.
        if last := request.headers.get("Last-Event-ID"):
            given["since"] = last
        query = EventStreamQuery.read_query(given)
        await answers.version(group_id)  # 404 rather than a stream that ends
        principal = principal_of(request)
        feed = group_feed(group_id, query["since"], principal=principal, previews=query["previews"])
        return sse_response(_sse_frames(feed), principal.user_id)


async def _sse_frames(feed: AsyncGenerator[list[Frame], None]) -> AsyncGenerator[str, None]:
    try:
        async with aclosing(feed):
            async for frames in feed:
                for frame in frames:
                    yield sse_frame(frame.text, seq=frame.seq)
        last = TOO_SLOW_FRAME
    except GroupNotFound as error:
        last = error_frame(error.code, error.detail)
    yield sse_frame(last)


class JobView(ApiView):
    async def get(self, request: HttpRequest, group_id: str, job_id: str) -> HttpResponseBase:
        """Return a job with its attempts."""
        return encoded_response(request, await answers.get(group_status.read_job, group_id, job_id))

    async def delete(self, _request: HttpRequest, group_id: str, job_id: str) -> HttpResponse:
        """Cancel one job; the response has the fields of a group's cancellation."""
        by_us = await act(cancellation.child_cancel, group_id=group_id, job_id=job_id)
        status = (await act(groups.child_detail, group_id, job_id))["status"]
        return json_response(
            CancelResult(
                cancelled=status == ChildStatus.CANCELLED,
                interrupted=int(by_us),
                already_complete=int(status == ChildStatus.COMPLETED),
                already_failed=int(status in (ChildStatus.FAILED, ChildStatus.TIMEOUT)),
            )
        )


async def _head(request: HttpRequest, group_id: str) -> HttpResponseBase:
    return encoded_response(request, await answers.get(group_status.read_head, group_id))


def _with_next(request: HttpRequest, answer: Answer, following: str | None) -> HttpResponseBase:
    return encoded_response(request, answer, f',"children_next":{to_json(following)}}}'.encode())


def encoded_response(request: HttpRequest, answer: Answer, end: bytes = b"") -> HttpResponseBase:
    """Return an encoded answer with its ``ETag``, or 304 if the client has it.

    ``end`` replaces the end of its object; it must follow from the request and the answer.
    """
    response = get_conditional_response(request, etag=answer.etag)
    if response is None:
        response = HttpResponse(
            answer.body[:-1] + end if end else answer.body, content_type="application/json"
        )
    response.headers["ETag"] = answer.etag
    response.headers["Cache-Control"] = "no-cache"
    return response


def page_response(request: HttpRequest, page: groups.Page) -> HttpResponse:
    return json_response(
        {
            "results": page.results,
            "next": with_query(request, cursor=page.next_cursor),
            "previous": with_query(request, cursor=page.previous_cursor),
        }
    )


def with_query(request: HttpRequest, **params: str | None) -> str | None:
    """Return this request's URL with the parameters set; None if one of them is None."""
    query = request.GET.copy()
    for name, value in params.items():
        if value is None:
            return None
        query[name] = value
    return request.build_absolute_uri(f"{request.path}?{query.urlencode()}")
