"""The loop that everything lives in."""

from __future__ import annotations

import asyncio
import sys


def use_fast_loop() -> None:
    """Have loops made from now on be uvloop's, which costs less where many sockets talk at once.

    Before a reactor is installed, which makes a loop. On Windows there is none: asyncio's own serves.
    """
    if sys.platform == "win32":
        return
    import uvloop  # noqa: PLC0415 not installed on Windows

    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
