"""The environment variables of the client commands, which have no Django settings.

It does not import the client, whose libraries take 0.2 s: every process of ``serve`` imports this
module.
"""

import getpass
import os
import platform

from jobgroups.domain.access import is_account_token


def submitter(token: str | None) -> str | None:
    """Return the submitter: ``DIRECTOR_SUBMITTER``, else ``USER@HOST``; at most 150 characters.

    None: the token is that of an account, whose name the Director knows.
    """
    name = _value("DIRECTOR_SUBMITTER")
    if name is None:
        if is_account_token(token):
            return None
        try:
            name = f"{getpass.getuser()}@{platform.node() or 'localhost'}"
        except (OSError, KeyError):  # a container's user without a name
            name = platform.node() or "unknown"
    return name[:150]


def is_colourless() -> bool:
    """Return whether ``NO_COLOR`` is set, to any value (no-color.org)."""
    return _value("NO_COLOR") is not None


def _value(name: str) -> str | None:
    return os.environ.get(name, "").strip() or None  # noqa: TID251 as the client's
