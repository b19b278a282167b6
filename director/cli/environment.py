"""The environment variables of the client commands, which have no Django settings."""

import getpass
import platform

from director.client.transport import environment_value
from jobgroups.domain.access import is_account_token


def submitter(token: str | None) -> str | None:
    """Return the submitter: ``DIRECTOR_SUBMITTER``, else ``USER@HOST``; at most 150 characters.

    None: the token is that of an account, whose name the Director knows.
    """
    name = environment_value("DIRECTOR_SUBMITTER")
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
    return environment_value("NO_COLOR") is not None
