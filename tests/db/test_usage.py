"""Sums of days: the usage is that of the stored attempts, also if they have changed since they were
summed up.
"""

import datetime as dt
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Final

import pytest
from django.db import transaction
from django.db.models import F
from hypothesis import HealthCheck, given, settings, strategies as st

from director.pages.backend_detail import backend_page
from jobgroups.domain.access import EVERYBODY
from jobgroups.domain.clock import now
from jobgroups.domain.states import AttemptState, StopReason
from jobgroups.models import Attempt, ChildJob, GroupLabel, JobGroup, UsageDay, UsageSum
from jobgroups.queries.figures import read_figures
from jobgroups.queries.shares import ended_uses
from jobgroups.queries.usage import DAY, midnight, usage
from jobgroups.services import usage as sums
from jobgroups.services.usage import usage_fill
from tests.harness import factories as make

pytestmark = pytest.mark.django_db

BACKENDS: Final = ("gpu-1", "gpu-2")
BY: Final = (
    "day",
    "submitter",
    "backend",
    "day,backend",
    "backend,submitter",
    "metadata.scene",
    "metadata.scene,day,backend",
    "submitter,metadata.scene,backend",
    "metadata.take,metadata.scene",
)

#: Child, days before today, second of the day, backend, milliseconds or none, failure, whether it
#: is counted.
attempts = st.tuples(
    st.integers(0, 4),
    st.integers(0, 4),
    st.sampled_from([0, 1, 43_200, 86_399]),
    st.sampled_from(BACKENDS),
    st.none() | st.integers(0, 90_000),
    st.sampled_from(["", "", "out_of_memory"]),
    st.booleans(),
)
changes = st.sampled_from(["fill", "delete a group", "end later", "end late", "end again"])


def _groups() -> list[ChildJob]:
    make.farm(2)
    make.submit(
        "gpu-1", "gpu-1", submitter="ann", metadata={"scene": "a", "take": 1, "a,submitter": "b"}
    )
    make.submit("gpu-1", "gpu-2", submitter="bob", metadata={"scene": "b"})
    make.submit("gpu-2", submitter="ann")
    return list(ChildJob.objects.order_by("group__created_at", "position"))


def _attempt(child: ChildJob, *given: Any) -> None:
    days, second, backend, ran, failure, counted = given
    ended = midnight(now().date()) - days * DAY + dt.timedelta(seconds=second)
    began = None if ran is None else ended - dt.timedelta(milliseconds=ran)
    number = child.attempts.count() + 1
    values = {
        "run": 1,
        "epoch": 1,
        "client_id": "c",
        "backend_id": backend,
        "prompt_id": f"{child.pk}-{number}",
    }
    values |= {
        "state": "error" if failure else "success",
        "failure_class": failure,
        "is_counted": counted,
    }
    Attempt.objects.create(
        child=child,
        number=number,
        created_at=began or ended,
        started_at=began,
        ended_at=ended,
        **values,
    )


def _fill() -> int:
    return len(list(usage_fill()))


def _expected(by: Sequence[str], first: dt.date, last: dt.date) -> list[tuple[Any, ...]]:
    """Count the stored attempts one by one."""
    found: dict[tuple[str, ...], list[Attempt]] = defaultdict(list)
    labels = {(one.group_id, f"metadata.{one.key}"): one.value for one in GroupLabel.objects.all()}
    for row in Attempt.objects.exclude(ended_at=None).select_related("child__group"):
        assert row.ended_at is not None
        day, group = row.ended_at.date(), row.child.group
        if first <= day <= last:
            values = {"day": str(day), "submitter": group.submitter, "backend": row.backend_id}
            found[tuple(values.get(name, labels.get((group.pk, name), "")) for name in by)].append(
                row
            )
    return sorted(
        (
            *key,
            round(
                sum(
                    (row.ended_at - row.started_at).total_seconds()
                    for row in rows
                    if row.started_at
                ),
                3,
            ),
            len(rows),
            len({row.child_id for row in rows}),
            sum(row.failure_class != "" for row in rows),
            sum(row.number > 1 and row.is_counted for row in rows),
        )
        for key, rows in found.items()
    )


def _check(by: Sequence[str], first: dt.date, last: dt.date) -> None:
    found = [
        tuple(row.values()) for row in usage(EVERYBODY, by, first, last, offset=0, limit=100).rows
    ]
    assert sorted(found) == _expected(by, first, last)
    order = [(row[by.index("day")] if "day" in by else "", row[len(by)]) for row in found]
    assert order == sorted(order, reverse=True)
    pages = [
        usage(EVERYBODY, by, first, last, offset=offset, limit=2)
        for offset in range(0, len(found) + 1, 2)
    ]
    assert [tuple(row.values()) for page in pages for row in page.rows] == found


def _change(name: str) -> None:
    row = Attempt.objects.order_by("ended_at", "pk").first()
    if name == "fill":
        _fill()
    elif row is not None and name != "none":
        if name == "delete a group":
            JobGroup.objects.filter(pk=row.child.group_id).delete()
        elif name == "end late":  # on a day that was summed up
            _attempt(row.child, 2, 7, "gpu-2", 1_001, "", True)
        else:  # as a prompt that was not found and runs after all
            Attempt.objects.filter(pk=row.pk).update(
                ended_at=now() if name == "end later" else None,
                state="success" if name == "end later" else "running",
            )


@settings(
    max_examples=settings().max_examples // 5,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    stored=st.lists(attempts, max_size=12),
    steps=st.lists(changes, min_size=1, max_size=5),
    by=st.sampled_from(BY).map(lambda text: text.split(",")),
    first=st.integers(0, 5),
    length=st.integers(0, 5),
    most=st.sampled_from([3, 100]),
)
def test_usage_is_that_of_the_attempts_before_and_after_days_are_summed_up(
    monkeypatch: pytest.MonkeyPatch,
    stored: list[Any],
    steps: list[str],
    by: list[str],
    first: int,
    length: int,
    most: int,
) -> None:
    monkeypatch.setattr(sums, "_WORTH", 1)
    monkeypatch.setattr(sums, "_MOST_ROWS", most)
    with transaction.atomic():
        children = _groups()
        for child, *given in stored:
            _attempt(children[child], *given)
        begin = now().date() - first * DAY
        for step in ("none", "fill", *steps):
            _change(step)
            _check(by, begin, begin + length * DAY)
        transaction.set_rollback(True)


def _days(attempts_each: int = 4) -> list[ChildJob]:
    children = _groups()
    for days in (0, 1, 2):
        for number in range(attempts_each):
            _attempt(children[number], days, 43_200, "gpu-1", 1_000, "", True)
    return children


def test_days_that_are_over_are_read_from_their_sums_while_their_attempts_are_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _days()
    # A day is summed up an hour after its end.
    monkeypatch.setattr(sums, "now", lambda: midnight(now().date()) + dt.timedelta(hours=1))
    assert _fill() == 2
    assert _fill() == 0
    UsageSum.objects.update(gpu_seconds=F("gpu_seconds") + 1_000)
    today = now().date()

    def seconds() -> list[float]:
        return [
            row["gpu_seconds"]
            for row in usage(EVERYBODY, ["day"], today - 2 * DAY, today, offset=0, limit=9).rows
        ]

    assert seconds() == [4, 1_004, 1_004]
    Attempt.objects.filter(ended_at__lt=midnight(today - DAY)).first().delete()  # type: ignore[union-attr]
    assert seconds() == [4, 1_004, 3]
    assert _fill() == 1
    # Three attempts are too few for a sum.
    assert seconds() == [4, 1_004, 3]


def test_day_is_summed_up_when_it_is_over_for_an_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    _days()
    midnight_now = midnight(now().date())
    monkeypatch.setattr(sums, "now", lambda: midnight_now + dt.timedelta(minutes=59))
    assert _fill() == 1
    monkeypatch.setattr(sums, "now", lambda: midnight_now + dt.timedelta(minutes=60))
    assert _fill() == 1


def test_no_sum_of_deleted_groups_is_kept() -> None:
    _days()
    _fill()
    assert UsageSum.objects.exists()
    JobGroup.objects.all().delete()
    _fill()
    assert (UsageDay.objects.count(), UsageSum.objects.count()) == (0, 0)


def test_old_pages_of_days_read_no_older_day_than_they_need(django_assert_num_queries: Any) -> None:
    _days()
    _fill()
    today = now().date()
    Attempt.objects.filter(ended_at__lt=midnight(today - DAY)).update(started_at=None)
    UsageSum.objects.filter(day=str(today - 2 * DAY)).delete()
    with django_assert_num_queries(3):
        page = usage(EVERYBODY, ["day"], today - 300 * DAY, today - DAY, offset=0, limit=1)
    assert [row["day"] for row in page.rows] == [str(today - DAY)]
    assert page.has_more


@pytest.mark.parametrize("state", [AttemptState.LOST, AttemptState.SUCCESS])
def test_machine_that_was_gone_uses_no_time_after_it_was_given_up(state: AttemptState) -> None:
    """The end is noticed when the machine is back, or removed."""
    fence = make.online("gpu-1")
    make.submit("gpu-1", submitter="ann")
    claimed = make.begin(fence)
    moment = now()
    stops = {"gave_up": StopReason.GAVE_UP, "cancel": StopReason.CANCEL}

    def seconds(stop: str, began_before: float = 36_000.0) -> tuple[float, float]:
        Attempt.objects.filter(pk=claimed.pk).update(
            state=state,
            started_at=moment - dt.timedelta(seconds=began_before),
            stop_requested_at=moment - dt.timedelta(seconds=35_940),
            stop_reason=stops[stop],
            ended_at=moment,
        )
        [row] = usage(
            EVERYBODY, ["submitter"], moment.date(), moment.date(), offset=0, limit=9
        ).rows
        [(name, used, _)] = ended_uses(moment - DAY, moment)
        assert (name, row["jobs"]) == ("ann", 1)
        return row["gpu_seconds"], used

    assert seconds("gave_up") == pytest.approx((60.0, 60.0))
    # It started although its machine was given up.
    assert seconds("gave_up", began_before=30.0) == (0.0, 0.0)
    cancelled = 60.0 if state is AttemptState.LOST else 36_000.0
    assert seconds("cancel") == pytest.approx((cancelled, cancelled))


@pytest.mark.parametrize("executed", [4.0, 0.0, None, -5.0, 9_000.0])
def test_attempt_whose_end_is_stored_late_counts_with_the_seconds_of_its_execution(
    executed: float | None,
) -> None:
    """Without them, and if the backend's clock was changed, with those that the Director saw."""
    fence = make.online("gpu-1")
    group, claimed = make.running(fence)
    began = now() - dt.timedelta(hours=1)
    Attempt.objects.update(created_at=began, started_at=began)
    group.children.update(started_at=began)
    assert make.finish(claimed, fence, seconds=executed)
    today = now().date()
    [row] = usage(EVERYBODY, ["backend"], today - DAY, today, offset=0, limit=9).rows
    [(_, used, _)] = ended_uses(now() - DAY, now())
    found = (
        row["gpu_seconds"],
        used,
        read_figures()["gpu-1"].seconds_per_job,
        make.only(group).seconds,
        backend_page("gpu-1", EVERYBODY)["attempts"][0].lasted,
    )
    is_known = executed in (4.0, 0.0)
    assert (
        found == (pytest.approx(executed, abs=0) if is_known else pytest.approx(3_600, abs=60),) * 5
    )
