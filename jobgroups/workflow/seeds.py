"""The seeds of a group's children: different integers that depend on base and strategy only.

Every seed is in 0 … 2⁵³−1, the integers that a JavaScript client reads exactly. The first seed is
the base; the seeds for ``n`` children are a prefix of those for ``n + 1``. ``random`` is a hash, so
every strategy is reproducible.
"""

import secrets
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator
from enum import StrEnum
from hashlib import sha256
from itertools import count as count_from, islice
from math import isqrt
from typing import Final

MAX_SEED: Final = 2**53 - 1
#: The minimum difference between two seeds of ``random``, without wrapping.
MIN_DISTANCE: Final = 1_000_000

_MODULUS: Final = MAX_SEED + 1


class SeedStrategy(StrEnum):
    """How the seeds after the first follow from it."""

    RANDOM = "random"  #: A hash of (base, counter), far from all earlier ones.
    SEQUENTIAL = "sequential"  #: base + i
    FIBONACCI = "fibonacci"  #: base + 1000 × (0, 1, 2, 4, 7, 12, 20, 33 …)
    GOLDEN_RATIO = "golden_ratio"  #: ⌊max(base, 1) × φⁱ⌋ for i ≥ 1


def seeds(strategy: SeedStrategy, base: int, count: int) -> list[int]:
    """Return ``count`` different seeds; the first is ``base``, 0 … ``MAX_SEED``. Raises
    ``ValueError`` out of range.
    """
    if not 0 <= base <= MAX_SEED:
        raise ValueError(f"base must be an integer from 0 to {MAX_SEED}")
    if count < 0:
        raise ValueError("count must not be negative")
    return list(islice(_STREAMS[strategy](base), count))


def random_base() -> int:
    """Return the base of a submission that names none."""
    return secrets.randbelow(_MODULUS)


def hash_seed(base: int, counter: int) -> int:
    """Return the seed of ``random`` for ``base`` at ``counter`` (1, 2, 3 …).

    It is the first 53 bits of the SHA-256 of the ASCII text ``"{base}:{counter}"``.
    """
    digest = sha256(f"{base}:{counter}".encode("ascii")).digest()
    return int.from_bytes(digest, "big") >> (256 - 53)


def _random(base: int) -> Iterator[int]:
    """Yield the base, then hashes; skip a hash that is too near an earlier seed."""
    taken = [base]
    yield base
    for counter in count_from(1):
        seed = hash_seed(base, counter)
        if _is_far(seed, taken):
            insort(taken, seed)
            yield seed


def _is_far(seed: int, taken: list[int]) -> bool:
    """Return whether ``seed`` differs by ``MIN_DISTANCE`` from its neighbours in the sorted
    ``taken``.
    """
    at = bisect_left(taken, seed)
    return all(abs(seed - near) >= MIN_DISTANCE for near in taken[max(at - 1, 0) : at + 1])


def _wrap(numbers: Callable[[int], Iterator[int]]) -> Callable[[int], Iterator[int]]:
    """Turn a series of integers into seeds: modulo 2⁵³, and plus 1 until the seed is free."""

    def stream(base: int) -> Iterator[int]:
        taken: set[int] = set()
        for number in numbers(base):
            seed = number % _MODULUS
            while seed in taken:
                seed = (seed + 1) % _MODULUS
            taken.add(seed)
            yield seed

    return stream


def _fibonacci(base: int) -> Iterator[int]:
    """Yield base + 1000 × the running sums of 0, 1, 1, 2, 3, 5, 8, 13 …"""
    offset, step, following = 0, 1, 1
    while True:
        yield base + 1000 * offset
        offset, step, following = offset + step, following, step + following


def _golden_ratio(base: int) -> Iterator[int]:
    """Yield the base, then ⌊m × φⁱ⌋ for m = max(base, 1), i = 1, 2, 3 …, exact at any size.

    With the Lucas and Fibonacci numbers, φⁱ = (Lᵢ + Fᵢ√5) / 2. √5 is irrational, so the floors of
    (mLᵢ + mFᵢ√5) / 2 and (mLᵢ + ⌊√(5m²Fᵢ²)⌋) / 2 are equal: the dropped part is less than one half.
    """
    yield base
    m = max(base, 1)
    fibonacci, lucas = 1, 1
    while True:
        yield (m * lucas + isqrt(5 * (m * fibonacci) ** 2)) // 2
        # F(i+1) = (F(i) + L(i)) / 2 and L(i+1) = (5 F(i) + L(i)) / 2
        fibonacci, lucas = (fibonacci + lucas) // 2, (5 * fibonacci + lucas) // 2


_STREAMS: Final[dict[SeedStrategy, Callable[[int], Iterator[int]]]] = {
    SeedStrategy.RANDOM: _random,
    SeedStrategy.SEQUENTIAL: _wrap(count_from),
    SeedStrategy.FIBONACCI: _wrap(_fibonacci),
    SeedStrategy.GOLDEN_RATIO: _wrap(_golden_ratio),
}
