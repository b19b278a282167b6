"""What every page of Django's admin here has: rows to look at, and words for them.

The backends' own page is in ``jobgroups.admin.backends``: what it does there, runners are told of.
"""

from __future__ import annotations

import json
from typing import Any

from django.contrib import admin
from django.contrib.admin.utils import quote
from django.db.models import Model
from django.http import HttpRequest
from django.urls import NoReverseMatch, reverse
from django.utils.html import format_html
from django.utils.http import urlencode
from django.utils.safestring import SafeString

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
    name = f"admin:{model._meta.app_label}_{model._meta.model_name}_change"
    try:
        # Quoted: the admin takes an underscore and two digits for a character of its own.
        url = reverse(name, args=[quote(str(key))])
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
