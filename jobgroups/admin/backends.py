"""The backends in Django's admin: to look at, to switch, to hold back, to set aside and to release."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest

from backends import discovery
from backends.models import Backend, Discovery, FoundBackend
from backends.queries import backend_status
from backends.services import BackendExists, backend_update
from backends.states import Hold
from jobgroups.admin.base import ReadOnlyAdmin
from jobgroups.domain.clock import now
from jobgroups.domain.text import counted
from jobgroups.errors import BackendNotFound
from jobgroups.events.hub import hub
from jobgroups.services import holds


@admin.register(Backend)
class BackendAdmin(ReadOnlyAdmin):
    """Every registered ComfyUI, what was said of it, and what was last seen of it."""

    list_display = (
        "id",
        "name",
        "url",
        "state",
        "reason",
        "queue_running",
        "queue_pending",
        "queue_foreign",
        "comfyui_version",
        "last_seen_at",
    )
    list_filter = ("enabled", "hold", "reachability", "comfyui_version")
    search_fields = ("id", "name", "url")
    #: Their values may be passwords: only the names are shown.
    exclude = ("headers",)
    readonly_fields: ClassVar = ["header_names", "state", "reason"]
    actions = ("enable", "disable", "pause", "pause_now", "drain", "resume", "set_aside", "release")

    @admin.display(description="headers")
    def header_names(self, backend: Backend) -> str:
        """Return the names of the headers that are sent to it."""
        return ", ".join(sorted(backend.headers)) or "-"

    @admin.display(description="state")
    def state(self, backend: Backend) -> str:
        """Return its word, and who said so."""
        status = backend_status(backend, now=now())
        return f"{status.state} by {status.by}" if status.by else status.state.value

    @admin.display(description="reason")
    def reason(self, backend: Backend) -> str:
        """Return why it is in its state."""
        return backend_status(backend, now=now()).reason or "-"

    @admin.action(description="Enable: give them work", permissions=["operate"])
    def enable(self, request: HttpRequest, queryset: QuerySet[Backend]) -> None:
        """Let the backends get work."""
        self._each(request, queryset, partial(backend_update, enabled=True), "enabled now")

    @admin.action(description="Disable: let them finish and get no more", permissions=["operate"])
    def disable(self, request: HttpRequest, queryset: QuerySet[Backend]) -> None:
        """Let the backends finish what they have, and get no more."""
        self._each(request, queryset, partial(backend_update, enabled=False), "disabled now")

    @admin.action(description="Pause after what stands there", permissions=["operate"])
    def pause(self, request: HttpRequest, queryset: QuerySet[Backend]) -> None:
        """Send the backends nothing more until they are resumed."""
        self._each(request, queryset, _held(request, Hold.PAUSE), "paused")

    @admin.action(description="Pause now: give back what runs there", permissions=["operate"])
    def pause_now(self, request: HttpRequest, queryset: QuerySet[Backend]) -> None:
        """Stop what the backends render: it is begun anew, later or elsewhere."""
        self._each(request, queryset, _held(request, Hold.PAUSE, at_once=True), "paused")

    @admin.action(description="Drain, then disable", permissions=["operate"])
    def drain(self, request: HttpRequest, queryset: QuerySet[Backend]) -> None:
        """Empty the backends and disable them then."""
        self._each(request, queryset, _held(request, Hold.DRAIN), "being drained")

    @admin.action(description="Resume: end a pause or drain", permissions=["operate"])
    def resume(self, request: HttpRequest, queryset: QuerySet[Backend]) -> None:
        """Send the backends work again."""
        again = partial(holds.backend_resume, by=request.user.get_username())
        self._each(request, queryset, again, "resumed")

    @admin.action(description="Quarantine until released", permissions=["operate"])
    def set_aside(self, request: HttpRequest, queryset: QuerySet[Backend]) -> None:
        """Set the backends aside."""
        aside = partial(holds.backend_quarantine, by=request.user.get_username())
        self._each(request, queryset, aside, "quarantined")

    @admin.action(description="Release from quarantine", permissions=["operate"])
    def release(self, request: HttpRequest, queryset: QuerySet[Backend]) -> None:
        """Let the backends out of quarantine, on probation."""
        free = partial(holds.backend_release, by=request.user.get_username())
        self._each(request, queryset, free, "released")

    def _each(
        self,
        request: HttpRequest,
        queryset: QuerySet[Backend],
        say: Callable[..., Any],
        word: str,
    ) -> None:
        """Say it of each backend, tell the runners, and tell the user of how many."""
        count = 0
        for key in queryset.values_list("pk", flat=True):
            try:
                say(backend_id=key)
            except BackendNotFound:
                # Forgotten by somebody else a moment ago.
                continue
            count += 1
        hub.notify_runners()
        said = f"{counted(count, 'backend is', 'backends are')} {word}."
        self.message_user(request, said, messages.SUCCESS)


def _held(request: HttpRequest, hold: Hold, *, at_once: bool = False) -> Callable[..., None]:
    by = request.user.get_username()
    return partial(holds.backend_hold, hold=hold, at_once=at_once, by=by)


@admin.register(FoundBackend)
class FoundBackendAdmin(ReadOnlyAdmin):
    """Every ComfyUI that discovery found and that is not registered."""

    list_display = ("url", "comfyui_version", "first_seen_at", "last_seen_at", "ignored_at")
    list_filter = ("ignored_at", "comfyui_version")
    search_fields = ("url",)
    actions = ("add", "ignore", "unignore")

    def get_queryset(self, request: HttpRequest) -> QuerySet[FoundBackend]:
        """Return the rows that the API lists."""
        urls = [row.url for row in discovery.found_list()]
        return super().get_queryset(request).filter(pk__in=urls)

    @admin.action(description="Add as backends", permissions=["operate"])
    def add(self, request: HttpRequest, queryset: QuerySet[FoundBackend]) -> None:
        """Register the ComfyUIs."""
        self._each(request, queryset, discovery.found_add, "added")
        hub.notify_runners()

    @admin.action(description="Ignore: offer them no longer", permissions=["operate"])
    def ignore(self, request: HttpRequest, queryset: QuerySet[FoundBackend]) -> None:
        """Offer the ComfyUIs no longer."""
        self._each(request, queryset, partial(discovery.found_ignore, ignored=True), "ignored")

    @admin.action(description="Offer again", permissions=["operate"])
    def unignore(self, request: HttpRequest, queryset: QuerySet[FoundBackend]) -> None:
        """Offer the ComfyUIs again."""
        again = partial(discovery.found_ignore, ignored=False)
        self._each(request, queryset, again, "offered again")

    def _each(
        self,
        request: HttpRequest,
        queryset: QuerySet[FoundBackend],
        decide: Callable[..., object],
        word: str,
    ) -> None:
        count = 0
        for url in list(queryset.values_list("pk", flat=True)):
            try:
                decide(url=url)
            except (BackendExists, discovery.NotFound):
                # Another user decided a moment ago.
                continue
            count += 1
        said = f"{counted(count, 'ComfyUI is', 'ComfyUIs are')} {word}."
        self.message_user(request, said, messages.SUCCESS)


@admin.register(Discovery)
class DiscoveryAdmin(ReadOnlyAdmin):
    """Until when a found ComfyUI is registered without a question."""

    list_display = ("id", "adopts_until")
    list_filter = ("adopts_until",)
    search_fields = ("id",)
