"""What a ComfyUI can do, by its version. Pure."""

import re
from enum import StrEnum
from typing import Final

_TARGETED_INTERRUPT_SINCE: Final = (0, 3, 57)
_CALLERS_PROMPT_ID_SINCE: Final = (0, 3, 45)
_HIDDEN_KEYS_SINCE: Final = (0, 3, 68)
_PREVIEW_METHOD_SINCE: Final = (0, 5, 0)
_JOBS_SINCE: Final = (0, 6, 0)
_CANCEL_SINCE: Final = (0, 26, 0)
_ASSETS_SINCE: Final = (0, 41, 0)  #: Assets are on unless the command line turns them off.

_VERSION = re.compile(r"v?(\d{1,9})\.(\d{1,9})(?:\.(\d{1,9}))?(?!\d)(.*)", re.DOTALL)
#: Suffixes of what comes before a release (``0.3.57rc1``, ``0.3.57.dev2``), not after it.
_BEFORE_RELEASE = re.compile(r"[.\-_]?(a|b|c|rc|alpha|beta|pre|preview|dev)[.\-_]?\d*(?![a-z])", re.IGNORECASE)


class Limitation(StrEnum):
    """What the Director cannot do with a ComfyUI of some version, as a sentence; the worst first."""

    NO_JOBS = "It is too old (before 0.3.45): it gets no jobs."
    NO_STOP = "Its running jobs cannot be stopped (before 0.3.57)."
    NO_PREVIEWS = "Live previews need its option --preview-method auto (before 0.5.0)."
    STEPWISE_STOP = "A job is stopped in several steps (before 0.26.0)."


def supports_targeted_interrupt(version: str | None) -> bool:
    """Return whether an interrupt with a prompt id stops that prompt alone: from 0.3.57.

    Below, the running prompt is stopped. False for an unreadable version and for a development version on the way to
    0.3.57: a wrong True would stop another client's prompt.
    """
    release, suffix = _release(version)
    if release == _TARGETED_INTERRUPT_SINCE:
        return _BEFORE_RELEASE.match(suffix) is None
    return release is not None and release > _TARGETED_INTERRUPT_SINCE


def hides_keys(version: str | None) -> bool:
    """Return whether the key of a prompt's partner nodes is not shown in ComfyUI's queue: from 0.3.68."""
    return _is_from(version, _HIDDEN_KEYS_SINCE)


def supports_preview_method(version: str | None) -> bool:
    """Return whether a prompt can choose its previews by ``extra_data.preview_method``: from 0.5.0."""
    return _is_from(version, _PREVIEW_METHOD_SINCE)


def supports_jobs(version: str | None) -> bool:
    """Return whether ``/api/jobs`` shows where a prompt is: from 0.6.0."""
    return _is_from(version, _JOBS_SINCE)


def supports_cancel(version: str | None) -> bool:
    """Return whether ``/api/jobs/{id}/cancel`` stops one prompt and never another: from 0.26.0."""
    return _is_from(version, _CANCEL_SINCE)


def keeps_prompt_id(version: str | None) -> bool:
    """Return whether a prompt keeps the id that we gave it: else it cannot be found again if its answer was lost.

    False only for a readable version below 0.3.45 (July 2025).
    """
    release, _ = _release(version)
    return release is None or release >= _CALLERS_PROMPT_ID_SINCE


def has_assets(version: str | None) -> bool:
    """Return whether a database of assets is on without an option of the command line: after 0.40."""
    return _is_from(version, _ASSETS_SINCE)


def limitations(version: str | None) -> list[str]:
    """Return what the Director cannot do with a ComfyUI of this version, as :class:`Limitation`; none for an unknown one."""
    if not version:
        return []
    if not keeps_prompt_id(version):
        return [Limitation.NO_JOBS]
    lacks = {
        Limitation.NO_STOP: not supports_targeted_interrupt(version),
        Limitation.NO_PREVIEWS: not supports_preview_method(version),
        Limitation.STEPWISE_STOP: supports_targeted_interrupt(version) and not supports_cancel(version),
    }
    return [one for one, is_lacking in lacks.items() if is_lacking]


def _is_from(version: str | None, first: tuple[int, int, int]) -> bool:
    """Return whether a version is readable and not below ``first``."""
    release, _ = _release(version)
    return release is not None and release >= first


def _release(version: str | None) -> tuple[tuple[int, int, int] | None, str]:
    """Return the numbers of a version, None for an unreadable one, and what follows them."""
    match = _VERSION.fullmatch((version or "").strip())
    if match is None:
        return None, ""
    return (int(match[1]), int(match[2]), int(match[3] or 0)), match[4]
