"""Webhooks: the deliveries of events, and test messages."""

from collections.abc import AsyncGenerator
from functools import partial

from director.client import calls
from director.client.calls import Endpoints
from director.client.decode import parser
from director.client.methods import AsyncClient, BlockingClient, method
from director.client.requests import get, post
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
        next_attempt_at: When it is sent, at the earliest; those of one group and URL are sent in their order.
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


class _Webhooks(Endpoints):
    """The methods of both clients; ``webhooks`` of a client."""

    @method
    def list(self, *, group: str | None = None, state: str | None = None) -> AsyncGenerator[Delivery]:
        """Iterate over the deliveries, newest first: all, or those of a group or in a state."""
        filters = {name: value for name, value in (("group", group), ("state", state)) if value is not None}
        request = partial(get, "webhooks", "deliveries", **filters)
        return calls.pages(self._wire, request, parser(Delivery))

    @method
    async def replay(self, delivery_id: int) -> Delivery:
        """Send a delivery again, also one that was delivered or given up, with the same ``webhook_id``."""
        return await self._read(Delivery, post("webhooks", "deliveries", str(delivery_id), "replay"))

    @method
    async def test(self, url: str) -> WebhookTest:
        """Have the Director send a signed test message to a URL, and return what the target answered."""
        return await self._read(WebhookTest, post("webhooks", "test", url=url))


class Webhooks(_Webhooks, BlockingClient):
    """The webhooks of a ``Director``."""


class AsyncWebhooks(_Webhooks, AsyncClient):
    """The webhooks of an ``AsyncDirector``."""
