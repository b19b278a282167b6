"""Methods that are written once, as coroutines, for the blocking and the asynchronous client.

``Director.status`` runs the coroutine ``status`` to its end; ``AsyncDirector.status`` is the
coroutine. Type checkers and editors see both signatures through the overloads of ``__get__``.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, overload

P = ParamSpec("P")
T = TypeVar("T")
#: What the method of the blocking and of the asynchronous client returns.
B = TypeVar("B")
A = TypeVar("A")


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


class method(Generic[P, B, A]):  # noqa: N801 used as a decorator
    """Makes a coroutine function, or a function that returns an asynchronous generator, a method of
    both clients.
    """

    @overload
    def __init__(
        self: method[P, T, Coroutine[Any, Any, T]],
        function: Callable[Concatenate[Any, P], Coroutine[Any, Any, T]],
    ) -> None: ...
    @overload
    def __init__(
        self: method[P, Generator[T], AsyncGenerator[T]],
        function: Callable[Concatenate[Any, P], AsyncGenerator[T]],
    ) -> None: ...
    def __init__(self, function: Callable[..., Any]) -> None:
        @functools.wraps(function)
        def blocking(*args: Any, **kwargs: Any) -> Any:
            result = function(*args, **kwargs)
            return run(result) if inspect.iscoroutine(result) else _iterate(result)

        self._functions = {True: blocking, False: function}

    @overload
    def __get__(self, client: None, owner: type) -> Callable[..., Any]: ...
    @overload
    def __get__(self, client: BlockingClient, owner: type) -> Callable[P, B]: ...
    @overload
    def __get__(self, client: AsyncClient, owner: type) -> Callable[P, A]: ...
    def __get__(self, client: Any, owner: type) -> Any:
        function: Any = self._functions[issubclass(owner, BlockingClient)]
        return function if client is None else function.__get__(client, owner)
