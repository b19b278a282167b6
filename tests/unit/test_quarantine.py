"""When a failing backend is set aside, and for how long."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.quarantine import LONGEST, Rules, counts_since, quarantine_for, reason_for

NOW = dt.datetime(2026, 2, 1, 12, tzinfo=dt.UTC)
MINUTE = dt.timedelta(minutes=1)
RULES = Rules(failures=3, within=10 * MINUTE, forgive=15 * MINUTE)


@pytest.mark.parametrize(("failures", "lasts"), [(1, None), (2, None), (3, 15), (4, 15)])
def test_enough_failures_set_it_aside(failures: int, lasts: int | None) -> None:
    found = quarantine_for(RULES, failures=failures, in_a_row=0)
    assert found == (None if lasts is None else lasts * MINUTE)


@pytest.mark.parametrize(
    ("in_a_row", "minutes"), [(1, 30), (2, 60), (3, 120), (4, 240), (5, 240), (10_000, 240)]
)
def test_on_probation_one_failure_is_enough_and_it_lasts_twice_as_long(
    in_a_row: int, minutes: int
) -> None:
    assert quarantine_for(RULES, failures=1, in_a_row=in_a_row) == minutes * MINUTE


@pytest.mark.parametrize("in_a_row", [0, 1, 5])
def test_with_no_rule_nothing_is_set_aside(in_a_row: int) -> None:
    never = Rules(failures=0, within=10 * MINUTE, forgive=15 * MINUTE)
    assert quarantine_for(never, failures=100, in_a_row=in_a_row) is None


@given(st.integers(0, 1_000), st.integers(0, 1_000), st.integers(0, 10**6), st.integers(1, 240))
def test_it_lasts_for_its_first_time_at_least_and_four_hours_at_most(
    limit: int, failures: int, in_a_row: int, minutes: int
) -> None:
    rules = Rules(failures=limit, within=10 * MINUTE, forgive=minutes * MINUTE)
    lasts = quarantine_for(rules, failures=failures, in_a_row=in_a_row)
    assert lasts is None or rules.forgive <= lasts <= LONGEST
    if failures == 0:
        assert lasts is None


def test_failures_are_counted_within_the_window_and_since_the_last_release() -> None:
    assert counts_since(RULES, NOW, None) == NOW - 10 * MINUTE
    assert counts_since(RULES, NOW, NOW - 5 * MINUTE) == NOW - 5 * MINUTE
    assert counts_since(RULES, NOW, NOW - 20 * MINUTE) == NOW - 10 * MINUTE


@pytest.mark.parametrize(
    ("failures", "within", "in_a_row", "said"),
    [
        (3, 10 * MINUTE, 0, "3 failures within 10 min; last: stalled."),
        (1, 10 * MINUTE, 0, "1 failure within 10 min; last: stalled."),
        (3, MINUTE / 2, 0, "3 failures within 30 s; last: stalled."),
        (1, 10 * MINUTE, 2, "It failed again on probation: stalled."),
    ],
)
def test_the_reason_says_how_often_and_what(
    failures: int, within: dt.timedelta, in_a_row: int, said: str
) -> None:
    assert reason_for(failures, within, in_a_row, "stalled.") == said
