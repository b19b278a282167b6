"""Hours of a backend: ``mon-fri 19:00-07:00; sat-sun``, by the wall clock of a time zone. Pure.

A part has days, times, or both: without days it holds for every day, without times for the whole
day. A time that ends before it begins continues on the next day.
"""

import datetime as dt
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Final, NamedTuple, TypeAlias
from zoneinfo import ZoneInfo

Interval: TypeAlias = tuple[dt.datetime, dt.datetime]
_DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DAY: Final = 24 * 60  #: Minutes.
_TIMES: Final = re.compile(r"(\d{1,2}):(\d\d)-(\d{1,2}):(\d\d)")
#: Days in which hours that open at all open: a week, and one whose time a clock change left out.
_AHEAD: Final = 15


class _Range(NamedTuple):
    """Minutes since the midnight with which a day of the week begins."""

    day: int
    begins: int
    ends: int


def check_hours(hours: str, time_zone: str) -> dict[str, str]:
    """Return what is wrong with hours and a time zone, by the names of the fields."""
    wrong = {}
    try:
        _parse(hours)
    except ValueError as error:
        wrong["hours"] = str(error)
    try:
        _zone(time_zone)
    except (ValueError, OSError, KeyError):
        wrong["time_zone"] = "Must be the name of a time zone such as Europe/Berlin."
    return wrong


def is_open(hours: str, time_zone: str, moment: dt.datetime) -> bool:
    """Return whether a backend with these hours takes jobs; without hours it always does."""
    # Hours begin and end with a minute.
    return not hours or _is_open(hours, time_zone, moment.replace(second=0, microsecond=0))


@lru_cache(maxsize=10_000)
def _is_open(hours: str, time_zone: str, minute: dt.datetime) -> bool:
    return next(iter(_opened(hours, time_zone, minute, minute)), None) is not None


def opens_at(hours: str, time_zone: str, moment: dt.datetime) -> dt.datetime | None:
    """Return when a closed backend opens; None: it is open, or never opens."""
    return _opens_at(hours, time_zone, moment.replace(second=0, microsecond=0)) if hours else None


@lru_cache(maxsize=10_000)
def _opens_at(hours: str, time_zone: str, minute: dt.datetime) -> dt.datetime | None:
    until = minute + dt.timedelta(days=_AHEAD)
    begins = next(iter(_opened(hours, time_zone, minute, until)), (minute,))[0]
    return begins if begins > minute else None


def never_opens(hours: str) -> bool:
    return bool(hours) and not _parse(hours)


def closed_times(
    of: Iterable[tuple[str, str]], since: dt.datetime, until: dt.datetime
) -> list[Interval]:
    """Return the times in which no backend of some is open; ``of`` are their hours and zones."""
    opened: list[Interval] = []
    for hours, time_zone in set(of):
        if not hours:
            return []
        opened += _opened(hours, time_zone, since, until)
    closed, begins = [], since
    for opens, closes in sorted(opened):
        if opens > begins:
            closed.append((begins, opens))
        begins = max(begins, closes)
    if begins < until:
        closed.append((begins, until))
    return closed


def local_text(moment: dt.datetime, time_zone: str) -> str:
    """Return a time by the clock of a zone, as ``Mon 19:00 (Europe/Berlin)``."""
    local = moment.astimezone(_zone(time_zone))
    return f"{_DAYS[local.weekday()].capitalize()} {local:%H:%M} ({time_zone or 'UTC'})"


def _opened(
    hours: str, time_zone: str, since: dt.datetime, until: dt.datetime
) -> Iterator[Interval]:
    """Yield the times in which a backend is open that end after ``since`` and begin until
    ``until``, in their order.
    """
    zone, ranges = _zone(time_zone), _parse(hours)
    day = since.astimezone(zone).date() - dt.timedelta(days=1)
    last = until.astimezone(zone).date()
    while day <= last:
        for of_day, begins, ends in ranges:
            if of_day == day.weekday():
                interval = _moment(day, begins, zone, 0), _moment(day, ends, zone, 1)
                if interval[1] > since and interval[0] <= until:
                    yield interval
        day += dt.timedelta(days=1)


def _moment(day: dt.date, minutes: int, zone: ZoneInfo, fold: int) -> dt.datetime:
    """Return when the clock of a zone shows a time; ``fold``: the second time that it does."""
    days, left = divmod(minutes, _DAY)
    clock = dt.time(left // 60, left % 60, tzinfo=zone, fold=fold)
    return dt.datetime.combine(day + dt.timedelta(days=days), clock).astimezone(dt.UTC)


@lru_cache(maxsize=1_000)
def _zone(name: str) -> ZoneInfo:
    return ZoneInfo(name or "UTC")


@lru_cache(maxsize=1_000)
def _parse(hours: str) -> Sequence[_Range]:
    """Return the ranges of a week, in the order of their beginnings; raise ``ValueError`` with a
    sentence.
    """
    ranges = set()
    for part in filter(None, (text.strip() for text in hours.lower().split(";"))):
        days, times = [*range(7)], [(0, _DAY)]
        words = part.replace(", ", ",").split()
        if words[0][0].isalpha():
            days = [day for text in words.pop(0).split(",") for day in _days(text)]
        if words:
            times = [_time(text) for text in words.pop(0).split(",")]
        if words:
            raise ValueError(_problem(part))
        ranges |= {_Range(day, *time) for day in days for time in times if time[0] != time[1]}
    return sorted(ranges)


def _days(text: str) -> list[int]:
    first, dash, last = text.partition("-")
    last = last if dash else first
    if first not in _DAYS or last not in _DAYS:
        raise ValueError(_problem(text))
    begins = _DAYS.index(first)
    return [(begins + at) % 7 for at in range((_DAYS.index(last) - begins) % 7 + 1)]


def _time(text: str) -> tuple[int, int]:
    match = _TIMES.fullmatch(text)
    numbers = [*map(int, match.groups())] if match else [99]
    begins, ends = (60 * numbers[0] + numbers[1], 60 * numbers[2] + numbers[3]) if match else (0, 0)
    is_time = match and max(begins, ends) <= _DAY and max(numbers[1], numbers[3]) < 60
    if not is_time or begins == _DAY:
        raise ValueError(_problem(text))
    return begins, ends if ends >= begins else ends + _DAY


def _problem(part: str) -> str:
    return (
        f"{part[:40]!r} is no part of hours: write days, times, or both, as in mon-fri "
        "19:00-07:00; sat-sun."
    )
