"""A fake Director over real sockets, and the clients for it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from director.client import Director
from tests.client.driver import Driven
from tests.client.server import FakeDirector


@pytest.fixture(autouse=True)
def short_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Repeat and reconnect after milliseconds."""
    monkeypatch.setattr("director.client.calls.RETRY_DELAYS_S", (0.01, 0.01, 0.01))
    monkeypatch.setattr("director.client.backoff.FIRST_DELAY_S", 0.01)


@pytest.fixture
def server() -> Iterator[FakeDirector]:
    with FakeDirector() as fake:
        yield fake


@pytest.fixture
def director(server: FakeDirector) -> Iterator[Director]:
    """The blocking client: for rules, which both clients share."""
    with Director(server.url, token="secret", give_up_seconds=20) as client:
        yield client


@pytest.fixture(params=[Director, Driven], ids=["sync", "async"])
def either(request: pytest.FixtureRequest, server: FakeDirector) -> Iterator[Any]:
    """Both clients: for the two wires."""
    with request.param(server.url, token="secret", give_up_seconds=20) as client:
        yield client
