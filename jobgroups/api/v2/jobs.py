"""Jobs of the Comfy API v2: submit, list, read, cancel, and their events."""

import re
from typing import Any, ClassVar, Final

from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from rest_framework.request import Request

from backends.errors import InvalidRequest
from jobgroups.api.permissions import identity, principal_of
from jobgroups.api.requests.body import json_body
from jobgroups.api.requests.query_params import AssetListQuery
from jobgroups.api.sse import sse_response
from jobgroups.api.v2.answers import job_answer, serialize_job, serialize_summary
from jobgroups.api.v2.events import job_frames
from jobgroups.api.v2.requests import base_url, idempotency_key
from jobgroups.api.v2.submission import LABELS, is_label, submit_job
from jobgroups.api.views.base import ApiView, json_response
from jobgroups.api.views.groups import encoded_response
from jobgroups.domain.access import Right
from jobgroups.errors import InvalidCursor, InvalidMetadataFilter
from jobgroups.queries.single_jobs import SingleJob, single_jobs
from jobgroups.services.cancellation import group_cancel

_MAX_FILTERS: Final = 10  #: Each is a join, of which SQLite has 64.
_FILTER: Final = re.compile(r"metadata\[(.*)\]", re.DOTALL)


class JobListView(ApiView):
    changes: ClassVar[Right] = Right.SUBMIT
    starts_jobs = True

    def post(self, request: Request) -> HttpResponse:
        key, owner = idempotency_key(request, "v2"), identity(request)
        group = submit_job(json_body(request), key, owner, principal_of(request))
        return json_response(serialize_job(SingleJob.read(group.pk), base_url(request)), status=201)

    def get(self, request: Request) -> HttpResponse:
        given = request.GET.copy()
        filters = {name: given.pop(name) for name in list(given) if name.startswith("metadata")}
        try:
            query, labels = AssetListQuery.read_query(given), _labels_of(filters)
            page = single_jobs(principal_of(request), metadata=labels, **query)
        except InvalidRequest as error:
            if any(
                field_error["field"] == "cursor" for field_error in error.extra.get("errors", ())
            ):
                raise InvalidCursor from None
            raise
        return json_response(
            {"jobs": list(map(serialize_summary, page.results)), "next_cursor": page.next_cursor}
        )


def _labels_of(filters: dict[str, list[Any]]) -> dict[str, str]:
    labels = {}
    for name, values in filters.items():
        matched, value = _FILTER.fullmatch(name), values[0]
        if (
            matched is None
            or len(values) > 1
            or len(filters) > _MAX_FILTERS
            or not is_label(matched[1], value)
        ):
            raise InvalidMetadataFilter(
                f"Use at most {_MAX_FILTERS} filters metadata[KEY]=VALUE. {LABELS}"
            )
        labels[matched[1]] = value
    return labels


class JobView(ApiView):
    async def get(self, request: HttpRequest, job_id: str) -> HttpResponseBase:
        return encoded_response(request, await job_answer(job_id, base_url(request)))


class JobWorkflowView(ApiView):
    def get(self, request: Request, job_id: str) -> HttpResponse:
        text = SingleJob.read(job_id).group.workflow_json
        return HttpResponse(
            f'{{"workflow":{text},"format":"api"}}', content_type="application/json"
        )


class JobCancelView(ApiView):
    def post(self, request: Request, job_id: str) -> HttpResponse:
        group_id = SingleJob.read(job_id).group.pk
        group_cancel(group_id=group_id)
        return json_response(serialize_job(SingleJob.read(group_id), base_url(request)))


class JobEventsView(ApiView):
    async def get(self, request: HttpRequest, job_id: str) -> HttpResponseBase:
        base = base_url(request)
        await job_answer(job_id, base)  # an unknown job is an error, not a stream
        principal = principal_of(request)
        return sse_response(job_frames(job_id, base, principal), principal.user_id)
