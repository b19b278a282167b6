"""The event loop of the process."""

from __future__ import annotations

import asyncio
import sys


def use_fast_loop() -> None:
    """Use uvloop for new event loops: it needs less CPU with many sockets.

    Call it before a Twisted reactor is installed. Windows has no uvloop and keeps asyncio's loop.
    """
    if sys.platform == "win32":
        return
    import uvloop  # noqa: PLC0415 not installed on Windows

    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
