"""Every promise about seeds, for every strategy."""

from __future__ import annotations

import subprocess
import sys
from decimal import Decimal, localcontext
from hashlib import sha256
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobgroups.workflow.seeds import MAX_SEED, MIN_DISTANCE, SeedStrategy, hashed, seeds

ALL = list(SeedStrategy)
strategies = st.sampled_from(ALL)
bases = st.one_of(st.integers(0, MAX_SEED), st.integers(0, 50), st.integers(MAX_SEED - 5000, MAX_SEED))
counts = st.integers(0, 1000)


@given(strategies, bases, counts)
def test_seeds_are_as_many_as_asked_all_different_and_in_range(strategy: SeedStrategy, base: int, count: int) -> None:
    found = seeds(strategy, base, count)
    assert len(found) == len(set(found)) == count
    assert all(type(seed) is int and 0 <= seed <= MAX_SEED for seed in found)
    assert found[:1] == [base][:count]


@given(strategies, bases, counts, counts)
def test_fewer_seeds_are_a_prefix_of_more(strategy: SeedStrategy, base: int, one: int, other: int) -> None:
    few, many = sorted((one, other))
    assert seeds(strategy, base, few) == seeds(strategy, base, many)[:few]


@given(bases, counts)
def test_random_seeds_keep_their_distance_from_each_other(base: int, count: int) -> None:
    found = sorted(seeds(SeedStrategy.RANDOM, base, count))
    assert all(high - low >= MIN_DISTANCE for low, high in pairwise(found))


def test_the_hash_is_the_documented_one() -> None:
    bits = f"{int(sha256(b'42:7').hexdigest(), 16):0256b}"
    assert hashed(42, 7) == int(bits[:53], 2)


def test_random_seeds_are_the_hashes_in_order_of_the_counter() -> None:
    assert seeds(SeedStrategy.RANDOM, 42, 6) == [42, *(hashed(42, counter) for counter in range(1, 6))]


def test_random_passes_over_a_hash_that_is_too_near(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = {1: 42 + MIN_DISTANCE - 1, 2: 42 + MIN_DISTANCE, 3: 43 + MIN_DISTANCE, 4: 0, 5: MAX_SEED}
    monkeypatch.setattr("jobgroups.workflow.seeds.hashed", lambda _, counter: drawn[counter])
    assert seeds(SeedStrategy.RANDOM, 42, 3) == [42, 42 + MIN_DISTANCE, MAX_SEED]


def test_a_hash_is_compared_with_all_earlier_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    far, near = 10 * MIN_DISTANCE, 5 * MIN_DISTANCE
    drawn = {1: far, 2: near, 3: near + 1, 4: near - 1, 5: far + 1, 6: 7 * MIN_DISTANCE}
    monkeypatch.setattr("jobgroups.workflow.seeds.hashed", lambda _, counter: drawn[counter])
    assert seeds(SeedStrategy.RANDOM, 0, 4) == [0, far, near, 7 * MIN_DISTANCE]


def test_the_distance_is_linear_and_does_not_wrap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobgroups.workflow.seeds.hashed", lambda *_: MAX_SEED)
    assert seeds(SeedStrategy.RANDOM, 0, 2) == [0, MAX_SEED]


@pytest.mark.parametrize(
    ("strategy", "base", "expected"),
    [
        (SeedStrategy.SEQUENTIAL, 42, [42, 43, 44, 45]),
        (SeedStrategy.SEQUENTIAL, MAX_SEED - 1, [MAX_SEED - 1, MAX_SEED, 0, 1]),
        (SeedStrategy.FIBONACCI, 42, [42, 1042, 2042, 4042, 7042, 12042, 20042, 33042]),
        (SeedStrategy.FIBONACCI, MAX_SEED, [MAX_SEED, 999, 1999, 3999]),
        (SeedStrategy.GOLDEN_RATIO, 42, [42, 67, 109, 177, 287]),
        (SeedStrategy.GOLDEN_RATIO, 0, [0, 1, 2, 4, 6, 11, 17]),
        # 1 × φ is 1.6: its floor is taken by the base, so it moves up to 2, and so on.
        (SeedStrategy.GOLDEN_RATIO, 1, [1, 2, 3, 4, 6, 11, 17]),
    ],
)
def test_known_values(strategy: SeedStrategy, base: int, expected: list[int]) -> None:
    assert seeds(strategy, base, len(expected)) == expected


def test_a_taken_seed_moves_up_until_it_is_free() -> None:
    """For base 1 the floors are 1, 1, 2, 4, 6, 11: the second is pushed to 2, the third to 3."""
    assert seeds(SeedStrategy.GOLDEN_RATIO, 1, 4) == [1, 2, 3, 4]


@settings(max_examples=20)
@given(st.integers(10**6, MAX_SEED))
def test_golden_ratio_is_exact_where_floats_are_not(base: int) -> None:
    with localcontext() as context:
        context.prec = 400
        phi = (1 + Decimal(5).sqrt()) / 2
        floors = [int(base * phi**power) % (MAX_SEED + 1) for power in range(1, 600)]
    found = seeds(SeedStrategy.GOLDEN_RATIO, base, 600)
    taken = {base}
    for seed, floor in zip(found[1:], floors, strict=True):
        while floor in taken:
            floor = (floor + 1) % (MAX_SEED + 1)  # noqa: PLW2901 - the rule, spelled out
        taken.add(floor)
        assert seed == floor


@pytest.mark.parametrize("base", [-1, MAX_SEED + 1, 2**64])
def test_a_base_out_of_range_is_refused(base: int) -> None:
    with pytest.raises(ValueError, match="base must be"):
        seeds(SeedStrategy.RANDOM, base, 1)


def test_a_negative_count_is_refused() -> None:
    with pytest.raises(ValueError, match="count"):
        seeds(SeedStrategy.SEQUENTIAL, 0, -1)


def test_another_process_with_another_hash_seed_gives_the_same_seeds() -> None:
    program = (
        "from jobgroups.workflow.seeds import SeedStrategy, seeds;"
        "print([seeds(strategy, 7, 50) for strategy in SeedStrategy])"
    )
    answer = subprocess.run(
        [sys.executable, "-X", "utf8", "-c", program],
        env={"PYTHONHASHSEED": "4242", "PYTHONPATH": "."},
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stdout.strip() == str([seeds(strategy, 7, 50) for strategy in ALL])


def test_the_names_are_those_of_the_reference() -> None:
    assert {strategy.value for strategy in ALL} == {"random", "sequential", "fibonacci", "golden_ratio"}
