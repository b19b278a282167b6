"""Paths of the pages. Paths with ``parts`` are fragments that a page reloads."""

from collections.abc import Callable

from django.http import HttpResponse
from django.urls import URLPattern, path, register_converter
from django.urls.converters import StringConverter
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from director.pages import views


class _Id(StringConverter):
    """Id of a group or job; other values are rejected without a query."""

    regex = "[A-Za-z0-9_-]{1,64}"


register_converter(_Id, "ident")


def _page(route: str, view: Callable[..., HttpResponse], template: str = "") -> URLPattern:
    shown = require_safe(never_cache(view))
    return path(route, shown, {"template": template} if template else None)


urlpatterns = [
    _page("", views.groups, "groups"),
    _page("parts/groups", views.groups, "parts/rows"),
    _page("parts/groups/<ident:group_id>", views.row_part),
    _page("groups/<ident:group_id>", views.group, "group"),
    _page("groups/<ident:group_id>/parts/head", views.group, "parts/head"),
    _page("groups/<ident:group_id>/parts/cards", views.group, "parts/cards"),
    _page("groups/<ident:group_id>/parts/cards/<ident:job_id>", views.card_part),
    _page("backends", views.backends, "backends"),
    _page("parts/backends", views.backends, "parts/backends"),
    _page("failures", views.failures, "failures"),
    _page("parts/failures", views.failures, "parts/failures"),
    _page("submit", views.submit),
    _page("assets", views.assets),
]
