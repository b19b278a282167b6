"""Usage by day, submitter, backend and metadata, computed from the stored attempts.

An attempt counts on the day on which it ended. The attempts of a deleted group are deleted too.
"""

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from django.conf import settings
from django.db.models import Count, F, FilteredRelation, FloatField, Func, Max, Min, Q, Sum, TextField, Value
from django.db.models.functions import Coalesce, Round

from jobgroups.models import Attempt, JobGroup

METADATA: Final = "metadata."  #: The beginning of a dimension that is a key of the metadata of groups.
DEFAULT_DAYS: Final = dt.timedelta(days=29)  #: From the first to the last of 30 days.
MEASURES: Final = ("gpu_seconds", "attempts", "jobs", "failures", "retries")
#: The longest time from the claim of an attempt to its end that is found, and the most by which two clocks differ.
_LONGEST: Final = dt.timedelta(days=30)
_SKEW: Final = dt.timedelta(hours=1)
# Functions of the database: on SQLite Django's own are in Python, and 20 times slower.
_DAY, _SECONDS, _JOINER = (
    # julianday has a hundredth of a millisecond.
    ("substr(%(expressions)s, 1, 10)", "ROUND((julianday(%(expressions)s)) * 86400.0, 3)", ") - julianday(")
    if settings.DIRECTOR_ON_SQLITE
    else ("to_char(%(expressions)s AT TIME ZONE 'UTC', 'YYYY-MM-DD')", "EXTRACT(EPOCH FROM (%(expressions)s))", " - ")
)
_ran: Final = Func("ended_at", "started_at", template=_SECONDS, arg_joiner=_JOINER, output_field=FloatField())
#: The dimensions beside ``METADATA``.
DIMENSIONS: Final[Mapping[str, Any]] = {
    "day": Func("ended_at", template=_DAY, output_field=TextField()),
    "submitter": F("child__group__submitter"),
    "backend": F("backend_id"),
}


@dataclass(frozen=True, slots=True)
class Usage:
    """A page of rows: the newest day first if there are days, then the most GPU seconds."""

    rows: list[dict[str, Any]]  #: Each with the dimensions and ``MEASURES`` by name.
    has_more: bool
    since: dt.datetime | None  #: The creation of the oldest stored group; None: there is no group.


def usage(by: Sequence[str], first: dt.date, last: dt.date, *, offset: int, limit: int) -> Usage:
    """Return the attempts that ended from the first to the last day (UTC), by one or more dimensions."""
    begin, end = (dt.datetime.combine(day, dt.time(), dt.UTC) for day in (first, last + dt.timedelta(days=1)))
    claimed = Q(pk__gte=_first_id(begin - _LONGEST), pk__lt=_first_id(end + _SKEW))
    rows: Any = Attempt.objects.order_by().filter(claimed, ended_at__gte=begin, ended_at__lt=end)
    columns: dict[str, Any] = {}  # The names of dimensions need not be identifiers.
    for number, name in enumerate(by):
        columns[f"by_{number}"] = DIMENSIONS.get(name)
        if name.startswith(METADATA):
            of_key = Q(child__group__labels__key=name.removeprefix(METADATA))
            label = {f"label_{number}": FilteredRelation("child__group__labels", condition=of_key)}
            rows = rows.alias(**label)
            columns[f"by_{number}"] = Coalesce(f"label_{number}__value", Value(""))
    newest = [f"-by_{by.index('day')}"] if "day" in by else []
    found = (
        rows.values(**columns)
        .annotate(
            gpu_seconds=Coalesce(Round(Sum(_ran), 3), 0.0),
            attempts=Count("pk"),
            jobs=Count("child", distinct=True),
            failures=Count("pk", filter=~Q(failure_class="")),
            retries=Count("pk", filter=Q(number__gt=1, is_counted=True)),
        )
        .order_by(*newest, "-gpu_seconds", *columns)[offset : offset + limit + 1]
    )
    rows = [
        {name: row[column] for column, name in zip((*columns, *MEASURES), (*by, *MEASURES), strict=True)}
        for row in found
    ]
    since = JobGroup.objects.aggregate(since=Min("created_at"))["since"]
    return Usage(rows[:limit], len(rows) > limit, since)


def _first_id(moment: dt.datetime) -> int:
    """Return the id from which on attempts were claimed at a time or later.

    Ids increase with the times of claims, which have no index.
    """
    low, high = 1, 1 + (Attempt.objects.aggregate(last=Max("pk"))["last"] or 0)
    while low < high:
        middle = (low + high) // 2
        row = Attempt.objects.order_by("pk").filter(pk__gte=middle).values_list("pk", "created_at").first()
        if row is None or row[1] >= moment:
            high = middle
        else:
            low = row[0] + 1
    return low
