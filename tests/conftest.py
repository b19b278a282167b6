"""What all tests share: services that may be away, and a hub that belongs to one test."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from pathlib import Path

import hypothesis
import pytest

# nohup starts a run with SIGINT ignored, and child processes would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The duration of an example depends on the load of the machine.
hypothesis.settings.register_profile("director", deadline=None)
hypothesis.settings.load_profile("director")


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the choice of the long tests that concern a change."""
    parser.addoption(
        "--changed-since",
        metavar="COMMIT",
        help="run the slow tests of files that changed since this commit, and no others",
    )


def _changed_since(commit: str) -> set[str]:
    root = Path(__file__).parent.parent
    command = ["git", "diff", "--name-only", commit, "--"]
    return set(subprocess.check_output(command, cwd=root, text=True).splitlines())


def _code_of(item: pytest.Item) -> set[str]:
    """Return the product's files that a slow test breaks, or in which it kills the process."""
    callspec = getattr(item, "callspec", None)
    params = callspec.params.values() if callspec else ()
    return set().union(*(getattr(value, "paths", ()) for value in params))


def _keep_changed(commit: str, items: list[pytest.Item], config: pytest.Config) -> None:
    changed = _changed_since(commit)
    kept = [item for item in items if "slow" in item.keywords and _code_of(item) & changed]
    config.hook.pytest_deselected(items=[item for item in items if item not in set(kept)])
    items[:] = kept


def pytest_collection_modifyitems(items: list[pytest.Item], config: pytest.Config) -> None:
    """Skip tests whose service is away, unless DIRECTOR_TEST_SERVICES=required makes that a failure."""
    if commit := config.getoption("changed_since"):
        _keep_changed(commit, items, config)
    if os.environ.get("DIRECTOR_TEST_SERVICES") == "required":
        return
    for marker, port, name in (("postgres", 5432, "PostgreSQL"), ("redis", 6379, "Redis")):
        if not _answers(port):
            skip = pytest.mark.skip(reason=f"no {name} answers on 127.0.0.1:{port}")
            for item in items:
                if marker in item.keywords:
                    item.add_marker(skip)
