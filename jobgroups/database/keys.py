"""Queries of many keys, prepared for few numbers of them: the last key fills a number up."""

import itertools
from collections.abc import Callable, Collection
from typing import Any, TypeVar

from jobgroups.database.statements import Parameter

T = TypeVar("T")


def places(count: int) -> list[Any]:
    """Return the parameters of so many keys."""
    return [Parameter(f"key_{number}") for number in range(count)]


def read(
    prepared: Callable[[int], Callable[..., list[T]]], keys: Collection[Any], **values: Any
) -> list[T]:
    """Execute the query that is prepared for so many keys as there are, or somewhat more."""
    if not keys:
        return []
    ordered = sorted(set(keys))
    count = 1 << (len(ordered) - 1).bit_length()
    padded = itertools.islice(itertools.chain(ordered, itertools.repeat(ordered[-1])), count)
    return prepared(count)(**{f"key_{number}": key for number, key in enumerate(padded)}, **values)
