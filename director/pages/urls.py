"""Paths of the pages. Paths with ``parts`` are fragments that a page reloads."""

from __future__ import annotations

from django.urls import path, register_converter

from director.pages import views


class _Id:
    """Id of a group or job; other values are rejected without a query."""

    regex = "[A-Za-z0-9_-]{1,64}"

    def to_python(self, value: str) -> str:
        return value

    def to_url(self, value: str) -> str:
        return value


register_converter(_Id, "ident")

urlpatterns = [
    path("", views.groups, name="groups"),
    path("parts/groups", views.groups_part),
    path("parts/groups/<ident:group_id>", views.row_part),
    path("groups/<ident:group_id>", views.group, name="group"),
    path("groups/<ident:group_id>/parts/head", views.head_part),
    path("groups/<ident:group_id>/parts/cards", views.cards_part),
    path("groups/<ident:group_id>/parts/cards/<ident:job_id>", views.card_part),
    path("backends", views.backends, name="backends"),
    path("parts/backends", views.backends_part),
    path("failures", views.failures, name="failures"),
    path("parts/failures", views.failures_part),
    path("submit", views.submit, name="submit"),
]
