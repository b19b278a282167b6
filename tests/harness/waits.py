"""Wait for a condition in another process."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

PAUSE_SECONDS = 0.02


def until(ask: Callable[[], Any], within: float = 30.0, state: Callable[[], object] = str) -> Any:
    """Return the first true answer.

    Args:
        ask: called every 20 ms.
        within: seconds.
        state: returns what the failure shows.

    Raises:
        AssertionError: there was no true answer in time.
    """
    end = time.monotonic() + within
    while not (found := ask()):
        assert time.monotonic() < end, f"not within {within:g} s: {state()}"
        time.sleep(PAUSE_SECONDS)
    return found
