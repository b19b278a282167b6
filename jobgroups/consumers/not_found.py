"""Any other WebSocket path: accept, send an error, close. A browser hides the reason of a refused handshake."""

from __future__ import annotations

from jobgroups.consumers.socket import NOT_FOUND, Socket, error_frame


class UnknownPathConsumer(Socket):
    """A socket on an unknown path."""

    async def write(self) -> None:
        """Send an error and close with 4404."""
        detail = "There is no stream at this path; connect to /ws/job-groups/{job_group_id}."
        await self.send_text(error_frame("not_found", detail))
        self.request_close(NOT_FOUND)
