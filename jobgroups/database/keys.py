"""Queries of many keys, prepared for few numbers of them: the last key fills a number up."""

import itertools
from collections.abc import Callable, Collection
from typing import Any, Final, TypeVar

from jobgroups.database.statements import Parameter

T = TypeVar("T")

_AT_ONCE: Final = 1_024  #: The most keys of a query.


def places(count: int) -> list[Any]:
    """Return the parameters of so many keys."""
    return [Parameter(f"key_{number}") for number in range(count)]


def read(
    prepared: Callable[[int], Callable[..., list[T]]], keys: Collection[Any], **values: Any
) -> list[T]:
    """Execute the query that is prepared for so many keys as there are, or somewhat more; of
    thousands in parts, in the order of the keys.
    """
    ordered = sorted(set(keys))
    rows: list[T] = []
    for first in range(0, len(ordered), _AT_ONCE):
        some = ordered[first : first + _AT_ONCE]
        count = 1 << (len(some) - 1).bit_length()
        padded = itertools.islice(itertools.chain(some, itertools.repeat(some[-1])), count)
        places_of = {f"key_{number}": key for number, key in enumerate(padded)}
        rows += prepared(count)(**places_of, **values)
    return rows
