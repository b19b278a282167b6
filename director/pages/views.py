"""The pages, and the fragments that a page reloads. They only read."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from backends.queries import backend_list
from director.pages import backends as backend_pages
from director.pages import failures as failure_pages
from director.pages import filters, group_detail, group_list, new_group, text
from jobgroups.domain.states import GroupStatus
from jobgroups.errors import ChildNotFound, GroupNotFound
from jobgroups.workflow.seeds import SeedStrategy


def _page(request: HttpRequest, name: str, context: Mapping[str, object], status: int = 200) -> HttpResponse:
    shown = {"version": settings.DIRECTOR_VERSION, "failed_day": failure_pages.tally, **context}
    return render(request, f"director/{name}.html", shown, status=status)


# --- groups ---------------------------------------------------------------------------------------


def _groups_context(request: HttpRequest) -> dict[str, object]:
    chosen = filters.parse_filters(request.GET)
    offered = [one for one in backend_pages.found_servers() if not one.ignored]
    return {"filters": chosen, "listing": group_list.group_list(chosen), "query": chosen.query(), "offered": offered}


@require_safe
@never_cache
def groups(request: HttpRequest) -> HttpResponse:
    """The list of groups."""
    states = [(one.value, text.status_label(one, ended=True)) for one in GroupStatus]
    choices = {"states": states, "backends": backend_list(), "submitters": group_list.submitters()}
    return _page(request, "groups", {**choices, **_groups_context(request)})


@require_safe
@never_cache
def groups_part(request: HttpRequest) -> HttpResponse:
    """The list's rows."""
    return _page(request, "parts/rows", _groups_context(request))


@require_safe
@never_cache
def row_part(request: HttpRequest, group_id: str) -> HttpResponse:
    """One row of the list."""
    try:
        row = group_list.group_row(group_id)
    except GroupNotFound:
        return HttpResponse(status=HTTPStatus.NOT_FOUND)
    return _page(request, "parts/row", {"row": row})


# --- a group --------------------------------------------------------------------------------------


@require_safe
@never_cache
def group(request: HttpRequest, group_id: str) -> HttpResponse:
    """A group's page; a 404 page with a search if the group does not exist."""
    return _group(request, group_id, "group")


@require_safe
@never_cache
def head_part(request: HttpRequest, group_id: str) -> HttpResponse:
    """The head of a group's page."""
    return _group(request, group_id, "parts/head")


@require_safe
@never_cache
def cards_part(request: HttpRequest, group_id: str) -> HttpResponse:
    """All cards of a group's page."""
    return _group(request, group_id, "parts/cards")


def _group(request: HttpRequest, group_id: str, template: str) -> HttpResponse:
    number = str(request.GET.get("page", "1"))
    page = int(number) if number.isascii() and number.isdigit() and len(number) < 6 else 1
    try:
        shown = group_detail.group_page(group_id, page)
    except GroupNotFound:
        newest = group_list.group_list(filters.Filters()).rows[:5]
        status = HTTPStatus.NOT_FOUND
        return _page(request, "no_group", {"group_id": group_id[:64], "newest": newest}, status)
    return _page(request, template, {"shown": shown, "row": shown.row})


@require_safe
@never_cache
def card_part(request: HttpRequest, group_id: str, job_id: str) -> HttpResponse:
    """One child's card."""
    try:
        card = group_detail.child_card(group_id, job_id)
    except (GroupNotFound, ChildNotFound):
        return HttpResponse(status=HTTPStatus.NOT_FOUND)
    return _page(request, "parts/card", {"card": card})


# --- backends -------------------------------------------------------------------------------------


@require_safe
@never_cache
def backends(request: HttpRequest) -> HttpResponse:
    """The backends."""
    return _page(request, "backends", {"listing": backend_pages.backend_list_page()})


@require_safe
@never_cache
def backends_part(request: HttpRequest) -> HttpResponse:
    """The backends' lanes or table."""
    return _page(request, "parts/backends", {"listing": backend_pages.backend_list_page()})


# --- failures -------------------------------------------------------------------------------------


@require_safe
@never_cache
def failures(request: HttpRequest) -> HttpResponse:
    """The page of failures."""
    shown = failure_pages.failures_page(failure_pages.parse_window(request.GET))
    return _page(request, "failures", {"shown": shown})


@require_safe
@never_cache
def failures_part(request: HttpRequest) -> HttpResponse:
    """The list of failures."""
    shown = failure_pages.failures_page(failure_pages.parse_window(request.GET))
    return _page(request, "parts/failures", {"shown": shown})


# --- submit ---------------------------------------------------------------------------------------


@require_safe
@never_cache
def submit(request: HttpRequest) -> HttpResponse:
    """The form of a new group."""
    group_id, seed = str(request.GET.get("from", ""))[:64], str(request.GET.get("seed", ""))
    context = {
        "listing": backend_pages.backend_list_page(),
        "source": new_group.from_group(group_id.replace("\0", ""), seed),
        "quick": (1, 4, 12),
        "strategies": [(one.value, one.value.replace("_", " ")) for one in SeedStrategy],
        "max_body": settings.DIRECTOR_MAX_BODY_BYTES,
        "max_children": settings.DIRECTOR_MAX_CHILDREN,
        "on_failure": new_group.ON_FAILURE,
        "retry_on": new_group.RETRY_ON,
        "partial_outputs": new_group.PARTIAL_OUTPUTS,
        "retry": new_group.retry_defaults(settings.DIRECTOR_MAX_ATTEMPTS, settings.DIRECTOR_RETRY_ELSEWHERE),
    }
    return _page(request, "submit", context)
