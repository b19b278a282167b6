"""Paths of the pages. Paths with ``parts`` are fragments that a page reloads."""

from collections.abc import Callable

from django.http import HttpResponse
from django.urls import URLPattern, path, register_converter
from django.urls.converters import StringConverter
from django.views.decorators.cache import never_cache
from django.views.decorators.gzip import gzip_page
from django.views.decorators.http import conditional_page, require_safe

from director.pages import views


class _BackendId(StringConverter):
    """Id of a backend, which may have dots."""

    regex = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"


register_converter(_BackendId, "backend")


def _page(route: str, view: Callable[..., HttpResponse], template: str = "") -> URLPattern:
    # Compressed in the thread that has rendered it, not in the event loop.
    handler = require_safe(never_cache(gzip_page(conditional_page(view))))
    return path(route, handler, {"template": template} if template else None)


urlpatterns = [
    _page("", views.groups, "groups"),
    _page("parts/groups", views.groups, "parts/rows"),
    _page("parts/groups/<slug:group_id>", views.row_part),
    _page("groups/<slug:group_id>", views.group, "group"),
    _page("groups/<slug:group_id>/editor", views.editor),
    _page("groups/<slug:group_id>/parts/head", views.group, "parts/head"),
    _page("groups/<slug:group_id>/parts/cards", views.group, "parts/cards"),
    _page("groups/<slug:group_id>/parts/cards/<slug:job_id>", views.card_part, "parts/card"),
    _page("groups/<slug:group_id>/parts/cells/<slug:job_id>", views.card_part, "parts/cell"),
    _page("groups/<slug:group_id>/parts/info/<slug:job_id>", views.card_part, "parts/info"),
    _page("backends", views.backends, "backends"),
    _page("parts/backends", views.backends, "parts/backends"),
    _page("backends/<backend:backend_id>", views.backend, "backend"),
    _page("backends/<backend:backend_id>/parts/backend", views.backend, "parts/backend"),
    _page("backends/<backend:backend_id>/parts/models", views.backend, "parts/models"),
    _page("gallery", views.gallery, "gallery"),
    _page("parts/gallery", views.gallery, "parts/shelf"),
    _page("queue", views.queue, "queue"),
    _page("parts/queue", views.queue, "parts/queue"),
    _page("failures", views.failures, "failures"),
    _page("parts/failures", views.failures, "parts/failures"),
    _page("usage", views.usage),
    _page("submit", views.submit),
    _page("assets", views.assets),
    _page("webhooks", views.webhooks),
    _page("audit", views.audit),
    _page("account", views.account),
    _page("people", views.people),
    _page("docs/", views.document),
    _page("docs/<slug:name>", views.document),
    _page("docs/pictures/<slug:name>.webp", views.document_picture),
]
