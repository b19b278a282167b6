"""``localhost`` in both of its addresses.

A ComfyUI listens on 127.0.0.1 or on ::1, and a machine's resolver may know only
one of them as ``localhost``. Both are tried, in this order.
"""

from __future__ import annotations

from typing import Final

#: ComfyUI's own default first.
LOOPBACK_HOSTS: Final = ("127.0.0.1", "::1")


def is_localhost(host: str) -> bool:
    """Whether ``host`` is the name that ``normalise_url`` gives to every loopback address."""
    return host == "localhost"
