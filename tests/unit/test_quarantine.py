from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.quarantine import LONGEST, QuarantineRules, counts_since, quarantine_for, reason_for

NOW = dt.datetime(2026, 2, 1, 12, tzinfo=dt.UTC)
MINUTE = dt.timedelta(minutes=1)
RULES = QuarantineRules(failures=3, window=10 * MINUTE, duration=15 * MINUTE)
OFF = QuarantineRules(failures=0, window=10 * MINUTE, duration=15 * MINUTE)


@pytest.mark.parametrize(
    ("rules", "failures", "consecutive", "minutes"),
    [
        *[(RULES, failures, 0, minutes) for failures, minutes in ((2, 0), (3, 15), (4, 15))],
        # On probation the first failure is enough.
        *[(RULES, 1, n, minutes) for n, minutes in ((1, 30), (2, 60), (4, 240), (10_000, 240))],
        *[(OFF, 100, consecutive, 0) for consecutive in (0, 1, 5)],
    ],
)
def test_quarantine_length(rules: QuarantineRules, failures: int, consecutive: int, minutes: int) -> None:
    found = quarantine_for(rules, failures=failures, consecutive=consecutive)
    assert found == (minutes * MINUTE if minutes else None)


@given(st.integers(0, 1_000), st.integers(0, 1_000), st.integers(0, 10**6), st.integers(1, 240))
def test_quarantine_length_is_bounded(limit: int, failures: int, consecutive: int, minutes: int) -> None:
    rules = QuarantineRules(failures=limit, window=10 * MINUTE, duration=minutes * MINUTE)
    lasts = quarantine_for(rules, failures=failures, consecutive=consecutive)
    assert lasts is None or (failures and rules.duration <= lasts <= LONGEST)


@pytest.mark.parametrize(("reset", "since"), [(None, 10), (5, 5), (20, 10)])
def test_failures_count_from_the_window_or_the_release(reset: int | None, since: int) -> None:
    reset_at = None if reset is None else NOW - reset * MINUTE
    assert counts_since(RULES, NOW, reset_at) == NOW - since * MINUTE


@pytest.mark.parametrize(
    ("failures", "window", "consecutive", "reason"),
    [
        (3, 10 * MINUTE, 0, "3 failures within 10 min; last: stalled."),
        (1, 10 * MINUTE, 0, "1 failure within 10 min; last: stalled."),
        (3, MINUTE / 2, 0, "3 failures within 30 s; last: stalled."),
        (1, 10 * MINUTE, 2, "It failed again on probation: stalled."),
    ],
)
def test_reason_names_count_window_and_last_failure(
    failures: int, window: dt.timedelta, consecutive: int, reason: str
) -> None:
    assert reason_for(failures, window, consecutive, "stalled.") == reason
