"""Reads the deliveries of webhooks."""

from typing import Any, Final

from jobgroups.domain.access import Principal
from jobgroups.domain.shapes.webhooks import Delivery
from jobgroups.models import WebhookDelivery
from jobgroups.queries.groups import Page, read_page
from jobgroups.queries.visibility import visible
from jobgroups.serializers import shape

#: The states of a delivery, by the null columns ``due_at`` and ``delivered_at``.
STATES: Final[dict[str, dict[str, Any]]] = {
    "pending": {"due_at__isnull": False},
    "delivered": {"due_at": None, "delivered_at__isnull": False},
    "given_up": {"due_at": None, "delivered_at": None},
}


def serialize_delivery(row: WebhookDelivery) -> dict[str, Any]:
    state = "pending" if row.due_at else "delivered" if row.delivered_at else "given_up"
    return shape(
        Delivery,
        row,
        job_group_id=row.group_id,
        webhook_id=row.message_id,
        state=state,
        next_attempt_at=row.due_at,
        attempts=row.attempt_count,
    )


def delivery_list(
    principal: Principal, *, group: str | None, state: str | None, cursor: str | None, limit: int
) -> Page:
    """Return up to ``limit`` deliveries that a principal sees, newest first, after ``cursor``;
    raise ``InvalidRequest`` if no page gave it.
    """
    own = visible(principal, "group", with_shared=False)  # an address may have a secret
    rows = WebhookDelivery.objects.filter(own, **STATES.get(state or "", {}))
    if group:
        rows = rows.filter(group_id=group)
    return read_page(rows, serialize_delivery, cursor=cursor, limit=limit)
