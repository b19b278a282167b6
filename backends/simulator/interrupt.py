"""The interrupt flag of the process: one for all prompts, as ComfyUI has it (comfyui-protocol.md, trap 4)."""

from __future__ import annotations

import asyncio


class Interrupted(Exception):
    """The running prompt stops here."""


class InterruptFlag:
    """Raised by POST /interrupt, cleared at each prompt's start, checked by nodes."""

    def __init__(self) -> None:
        self._raised = asyncio.Event()

    def set(self) -> None:
        """Stop the running prompt at its next check."""
        self._raised.set()

    def clear(self) -> None:
        """Discard an earlier request."""
        self._raised.clear()

    def check(self) -> None:
        """Raise Interrupted and clear the flag if an interrupt was requested."""
        if self._raised.is_set():
            self._raised.clear()
            raise Interrupted

    async def sleep(self, seconds: float) -> None:
        """Wait, or raise Interrupted as soon as an interrupt is requested."""
        self.check()
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        try:
            async with asyncio.timeout(seconds):
                await self._raised.wait()
        except TimeoutError:
            return
        self.check()
