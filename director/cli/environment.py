"""What the environment says to the command line. It alone is read here: these commands have no Django."""

from __future__ import annotations

import getpass
import os
import platform


def server() -> str | None:
    """Return ``DIRECTOR_URL``, None where it is not set."""
    return _said("DIRECTOR_URL")


def token() -> str | None:
    """Return ``DIRECTOR_TOKEN``. There is no option for it: command lines are seen by everybody."""
    return _said("DIRECTOR_TOKEN")


def submitter() -> str:
    """Return who submits: ``DIRECTOR_SUBMITTER``, else the user at this machine; at most 150 signs."""
    said = _said("DIRECTOR_SUBMITTER")
    if said is None:
        try:
            said = f"{getpass.getuser()}@{platform.node() or 'localhost'}"
        except (OSError, KeyError):  # a container's user without a name
            said = platform.node() or "somebody"
    return said[:150]


def is_colourless() -> bool:
    """Whether ``NO_COLOR`` is set, to anything (no-color.org)."""
    return _said("NO_COLOR") is not None


def _said(name: str) -> str | None:
    return os.environ.get(name, "").strip() or None  # noqa: TID251 a client's own settings
