from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from jobgroups.domain.leases import LeaseTable, fair_share, leases_to_acquire, release_count

EIGHT = frozenset(f"gpu-{n}" for n in range(8))
#: As seen once another runner has just started.
STARTING = LeaseTable(live_runners=frozenset({"b"}))


def leases(**holders: str) -> LeaseTable:
    """Return leases of living runners, by backend (``gpu_1="b"``)."""
    others = {name.replace("_", "-"): runner for name, runner in holders.items()}
    names = frozenset(others.values())
    return LeaseTable(held_by_others=others, live_runners=names, stable_runners=names)


def test_a_runner_alone_takes_all() -> None:
    assert set(leases_to_acquire(EIGHT, frozenset(), LeaseTable())) == EIGHT


def test_of_two_that_start_together_each_takes_half() -> None:
    assert len(leases_to_acquire(EIGHT, frozenset(), STARTING)) == 4


def test_beyond_its_share_a_runner_takes_only_what_is_left_lying() -> None:
    mine = frozenset(sorted(EIGHT)[:4])
    assert leases_to_acquire(EIGHT, mine, replace(STARTING, unclaimed=frozenset({"gpu-7"}))) == ["gpu-7"]


def test_what_another_one_holds_is_not_taken() -> None:
    held = leases(gpu_0="b", gpu_1="b")
    assert set(leases_to_acquire(EIGHT, frozenset(), held)) <= EIGHT - {"gpu-0", "gpu-1"}


def test_to_a_runner_that_comes_half_is_given() -> None:
    assert release_count(EIGHT, EIGHT, STARTING) == 0, "it may crash at its start"
    assert release_count(EIGHT, EIGHT, replace(STARTING, stable_runners=frozenset({"b"}))) == 4


def test_an_odd_backend_stays_where_it_is() -> None:
    nine = EIGHT | {"gpu-8"}
    mine = frozenset({"gpu-4", "gpu-5", "gpu-6", "gpu-7", "gpu-8"})
    assert release_count(nine, mine, leases(gpu_0="b", gpu_1="b", gpu_2="b", gpu_3="b")) == 0


@given(st.integers(0, 60), st.integers(1, 6), st.randoms(use_true_random=False))
def test_from_any_start_all_come_to_their_share_and_stay_there(count: int, runners: int, dice: object) -> None:
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
