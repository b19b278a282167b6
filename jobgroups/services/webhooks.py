"""The outbox of webhooks: deliveries are claimed, settled, postponed, given up and replayed.

``events.log`` stores them. A *stream* is the pending deliveries of one group to one URL, of which
only the first is sent. Those behind it are due no earlier than it, so that a target that is away
costs a query of due rows nothing.
"""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from django.db.models import Min, QuerySet

from jobgroups.database.retry import retried_transaction, retry_on_conflict
from jobgroups.database.statements import KEY, PreparedValues
from jobgroups.domain.audit import Action
from jobgroups.domain.clock import iso, now
from jobgroups.domain.deliveries import DeliveryIntervals
from jobgroups.domain.delivery_slots import Stream
from jobgroups.domain.webhooks import GONE, WebhookAnswer, message_body
from jobgroups.errors import DeliveryNotFound
from jobgroups.models import JobEvent, WebhookDelivery
from jobgroups.services.audit import record

_DELETED_AT_ONCE: Final = 1_000


@dataclass(frozen=True, slots=True)
class ClaimedDelivery:
    """The first delivery of a stream, which this runner sends."""

    id: int
    stream: Stream
    message_id: str
    body: str
    attempt_count: int  #: With this attempt.


def due_streams() -> list[Stream]:
    """Return the streams whose first delivery is due, oldest first."""
    return [(group_id, url) for group_id, url, _ in _due_streams(now())]


_due_streams: Final = PreparedValues(
    lambda: (
        WebhookDelivery.objects.filter(due_at__lte=KEY)
        .order_by()
        .values_list("group_id", "url")
        .annotate(first=Min("id"))
        .order_by("first")
    )
)


@retried_transaction
def deliveries_claim(
    streams: Sequence[Stream], *, pace: DeliveryIntervals, by: str
) -> list[ClaimedDelivery]:
    """Claim the first delivery of each stream for the runner ``by``, if it is due still."""
    claimed = []
    for stream in streams:
        if _of(stream).filter(last_status=GONE).exists():
            _give_up(
                _pending(stream), f"the webhook answered {GONE} to an earlier event of the group"
            )
        elif first := _claim_first(stream, pace, by):
            claimed.append(first)
    return claimed


def _of(stream: Stream) -> QuerySet[WebhookDelivery]:
    group_id, url = stream
    return WebhookDelivery.objects.filter(group_id=group_id, url=url)


def _pending(stream: Stream) -> QuerySet[WebhookDelivery]:
    return _of(stream).filter(due_at__isnull=False)


def _claim_first(
    stream: Stream, pace: DeliveryIntervals, by: str, *, follows: bool = False
) -> ClaimedDelivery | None:
    """Claim the first delivery of a stream if it is due, or if it ``follows`` one that was just
    delivered.
    """
    moment = now()
    first = _pending(stream).select_for_update().order_by("id").first()
    if first is None or first.due_at is None:
        return None
    if first.due_at > moment and (first.claimed_by or not follows):
        _pending(stream).filter(due_at__lt=first.due_at).update(due_at=first.due_at)
        return None
    event = JobEvent.objects.filter(group_id=first.group_id, seq=first.seq).first()
    if event is None:
        # The previous release deleted the group.
        _pending(stream).delete()
        return None
    count = first.attempt_count + 1
    until = moment + dt.timedelta(seconds=pace.claim)
    WebhookDelivery.objects.filter(pk=first.pk).update(
        due_at=until, attempt_count=count, claimed_by=by
    )
    body = message_body(event.type, iso(event.created_at), first.group_id, event.frame)
    return ClaimedDelivery(first.pk, stream, first.message_id, body, count)


@retried_transaction
def delivery_settle(
    delivery: ClaimedDelivery, answer: WebhookAnswer, *, pace: DeliveryIntervals, by: str
) -> ClaimedDelivery | None:
    """Store the result of an attempt; return the next delivery of the stream, claimed, after a
    success.

    After a failure the whole stream waits. Nothing is stored if another runner has claimed the
    delivery since.
    """
    moment = now()
    row = WebhookDelivery.objects.filter(
        pk=delivery.id, claimed_by=by, attempt_count=delivery.attempt_count
    )
    seen = {"claimed_by": "", "last_status": answer.status, "last_error": answer.error[:500]}
    if not answer.error:
        is_ours = row.update(**seen, due_at=None, delivered_at=moment)
        return _claim_first(delivery.stream, pace, by, follows=True) if is_ours else None
    pause = max(pace.pause_after(delivery.attempt_count), min(answer.retry_after, pace.retry_most))
    again = moment + dt.timedelta(seconds=pause)
    if row.update(**seen, due_at=again):
        pending = _pending(delivery.stream)
        oldest = moment - dt.timedelta(seconds=pace.give_up)
        _give_up(
            pending if answer.status == GONE else pending.filter(created_at__lte=oldest),
            answer.error,
        )
        pending.update(due_at=again)
    return None


def _give_up(deliveries: QuerySet[WebhookDelivery], error: str) -> None:
    deliveries.update(due_at=None, claimed_by="", last_error=f"Given up: {error}"[:500])


@retry_on_conflict
def claims_release(*, by: str) -> None:
    """Release what an earlier process of this runner has claimed: it has ended, since its name is
    taken.
    """
    WebhookDelivery.objects.filter(due_at__isnull=False, claimed_by=by).update(
        claimed_by="", due_at=now()
    )


@retry_on_conflict
def deliveries_forget_old(pace: DeliveryIntervals) -> bool:
    """Delete old deliveries; return whether there may be more of them."""
    old = WebhookDelivery.objects.filter(
        created_at__lt=now() - dt.timedelta(seconds=pace.retention)
    )
    some = list(old.order_by("created_at").values_list("pk", flat=True)[:_DELETED_AT_ONCE])
    WebhookDelivery.objects.filter(pk__in=some).delete()
    return len(some) == _DELETED_AT_ONCE


@retried_transaction
def delivery_replay(*, delivery_id: int) -> WebhookDelivery:
    """Send a delivery again, and what waits behind it; return it. One that is pending is due now.

    It keeps its ``webhook-id``, and is tried for a day as a new one is. Raises
    ``DeliveryNotFound``.
    """
    moment = now()
    row = WebhookDelivery.objects.select_for_update().filter(pk=delivery_id).first()
    if row is None:
        raise DeliveryNotFound(delivery_id)
    if row.due_at is None:
        row.due_at = row.created_at = moment
        row.delivered_at = row.last_status = None
        row.attempt_count, row.last_error = 0, ""
        row.save()
    stream = (row.group_id, row.url)
    _of(stream).filter(last_status=GONE).update(last_status=None)
    _pending(stream).filter(claimed_by="").update(due_at=moment)
    record(Action.DELIVERY_REPLAYED, row.group_id, delivery=delivery_id)
    row.refresh_from_db()
    return row
