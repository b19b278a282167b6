from decimal import Decimal, localcontext
from hashlib import sha256
from itertools import pairwise

import pytest
from hypothesis import given, settings, strategies as st

from jobgroups.workflow.seeds import MAX_SEED, MIN_DISTANCE, SeedStrategy, hash_seed, seeds

ALL = list(SeedStrategy)
strategies = st.sampled_from(ALL)
bases = st.one_of(
    st.integers(0, MAX_SEED), st.integers(0, 50), st.integers(MAX_SEED - 5000, MAX_SEED)
)
counts = st.integers(0, 1000)


@given(strategies, bases, counts)
def test_seeds_are_as_many_as_asked_all_different_and_in_range(
    strategy: SeedStrategy, base: int, count: int
) -> None:
    found = seeds(strategy, base, count)
    assert len(found) == len(set(found)) == count
    assert all(type(seed) is int and 0 <= seed <= MAX_SEED for seed in found)
    assert found[:1] == [base][:count]


@given(strategies, bases, counts, counts)
def test_fewer_seeds_are_a_prefix_of_more(
    strategy: SeedStrategy, base: int, one: int, other: int
) -> None:
    few, many = sorted((one, other))
    assert seeds(strategy, base, few) == seeds(strategy, base, many)[:few]


@given(bases, counts)
def test_random_seeds_keep_their_distance_from_each_other(base: int, count: int) -> None:
    found = sorted(seeds(SeedStrategy.RANDOM, base, count))
    assert all(high - low >= MIN_DISTANCE for low, high in pairwise(found))


def test_the_hash_is_the_documented_one() -> None:
    bits = f"{int(sha256(b'42:7').hexdigest(), 16):0256b}"
    assert hash_seed(42, 7) == int(bits[:53], 2)


def test_random_seeds_are_the_hashes_in_order_of_the_counter() -> None:
    assert seeds(SeedStrategy.RANDOM, 42, 6) == [
        42,
        *(hash_seed(42, counter) for counter in range(1, 6)),
    ]


FAR, NEAR, BETWEEN = 10 * MIN_DISTANCE, 5 * MIN_DISTANCE, 7 * MIN_DISTANCE


@pytest.mark.parametrize(
    ("base", "drawn", "found"),
    [
        (42, [1000041, 1000042, 1000043, 0, 9007199254740991], [1, 4]),
        (0, [10000000, 5000000, 5000001, 4999999, 10000001, 7000000], [0, 1, 5]),
        (0, [9007199254740991], [0]),
    ],
)
def test_random_passes_over_a_hash_that_is_too_near(
    base: int, drawn: list[int], found: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobgroups.workflow.seeds.hash_seed", lambda _, counter: drawn[counter - 1])
    expected = [base, *(drawn[one] for one in found)]
    assert seeds(SeedStrategy.RANDOM, base, len(expected)) == expected


@pytest.mark.parametrize(
    ("strategy", "base", "expected"),
    [
        ("sequential", 42, [42, 43, 44, 45]),
        ("sequential", 9007199254740990, [9007199254740990, 9007199254740991, 0, 1]),
        ("fibonacci", 42, [42, 1042, 2042, 4042, 7042, 12042, 20042, 33042]),
        ("fibonacci", 9007199254740991, [9007199254740991, 999, 1999, 3999]),
        ("golden_ratio", 42, [42, 67, 109, 177, 287]),
        ("golden_ratio", 0, [0, 1, 2, 4, 6, 11, 17]),
        ("golden_ratio", 1, [1, 2, 3, 4, 6, 11, 17]),
    ],
)
def test_known_values(strategy: SeedStrategy, base: int, expected: list[int]) -> None:
    assert seeds(strategy, base, len(expected)) == expected


@settings(max_examples=20)
@given(st.integers(10**6, MAX_SEED))
def test_golden_ratio_is_exact_where_floats_are_not(base: int) -> None:
    with localcontext() as context:
        context.prec = 150
        phi = (1 + Decimal(5).sqrt()) / 2
        floors = [int(base * phi**power) % (MAX_SEED + 1) for power in range(1, 200)]
    found = seeds(SeedStrategy.GOLDEN_RATIO, base, 200)
    taken = {base}
    for seed, floor in zip(found[1:], floors, strict=True):
        while floor in taken:
            floor = (floor + 1) % (MAX_SEED + 1)  # noqa: PLW2901 - the rule, spelled out
        taken.add(floor)
        assert seed == floor


@pytest.mark.parametrize(
    ("base", "count", "named"),
    [(-1, 1, "base"), (MAX_SEED + 1, 1, "base"), (2**64, 1, "base"), (0, -1, "count")],
)
def test_base_and_count_out_of_range_are_refused(base: int, count: int, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        seeds(SeedStrategy.RANDOM, base, count)
