"""What a ComfyUI can do, by its version, and whether the installed editor fits it."""

import re
from enum import Enum, StrEnum
from functools import cache
from importlib import metadata
from typing import Final

EDITOR_PACKAGE: Final = "comfyui-frontend-package"  #: The Python package of ComfyUI's editor.
_CALLERS_PROMPT_ID_SINCE: Final = (0, 3, 45)

_UNREADABLE: Final = (10**9, 0, 0)
_VERSION = re.compile(r"v?(\d{1,9})\.(\d{1,9})(?:\.(\d{1,9}))?(?!\d)(.*)", re.DOTALL)
#: Suffixes of what comes before a release (``0.3.57rc1``, ``0.3.57.dev2``), not after it.
_BEFORE_RELEASE = re.compile(
    r"[.\-_]?(a|b|c|rc|alpha|beta|pre|preview|dev)[.\-_]?\d*(?![a-z])", re.IGNORECASE
)


class Feature(Enum):
    """What a ComfyUI can do, with the first version that can."""

    #: An interrupt with a prompt id stops that prompt alone, not the running one.
    TARGETED_INTERRUPT = (0, 3, 57)
    HIDDEN_KEYS = (0, 3, 68)  #: Its queue does not show the key of a prompt's partner nodes.
    #: A prompt can choose its previews by ``extra_data.preview_method``.
    PREVIEW_METHOD = (0, 5, 0)
    JOBS = (0, 6, 0)  #: ``/api/jobs`` shows where a prompt is.
    CANCEL = (0, 26, 0)  #: ``/api/jobs/{id}/cancel`` stops one prompt and never another.
    ASSETS = (0, 41, 0)  #: A database of assets is on without an option of the command line.


class Limitation(StrEnum):
    """What the Director cannot do with a ComfyUI of some version, as a sentence; the worst first."""

    NO_JOBS = "It is too old (before 0.3.45): it gets no jobs."
    NO_STOP = "Its running jobs cannot be stopped (before 0.3.57)."
    NO_PREVIEWS = "Live previews need its option --preview-method auto (before 0.5.0)."
    STEPWISE_STOP = "A job is stopped in several steps (before 0.26.0)."


def has(version: str | None, feature: Feature) -> bool:
    """Return whether a ComfyUI of this version has a feature; False for an unreadable version.

    A development version on the way to the first one with the feature counts as without it: a wrong
    True would stop another client's prompt.
    """
    release, suffix = _release(version)
    if release == feature.value:
        return _BEFORE_RELEASE.match(suffix) is None
    return release is not None and release > feature.value


def keeps_prompt_id(version: str | None) -> bool:
    """Return whether a prompt keeps the id that we gave it: else it cannot be found again if its
    answer was lost.

    False only for a readable version below 0.3.45 (July 2025).
    """
    release, _ = _release(version)
    return release is None or release >= _CALLERS_PROMPT_ID_SINCE


def limitations(version: str | None) -> list[str]:
    """Return what the Director cannot do with a ComfyUI of this version, as :class:`Limitation`;
    none for an unknown one.
    """
    if not version:
        return []
    if not keeps_prompt_id(version):
        return [Limitation.NO_JOBS]
    can_stop = has(version, Feature.TARGETED_INTERRUPT)
    lacks = {
        Limitation.NO_STOP: not can_stop,
        Limitation.NO_PREVIEWS: not has(version, Feature.PREVIEW_METHOD),
        Limitation.STEPWISE_STOP: can_stop and not has(version, Feature.CANCEL),
    }
    return [node_id for node_id, is_lacking in lacks.items() if is_lacking]


@cache
def installed_editor() -> str | None:
    """Return the version of ComfyUI's editor that is installed with the Director; None: it is not."""
    try:
        return metadata.version(EDITOR_PACKAGE)
    except metadata.PackageNotFoundError:
        return None


def editor_problem(required: str, installed: str | None) -> str:
    """Return why the installed editor of ComfyUI does not fit a ComfyUI that requires another one, as
    a sentence; empty: it fits, none is installed, or the ComfyUI requires none that can be read.
    """
    needed, _ = _release(required)
    present, _ = _release(installed)
    if needed is None or present is None or present >= needed:
        return ""
    return f"It requires version {required} of ComfyUI's editor, and {installed} is installed here."


def release_of(version: str | None) -> tuple[int, int, int]:
    """Return the numbers of a version, to compare it; an unreadable one counts as the newest."""
    release, _ = _release(version)
    return release or _UNREADABLE


def _release(version: str | None) -> tuple[tuple[int, int, int] | None, str]:
    """Return the numbers of a version, None for an unreadable one, and what follows them."""
    match = _VERSION.fullmatch((version or "").strip())
    if match is None:
        return None, ""
    return (int(match[1]), int(match[2]), int(match[3] or 0)), match[4]
