"""Wait for a condition in another process."""

import ssl
import time
from collections.abc import Callable
from typing import Any

import httpx

#: A query costs the process that answers it some milliseconds of CPU, so a long wait has fewer: the
#: pauses are a tenth of the time so far, within these limits in seconds.
PAUSES = (0.02, 0.15)
#: For requests that use no TLS: httpx would make a context for each, which takes 5 ms.
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def until(ask: Callable[[], Any], within: float = 60.0, state: Callable[[], object] = str) -> Any:
    begun, (least, most) = time.monotonic(), PAUSES
    while not (found := ask()):
        gone = time.monotonic() - begun
        assert gone < within, f"not within {within:g} s: {state()}"
        time.sleep(min(max(gone / 10, least), most))
    return found


def answers(url: str) -> bool:
    """Whether a GET is answered with success."""
    try:
        return httpx.get(url, trust_env=False, verify=NO_TLS, timeout=20.0).is_success
    except httpx.HTTPError:
        return False
