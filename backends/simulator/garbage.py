"""`--gc-pause`: the pause in which ComfyUI collects garbage (comfyui-protocol.md, trap 11).

It follows the end of a prompt, at most every 10 s (a postponed collection runs when they are over).
HTTP pauses with the worker.
"""

from __future__ import annotations

import asyncio

from backends.simulator.server_state import ServerState

INTERVAL = 10.0  # seconds from one collection to the next


class GarbageCollection:
    """When the next collection is due."""

    def __init__(self, state: ServerState) -> None:
        self._state = state
        self._wanted = False
        self._last = float("-inf")  # loop time

    def left(self) -> None:
        """A prompt has left garbage."""
        self._wanted = self._state.config.gc_pause > 0

    def freed(self) -> None:
        """Memory was freed on request: collect at once."""
        self.left()
        self._last = float("-inf")

    def delay_until_due(self) -> float | None:
        """Seconds that the worker may wait for a prompt until a collection is due; None: any."""
        if not self._wanted:
            return None
        return max(0.0, self._last + INTERVAL - asyncio.get_running_loop().time())

    async def collect(self) -> None:
        """Pause if a collection is due."""
        if self.delay_until_due() != 0.0:
            return
        self._wanted = False
        self._state.awake.clear()
        await asyncio.sleep(self._state.config.gc_pause)
        self._last = asyncio.get_running_loop().time()
        self._state.awake.set()
