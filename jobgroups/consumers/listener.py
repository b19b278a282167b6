"""``/ws`` of the ComfyUI listener."""

from jobgroups.consumers.socket import Socket


class ListenerConsumer(Socket):
    """Sends the frames of a client's prompts as one ComfyUI would."""

    kind = "listener"

    async def write(self) -> None:
        await self._end
