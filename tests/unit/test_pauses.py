"""The queued limit, which stands still while a job is held. Hours are those of a fixed day."""

import datetime as dt

import pytest

from jobgroups.domain.pauses import Interval, limit_began

NOW = dt.datetime(2026, 3, 31, 12, tzinfo=dt.UTC)


def hours_ago(hours: float) -> dt.datetime:
    return NOW - dt.timedelta(hours=hours)


def held(*pairs: tuple[float, float | None]) -> list[Interval]:
    return [(hours_ago(begin), None if end is None else hours_ago(end)) for begin, end in pairs]


@pytest.mark.parametrize(
    ("pauses", "hours"),
    [
        ([], 24),
        (held((10, 4)), 30),
        (held((10, None)), 34),
        (held((100, 90)), 24),
        (held((30, 20)), 34),
        (held((24, 20)), 28),
        # Pauses of the group, of its submitter and of the farm overlap.
        (held((10, 4), (8, 6)), 30),
        (held((10, 4), (6, 2)), 32),
        (held((10, 4), (12, None)), 36),
        (held((3, 2), (10, 4), (50, 40)), 31),
        (held((3, 2), (10, 4), (35, 25)), 41),
        (held((4, 10)), 24),
        # At most 30 days in all.
        (held((2000, None)), 720),
        (held((719, 1)), 720),
    ],
)
def test_limit_stands_still_while_a_job_is_held(pauses: list[Interval], hours: float) -> None:
    assert limit_began(NOW, dt.timedelta(hours=24), pauses) == hours_ago(hours)


def test_limit_above_thirty_days_counts_as_it_is() -> None:
    assert limit_began(NOW, dt.timedelta(days=40), []) == NOW - dt.timedelta(days=40)
