"""Any other WebSocket path: accepted, told, closed. Refused unaccepted, a browser would not say why."""

from __future__ import annotations

from jobgroups.consumers.socket import NOT_FOUND, Socket, error_frame


class UnknownPathConsumer(Socket):
    """A socket on a path that nothing is served on."""

    async def write(self) -> None:
        """Say so, and close with 4404."""
        detail = "There is no stream at this path; connect to /ws/job-groups/{job_group_id}."
        await self.send_text(error_frame("not_found", detail))
        self.request_close(NOT_FOUND)
