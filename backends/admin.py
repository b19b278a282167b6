"""The backends in Django's admin: to look at, and to enable or disable."""

from __future__ import annotations

import json
from typing import Any, ClassVar

from django.contrib import admin, messages
from django.db.models import Model, QuerySet
from django.http import HttpRequest
from django.urls import NoReverseMatch, reverse
from django.utils.html import format_html
from django.utils.http import urlencode
from django.utils.safestring import SafeString

from backends.models import Backend
from backends.services import backend_update

#: A workflow of megabytes would take the browser along.
_MAX_SHOWN = 20_000


class ReadOnlyAdmin(admin.ModelAdmin):  # type: ignore[type-arg]  # generic in the stubs alone
    """Shows rows. Nothing is added, changed or deleted here: the services are the only writers.

    Actions that go through the services name the permission ``operate``, which whoever may change
    the model has.
    """

    list_per_page = 50
    # Counting a log of millions of rows takes longer than showing its newest.
    show_full_result_count = False

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody adds rows."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody changes rows."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody deletes rows."""
        return False

    def has_operate_permission(self, request: HttpRequest) -> bool:
        """Whether the user may run the actions."""
        name = f"{self.opts.app_label}.change_{self.opts.model_name}"
        return request.user.has_perm(name)


def row_link(model: type[Model], key: object) -> SafeString | str:
    """Return a link to a row's page, named by its key; "-" for none."""
    if key is None or key == "":
        return "-"
    try:
        url = reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_change", args=[key])
    except NoReverseMatch:
        return str(key)
    return format_html('<a href="{}">{}</a>', url, key)


def rows_link(model: type[Model], text: object, **lookups: str) -> SafeString:
    """Return a link to the list of the rows that match."""
    url = reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist")
    return format_html('<a href="{}?{}">{}</a>', url, urlencode(lookups), text)


def pretty(text: str | None) -> SafeString | str:
    """Return JSON text laid out for reading, cut where it is very long."""
    if text is None:
        return "-"
    shown = json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    if len(shown) > _MAX_SHOWN:
        shown = f"{shown[:_MAX_SHOWN]}\n… (cut; the API gives all of it)"
    return format_html("<pre>{}</pre>", shown)


def counted(number: int, one: str, many: str) -> str:
    """Return a number with the words that fit it: ``1 event``, ``2 events``."""
    return f"{number} {one if number == 1 else many}"


@admin.register(Backend)
class BackendAdmin(ReadOnlyAdmin):
    """Every registered ComfyUI, and what was last seen of it."""

    list_display = (
        "id",
        "name",
        "url",
        "enabled",
        "reachability",
        "status_reason",
        "queue_running",
        "queue_pending",
        "queue_foreign",
        "comfyui_version",
        "last_seen_at",
    )
    list_filter = ("enabled", "reachability", "comfyui_version")
    search_fields = ("id", "name", "url")
    #: Their values may be passwords: only the names are shown.
    exclude = ("headers",)
    readonly_fields: ClassVar = ["header_names"]
    actions = ("enable", "disable")

    @admin.display(description="headers")
    def header_names(self, backend: Backend) -> str:
        """Return the names of the headers that are sent to it."""
        return ", ".join(sorted(backend.headers)) or "-"

    @admin.action(description="Enable: give them work", permissions=["operate"])
    def enable(self, request: HttpRequest, queryset: QuerySet[Backend]) -> None:
        """Let the backends get work."""
        self._switch(request, queryset, enabled=True)

    @admin.action(description="Disable: let them finish and get no more", permissions=["operate"])
    def disable(self, request: HttpRequest, queryset: QuerySet[Backend]) -> None:
        """Let the backends finish what they have, and get no more."""
        self._switch(request, queryset, enabled=False)

    def _switch(self, request: HttpRequest, queryset: QuerySet[Backend], *, enabled: bool) -> None:
        # No bell is rung, since this app knows no runners: they look every few seconds.
        keys = list(queryset.values_list("pk", flat=True))
        changed = [backend_update(backend_id=key, enabled=enabled) for key in keys]
        count = sum(backend is not None for backend in changed)
        word = "enabled" if enabled else "disabled"
        said = f"{counted(count, 'backend is', 'backends are')} {word} now."
        self.message_user(request, said, messages.SUCCESS)
