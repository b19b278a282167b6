"""Deliveries to webhooks: stored with their event, claimed by one runner in their order, postponed,
given up, replayed.
"""

import datetime as dt
import json
from functools import partial
from typing import Any

import pytest
from django.db import transaction
from pytest_django import Settings

from jobgroups.domain.clock import now
from jobgroups.domain.deliveries import DeliveryIntervals
from jobgroups.domain.webhooks import ENDS, WebhookAnswer
from jobgroups.errors import DeliveryNotFound
from jobgroups.models import JobEvent, JobGroup, WebhookDelivery
from jobgroups.services import webhooks
from jobgroups.services.cancellation import group_cancel
from jobgroups.services.groups import group_delete
from jobgroups.services.retries import group_retry
from jobgroups.services.webhooks import ClaimedDelivery
from tests.harness import factories
from tests.harness.races import race

pytestmark = pytest.mark.django_db(transaction=True)

PACE = DeliveryIntervals()
URL, OTHER = "https://a.example/hook", "https://b.example/hook"
DELIVERED, FAILED = WebhookAnswer(204), WebhookAnswer(500, "It was answered with 500.")


def submit(url: str = URL, events: Any = ENDS, jobs: int = 1) -> JobGroup:
    """Return a group with a webhook, whose jobs are cancelled: an end of each, and that of the
    group.
    """
    if not factories.Backend.objects.exists():
        factories.backend()
    group = factories.submit(*["gpu-1"] * jobs, webhook={"url": url, "events": list(events)})
    group_cancel(group_id=group.id)
    return group


def claim(by: str = "one") -> list[ClaimedDelivery]:
    return webhooks.deliveries_claim(webhooks.due_streams(), pace=PACE, by=by)


def settle(
    delivery: ClaimedDelivery, answer: WebhookAnswer = DELIVERED, by: str = "one"
) -> ClaimedDelivery | None:
    return webhooks.delivery_settle(delivery, answer, pace=PACE, by=by)


def pass_time(**time: float) -> None:
    for name in ("due_at", "created_at"):
        for row in WebhookDelivery.objects.filter(**{f"{name}__isnull": False}):
            WebhookDelivery.objects.filter(pk=row.pk).update(
                **{name: getattr(row, name) - dt.timedelta(**time)}
            )


def seq_of(delivery: ClaimedDelivery) -> int:
    return int(json.loads(delivery.body)["data"]["seq"])


def rows() -> list[tuple[str, str]]:
    return list(WebhookDelivery.objects.order_by("id").values_list("url", "type"))


def test_deliveries_are_stored_with_their_events(settings: Settings) -> None:
    factories.backend()
    group_cancel(group_id=factories.submit().id)
    assert rows() == []
    submit()
    assert rows() == [(URL, "child_cancelled"), (URL, "group_complete")]
    settings.DIRECTOR_WEBHOOK_URLS, settings.DIRECTOR_WEBHOOK_EVENTS = (
        [URL, OTHER],
        ["group_created"],
    )
    WebhookDelivery.objects.all().delete()
    submit()
    assert rows() == [
        (URL, "group_created"),
        (OTHER, "group_created"),
        (URL, "child_cancelled"),
        (URL, "group_complete"),
    ]
    assert WebhookDelivery.objects.values("message_id").distinct().count() == 4
    with pytest.raises(RuntimeError), transaction.atomic():
        submit()
        raise RuntimeError("the power is gone")
    assert len(rows()) == 4


def test_failed_delivery_holds_back_the_later_ones_of_its_group_and_url_alone() -> None:
    submit(jobs=2)
    (first,) = claim()
    assert claim() == []
    assert settle(first, FAILED) is None
    submit(OTHER)
    other, _ = claim()[0], submit()
    assert [one.stream[1] for one in claim()] == [URL]
    following = settle(other)
    assert following is not None
    assert (seq_of(following), settle(following)) == (seq_of(other) + 1, None)
    pass_time(seconds=5)
    assert [seq_of(one) for one in claim()] == [seq_of(first)]


def test_pause_doubles_and_respects_retry_after_within_bounds() -> None:
    submit()
    pauses = []
    for wanted in (0, 0, 7, 600, 10**6):
        (delivery,) = claim()
        settle(delivery, WebhookAnswer(503, "It was answered with 503.", float(wanted)))
        row = WebhookDelivery.objects.get(pk=delivery.id)
        assert row.due_at is not None
        pauses.append(round((row.due_at - now()).total_seconds()))
        assert (row.last_status, row.last_error) == (503, "It was answered with 503.")
        WebhookDelivery.objects.update(due_at=now())
    assert pauses == [5, 10, 20, 600, 3600]


def test_deliveries_are_given_up_after_a_day_and_all_of_the_group_after_410() -> None:
    submit(jobs=2)
    pass_time(hours=25)
    (first,) = claim()
    settle(first, FAILED)
    lost = WebhookDelivery.objects.filter(due_at=None, delivered_at=None)
    assert set(lost.values_list("last_error", flat=True)) == {"Given up: It was answered with 500."}
    assert (lost.count(), claim()) == (3, [])
    group = submit()
    submit()
    here, there = claim()
    settle(here, WebhookAnswer(410, "It was answered with 410."))
    assert settle(there) is not None
    group_retry(group_id=group.id)
    group_cancel(group_id=group.id)
    assert claim() == []
    late = WebhookDelivery.objects.filter(group=group).latest("id")
    assert "answered 410 to an earlier event" in late.last_error
    webhooks.delivery_replay(delivery_id=late.pk)
    assert [one.message_id for one in claim()] == [late.message_id]


def test_claim_expires_and_the_late_result_of_its_runner_is_ignored() -> None:
    submit()
    (lost,) = claim("one")
    assert claim("two") == []
    pass_time(seconds=61)
    (taken,) = claim("two")
    assert (taken.message_id, taken.attempt_count) == (lost.message_id, 2)
    assert settle(lost, by="one") is None
    assert settle(taken, by="two") is not None
    webhooks.claims_release(by="two")
    assert len(claim("three")) == 1


def test_concurrent_runners_claim_each_stream_once() -> None:
    for _ in range(3):
        submit(jobs=2)
        submit(OTHER)
    found = race(*(partial(claim, f"runner-{number}") for number in range(4)))
    streams = [one.stream for some in found for one in some]
    assert (len(streams), len(set(streams))) == (6, 6)


def test_replay_sends_again_what_was_delivered_or_given_up() -> None:
    submit()
    (first,) = claim()
    assert settle(first) is not None
    row = webhooks.delivery_replay(delivery_id=first.id)
    assert (row.delivered_at, row.attempt_count, row.due_at is not None) == (None, 0, True)
    pass_time(seconds=61)
    assert [one.message_id for one in claim()] == [first.message_id]
    with pytest.raises(DeliveryNotFound):
        webhooks.delivery_replay(delivery_id=10**15)


def test_deliveries_go_with_their_group_and_after_thirty_days() -> None:
    group, kept = submit(), submit(OTHER)
    group_delete(group_id=group.id)
    assert {url for url, _ in rows()} == {OTHER}
    pass_time(days=31)
    assert not webhooks.deliveries_forget_old(PACE)
    assert rows() == []
    # The previous release deletes groups without these rows.
    submit()
    JobEvent.objects.exclude(group=kept).delete()
    assert (claim(), rows()) == ([], [])
