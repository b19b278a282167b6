"""The environment variables of the client commands, which have no Django settings."""

from __future__ import annotations

import getpass
import os
import platform


def server() -> str | None:
    """Return ``DIRECTOR_URL``, None if it is not set."""
    return _value("DIRECTOR_URL")


def token() -> str | None:
    """Return ``DIRECTOR_TOKEN``. There is no option for it: other users can see command lines."""
    return _value("DIRECTOR_TOKEN")


def submitter() -> str:
    """Return the submitter: ``DIRECTOR_SUBMITTER``, else ``USER@HOST``; at most 150 characters."""
    name = _value("DIRECTOR_SUBMITTER")
    if name is None:
        try:
            name = f"{getpass.getuser()}@{platform.node() or 'localhost'}"
        except (OSError, KeyError):  # a container's user without a name
            name = platform.node() or "unknown"
    return name[:150]


def is_colourless() -> bool:
    """Return whether ``NO_COLOR`` is set, to any value (no-color.org)."""
    return _value("NO_COLOR") is not None


def _value(name: str) -> str | None:
    return os.environ.get(name, "").strip() or None  # noqa: TID251 a client's own settings
