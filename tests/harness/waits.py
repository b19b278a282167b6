"""Wait for a condition in another process."""

import ssl
import time
from collections.abc import Callable
from typing import Any

import httpx

PAUSE_SECONDS = 0.05
#: For requests that use no TLS: httpx would make a context for each, which takes 5 ms.
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def until(ask: Callable[[], Any], within: float = 60.0, state: Callable[[], object] = str) -> Any:
    end = time.monotonic() + within
    while not (found := ask()):
        assert time.monotonic() < end, f"not within {within:g} s: {state()}"
        time.sleep(PAUSE_SECONDS)
    return found


def answers(url: str) -> bool:
    """Whether a GET is answered with success."""
    try:
        return httpx.get(url, trust_env=False, verify=NO_TLS, timeout=20.0).is_success
    except httpx.HTTPError:
        return False
