"""What a ComfyUI can do, by its version.

Pure.
"""

from __future__ import annotations

import re
from typing import Final

#: From here on ``POST /interrupt`` honours ``prompt_id``; below, it stops the running prompt.
TARGETED_INTERRUPT_SINCE: Final = (0, 3, 57)

#: From here on ``POST /prompt`` keeps the caller's ``prompt_id``; below, it makes one of its own.
CALLERS_PROMPT_ID_SINCE: Final = (0, 3, 45)

_VERSION = re.compile(r"v?(\d{1,9})\.(\d{1,9})(?:\.(\d{1,9}))?(?!\d)(.*)", re.DOTALL)
#: Suffixes of what comes before a release (``0.3.57rc1``, ``0.3.57.dev2``), not after it.
_BEFORE_RELEASE = re.compile(r"[.\-_]?(a|b|c|rc|alpha|beta|pre|preview|dev)[.\-_]?\d*(?![a-z])", re.IGNORECASE)


def supports_targeted_interrupt(version: str | None) -> bool:
    """Return whether an interrupt with a prompt id stops that prompt alone.

    Args:
        version: ``comfyui_version`` of ``/system_stats``; None where it is unknown.

    Returns:
        True from 0.3.57. False for an unknown or unreadable version and for a
        development version on the way to 0.3.57: a wrong True would stop
        another client's prompt, a wrong False only leaves ours running.
    """
    match = _VERSION.fullmatch((version or "").strip())
    if match is None:
        return False
    release = _release(match)
    if release == TARGETED_INTERRUPT_SINCE:
        return _BEFORE_RELEASE.match(match[4]) is None
    return release > TARGETED_INTERRUPT_SINCE


def keeps_prompt_id(version: str | None) -> bool:
    """Return whether a prompt keeps the id that we gave it.

    Where it does not, a prompt whose answer was lost cannot be found again, and would be rendered
    twice: such a ComfyUI is too old to be trusted with one.

    Args:
        version: ``comfyui_version`` of ``/system_stats``; None where it is unknown.

    Returns:
        False only for a readable version below 0.3.45 (July 2025).
    """
    match = _VERSION.fullmatch((version or "").strip())
    return match is None or _release(match) >= CALLERS_PROMPT_ID_SINCE


def _release(match: re.Match[str]) -> tuple[int, int, int]:
    return int(match[1]), int(match[2]), int(match[3] or 0)
