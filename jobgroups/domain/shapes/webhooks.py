"""The shapes of deliveries and tests of webhooks."""

from jobgroups.domain.shapes import Moment, Parsed, record


@record
class Delivery(Parsed):
    """One event of a group on its way to one URL.

    Attributes:
        seq: That of the event.
        type: That of the event.
        webhook_id: By it the receiver drops repeated messages.
        state: ``pending``, ``delivered`` or ``given_up``.
        created_at: When it was stored, or replayed.
        next_attempt_at: When it is sent, at the earliest; those of one group and URL are sent in
            their order.
        last_status: HTTP status of the last answer; None: there was none.
    """

    id: int
    job_group_id: str
    seq: int
    type: str
    url: str
    webhook_id: str
    state: str
    created_at: Moment
    next_attempt_at: Moment | None = None
    delivered_at: Moment | None = None
    attempts: int = 0
    last_status: int | None = None
    last_error: str | None = None


@record
class WebhookTest(Parsed):
    """The result of a test message.

    Attributes:
        status: HTTP status of the answer; None: there was none.
        answer: The beginning of the answer's body.
        error: Why it was not delivered.
    """

    delivered: bool
    status: int | None = None
    answer: str = ""
    error: str | None = None
