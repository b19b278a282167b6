"""Sums up the usage of days that are over, for ``queries.usage``."""

import datetime as dt
from collections.abc import Collection, Iterator
from typing import Final

from django.db.models import Count, Exists, OuterRef, Q, Sum

from jobgroups.database.retry import retried_transaction
from jobgroups.database.statements import insert
from jobgroups.domain.clock import now
from jobgroups.models import Attempt, GroupLabel, UsageDay, UsageSum
from jobgroups.queries.usage import (
    DAY,
    METADATA,
    RETURNING,
    dimensions,
    midnight,
    sums_of,
    unchanged_days,
)

#: After the end of a day, in which ends by slower clocks are stored.
_SETTLED: Final = dt.timedelta(hours=1)
#: Sums by some dimensions are stored if so many attempts are behind each.
_WORTH: Final = 4
_MOST_ROWS: Final = 5_000  #: Of a day: they are stored in one transaction.


def usage_fill() -> Iterator[bool]:
    """Sum up each day that is over and has other attempts than before, newest first; yield after
    each.
    """
    unchanged = set(unchanged_days().values_list("pk", flat=True))
    days = set()
    end = midnight((now() - _SETTLED).date())
    ended = Attempt.objects.order_by("-ended_at").values_list("ended_at", flat=True)
    while last := ended.filter(ended_at__lt=end).first():
        end = midnight(last.date())
        days.add(str(end.date()))
        if str(end.date()) not in unchanged:
            _sum_up(end)
            yield True
    _remove(days)


def _sum_up(begin: dt.datetime) -> None:
    end = begin + DAY
    within = Q(ended_at__gte=begin, ended_at__lt=end)
    rows = Attempt.objects.filter(within).order_by()
    # Before the sums: if attempts change meanwhile, the sums do not hold.
    totals = rows.aggregate(ids=Sum("pk", default=0), count=Count("pk"))
    day = UsageDay(day=str(begin.date()), begins_at=begin, ends_at=end, id_sum=totals["ids"])
    others = Attempt.objects.filter(child=OuterRef("child"), ended_at__isnull=False).exclude(within)
    returning = (
        rows.filter(Exists(others)).values_list("child_id", flat=True).distinct()[: _MOST_ROWS + 1]
    )
    sums = [UsageSum(day=day, by=RETURNING, by_0=child) for child in returning]
    labels = GroupLabel.objects.filter(group__in=rows.values("child__group"))
    # The usage by a key with a comma cannot be queried, and its name would be that of two
    # dimensions.
    keys = labels.exclude(key__contains=",").values_list("key", flat=True).distinct()
    for label in ([], *([METADATA + key] for key in sorted(keys))):
        for by in ([], ["submitter"], ["backend"], ["submitter", "backend"]):
            names = dimensions([*by, *label])
            most = min(totals["count"] // _WORTH, _MOST_ROWS - len(sums))
            measured = list(sums_of(rows, names)[: most + 1]) if most > 0 else []
            if len(measured) <= most:
                sums += [UsageSum(by=",".join(names), **row) for row in measured]
    _store(day, sums)


@retried_transaction
def _store(day: UsageDay, sums: list[UsageSum]) -> None:
    # Its row is the lock of its sums, of two runners.
    UsageDay.objects.update_or_create(
        day=day.day,
        defaults={"begins_at": day.begins_at, "ends_at": day.ends_at, "id_sum": day.id_sum},
    )
    UsageSum.objects.filter(day=day.day).delete()
    insert(sums)


@retried_transaction
def _remove(days: Collection[str]) -> None:
    """Delete the sums of days of which no attempt is stored any more."""
    UsageDay.objects.exclude(pk__in=days).delete()
