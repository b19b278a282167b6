"""``/api/jobs``: ComfyUI's newer view of the prompts of an owner, and their cancels."""

from typing import Final

from django.http import HttpResponse
from rest_framework.request import Request

from jobgroups.api.listener.base import ListenerView, body_of, encoded_response, id_list
from jobgroups.api.listener.history import number_in_url
from jobgroups.api.listener.owner import owner_of
from jobgroups.api.views.base import json_response
from jobgroups.domain.listener_records import JOB_STATUS, is_prompt_id, job
from jobgroups.queries.listener_prompts import (
    MAX_LISTED,
    JobFilter,
    job_records,
    open_prompts,
    record_of,
)
from jobgroups.services.cancellation import prompts_cancel

_STATUSES: Final = sorted(set(JOB_STATUS.values()))
_SORTS: Final = ("created_at", "execution_duration")
_ORDERS: Final = ("asc", "desc")


class JobsView(ListenerView):
    def get(self, request: Request) -> HttpResponse:
        """List prompts; as ComfyUI does, with ``limit`` above ``MAX_LISTED`` lowered to it."""
        given = {name: request.GET.get(name, "").strip() for name in ("status", "workflow_id")}
        statuses = [status.strip().lower() for status in given["status"].split(",")]
        statuses = list(filter(None, statuses))
        sort_by = request.GET.get("sort_by", _SORTS[0]).lower()
        order = request.GET.get("sort_order", "desc").lower()
        limit = number_in_url(request, "limit")
        if unknown := sorted(set(statuses) - set(_STATUSES)):
            valid = ", ".join(_STATUSES)
            return _refused(f"Unknown status: {', '.join(unknown)}. Use {valid}.")
        if sort_by not in _SORTS or order not in _ORDERS:
            return _refused(
                f"sort_by must be one of {', '.join(_SORTS)}, sort_order one of {', '.join(_ORDERS)}."
            )
        if limit is not None and limit <= 0:
            return _refused("limit must be a positive whole number.")
        limit = min(limit or MAX_LISTED, MAX_LISTED)
        offset = max(number_in_url(request, "offset") or 0, 0)
        wanted = JobFilter(
            statuses=statuses,
            workflow_id=given["workflow_id"],
            by_duration=sort_by != _SORTS[0],
            is_ascending=order == "asc",
        )
        records, total = job_records(owner_of(request), wanted, limit=limit, offset=offset)
        has_more = offset + len(records) < total
        pagination = {"offset": offset, "limit": limit, "total": total, "has_more": has_more}
        return encoded_response({"jobs": list(map(job, records)), "pagination": pagination})


class JobView(ListenerView):
    def get(self, request: Request, prompt_id: str) -> HttpResponse:
        record = record_of(owner_of(request), prompt_id)
        if record is None or not (record.is_open or record.is_in_history):
            return _refused("Job not found", status=404)
        return encoded_response(job(record, is_whole=True))


class JobCancelView(ListenerView):
    def post(self, request: Request, prompt_id: str) -> HttpResponse:
        return _cancelled(request, [prompt_id])


class JobsCancelView(ListenerView):
    def post(self, request: Request) -> HttpResponse:
        given = body_of(request).get("job_ids")
        if not isinstance(given, list):
            return _refused("job_ids must be a list.")
        if invalid := [str(item) for item in given if not is_prompt_id(item)]:
            answer = {"error": "job_ids contains invalid id(s)", "invalid_ids": invalid}
            return json_response(answer, status=400)
        return _cancelled(request, given)


def _cancelled(request: Request, prompt_ids: list[str]) -> HttpResponse:
    prompt_ids = id_list({"job_ids": prompt_ids}, "job_ids")
    rows = open_prompts(owner_of(request)).filter(prompt_id__in=prompt_ids).order_by("-id")
    cancelled = prompts_cancel(group_ids=list(rows.values_list("group_id", flat=True)))
    return json_response({"cancelled": cancelled > 0})


def _refused(error: str, *, status: int = 400) -> HttpResponse:
    return json_response({"error": error}, status=status)
