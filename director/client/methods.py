"""Methods that are written once, as coroutines, for the blocking and the asynchronous client.

``Director.status`` runs the coroutine ``status`` to its end; ``AsyncDirector.status`` is the coroutine. Type
checkers and editors see both signatures through the overloads of ``__get__``.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, overload

P = ParamSpec("P")
T = TypeVar("T")


class BlockingClient:
    """Base class of the client whose methods block."""


class AsyncClient:
    """Base class of the client whose methods are awaited."""


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Return the result of a coroutine over a ``SyncWire``, which never suspends."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    raise AssertionError("a blocking wire never suspends")


def _iterate(items: AsyncGenerator[T]) -> Generator[T]:
    try:
        while True:
            try:
                item = run(anext(items))
            except StopAsyncIteration:
                return
            yield item
    finally:
        run(items.aclose())


class _Shared:
    """One function for both clients; ``to_blocking`` makes it a function that blocks."""

    def __init__(self, function: Callable[..., Any], to_blocking: Callable[[Any], Any]) -> None:
        @functools.wraps(function)
        def blocking(*args: Any, **kwargs: Any) -> Any:
            return to_blocking(function(*args, **kwargs))

        self._functions = {True: blocking, False: function}

    def bound(self, client: Any, owner: type) -> Any:
        """Return the method of a client, or the function of its class if ``client`` is None."""
        function: Any = self._functions[issubclass(owner, BlockingClient)]
        return function if client is None else function.__get__(client, owner)


class method(_Shared, Generic[P, T]):  # noqa: N801 used as a decorator
    """Makes a coroutine function a method of both clients."""

    def __init__(self, function: Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]) -> None:
        super().__init__(function, run)

    @overload
    def __get__(self, client: None, owner: type) -> Callable[..., Any]: ...
    @overload
    def __get__(self, client: BlockingClient, owner: type) -> Callable[P, T]: ...
    @overload
    def __get__(self, client: AsyncClient, owner: type) -> Callable[P, Coroutine[Any, Any, T]]: ...
    def __get__(self, client: Any, owner: type) -> Any:
        """Return the method of the kind of client."""
        return self.bound(client, owner)


class iterator(_Shared, Generic[P, T]):  # noqa: N801 used as a decorator
    """Makes a function that returns an asynchronous generator a method of both clients."""

    def __init__(self, function: Callable[Concatenate[Any, P], AsyncGenerator[T]]) -> None:
        super().__init__(function, _iterate)

    @overload
    def __get__(self, client: None, owner: type) -> Callable[..., Any]: ...
    @overload
    def __get__(self, client: BlockingClient, owner: type) -> Callable[P, Generator[T]]: ...
    @overload
    def __get__(self, client: AsyncClient, owner: type) -> Callable[P, AsyncGenerator[T]]: ...
    def __get__(self, client: Any, owner: type) -> Any:
        """Return the method of the kind of client."""
        return self.bound(client, owner)
