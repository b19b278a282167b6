"""The pages, and the fragments that a page reloads. They only read."""

import datetime as dt
from collections.abc import Mapping
from http import HTTPStatus

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from backends.queries import backend_list
from director.pages import backends as backend_pages
from director.pages import failures as failure_pages
from director.pages import filters, group_detail, group_list, new_group, text
from jobgroups.api.requests.payloads import MAX_POOL_JOBS, POOL_ATTEMPTS
from jobgroups.domain.clock import now
from jobgroups.domain.states import GroupStatus
from jobgroups.errors import ChildNotFound, GroupNotFound, InvalidRequest
from jobgroups.queries.assets import asset_list
from jobgroups.queries.retention import retention_text
from jobgroups.workflow.assets import FILE_INPUTS
from jobgroups.workflow.seeds import SeedStrategy


def _page(request: HttpRequest, name: str, context: Mapping[str, object], status: int = 200) -> HttpResponse:
    shown = {"version": settings.DIRECTOR_VERSION, "failed_day": failure_pages.tally, **context}
    return render(request, f"director/{name}.html", shown, status=status)


def groups(request: HttpRequest, template: str) -> HttpResponse:
    """The list of groups, or its rows."""
    chosen = filters.parse_filters(request.GET)
    shown = {
        "filters": chosen,
        "listing": group_list.group_list(chosen),
        "query": chosen.query(),
        "offered": [one for one in backend_pages.found_servers() if not one["ignored"]],
    }
    if template == "groups":
        shown |= {
            "states": [(one.value, text.status_label(one, ended=True)) for one in GroupStatus],
            "backends": backend_list(),
            "submitters": group_list.submitters(),
            "retention": retention_text(),
        }
    return _page(request, template, shown)


def row_part(request: HttpRequest, group_id: str) -> HttpResponse:
    try:
        row = group_list.group_row(group_id)
    except GroupNotFound:
        return HttpResponse(status=HTTPStatus.NOT_FOUND)
    return _page(request, "parts/row", {"row": row})


def group(request: HttpRequest, group_id: str, template: str) -> HttpResponse:
    """A group's page, its head or all its cards; a 404 page with a search if the group does not exist."""
    number = str(request.GET.get("page", "1"))
    page = int(number) if number.isascii() and number.isdigit() and len(number) < 6 else 1
    if job_id := str(request.GET.get("job", "")).replace("\0", ""):
        page = group_detail.page_of(group_id, job_id)
    try:
        shown = group_detail.group_page(group_id, page, with_cards=template != "parts/head")
    except GroupNotFound:
        newest = group_list.group_list(filters.Filters())["rows"][:5]
        status = HTTPStatus.NOT_FOUND
        return _page(request, "no_group", {"group_id": group_id[:64], "newest": newest}, status)
    return _page(request, template, {"shown": shown, "row": shown["row"]})


def card_part(request: HttpRequest, group_id: str, job_id: str) -> HttpResponse:
    try:
        card = group_detail.child_card(group_id, job_id)
    except (GroupNotFound, ChildNotFound):
        return HttpResponse(status=HTTPStatus.NOT_FOUND)
    return _page(request, "parts/card", {"card": card})


def backends(request: HttpRequest, template: str) -> HttpResponse:
    """The backends, or their lanes or table alone."""
    return _page(request, template, {"listing": backend_pages.backend_list_page()})


def failures(request: HttpRequest, template: str) -> HttpResponse:
    """The page of failures, or its list alone."""
    shown = failure_pages.failures_page(failure_pages.parse_window(request.GET))
    return _page(request, template, {"shown": shown})


def assets(request: HttpRequest) -> HttpResponse:
    """The uploaded files, newest first."""
    cursor = str(request.GET.get("cursor", ""))[:200] or None
    try:
        page = asset_list(cursor=cursor, limit=filters.PAGE_SIZE)
    except InvalidRequest:
        page = asset_list(cursor=None, limit=filters.PAGE_SIZE)
    ages = [text.ago(dt.datetime.fromisoformat(one["used_at"]), now()) for one in page.results]
    return _page(request, "assets", {"page": page, "rows": list(zip(page.results, ages, strict=True))})


def submit(request: HttpRequest) -> HttpResponse:
    group_id, seed = str(request.GET.get("from", ""))[:64], str(request.GET.get("seed", ""))
    listing = backend_pages.backend_list_page()
    context = {
        "listing": listing,
        "tags": new_group.tagged_backends(listing["rows"]),
        "source": new_group.from_group(group_id.replace("\0", ""), seed),
        "quick": (1, 4, 12),
        "strategies": [(one.value, one.value.replace("_", " ")) for one in SeedStrategy],
        "retention_days": settings.DIRECTOR_RETENTION_DAYS,
        "max_body": settings.DIRECTOR_MAX_BODY_BYTES,
        "max_children": settings.DIRECTOR_MAX_CHILDREN,
        "max_pool": MAX_POOL_JOBS,
        "max_asset": settings.DIRECTOR_MAX_ASSET_BYTES,
        "file_inputs": sorted(FILE_INPUTS),
        "pool_attempts": max(settings.DIRECTOR_MAX_ATTEMPTS, POOL_ATTEMPTS),
        "on_failure": new_group.ON_FAILURE,
        "retry_on": new_group.RETRY_ON,
        "partial_outputs": new_group.PARTIAL_OUTPUTS,
        "retry": new_group.retry_defaults(settings.DIRECTOR_MAX_ATTEMPTS, settings.DIRECTOR_RETRY_ELSEWHERE),
    }
    return _page(request, "submit", context)
