"""Notices: stored with their cause, claimed by one runner, delivered, delayed, given up."""

import datetime as dt
import re
from functools import partial
from typing import Any

import pytest
from django.db import transaction
from pytest_django import Settings

from backends.models import Backend, Reachability
from jobgroups.domain.clock import now
from jobgroups.domain.notices import NoticeIntervals, NoticeKind
from jobgroups.domain.states import AttemptState
from jobgroups.models import JobEvent, JobGroup, Notice
from jobgroups.services import cancellation, outbox
from jobgroups.services.retries import group_retry
from tests.harness import factories
from tests.harness.races import race

pytestmark = pytest.mark.django_db(transaction=True)

PACE = NoticeIntervals()


@pytest.fixture(autouse=True)
def notify(settings: Settings) -> None:
    settings.DIRECTOR_NOTIFY = ["json://nowhere.invalid/"]
    settings.DIRECTOR_PUBLIC_URL = "http://farm.example"


@pytest.fixture
def group() -> JobGroup:
    factories.backend()
    return factories.submit("gpu-1", "gpu-1", metadata={"name": "shot_001"})


def run(group: JobGroup, *ends: AttemptState) -> None:
    fence = factories.lease()
    for state in ends:
        factories.finish(factories.begin(fence), fence, state)


def bodies() -> list[str]:
    return list(Notice.objects.order_by("id").values_list("body", flat=True))


def test_end_of_a_group_is_notified_once_with_its_link(group: JobGroup) -> None:
    run(group, AttemptState.SUCCESS)
    assert bodies() == []
    run(group, AttemptState.SUCCESS)
    one = Notice.objects.get()
    assert (one.kind, one.title) == (NoticeKind.GROUP_ENDED, "shot_001: all 2 done")
    link = f"http://farm.example/groups/{group.id}"
    assert re.fullmatch(rf"shot_001: all 2 done, took \d+ s\n{link}", one.body)
    assert one.next_attempt_at is not None
    assert one.sent_at is None


@pytest.mark.parametrize(
    ("last", "text"),
    [
        ("error", "1 of 2 done, 1 failed (node error on gpu-1), took "),
        (None, "cancelled, 1 of 2 done, took "),
    ],
)
def test_notice_of_a_group_names_failures_and_cancel(
    group: JobGroup, last: str | None, text: str
) -> None:
    run(group, AttemptState.SUCCESS)
    if last:
        run(group, AttemptState(last))
    else:
        cancellation.group_cancel(group_id=group.id)
    (body,) = bodies()
    assert body.startswith(f"shot_001: {text}")


def test_retried_group_is_notified_again_with_the_duration_of_that_run(group: JobGroup) -> None:
    run(group, AttemptState.SUCCESS, AttemptState.ERROR)
    JobGroup.objects.update(created_at=now() - dt.timedelta(days=2))
    group_retry(group_id=group.id)
    JobEvent.objects.filter(run=2).update(created_at=now() - dt.timedelta(minutes=5))
    run(group, AttemptState.SUCCESS)
    assert bodies()[1].startswith("shot_001: all 2 done, took 5 min\n")


@pytest.mark.usefixtures("no_backoff")
def test_notice_of_a_group_names_jobs_that_were_retried(group: JobGroup) -> None:
    JobGroup.objects.update(max_attempts=2)
    run(group, AttemptState.ERROR, AttemptState.SUCCESS, AttemptState.SUCCESS)
    assert bodies()[0].startswith("shot_001: all 2 done (1 on a later try), took ")


@pytest.mark.parametrize("urls", [[], ["json://nowhere.invalid/"]])
def test_no_notice_is_stored_without_a_service_or_for_other_kinds(
    group: JobGroup, settings: Settings, urls: list[str]
) -> None:
    settings.DIRECTOR_NOTIFY = urls
    settings.DIRECTOR_NOTIFY_ON = ["group_ended"] if not urls else ["queue_empty"]
    run(group, AttemptState.SUCCESS, AttemptState.SUCCESS)
    assert bodies() == []


def test_no_notice_is_stored_when_the_transaction_fails(group: JobGroup) -> None:
    with pytest.raises(RuntimeError), transaction.atomic():
        cancellation.group_cancel(group_id=group.id)
        assert Notice.objects.count() == 1
        raise RuntimeError("the power is gone")
    assert bodies() == []


def away(seconds: float) -> None:
    since = now() - dt.timedelta(seconds=seconds)
    Backend.objects.update(
        reachability=Reachability.OFFLINE, unreachable_since=since, status_reason="refused"
    )


def test_absent_backend_with_waiting_jobs_is_notified_once_each_time(group: JobGroup) -> None:
    away(59)
    factories.backend("gpu-2")
    Backend.objects.filter(pk="gpu-2").update(
        reachability="offline", unreachable_since=now() - dt.timedelta(hours=1)
    )
    assert outbox.enqueue_backend_notices(PACE) == 0
    away(61)
    assert [outbox.enqueue_backend_notices(PACE) for _ in range(3)] == [1, 0, 0]
    assert bodies() == [
        "gpu-1 has not answered for 1 min (refused); 2 jobs wait for "
        "it.\nhttp://farm.example/backends"
    ]
    # It came back and is away again.
    Notice.objects.update(created_at=now() - dt.timedelta(hours=1))
    away(120)
    assert outbox.enqueue_backend_notices(PACE) == 1


@pytest.mark.parametrize(
    ("until", "then"),
    [
        (None, "It gets no"),
        (
            dt.datetime(2026, 2, 1, 21, 14, tzinfo=dt.UTC),
            "It gets no jobs until 2026-02-01 21:14 UTC. If it answers then, it gets one at a time until one succeeds.\n",
        ),
    ],
)
def test_quarantined_backend_is_notified_with_reason_and_end(
    group: JobGroup, until: dt.datetime | None, then: str
) -> None:
    Backend.objects.update(
        name="Render 1", quarantined_at=now(), quarantine_reason="It hung.", quarantine_until=until
    )
    assert [outbox.enqueue_backend_notices(PACE) for _ in range(2)] == [1, 0]
    assert Notice.objects.get().title == "Render 1 is quarantined"
    assert bodies()[0].startswith(f"Render 1 is quarantined: It hung. {then}")


def test_unfit_backend_is_not_notified_as_silent(group: JobGroup) -> None:
    away(120)
    Backend.objects.update(last_seen_at=now(), status_reason="nothing runs; restart it")
    assert [outbox.enqueue_backend_notices(PACE) for _ in range(2)] == [1, 0]
    assert Notice.objects.get().title == "gpu-1 takes no jobs"
    assert bodies()[0].startswith(
        "gpu-1 answers but has taken no jobs for 2 min (nothing runs; restart it); 2 jobs wait"
    )


def test_notified_backends_are_not_notified_again_and_take_no_lock(
    django_assert_num_queries: Any,
) -> None:
    for number in range(20):
        # Each is notified, although they share a name.
        factories.backend(f"gpu-{number}", name="Render 2", quarantined_at=now())
    assert outbox.enqueue_backend_notices(PACE) == 20
    # One for the backends in trouble, one for the names, and one for each of them: a lock would be
    # another.
    with django_assert_num_queries(22):
        assert outbox.enqueue_backend_notices(PACE) == 0


def older(seconds: float) -> None:
    moment = now() - dt.timedelta(seconds=seconds)
    JobEvent.objects.update(created_at=moment)
    Notice.objects.update(created_at=moment)


def test_empty_queue_is_notified_once_after_30_s(group: JobGroup) -> None:
    assert not outbox.enqueue_queue_empty(PACE)
    run(group, AttemptState.SUCCESS, AttemptState.SUCCESS)
    assert not outbox.enqueue_queue_empty(PACE)
    older(3_700)
    assert not outbox.enqueue_queue_empty(PACE), "it ended too long ago"
    older(31)
    assert [outbox.enqueue_queue_empty(PACE) for _ in range(3)] == [True, False, False]
    assert bodies()[-1] == (
        "Nothing waits or runs any more. The last group was shot_001.\nhttp://farm.example/"
    )


def test_queue_is_not_empty_while_a_group_is_open(group: JobGroup) -> None:
    run(group, AttemptState.SUCCESS, AttemptState.SUCCESS)
    other = factories.submit("gpu-1")
    JobEvent.objects.filter(group=other).delete()
    older(31)
    assert not outbox.enqueue_queue_empty(PACE)
    cancellation.group_cancel(group_id=other.id)
    older(31)
    assert outbox.enqueue_queue_empty(PACE)


def test_empty_queue_is_notified_at_most_every_half_hour(group: JobGroup) -> None:
    run(group, AttemptState.SUCCESS, AttemptState.SUCCESS)
    older(31)
    assert outbox.enqueue_queue_empty(PACE)
    cancellation.group_cancel(group_id=factories.submit("gpu-1").id)
    JobEvent.objects.update(created_at=now() - dt.timedelta(seconds=31))
    Notice.objects.update(created_at=now() - dt.timedelta(seconds=1_790))
    assert not outbox.enqueue_queue_empty(PACE)
    Notice.objects.update(created_at=now() - dt.timedelta(seconds=1_810))
    assert outbox.enqueue_queue_empty(PACE)


def notice(**fields: Any) -> Notice:
    moment = now()
    given = {"kind": "group_ended", "title": "a: done", "body": "a: done, took 1 s"}
    return Notice.objects.create(
        **{**given, "created_at": moment, "next_attempt_at": moment, **fields}
    )


def claim(by: str = "one") -> list[Notice]:
    return outbox.notices_claim(pace=PACE, by=by)


def test_notice_is_delivered_by_one_runner() -> None:
    notice()
    assert len(claim("one")) == 1
    notice()
    assert claim("two") == []
    # The first runner ended before it was delivered.
    Notice.objects.exclude(attempt_count=0).update(next_attempt_at=now())
    assert len(claim("two")) == 2


def test_concurrent_runners_claim_each_notice_once() -> None:
    for _ in range(5):
        notice()
    found = race(*(partial(claim, f"runner-{number}") for number in range(4)))
    assert sorted(len(one) for one in found) == [0, 0, 0, 5]


def test_messages_are_a_minute_apart() -> None:
    outbox.notices_delivered([one.id for one in [notice(), *claim()][1:]])
    notice()
    assert claim() == []
    Notice.objects.exclude(sent_at=None).update(sent_at=now() - dt.timedelta(seconds=61))
    assert len(claim()) == 1


def test_failed_notice_is_delayed_longer_each_time_and_sent_after_the_next_success() -> None:
    one = notice()
    pauses = []
    for _ in range(3):
        outbox.notices_failed(claim(), pace=PACE, error="entry 1 (json) did not take it: refused")
        one.refresh_from_db()
        assert one.next_attempt_at is not None
        pauses.append(round((one.next_attempt_at - now()).total_seconds(), -1))
        assert one.last_error == "entry 1 (json) did not take it: refused"
        Notice.objects.update(next_attempt_at=now())
    assert pauses == [60, 120, 240]
    outbox.notices_failed(claim(), pace=PACE, error="refused")
    other = notice()
    (due,) = claim()
    assert due.id == other.id
    outbox.notices_delivered([due.id])
    one.refresh_from_db()
    assert one.next_attempt_at is not None
    assert one.next_attempt_at <= now()


def test_notice_is_given_up_after_a_day_with_its_error() -> None:
    one = notice(created_at=now() - dt.timedelta(hours=25))
    assert outbox.notices_failed(claim(), pace=PACE, error="refused") == [one.id]
    one.refresh_from_db()
    assert (one.next_attempt_at, one.sent_at, one.last_error) == (None, None, "Given up: refused")
    assert claim() == []


def test_old_notices_are_deleted() -> None:
    notice(created_at=now() - dt.timedelta(days=31), next_attempt_at=None)
    kept = notice()
    assert outbox.notices_forget_old(PACE) == 1
    assert list(Notice.objects.all()) == [kept]
