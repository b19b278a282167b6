"""What is said of large farms: the reckoning's laws, the simulation's, and that the page says the same."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import fields, replace
from itertools import pairwise
from statistics import fmean
from typing import Any

import pytest

from jobgroups.runner.intervals import Intervals
from tests.bench import scaling
from tests.bench.scaling import BACKENDS, WORKS, Work, bend_at, lock_s, need, round_share
from tests.bench.scaling_queues import Call, Clock, Load, Process, Resource, simulate
from tests.bench.scaling_units import SOURCES, UNITS, Units, described

_works = pytest.mark.parametrize("work", WORKS, ids=lambda work: work.name)
#: One that is nobody's: a second a child, in groups of ten.
_PLAIN = Work(name="plain", seconds=1.0, steps=3, group=10)
_NOTHING = Units(**{one.name: 1e-12 for one in fields(Units)})
_CALL = Call(python=0.001, postgres=0.002)


def _load(**changes: Any) -> Load:
    load = Load(backends=10, render_s=1.0, course=(_CALL,) * 5, commit_s=0.001, loop_s=0.004, idle_s=0.0, group=1)
    return replace(load, **changes)


# --- queues ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
def test_a_queue_waits_as_long_as_theory_says(share: float) -> None:
    """Arrivals by chance, one server, always the same service: M/D/1, share / 2 (1 - share)."""
    clock, draw = Clock(), random.Random(7)
    server = Resource(clock, 1)

    def served() -> Process:
        yield server
        yield 1.0
        server.release()

    def arrivals() -> Process:
        while True:
            clock.after(0.0, served())
            yield draw.expovariate(share)

    clock.after(0.0, arrivals())
    clock.run_until(50_000 / share)
    assert server.utilisation(clock.now) == pytest.approx(share, rel=0.02)
    assert fmean(server.waited) == pytest.approx(share / 2 / (1 - share), rel=0.05)


def test_several_places_are_taken_at_once_and_in_the_order_of_asking() -> None:
    clock = Clock()
    places = Resource(clock, 2)
    ended: list[tuple[str, float]] = []

    def one(name: str) -> Iterator[Resource | float]:
        yield places
        yield 1.0
        places.release()
        ended.append((name, clock.now))

    for name in "abcde":
        clock.after(0.0, one(name))  # type: ignore[arg-type]
    clock.run_until(10.0)
    assert ended == [("a", 1.0), ("b", 1.0), ("c", 2.0), ("d", 2.0), ("e", 3.0)]
    assert places.utilisation(10.0) == pytest.approx(5 / 20)


# --- the simulated runner --------------------------------------------------------------------------


def test_a_runner_with_little_to_do_uses_what_its_work_costs() -> None:
    seen = simulate(_load(), seconds=50, warm_up=5)
    assert seen.completed == pytest.approx(10, rel=0.02)
    assert seen.rendering > 0.999
    assert seen.python == pytest.approx(10 * (5 * 0.001 + 0.004), rel=0.03)
    assert seen.postgres == pytest.approx(10 * 5 * 0.002, rel=0.03)
    # Each transaction holds its thread for its own four milliseconds and hardly longer.
    assert seen.threads == pytest.approx(10 * 5 * 0.004 / 4, rel=0.1)


@pytest.mark.parametrize(
    ("changes", "most"),
    [
        ({"loop_s": 0.095}, 1 / 0.1),
        ({"threads": 1, "commit_s": 0.017}, 1 / (5 * 0.02)),
        ({"group": 10_000, "commit_s": 0.05}, 1 / (5 * 0.05)),
        ({"cores": 1, "elsewhere_s": 0.081}, 1 / 0.1),
        ({"postgres_cores": 1, "course": (Call(python=0.001, postgres=0.02),) * 5}, 1 / 0.1),
    ],
    ids=["interpreter", "threads", "a group's row", "cores", "postgres"],
)
def test_nothing_does_more_than_it_can(changes: dict[str, Any], most: float) -> None:
    seen = simulate(_load(backends=40, **changes), seconds=30, warm_up=10)
    assert 0.85 * most <= seen.completed <= 1.03 * most
    assert seen.rendering < 0.5


def test_a_large_group_keeps_its_row_longer() -> None:
    growing = (replace(_CALL, grows=True),) * 5
    small, large = (
        simulate(_load(course=growing, group=group, grow_s=1e-6), seconds=30, warm_up=5) for group in (100, 5_000)
    )
    assert large.lock_s > 2 * small.lock_s
    assert large.postgres == pytest.approx(small.postgres + 10 * 5 * 0.0049, rel=0.05)


def test_rounds_take_from_what_is_left_for_work() -> None:
    rare, often = (simulate(_load(round_s=0.05, rounds_per_s=rate), seconds=30, warm_up=5) for rate in (1, 100))
    assert often.python > rare.python + 0.4
    assert often.claim_s > rare.claim_s


def test_what_is_simulated_is_the_same_each_time() -> None:
    once, again = (simulate(_load(), seconds=5, warm_up=1) for _ in range(2))
    assert once == again


# --- the reckoning ---------------------------------------------------------------------------------


@_works
def test_a_larger_farm_needs_more_of_everything(work: Work) -> None:
    needs = [need(work, backends) for backends in (10, 30, 100, 200, 500, 1_000, 10_000)]
    names = [one.name for one in fields(needs[0])]
    for smaller, larger in pairwise(needs):
        for name in names:
            assert getattr(larger, name) >= getattr(smaller, name), name


def test_each_unit_is_counted_as_often_as_it_occurs() -> None:
    units = replace(_NOTHING, child_commits=4, group_commits=2, backend_commits=0.1)
    # A hundred children a second, ten groups, and a hundred backends that are looked at.
    assert need(_PLAIN, 100, units).commits == pytest.approx(100 * 4 + 10 * 2 + 100 * 0.1)
    units = replace(_NOTHING, child_bytes=2**30 / 86_400, group_bytes=0.0)
    assert need(_PLAIN, 1, units).gib_a_month == pytest.approx(30)
    units = replace(_NOTHING, progress_per_s=10, flushes_per_s=4)
    long = replace(_PLAIN, seconds=2.0, steps=103)
    # A hundred steps of two seconds: ten a second are told, four are stored.
    assert need(long, 2, units).messages == pytest.approx(20)
    assert need(long, 2, units).statements == pytest.approx(8)


def test_work_is_shared_by_runners_and_rounds_are_not() -> None:
    units = replace(_NOTHING, child_runner_ms=11)
    assert need(_PLAIN, 100, units).runners == 2
    assert need(_PLAIN, 1_000, units).runners == 19
    rung = replace(units, round_us_per_backend=10)
    # A hundred rings a second, of a millisecond each; those during a round are one more.
    assert round_share(_PLAIN, 100, rung) == pytest.approx(0.01 / 1.01)
    # Ten times the backends ring ten times as often for rounds that are ten times as long.
    assert need(_PLAIN, 1_000, rung).rounds == pytest.approx(0.4)
    assert need(_PLAIN, 1_000, rung).runner_cores == pytest.approx(11 + 19 * 0.4)


@_works
def test_where_it_bends_one_more_backend_is_too_many(work: Work) -> None:
    for bend in scaling._BENDS:
        there_is = bend.there_is(UNITS)
        most = bend_at(work, bend.takes, there_is)
        assert bend.takes(work, most, UNITS) <= there_is < bend.takes(work, most + 1, UNITS)


def test_a_group_s_row_is_held_as_long_as_the_simulation_holds_it() -> None:
    load = replace(scaling.load_of(_PLAIN, 200), group=10_000, idle_s=0.0, cores=64)
    seen = simulate(load, seconds=20, warm_up=10)
    assert seen.completed <= 1.03 / lock_s(10_000)


def test_what_the_code_fixes_is_what_the_code_says() -> None:
    intervals = Intervals()
    assert UNITS.progress_per_s == pytest.approx(1 / intervals.progress_gap)
    assert UNITS.flushes_per_s == pytest.approx(1 / intervals.flush)


# --- the page --------------------------------------------------------------------------------------


def test_every_unit_cost_says_where_it_comes_from() -> None:
    for name, value, what, source in described():
        assert value > 0, name
        assert what
        assert source in SOURCES


def test_the_page_has_the_tables_that_the_command_prints() -> None:
    text = scaling.PAGE.read_text(encoding="utf-8")
    for name in scaling.TABLES:
        for mark in scaling._marks(name):
            assert text.count(mark.strip()) == 1, mark
    assert scaling.page(text) == text, "stale: run `python -m tests.bench.scaling --write`"
    assert all(f"{count:,}" in text for count in BACKENDS)
