"""Drives the asynchronous client like the blocking one, so that a test is written once."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, Callable, Iterator
from types import TracebackType
from typing import Any

from director.client import AsyncDirector


class Driven:
    """An ``AsyncDirector`` with the calls of a ``Director``."""

    def __init__(self, url: str, **options: Any) -> None:
        self._runner = asyncio.Runner()
        self._director = AsyncDirector(url, **options)

    def __enter__(self) -> Driven:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
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
