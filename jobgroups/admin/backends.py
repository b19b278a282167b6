"""Backends and found ComfyUIs in the admin: users view, enable, hold, quarantine, add and ignore them."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any, ClassVar

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest

from backends import discovery
from backends.eligibility import limitations_of
from backends.models import Backend, Discovery, FoundBackend
from backends.queries import backend_status
from backends.services import BackendExists
from backends.states import Hold
from jobgroups.admin.base import ReadOnlyAdmin, register_rows
from jobgroups.domain.clock import now
from jobgroups.domain.text import pluralize
from jobgroups.errors import BackendNotFound, ExclusionNotFound
from jobgroups.models import Exclusion, Timing
from jobgroups.services import holds
from jobgroups.services.backends import backend_update, found_add
from jobgroups.services.exclusions import exclusions_lift

_GONE = (BackendNotFound, ExclusionNotFound, BackendExists, discovery.NotFound)  #: Another user was faster.


class _ActingAdmin(ReadOnlyAdmin):
    """Its actions call one service for each selected row."""

    key: ClassVar[str]
    noun: ClassVar[tuple[str, str]]


def _action(
    description: str, result: str, service: Callable[..., object], *, by_user: bool = False, **arguments: Any
) -> Callable[[_ActingAdmin, HttpRequest, QuerySet[Any]], None]:
    """Return an action that calls a service for each row, with the user's name if the service stores it."""

    @admin.action(description=description, permissions=["operate"])
    def act(page: _ActingAdmin, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        by = {"by": request.user.get_username()} if by_user else {}
        count = 0
        for key in list(queryset.values_list("pk", flat=True)):
            with suppress(*_GONE):
                service(**{page.key: key}, **by, **arguments)
                count += 1
        text = f"{pluralize(count, *page.noun)} {result}."
        page.message_user(request, text, messages.SUCCESS)

    return act


@admin.register(Backend)
class BackendAdmin(_ActingAdmin):
    key = "backend_id"
    noun = ("backend is", "backends are")
    shown = "id name url state reason queue_running queue_pending queue_foreign comfyui_version last_seen_at"
    list_filter = ("enabled", "hold", "reachability", "partner_nodes_allowed", "comfyui_version")
    search_fields = ("id", "name", "url")
    exclude = ("headers",)  #: The values may be passwords: only the names are shown.
    readonly_fields: ClassVar = ["header_names", "state", "reason", "limitations"]
    actions = (
        *("enable", "disable", "allow_partner_nodes", "forbid_partner_nodes", "pause", "pause_now", "drain"),
        *("resume", "quarantine", "release"),
    )

    @admin.display(description="headers")
    def header_names(self, backend: Backend) -> str:
        return ", ".join(sorted(backend.headers)) or "-"

    @admin.display
    def state(self, backend: Backend) -> str:
        """Return the backend's state, and which user caused it."""
        status = backend_status(backend, now=now())
        return f"{status.state} by {status.by}" if status.by else status.state.value

    @admin.display
    def reason(self, backend: Backend) -> str:
        return backend_status(backend, now=now()).reason or "-"

    @admin.display
    def limitations(self, backend: Backend) -> str:
        return " ".join(limitations_of(backend)) or "-"

    enable = _action("Enable", "enabled", backend_update, enabled=True)
    disable = _action("Disable after running jobs", "disabled", backend_update, enabled=False)
    allow_partner_nodes = _action("Allow partner nodes", "confirmed", backend_update, partner_nodes_allowed=True)
    forbid_partner_nodes = _action("Forbid partner nodes", "changed", backend_update, partner_nodes_allowed=False)
    pause = _action("Pause after running jobs", "paused", holds.backend_hold, by_user=True, hold=Hold.PAUSE)
    pause_now = _action(
        "Pause now: evict running jobs", "paused", holds.backend_hold, by_user=True, hold=Hold.PAUSE, at_once=True
    )
    drain = _action("Drain, then disable", "draining", holds.backend_hold, by_user=True, hold=Hold.DRAIN)
    resume = _action("Resume: end a pause or drain", "resumed", holds.backend_resume, by_user=True)
    quarantine = _action("Quarantine until released", "quarantined", holds.backend_quarantine, by_user=True)
    release = _action("Release from quarantine", "released", holds.backend_release, by_user=True)


def _exclusion_lift(*, exclusion_id: int) -> None:
    row = Exclusion.objects.filter(pk=exclusion_id).first()
    if row is not None:
        exclusions_lift(backend_id=row.backend_id, exclusion_id=row.pk)


@admin.register(Exclusion)
class ExclusionAdmin(_ActingAdmin):
    """Workflows that backends cannot run, also those that have ended."""

    key = "exclusion_id"
    noun = ("exclusion is", "exclusions are")
    list_display = ("id", "backend_id", "kind", "count", "reason", "since", "last_at")
    list_filter = ("kind",)
    search_fields = ("backend__id", "workflow_digest", "reason")
    actions = ("lift",)

    lift = _action("Lift: the backend takes the workflow again", "lifted", _exclusion_lift)


# Learned times of workflows on backends.
register_rows(
    Timing,
    "workflow_digest backend_id seconds load_seconds runs updated_at",
    filters="backend",
    search="backend__id workflow_digest",
)


@admin.register(FoundBackend)
class FoundBackendAdmin(_ActingAdmin):
    """ComfyUIs that discovery found and that are not registered."""

    key = "url"
    noun = ("ComfyUI is", "ComfyUIs are")
    list_display = ("url", "comfyui_version", "first_seen_at", "last_seen_at", "ignored_at")
    list_filter = ("ignored_at", "comfyui_version")
    search_fields = ("url",)
    actions = ("add", "ignore", "offer")

    add = _action("Add as backends", "added", found_add)
    ignore = _action("Ignore: offer them no longer", "ignored", discovery.found_ignore, ignored=True)
    offer = _action("Offer again", "offered again", discovery.found_ignore, ignored=False)

    def get_queryset(self, request: HttpRequest) -> QuerySet[FoundBackend]:
        """Return the rows that the API lists."""
        urls = [row.url for row in discovery.found_list()]
        return super().get_queryset(request).filter(pk__in=urls)


# Until when a found ComfyUI is registered without a question.
register_rows(Discovery, "id adopts_until", filters="adopts_until", search="id")
