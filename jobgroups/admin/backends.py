"""Backends and found ComfyUIs in the admin: users view, enable, hold, quarantine, add and ignore
them.
"""

from typing import ClassVar

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest

from backends import discovery
from backends.eligibility import limitations_of
from backends.models import Backend, Discovery, FoundBackend
from backends.queries import backend_status
from backends.states import Hold
from jobgroups.admin.base import ReadOnlyAdmin, action, register_rows
from jobgroups.domain.clock import now
from jobgroups.domain.figures import Figures
from jobgroups.models import Exclusion
from jobgroups.queries.figures import current_figures
from jobgroups.services import holds
from jobgroups.services.backends import backend_update, found_add
from jobgroups.services.exclusions import exclusions_lift


@admin.register(Backend)
class BackendAdmin(ReadOnlyAdmin):
    keys: ClassVar = {"backend_id": "pk"}
    noun = ("backend is", "backends are")
    listed_columns = (
        "id name url state marks reason queue_running queue_pending queue_foreign comfyui_version "
        "last_seen_at"
    )
    list_filter = (
        *("enabled", "hold", "reachability", "partner_nodes_allowed", "extensions_allowed"),
        "comfyui_version",
    )
    search_fields = ("id", "name", "url")
    exclude = ("headers",)  #: The values may be passwords: only the names are shown.
    readonly_fields: ClassVar = ["header_names", "state", "marks", "reason", "limitations"]

    @admin.display(description="headers")
    def header_names(self, backend: Backend) -> str:
        return ", ".join(sorted(backend.headers)) or "-"

    @admin.display
    def state(self, backend: Backend) -> str:
        """Return the backend's state, and which user caused it."""
        status = backend_status(backend, now=now())
        return f"{status.state} by {status.by}" if status.by else status.state.value

    @admin.display
    def marks(self, backend: Backend) -> str:
        """Return whether the backend is slow or flaky, compared with the others."""
        figures = current_figures().get(backend.pk, Figures())
        marks = {"slow": figures.slow, "flaky": figures.flaky}
        return ", ".join(mark for mark, is_set in marks.items() if is_set) or "-"

    @admin.display
    def reason(self, backend: Backend) -> str:
        return backend_status(backend, now=now()).reason or "-"

    @admin.display
    def limitations(self, backend: Backend) -> str:
        return " ".join(limitations_of(backend)) or "-"

    enable = action("Enable", "enabled", backend_update, enabled=True)
    disable = action("Disable after running jobs", "disabled", backend_update, enabled=False)
    allow_partner_nodes = action(
        "Allow partner nodes", "confirmed", backend_update, partner_nodes_allowed=True
    )
    forbid_partner_nodes = action(
        "Forbid partner nodes", "changed", backend_update, partner_nodes_allowed=False
    )
    allow_extensions = action(
        "Allow editor extensions", "confirmed", backend_update, extensions_allowed=True
    )
    forbid_extensions = action(
        "Forbid editor extensions", "changed", backend_update, extensions_allowed=False
    )
    pause = action("Pause after running jobs", "paused", holds.backend_hold, hold=Hold.PAUSE)
    pause_now = action(
        "Pause now: evict running jobs", "paused", holds.backend_hold, hold=Hold.PAUSE, at_once=True
    )
    drain = action("Drain, then disable", "draining", holds.backend_hold, hold=Hold.DRAIN)
    resume = action("Resume: end a pause or drain", "resumed", holds.backend_resume)
    quarantine = action("Quarantine until released", "quarantined", holds.backend_quarantine)
    release = action("Release from quarantine", "released", holds.backend_release)


@admin.register(Exclusion)
class ExclusionAdmin(ReadOnlyAdmin):
    """Workflows that backends cannot run, also those that have ended."""

    keys: ClassVar = {"backend_id": "backend_id", "exclusion_id": "pk"}
    noun = ("exclusion is", "exclusions are")
    list_display = ("id", "backend_id", "kind", "count", "reason", "since", "last_at")
    list_filter = ("kind",)
    search_fields = ("backend__id", "workflow_digest", "reason")

    lift = action("Lift: the backend takes the workflow again", "lifted", exclusions_lift)


@admin.register(FoundBackend)
class FoundBackendAdmin(ReadOnlyAdmin):
    """ComfyUIs that discovery found and that are not registered."""

    keys: ClassVar = {"url": "pk"}
    noun = ("ComfyUI is", "ComfyUIs are")
    list_display = ("url", "comfyui_version", "first_seen_at", "last_seen_at", "ignored_at")
    list_filter = ("ignored_at", "comfyui_version")
    search_fields = ("url",)

    add = action("Add as backends", "added", found_add)
    ignore = action("Ignore: offer them no longer", "ignored", discovery.found_ignore, ignored=True)
    offer = action("Offer again", "offered again", discovery.found_ignore, ignored=False)

    def get_queryset(self, request: HttpRequest) -> QuerySet[FoundBackend]:
        """Return the rows that the API lists."""
        urls = [row.url for row in discovery.found_list()]
        return super().get_queryset(request).filter(pk__in=urls)


# Until when a found ComfyUI is registered without a question.
register_rows(Discovery, "id adopts_until", filters="adopts_until", search="id")
