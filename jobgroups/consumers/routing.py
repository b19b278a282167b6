"""WebSocket paths and their consumers."""

from __future__ import annotations

from django.urls import URLPattern, re_path

from jobgroups.consumers import JobGroupConsumer, MonitorConsumer, UnknownPathConsumer

#: In order: the last one takes what no other does.
websocket_urlpatterns: list[URLPattern] = [
    # ASGI applications, where Django's types expect views.
    re_path(r"^ws/job-groups/(?P<group_id>[^/]+)/?$", JobGroupConsumer.as_asgi()),  # type: ignore[arg-type]
    re_path(r"^ws/monitor/?$", MonitorConsumer.as_asgi()),  # type: ignore[arg-type]
    re_path(r"", UnknownPathConsumer.as_asgi()),  # type: ignore[arg-type]
]
