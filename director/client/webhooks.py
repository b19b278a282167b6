"""Webhooks: the deliveries of events, and test messages."""

from collections.abc import AsyncGenerator
from functools import partial

from director.client import calls
from director.client.calls import Endpoints
from director.client.decode import parser
from director.client.methods import AsyncClient, BlockingClient, method
from director.client.requests import get, post
from jobgroups.domain.shapes.webhooks import Delivery, WebhookTest


class _Webhooks(Endpoints):
    """The methods of both clients; ``webhooks`` of a client."""

    @method
    def list(
        self, *, group: str | None = None, state: str | None = None
    ) -> AsyncGenerator[Delivery]:
        """Iterate over the deliveries, newest first: all, or those of a group or in a state."""
        request = partial(get, "webhooks", "deliveries", group=group, state=state)
        return calls.pages(self._wire, request, parser(Delivery))

    @method
    async def replay(self, delivery_id: int) -> Delivery:
        """Send a delivery again, also one that was delivered or given up, with the same
        ``webhook_id``.
        """
        return await self._read(
            Delivery, post("webhooks", "deliveries", str(delivery_id), "replay")
        )

    @method
    async def test(self, url: str) -> WebhookTest:
        """Have the Director send a signed test message to a URL, and return what the target
        answered.
        """
        return await self._read(WebhookTest, post("webhooks", "test", url=url))


class Webhooks(_Webhooks, BlockingClient):
    """The webhooks of a ``Director``."""


class AsyncWebhooks(_Webhooks, AsyncClient):
    """The webhooks of an ``AsyncDirector``."""
