"""WebSocket paths and their consumers."""

from django.urls import URLPattern, re_path

from jobgroups.consumers.job_group import JobGroupConsumer
from jobgroups.consumers.listener import ListenerConsumer
from jobgroups.consumers.monitor import MonitorConsumer
from jobgroups.consumers.socket import NOT_FOUND, Socket
from jobgroups.streams.feed import error_frame


class _UnknownPathConsumer(Socket):
    """Any other path: accept, send an error, close. A browser hides the reason of a refused
    handshake.
    """

    async def write(self) -> None:
        detail = "There is no stream at this path; connect to /ws/job-groups/{job_group_id}."
        await self.send_text(error_frame("not_found", detail))
        self.request_close(NOT_FOUND)


#: At the port of the ComfyUI listener.
listener_urlpatterns: list[URLPattern] = [
    re_path(r"^(?:api/)?ws/?$", ListenerConsumer.as_asgi()),  # type: ignore[arg-type]
    re_path(r"", _UnknownPathConsumer.as_asgi()),  # type: ignore[arg-type]
]
#: In order: the last one takes what no other does.
websocket_urlpatterns: list[URLPattern] = [
    # ASGI applications, where Django's types expect views.
    re_path(r"^ws/job-groups/(?P<group_id>[^/]+)/?$", JobGroupConsumer.as_asgi()),  # type: ignore[arg-type]
    re_path(r"^ws/monitor/?$", MonitorConsumer.as_asgi()),  # type: ignore[arg-type]
    re_path(r"", _UnknownPathConsumer.as_asgi()),  # type: ignore[arg-type]
]
