"""One way to wait for what another process will do: ask again until it is so, or fail."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

PAUSE_SECONDS = 0.05


def eventually(what: str, ask: Callable[[], T | None], *, seconds: float = 20.0) -> T:
    """Return the first truthy answer of ``ask``.

    Raises:
        AssertionError: There was none within ``seconds``; it says what was waited for.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if answer := ask():
            return answer
        time.sleep(PAUSE_SECONDS)
    raise AssertionError(f"Not within {seconds:g} s: {what}.")
