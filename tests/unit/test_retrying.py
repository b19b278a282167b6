"""Retry policy, and the shares of runners."""

from dataclasses import replace

import pytest
from hypothesis import given, strategies as st

from jobgroups.domain.failures import RETRIED, TAXONOMY, FailureClass, RetryTarget
from jobgroups.domain.leases import LeaseTable, fair_share, leases_to_acquire, release_count
from jobgroups.domain.retry_policy import (
    LONGEST_PAUSE,
    AttemptHistory,
    Candidate,
    RetryPolicy,
    backoff_delay,
    best_candidate,
    next_backend,
)
from jobgroups.domain.states import RetryScope

NAMES = ["gpu-1", "gpu-2", "gpu-3", "gpu-4"]
GIB = 2**30
failures = st.sampled_from(list(FailureClass))
policies = st.builds(
    RetryPolicy,
    max_attempts=st.integers(1, 10),
    elsewhere=st.sampled_from(list(RetryScope)),
    retry_on=st.none() | st.frozensets(st.sampled_from(RETRIED), min_size=1),
)


def candidate(name: str) -> st.SearchStrategy[Candidate]:
    return st.builds(
        Candidate,
        backend_id=st.just(name),
        vram=st.integers(0, 48).map(lambda gib: gib * GIB),
        waiting=st.integers(0, 5),
    )


snapshots = st.tuples(*(candidate(name) for name in NAMES)).flatmap(
    lambda all_: st.lists(st.sampled_from(all_), unique=True)
)
tries = st.builds(
    AttemptHistory,
    failed_on=st.lists(st.sampled_from(NAMES), max_size=6),
    excluded=st.frozensets(st.sampled_from(NAMES), max_size=2),
)


def one(name: str, vram: int = 0, waiting: int = 0, *, works: bool = True) -> Candidate:
    return Candidate(backend_id=name, vram=vram * GIB, waiting=waiting, works=works)


def policy(attempts: int = 3, elsewhere: RetryScope = RetryScope.GROUP) -> RetryPolicy:
    return RetryPolicy(max_attempts=attempts, elsewhere=elsewhere)


@given(policies, st.lists(failures, min_size=1))
def test_no_child_has_more_charged_attempts_than_its_policy_allows(
    bounds: RetryPolicy, met: list[FailureClass]
) -> None:
    charged = 0
    for failure in met:
        charged += 1
        if not bounds.allows(failure, charged):
            break
    assert charged <= bounds.max_attempts


@given(policies, failures, st.integers(1, 12))
def test_only_what_may_be_tried_again_and_was_named_is(
    bounds: RetryPolicy, failure: FailureClass, charged: int
) -> None:
    if bounds.allows(failure, charged):
        assert TAXONOMY[failure].retry is not RetryTarget.NEVER
        assert bounds.retry_on is None or failure in bounds.retry_on


@given(policies, failures, st.booleans())
def test_executed_job_that_was_paid_is_retried_only_after_a_class_that_was_named(
    bounds: RetryPolicy, failure: FailureClass, executed: bool
) -> None:
    is_retried = replace(bounds, is_paid=True).allows(failure, 0, executed=executed)
    named = failure in (bounds.retry_on or ())
    assert is_retried is (bounds.allows(failure, 0) and (named or not executed))


@given(snapshots, tries, st.booleans())
def test_excluded_backend_is_never_chosen(
    others: list[Candidate], tried: AttemptHistory, after_memory: bool
) -> None:
    assert best_candidate(others, tried, after_memory=after_memory) not in tried.excluded


@given(failures, snapshots, tries)
def test_a_child_that_may_go_nowhere_stays_or_ends(
    failure: FailureClass, others: list[Candidate], tried: AttemptHistory
) -> None:
    own, bounds = one("own"), policy(elsewhere=RetryScope.NEVER)
    target = next_backend(failure, own=own, others=others, tried=tried, policy=bounds)
    assert target == ("own" if TAXONOMY[failure].retry is RetryTarget.ANY_BACKEND else None)


@given(failures, snapshots, tries, policies)
def test_what_can_only_be_met_elsewhere_is_never_tried_at_the_same_backend(
    failure: FailureClass, others: list[Candidate], tried: AttemptHistory, bounds: RetryPolicy
) -> None:
    target = next_backend(failure, own=one("own"), others=others, tried=tried, policy=bounds)
    if TAXONOMY[failure].retry is not RetryTarget.ANY_BACKEND:
        assert target != "own"
    assert target not in tried.excluded
    assert target in {None, "own", *(other.backend_id for other in others)}


@given(snapshots, tries)
def test_one_that_did_not_fail_it_comes_first(
    others: list[Candidate], tried: AttemptHistory
) -> None:
    target = best_candidate(others, tried)
    fresh = {other.backend_id for other in others} - set(tried.failed_on) - tried.excluded
    if fresh:
        assert target in fresh


@given(snapshots, st.integers(0, 48))
def test_after_an_out_of_memory_the_largest_card_comes_first(
    others: list[Candidate], own_vram: int
) -> None:
    tried = AttemptHistory(failed_on=["own"])
    target = next_backend(
        FailureClass.OUT_OF_MEMORY,
        own=one("own", own_vram),
        others=others,
        tried=tried,
        policy=policy(),
    )
    sizes = {other.backend_id: other.vram for other in others} | {"own": own_vram * GIB}
    assert target is not None
    assert sizes[target] == max(sizes.values())


MEMORY, LOST = FailureClass.OUT_OF_MEMORY, FailureClass.BACKEND_LOST


@pytest.mark.parametrize(
    ("failure", "own", "others", "failed_on", "found"),
    [
        # An out of memory is forgiven once, then a smaller card is tried.
        (MEMORY, one("big", 24), [one("small", 12)], ["big"], "big"),
        (MEMORY, one("big", 24), [one("small", 12)], ["big", "big"], "small"),
        # Of equal cards, the one that did not run out comes first.
        (MEMORY, one("a", 24), [one("b", 24, waiting=3)], ["a"], "b"),
        # A backend that does not work is waited for only if there is no other.
        (LOST, one("own", works=False), [one("b")], ["own", "b", "b", "b"], "b"),
        (LOST, one("own", works=False), [], ["own", "b", "b", "b"], "own"),
        *((failure, one("a"), [one("b")], ["a"], "b") for failure in RETRIED),
    ],
)
def test_next_backend_after(
    failure: FailureClass, own: Candidate, others: list[Candidate], failed_on: list[str], found: str
) -> None:
    tried = AttemptHistory(failed_on=failed_on)
    got = next_backend(failure, own=own, others=others, tried=tried, policy=policy())
    assert got == found


def test_the_least_waiting_and_then_the_first_by_id_is_chosen() -> None:
    assert best_candidate([one("b"), one("a", waiting=1), one("c")], AttemptHistory()) == "b"


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_a_pause_doubles_is_spread_by_half_and_bounded(charged: int, jitter: float) -> None:
    middle = 2 * 2 ** min(charged - 1, 60)
    found = backoff_delay(charged, backoff=2, jitter=jitter)
    assert min(middle * 0.5, LONGEST_PAUSE) <= found <= min(middle * 1.5, LONGEST_PAUSE)


EIGHT = frozenset(f"gpu-{n}" for n in range(8))
#: As seen once another runner has just started.
STARTING = LeaseTable(live_runners=frozenset({"b"}))


def leases(**holders: str) -> LeaseTable:
    """Return leases of living runners, by backend (``gpu_1="b"``)."""
    others = {name.replace("_", "-"): runner for name, runner in holders.items()}
    names = frozenset(others.values())
    return LeaseTable(held_by_others=others, live_runners=names, stable_runners=names)


def test_of_two_that_start_together_each_takes_half() -> None:
    assert len(leases_to_acquire(EIGHT, frozenset(), STARTING)) == 4


def test_beyond_its_share_a_runner_takes_only_what_is_left_lying() -> None:
    mine = frozenset(sorted(EIGHT)[:4])
    assert leases_to_acquire(EIGHT, mine, replace(STARTING, unclaimed=frozenset({"gpu-7"}))) == [
        "gpu-7"
    ]


def test_what_another_one_holds_is_not_taken() -> None:
    held = leases(gpu_0="b", gpu_1="b")
    assert set(leases_to_acquire(EIGHT, frozenset(), held)) <= EIGHT - {"gpu-0", "gpu-1"}


def test_to_a_runner_that_comes_half_is_given() -> None:
    assert release_count(EIGHT, EIGHT, STARTING) == 0, "it may crash at its start"
    assert release_count(EIGHT, EIGHT, replace(STARTING, stable_runners=frozenset({"b"}))) == 4


@given(st.integers(0, 60), st.integers(1, 6), st.randoms(use_true_random=False))
def test_from_any_start_all_come_to_their_share_and_stay_there(
    count: int, runners: int, dice: object
) -> None:
    """Each in turn gives and takes; after a few turns nothing moves any more."""
    wanted = frozenset(f"gpu-{n}" for n in range(count))
    names = [f"r{n}" for n in range(runners)]
    held = {one: dice.choice([*names, ""]) for one in wanted}  # type: ignore[attr-defined]
    for turn in range(10):
        before = dict(held)
        for name in names:
            _turn(name, names, wanted, held)
        if turn > 4:
            assert held == before
    sizes = [sum(one == name for one in held.values()) for name in names]
    assert "" not in held.values()
    assert max(sizes) <= fair_share(count, runners)
    assert min(sizes) >= count // runners


def _turn(name: str, names: list[str], wanted: frozenset[str], held: dict[str, str]) -> None:
    mine = frozenset(one for one, holder in held.items() if holder == name)
    live_runners = frozenset(names) - {name}
    others = {one: holder for one, holder in held.items() if holder not in ("", name)}
    seen = LeaseTable(held_by_others=others, live_runners=live_runners, stable_runners=live_runners)
    for one in leases_to_acquire(wanted, mine, seen):
        held[one] = name
    for one in sorted(mine)[: release_count(wanted, mine, seen)]:
        held[one] = ""
