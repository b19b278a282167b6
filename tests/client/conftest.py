"""A fake Director over real sockets, and the clients for it."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any

import pytest

from director.client import AsyncDirector, Director
from tests.client.server import FakeDirector


class Driven:
    """An ``AsyncDirector`` with the calls of a ``Director``, so that a test is written once."""

    def __init__(self, url: str, **options: Any) -> None:
        self._runner = asyncio.Runner()
        self._director = AsyncDirector(url, **options)

    def __enter__(self) -> Driven:
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.run(self._director.close())
        self._runner.close()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._director, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            result = method(*args, **kwargs)
            if inspect.isasyncgen(result):
                return self._items(result)
            return self._runner.run(result)

        return call

    def _items(self, items: AsyncGenerator[Any]) -> Iterator[Any]:
        async def following() -> Any:
            return await anext(items, StopIteration)

        try:
            while (item := self._runner.run(following())) is not StopIteration:
                yield item
        finally:
            self._runner.run(items.aclose())


@pytest.fixture(autouse=True)
def short_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("director.client.calls.RETRY_DELAYS_S", (0.01, 0.01, 0.01))
    monkeypatch.setattr("director.client.calls.FIRST_DELAY_S", 0.01)


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
    with request.param(server.url, token="secret", give_up_seconds=20) as client:
        yield client
