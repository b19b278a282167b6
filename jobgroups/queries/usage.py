"""Usage by day, submitter, backend and metadata, computed from the stored attempts.

An attempt counts on the day on which it ended. The attempts of a deleted group are deleted too.
``services.usage`` stores the sums of days that are over; they are used while the attempts of their
day are the same.
"""

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from django.conf import settings
from django.db import connection
from django.db.models import (
    BigIntegerField,
    Case,
    Count,
    DateTimeField,
    Exists,
    F,
    FilteredRelation,
    FloatField,
    Func,
    Min,
    OuterRef,
    Q,
    QuerySet,
    Subquery,
    Sum,
    TextField,
    Value,
    When,
)
from django.db.models.functions import Coalesce, Greatest

from jobgroups.domain.access import Principal
from jobgroups.domain.states import AttemptState, StopReason
from jobgroups.models import Attempt, JobGroup, UsageDay, UsageSum
from jobgroups.queries.visibility import visible

#: The beginning of a dimension that is a key of the metadata of groups.
METADATA: Final = "metadata."
DEFAULT_DAYS: Final = dt.timedelta(days=29)  #: From the first to the last of 30 days.
DAY: Final = dt.timedelta(days=1)
MEASURES: Final = ("gpu_seconds", "attempts", "jobs", "failures", "retries")
#: In place of dimensions: the children of a day that have attempts on other days, too.
RETURNING: Final = "child"
# Functions of the database: on SQLite Django's own are in Python, and 20 times slower.
_DAY, _SECONDS, _JOINER = (
    # julianday has a hundredth of a millisecond.
    (
        "substr(%(expressions)s, 1, 10)",
        "ROUND((julianday(%(expressions)s)) * 86400.0, 3)",
        ") - julianday(",
    )
    if settings.DIRECTOR_ON_SQLITE
    else (
        "to_char(%(expressions)s AT TIME ZONE 'UTC', 'YYYY-MM-DD')",
        "EXTRACT(EPOCH FROM (%(expressions)s))",
        " - ",
    )
)


def seconds_executed(end: Any = "ended_at", of: str = "") -> Coalesce:
    """Return for how many seconds an attempt executed; if they are not known, those from its start
    to ``end``. ``of`` is the path to the attempt.
    """
    start = f"{of}started_at"
    seen = Func(end, start, template=_SECONDS, arg_joiner=_JOINER, output_field=FloatField())
    return Coalesce(f"{of}execution_seconds", seen)


def seconds_used() -> Coalesce:
    """Return for how many seconds an attempt has used its backend.

    Of one whose backend was given up, and of one that was lost while it was being stopped, the end
    is noticed when the machine is back or removed: it may have been off for all that time.
    """
    is_unseen = Q(stop_reason=StopReason.GAVE_UP) | Q(state=AttemptState.LOST)
    stopped_at = Greatest("started_at", "stop_requested_at")
    unseen = When(is_unseen & Q(stop_requested_at__isnull=False), then=stopped_at)
    return seconds_executed(Case(unseen, default=F("ended_at"), output_field=DateTimeField()))


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


def usage(
    principal: Principal,
    by: Sequence[str],
    first: dt.date,
    last: dt.date,
    *,
    offset: int,
    limit: int,
) -> Usage:
    """Return the attempts that ended from the first to the last day (UTC), by one or more
    dimensions; of a principal that does not see all, those of its own groups.
    """
    begin, end = midnight(first), midnight(last) + DAY
    names = dimensions(by)
    # The stored sums are those of all accounts.
    days = _days(names, begin, end) if principal.sees_all else []
    if "day" in by:
        # The newest days come first: older ones than the page needs are not read.
        missing = offset + limit
        for number, day in enumerate(days):
            missing -= day.rows
            if missing < 0:
                days, begin = days[: number + 1], day.begins_at
                break
    own = visible(principal, "child__group", with_shared=False)
    others = Attempt.objects.filter(own).filter(_between(begin, end, days)).order_by()
    stored = UsageSum.objects.filter(day__in=[day.pk for day in days])
    columns = [f"by_{number}" for number in range(len(names))]
    sums = stored.filter(by=",".join(names)).values("day_id", *columns, *MEASURES)
    parts = [sums]
    if "day" not in by:
        more = Exists(Attempt.objects.filter(child=OuterRef("child"), number__gt=1))
        returning = (
            stored.filter(by=RETURNING)
            .values("by_0")
            .union(others.filter(more).values("child"), all=True)
        )
        parts.append(_counted_again(returning, first, last, names))
    sql, values = sums_of(others, names).union(*parts, all=True).query.sql_with_params()
    wanted = ", ".join("day_id" if name == "day" else columns[names.index(name)] for name in by)
    newest = "day_id DESC, " if "day" in by else ""
    query = f"""SELECT {wanted}, ROUND(CAST(SUM(gpu_seconds) AS numeric), 3) AS seconds, SUM(attempts), SUM(jobs),
        SUM(failures), SUM(retries) FROM ({sql}) AS parts GROUP BY {wanted}
        ORDER BY {newest}seconds DESC, {wanted} LIMIT %s OFFSET %s"""  # noqa: S608 names of columns
    with connection.cursor() as cursor:
        cursor.execute(query, [*values, limit + 1, offset])
        values_of_rows = cursor.fetchall()
    rows = [dict(zip((*by, *MEASURES), row, strict=True)) for row in values_of_rows]
    for row in rows:
        row |= {
            "gpu_seconds": float(row["gpu_seconds"]),
            **{name: int(row[name]) for name in MEASURES[1:]},
        }
    groups = JobGroup.objects.filter(visible(principal, with_shared=False))
    since = groups.aggregate(since=Min("created_at"))["since"]
    return Usage(rows[:limit], len(rows) > limit, since)


def midnight(day: dt.date) -> dt.datetime:
    return dt.datetime.combine(day, dt.time(), dt.UTC)


def dimensions(by: Iterable[str]) -> list[str]:
    """Return dimensions without the day in the order in which their sums are stored."""
    return sorted({*by} - {"day"})


def unchanged_days() -> QuerySet[UsageDay]:
    """Return the days whose sums hold."""
    ended = Attempt.objects.filter(
        ended_at__gte=OuterRef("begins_at"), ended_at__lt=OuterRef("ends_at")
    )
    return UsageDay.objects.filter(id_sum=_aggregate("COALESCE(SUM(id), 0)", ended))


def sums_of(attempts: QuerySet[Attempt], names: Sequence[str]) -> Any:
    """Return the measures of each day by dimensions; the columns are those of ``UsageSum``."""
    return _group_attempts(attempts, names, DIMENSIONS["day"]).annotate(
        gpu_seconds=Coalesce(Sum(seconds_used()), 0.0),
        attempts=Count("pk"),
        jobs=Count("child", distinct=True),
        failures=Count("pk", filter=~Q(failure_class="")),
        retries=Count("pk", filter=Q(number__gt=1, is_counted=True)),
    )


def _days(names: Sequence[str], begin: dt.datetime, end: dt.datetime) -> list[Any]:
    """Return the days that have sums by some dimensions, with the number of these, newest first."""
    sums = UsageSum.objects.filter(day=OuterRef("pk"), by=",".join(names))
    days = unchanged_days().filter(begins_at__gte=begin, ends_at__lte=end).order_by("-begins_at")
    return list(days.annotate(rows=_aggregate("COUNT(*)", sums)).filter(rows__gt=0))


def _aggregate(function: str, rows: QuerySet[Any]) -> Subquery:
    template = f"(SELECT {function} FROM (%(subquery)s) AS found)"  # noqa: S608 no values
    return Subquery(rows.order_by().values("id"), template=template, output_field=BigIntegerField())


def _between(begin: dt.datetime, end: dt.datetime, days: Iterable[UsageDay]) -> Q:
    """Return the condition of attempts that ended in a time, but not on some days, newest first."""
    condition = Q(pk=0)
    for first, after in [*((day.begins_at, day.ends_at) for day in days), (None, begin)]:
        if after < end:
            condition |= Q(ended_at__gte=after, ended_at__lt=end)
        end = first or end
    return condition


def _group_attempts(attempts: QuerySet[Attempt], names: Sequence[str], day: Any) -> Any:
    rows: Any = attempts
    columns: dict[str, Any] = {}  # The names of dimensions need not be identifiers.
    for number, name in enumerate(names):
        columns[f"by_{number}"] = DIMENSIONS.get(name)
        if name.startswith(METADATA):
            of_key = Q(child__group__labels__key=name.removeprefix(METADATA))
            rows = rows.alias(
                **{f"label_{number}": FilteredRelation("child__group__labels", condition=of_key)}
            )
            columns[f"by_{number}"] = Coalesce(f"label_{number}__value", Value(""))
    return rows.values(day_id=day, **columns)


def _counted_again(
    children: QuerySet[Any], first: dt.date, last: dt.date, names: Sequence[str]
) -> Any:
    """Return what the sum of each day's jobs must be changed by: a job counts once, not on each of
    its days.
    """
    day = DIMENSIONS["day"]
    # By the days, so that SQLite reads the attempts of these children, and not all that ended in
    # this time.
    rows = (
        Attempt.objects.alias(on=day)
        .filter(child__in=children, on__gte=str(first), on__lte=str(last))
        .order_by()
    )
    each = Func(
        "child_id", day, template="%(expressions)s", arg_joiner=" || ", output_field=TextField()
    )
    none = Value(0)
    return _group_attempts(rows, names, Value("")).annotate(
        gpu_seconds=Value(0.0),
        attempts=none,
        jobs=Count("child", distinct=True) - Count(each, distinct=True),
        failures=none,
        retries=none,
    )
