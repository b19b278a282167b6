"""What all tests share: services that may be away, and a hub that belongs to one test."""

from __future__ import annotations

import os
import socket

import hypothesis
import pytest

# How long an example takes says how busy the machine is, and nothing of the code.
hypothesis.settings.register_profile("director", deadline=None)
hypothesis.settings.load_profile("director")


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests whose service is away, unless DIRECTOR_TEST_SERVICES=required makes that a failure."""
    if os.environ.get("DIRECTOR_TEST_SERVICES") == "required":
        return
    for marker, port, name in (("postgres", 5432, "PostgreSQL"), ("redis", 6379, "Redis")):
        if not _answers(port):
            skip = pytest.mark.skip(reason=f"no {name} answers on 127.0.0.1:{port}")
            for item in items:
                if marker in item.keywords:
                    item.add_marker(skip)
