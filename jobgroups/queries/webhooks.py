"""Reads the deliveries of webhooks."""

from typing import Any, Final

from backends.errors import FieldInvalid
from jobgroups.domain.clock import iso, iso_or_none
from jobgroups.models import WebhookDelivery
from jobgroups.queries.groups import Page, paged

#: The states of a delivery, by the null columns ``due_at`` and ``delivered_at``.
STATES: Final[dict[str, dict[str, Any]]] = {
    "pending": {"due_at__isnull": False},
    "delivered": {"due_at": None, "delivered_at__isnull": False},
    "given_up": {"due_at": None, "delivered_at": None},
}


def serialize_delivery(row: WebhookDelivery) -> dict[str, Any]:
    state = "pending" if row.due_at else "delivered" if row.delivered_at else "given_up"
    return {
        "id": row.id,
        "job_group_id": row.group_id,
        "seq": row.seq,
        "type": row.type,
        "url": row.url,
        "webhook_id": row.message_id,
        "state": state,
        "created_at": iso(row.created_at),
        "next_attempt_at": iso_or_none(row.due_at),
        "delivered_at": iso_or_none(row.delivered_at),
        "attempts": row.attempt_count,
        "last_status": row.last_status,
        "last_error": row.last_error or None,
    }


def delivery_list(*, group: str | None, state: str | None, cursor: str | None, limit: int) -> Page:
    """Return up to ``limit`` deliveries, newest first, after ``cursor``; raise ``InvalidRequest`` if no page gave it."""
    rows = WebhookDelivery.objects.filter(**STATES.get(state or "", {}))
    if group:
        rows = rows.filter(group_id=group)
    try:
        return paged(rows, serialize_delivery, cursor=cursor, limit=limit)
    except (ValueError, OverflowError):
        raise FieldInvalid("cursor", "Is not one that this list gave; start without it.") from None
