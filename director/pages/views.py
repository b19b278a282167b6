"""The pages, and the fragments that a page reloads. They only read."""

import re
from collections.abc import Mapping
from functools import partial
from http import HTTPStatus
from typing import Final

from django.conf import settings
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.loader import render_to_string
from django.utils.text import capfirst

from backends.queries import backend_list
from director.pages import (
    accounts as account_pages,
    backend_detail,
    backends as backend_pages,
    documents,
    failures as failure_pages,
    filters,
    gallery as gallery_pages,
    group_detail,
    group_list,
    new_group,
    text,
)
from director.pages.audit import audit_page
from director.pages.names import names_by_id
from director.pages.queue import queue_list
from director.pages.usage import usage_page
from jobgroups.api.listener.editor import editor_url
from jobgroups.api.permissions import principal_of
from jobgroups.api.requests.payloads import POOL_ATTEMPTS
from jobgroups.domain.states import GroupStatus, RetryScope
from jobgroups.domain.turns import MAX_OWN_PRIORITY, MAX_PRIORITY
from jobgroups.errors import BackendNotFound, GroupNotFound
from jobgroups.queries.assets import asset_list
from jobgroups.queries.output_list import models as output_models
from jobgroups.queries.provenance import job_provenance
from jobgroups.queries.retention import retention_text
from jobgroups.queries.visibility import sees_group
from jobgroups.queries.webhooks import STATES, delivery_list
from jobgroups.workflow import summary
from jobgroups.workflow.assets import FILE_INPUTS
from jobgroups.workflow.batch import MAX_JOBS
from jobgroups.workflow.seeds import SeedStrategy

#: Characters that change the direction of text: a file could be shown with another extension, and
#: beside another number.
_DIRECTIONS: Final = re.compile("[\u202a-\u202e\u2066-\u2069]")


def render_page(
    request: HttpRequest, name: str, context: Mapping[str, object], status: int = 200
) -> HttpResponse:
    """Return a page, or a fragment of one, with the values that every page has."""
    principal = principal_of(request)
    values = {
        "version": settings.DIRECTOR_VERSION,
        "failed_day": partial(failure_pages.tally, principal),
        "max_priority": MAX_PRIORITY if principal.can_operate else MAX_OWN_PRIORITY,
        "is_private": settings.DIRECTOR_PRIVATE,
        **context,
    }
    html = render_to_string(f"director/{name}.html", values, request)
    return HttpResponse(_DIRECTIONS.sub("\ufffd", html), status=status)


def _check_group(request: HttpRequest, group_id: str) -> None:
    """Raise ``GroupNotFound`` unless a group exists for the person."""
    principal = principal_of(request)
    if not principal.sees_all and not sees_group(principal, group_id):
        raise GroupNotFound(group_id)


def groups(request: HttpRequest, template: str) -> HttpResponse:
    """The list of groups, or its rows."""
    principal = principal_of(request)
    chosen = filters.parse_filters(request.GET)
    context = {
        "filters": chosen,
        "listing": group_list.group_list(chosen, principal),
        "query": chosen.query(),
        "offered": [server for server in backend_pages.found_servers() if not server["ignored"]],
        "discovers": settings.DIRECTOR_DISCOVER,
        "backends": backend_list,  # Read where a template needs it: a reloaded list with groups does not.
    }
    if template == "groups":
        context |= {
            "states": [
                (status.value, text.status_label(status, ended=True)) for status in GroupStatus
            ],
            "submitters": group_list.submitters(principal),
            "retention": retention_text(),
            "week": filters.last_week(),
        }
    return render_page(request, template, context)


def row_part(request: HttpRequest, group_id: str) -> HttpResponse:
    """A group's row in the list."""
    _check_group(request, group_id)
    return render_page(request, "parts/row", {"row": group_list.group_row(group_id)})


def group(request: HttpRequest, group_id: str, template: str) -> HttpResponse:
    """A group's page, its head or all its cards; a 404 page with a search if the group does not
    exist.
    """
    try:
        _check_group(request, group_id)
        group_context = group_detail.group_page(
            group_id, request.GET.dict(), with_cards=template != "parts/head"
        )
    except GroupNotFound:
        return _no_group(request, group_id)
    context = {
        "shown": group_context,
        "row": group_context["row"],
        "editor_url": editor_url(request, group_id),
    }
    return render_page(request, template, context)


def _no_group(request: HttpRequest, group_id: str) -> HttpResponse:
    newest = group_list.group_list(filters.Filters(), principal_of(request))["rows"][:5]
    status = HTTPStatus.NOT_FOUND
    return render_page(request, "no_group", {"group_id": group_id[:64], "newest": newest}, status)


def editor(request: HttpRequest, group_id: str) -> HttpResponse:
    """Send to ComfyUI's editor with the workflow of a group."""
    if not sees_group(principal_of(request), group_id):
        return _no_group(request, group_id)
    url = editor_url(request, group_id)
    if url is None:
        return render_page(request, "no_editor", {"group_id": group_id}, HTTPStatus.NOT_FOUND)
    return HttpResponseRedirect(url)


def card_part(request: HttpRequest, group_id: str, job_id: str, template: str) -> HttpResponse:
    """One job's card, its cell in the grid of a sweep, or what the viewer shows of it."""
    _check_group(request, group_id)
    context = {"card": group_detail.child_card(group_id, job_id)}
    if template == "parts/info":
        context["made"] = text.summary_values(summary(job_provenance(group_id, job_id)["workflow"]))
    return render_page(request, template, context)


def backends(request: HttpRequest, template: str) -> HttpResponse:
    """The backends, or their table alone."""
    sort = str(request.GET.get("sort", ""))
    had = request.headers.get("X-Rows", "")
    listing = backend_pages.backend_list_page(principal_of(request), sort, had)
    return render_page(request, template, {"listing": listing})


def backend(request: HttpRequest, backend_id: str, template: str) -> HttpResponse:
    """A backend's page, what of it changes, or its models."""
    backend_context: object
    try:
        if template == "parts/models":
            backend_context = backend_detail.backend_models(backend_id)
        else:
            backend_context = backend_detail.backend_page(backend_id, principal_of(request))
    except BackendNotFound:
        return render_page(request, "no_backend", {"backend_id": backend_id}, HTTPStatus.NOT_FOUND)
    return render_page(request, template, {"shown": backend_context, "backend_id": backend_id})


def queue(request: HttpRequest, template: str) -> HttpResponse:
    """What runs and what is next, or its rows alone."""
    principal = principal_of(request)
    context: dict[str, object] = {"shown": queue_list(principal, request.GET)}
    if template == "queue":
        submitters = partial(group_list.submitters, principal)
        context |= {"backends": backend_list, "submitters": submitters}
    return render_page(request, template, context)


def gallery(request: HttpRequest, template: str) -> HttpResponse:
    """The outputs of all groups, or more of them."""
    principal = principal_of(request)
    context: dict[str, object] = {"shown": gallery_pages.gallery(principal, request.GET)}
    if template == "gallery":
        submitters, models = (
            partial(group_list.submitters, principal),
            partial(output_models, principal),
        )
        context |= {"backends": backend_list, "submitters": submitters, "models": models}
    return render_page(request, template, context)


def failures(request: HttpRequest, template: str) -> HttpResponse:
    """The page of failures, or its list alone."""
    given = filters.texts(request.GET, "window", "backend")
    failures_context = failure_pages.failures_page(principal_of(request), *given.values())
    return render_page(request, template, {"shown": failures_context})


def usage(request: HttpRequest) -> HttpResponse:
    """The usage by the dimensions and days of the URL."""
    return render_page(request, "usage", {"shown": usage_page(principal_of(request), request.GET)})


def account(request: HttpRequest) -> HttpResponse:
    """Who is signed in, and the tokens of that account."""
    return render_page(request, "account", account_pages.account_page(principal_of(request)))


def audit(request: HttpRequest) -> HttpResponse:
    """Who did what, newest first, for operators."""
    return render_page(request, "audit", audit_page(principal_of(request), request.GET))


def people(request: HttpRequest) -> HttpResponse:
    """All accounts, for administrators."""
    return render_page(request, "people", account_pages.people_page())


def assets(request: HttpRequest) -> HttpResponse:
    """The uploaded files, newest first."""
    given = filters.texts(request.GET, "cursor")
    read = partial(asset_list, principal_of(request), limit=filters.PAGE_SIZE)
    page = filters.page_after(given["cursor"], lambda cursor: read(cursor=cursor))
    return render_page(request, "assets", {"page": page})


def webhooks(request: HttpRequest) -> HttpResponse:
    """The deliveries of events to webhooks, newest first: all, or those of a group or in a state."""
    given = filters.texts(request.GET, "group", "state", "cursor")
    principal = principal_of(request)
    read = partial(
        delivery_list,
        principal,
        group=given["group"],
        state=given["state"],
        limit=filters.PAGE_SIZE,
    )
    page = filters.page_after(given["cursor"], lambda cursor: read(cursor=cursor))
    states = [("", "All"), *((name, capfirst(name.replace("_", " "))) for name in STATES)]
    ids = [given["group"], *(row["job_group_id"] for row in page.results)]
    names = names_by_id(ids, principal)
    context = {
        "page": page,
        "rows": [(row, names.get(row["job_group_id"])) for row in page.results],
        "states": states,
        "chosen": given["state"],
        "group": given["group"],
        "query": filters.address({name: given[name] for name in ("state", "group")}),
        "group_name": names.get(given["group"], given["group"]),
    }
    return render_page(request, "webhooks", context)


def document(request: HttpRequest, name: str = "") -> HttpResponse:
    """A document, or the first one."""
    titles = documents.titles()
    name = name or next(iter(titles), "")
    if name not in titles:
        raise Http404
    context = {"titles": titles, "name": name, "title": titles[name], "html": documents.html(name)}
    return render_page(request, "document", context)


def document_picture(_request: HttpRequest, name: str) -> HttpResponse:
    """A picture of a document."""
    path = documents.path(f"pictures/{name[:64]}.webp")
    if path is None:
        raise Http404
    return HttpResponse(path.read_bytes(), content_type="image/webp")


def submit(request: HttpRequest) -> HttpResponse:
    group_id, seed, job_id = filters.texts(request.GET, "from", "seed", "job").values()
    principal = principal_of(request)
    listing = backend_pages.backend_list_page(principal)
    has_none = (settings.DIRECTOR_MAX_ATTEMPTS, settings.DIRECTOR_RETRY_ELSEWHERE) == (
        1,
        RetryScope.NEVER,
    )
    context = {
        "listing": listing,
        "tags": new_group.tagged_backends(listing["rows"]),
        "source": new_group.from_group(group_id, seed, job_id, principal=principal),
        "recent": [] if group_id else group_list.recent_workflows(principal),
        "quick": (1, 4, 12),
        "strategies": [
            (strategy.value, strategy.value.replace("_", " ")) for strategy in SeedStrategy
        ],
        "retention_days": settings.DIRECTOR_RETENTION_DAYS,
        "max_body": settings.DIRECTOR_MAX_BODY_BYTES,
        "max_children": settings.DIRECTOR_MAX_CHILDREN,
        "max_pool": MAX_JOBS,
        "max_asset": settings.DIRECTOR_MAX_ASSET_BYTES,
        "file_inputs": sorted(FILE_INPUTS),
        "pool_attempts": max(settings.DIRECTOR_MAX_ATTEMPTS, POOL_ATTEMPTS),
        "on_failure": new_group.ON_FAILURE,
        "retry_on": new_group.RETRY_ON,
        "partial_outputs": new_group.PARTIAL_OUTPUTS,
        # The initial retry policy of jobs that are submitted to backends.
        "elsewhere": "no" if has_none else settings.DIRECTOR_RETRY_ELSEWHERE,
        "attempts": new_group.DEFAULT_ATTEMPTS if has_none else settings.DIRECTOR_MAX_ATTEMPTS,
    }
    return render_page(request, "submit", context)
