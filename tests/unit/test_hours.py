"""Hours of backends: their text, ranges over midnight, and changes of the clock."""

import datetime as dt

import pytest

from backends import hours
from backends.hours import check_hours, closed_times, is_open, local_text, never_opens, opens_at

NIGHTS = "mon-fri 19:00-07:00; sat-sun"
BERLIN = "Europe/Berlin"


def utc(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("text", "zone", "opened", "closed"),
    [
        ("", "", ["2026-02-04T12:00"], []),
        # 2026-02-02 is a Monday.
        (NIGHTS, "", ["2026-02-02T19:00", "2026-02-03T06:59", "2026-02-07T12:00"], []),
        (NIGHTS, "", [], ["2026-02-02T06:00", "2026-02-02T18:59", "2026-02-03T07:00"]),
        # The night of Friday continues into Saturday; that of Sunday ends at midnight.
        (NIGHTS, "", ["2026-02-07T06:00", "2026-02-08T23:59"], ["2026-02-09T00:00"]),
        (NIGHTS, BERLIN, ["2026-02-02T18:00"], ["2026-02-02T17:59"]),
        ("19:00-07:00", "", ["2026-02-02T03:00"], ["2026-02-02T12:00"]),
        ("fri-mon", "", ["2026-02-02T23:59", "2026-02-06T00:00"], ["2026-02-03T00:00"]),
        ("MON,wed 08:00-12:00,13:00-24:00", "", ["2026-02-04T23:59"], ["2026-02-04T12:30"]),
        ("tue 0:00-24:00", "", ["2026-02-03T00:00", "2026-02-03T23:59"], ["2026-02-04T00:00"]),
        # Clocks go from 2:00 to 3:00 on 2026-03-29, and from 3:00 to 2:00 on 2026-10-25.
        ("08:00-18:00", BERLIN, ["2026-03-28T07:00", "2026-03-29T06:00"], ["2026-03-28T06:59"]),
        ("02:30-04:00", BERLIN, ["2026-03-29T01:30"], ["2026-03-29T01:29", "2026-03-29T02:00"]),
        ("sat 22:00-02:30", BERLIN, ["2026-10-25T00:45", "2026-10-25T01:15"], ["2026-10-25T01:30"]),
        ("sun 03:00-04:00", BERLIN, ["2026-10-25T02:00"], ["2026-10-25T01:59"]),
    ],
)
def test_backend_is_open_within_its_hours(
    text: str, zone: str, opened: list[str], closed: list[str]
) -> None:
    assert check_hours(text, zone) == {}
    assert [is_open(text, zone, utc(at)) for at in opened] == [True] * len(opened)
    assert [is_open(text, zone, utc(at)) for at in closed] == [False] * len(closed)


@pytest.mark.parametrize(
    "text",
    ["monday", "mon-", "mon 7", "mon 25:00-26:00", "mon 10:60-11:00", "24:00-07:00", "8:00-9:00 x",
     "mon fri", "-", "19-07", "mon 19:00", "mon; tue x"],
)  # fmt: skip
def test_other_text_is_refused_with_the_part_that_is_wrong(text: str) -> None:
    assert "is no part of hours" in check_hours(text, "")["hours"]


@pytest.mark.parametrize("zone", ["Berlin", "Europe/Nowhere", "../etc", "x" * 300, "\0"])
def test_unknown_time_zone_is_refused(zone: str) -> None:
    assert set(check_hours("", zone)) == {"time_zone"}


def test_opening_is_the_next_one() -> None:
    assert opens_at(NIGHTS, BERLIN, utc("2026-02-03T12:00:30")) == utc("2026-02-03T18:00")
    assert opens_at(NIGHTS, BERLIN, utc("2026-02-03T19:00")) is None
    assert opens_at("", "", utc("2026-02-03T12:00")) is None
    assert opens_at("mon 02:15-02:45", BERLIN, utc("2026-02-03T12:00")) == utc("2026-02-09T01:15")
    assert local_text(utc("2026-02-03T18:00"), BERLIN) == "Tue 19:00 (Europe/Berlin)"


def test_hours_that_never_open_are_hours() -> None:
    assert check_hours("mon 07:00-07:00; ;", "") == {}
    assert never_opens("mon 07:00-07:00")
    assert not never_opens("")
    assert not never_opens(NIGHTS)
    assert not is_open("mon 07:00-07:00", "", utc("2026-02-02T07:00"))
    assert opens_at("mon 07:00-07:00", "", utc("2026-02-02T07:00")) is None


def test_closed_times_of_several_are_those_in_which_all_are_closed() -> None:
    since, until = utc("2026-02-03T00:00"), utc("2026-02-04T00:00")
    day, night = ("08:00-18:00", ""), ("20:00-06:00", "")
    assert closed_times([day], since, until) == [
        (since, utc("2026-02-03T08:00")),
        (utc("2026-02-03T18:00"), until),
    ]
    assert closed_times([day, night], since, until) == [
        (utc("2026-02-03T06:00"), utc("2026-02-03T08:00")),
        (utc("2026-02-03T18:00"), utc("2026-02-03T20:00")),
    ]
    assert closed_times([day, ("", "")], since, until) == []
    assert closed_times([("mon 07:00-07:00", "")], since, until) == [(since, until)]


def test_year_of_hours_is_as_long_as_its_nights() -> None:
    since, until = utc("2026-01-01T00:00"), utc("2027-01-01T00:00")
    lengths = {
        closes - opens for opens, closes in hours._opened("22:00-06:00", BERLIN, since, until)
    }
    assert lengths == {dt.timedelta(hours=at) for at in (7, 8, 9)}
