"""Delivers events to webhooks: signed, each stream in its order, several streams at once."""

import asyncio
import contextlib
import logging
import re
import ssl
from collections.abc import Callable
from typing import Any, Final, ParamSpec, Self, TypeVar
from urllib.parse import quote

from django.conf import settings

from backends.comfyui.destinations import webhook_destinations
from backends.comfyui.errors import BackendError
from backends.comfyui.exchange import Connections, Endpoint, Exchange, Timeouts, map_errors
from jobgroups.database.threads import DatabaseThreads
from jobgroups.domain.clock import now
from jobgroups.domain.deliveries import DeliveryIntervals
from jobgroups.domain.delivery_slots import DeliverySlots
from jobgroups.domain.webhooks import WebhookAnswer, retry_after, signed_headers
from jobgroups.log_context import bind
from jobgroups.services import webhooks
from jobgroups.services.webhooks import ClaimedDelivery

logger = logging.getLogger(__name__)
P = ParamSpec("P")
R = TypeVar("R")

_READ: Final = 2_048  #: Bytes of an answer's body that are read,
_BODY_WITHIN: Final = 1.0  #: and the seconds that this may take.
_UNSAFE: Final = re.compile(r'["<>^`{|}]')  #: Characters that a request's line does not have.


class WebhookClient:
    """Sends messages. Only addresses that the settings allow are connected to, and no redirect is
    followed.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        # A name may have several addresses.
        timeouts = Timeouts(connect_s=timeout / 3, silence_s=timeout)
        self._exchange = Exchange(
            Endpoint("", {}, timeouts, ssl.create_default_context()),
            max_answer_bytes=_READ,
            destinations=webhook_destinations(private=settings.DIRECTOR_WEBHOOK_PRIVATE_ADDRESSES),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._exchange.aclose()

    async def send(self, url: str, message_id: str, body: str) -> WebhookAnswer:
        headers = signed_headers(message_id, body, settings.DIRECTOR_WEBHOOK_SECRETS, now())
        try:
            with map_errors(silence_s=self._timeout, limit_s=self._timeout):
                async with asyncio.timeout(self._timeout):
                    return await self._send(url, headers=headers, content=body.encode())
        except BackendError as error:
            return WebhookAnswer(error=error.detail)

    async def _send(self, url: str, **request: Any) -> WebhookAnswer:
        # A connection whose server may have closed it would cost the delivery a pause.
        request |= {"connections": Connections.RECENT, "checked": False}
        async with self._exchange.open(
            "POST", _UNSAFE.sub(lambda match: quote(match[0]), url), **request
        ) as answer:
            read = b""
            # The status decides: a body that does not come to its end must not have the message
            # sent again.
            with contextlib.suppress(BackendError, TimeoutError):
                async with asyncio.timeout(_BODY_WITHIN):
                    async for chunk in answer.chunks():
                        read += chunk
                        if len(read) > _READ:
                            break
        error = "" if 200 <= answer.status < 300 else f"It was answered with {answer.status}."
        if 300 <= answer.status < 400:
            error = f"It was answered with a redirect ({answer.status}), which is not followed."
        pause = retry_after(answer.headers.get("retry-after", ""), now())
        return WebhookAnswer(answer.status, error, pause, read[:_READ].decode(errors="replace"))


class WebhookSender:
    """Delivers the events that one runner claims. ``database`` has a thread for it."""

    def __init__(self, *, name: str, pace: DeliveryIntervals, database: DatabaseThreads) -> None:
        self._name = name
        self._pace = pace
        self._database = database
        self._one_job = asyncio.Lock()
        self._slots: DeliverySlots
        self._client: WebhookClient
        self._forgot_at = float("-inf")

    async def run(self) -> None:
        """Poll and deliver until cancelled. Errors are logged and stop no job."""
        # After an unexpected error in the runner: a delivery that was cancelled before it began is
        # counted still.
        self._slots = DeliverySlots(self._pace.timeout / 5)
        await self._store(webhooks.claims_release, by=self._name)
        async with WebhookClient(self._pace.timeout) as self._client, asyncio.TaskGroup() as tasks:
            while True:
                try:
                    await self._look(tasks)
                except Exception:
                    logger.exception("Webhooks: unexpected error; polling again")
                await asyncio.sleep(self._pace.poll)

    async def _store(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        async with self._one_job:
            return await self._database.run_with_retry(work, *args, **kwargs)

    async def _look(self, tasks: asyncio.TaskGroup) -> None:
        moment = asyncio.get_running_loop().time()
        if moment - self._forgot_at > self._pace.retry_most and not await self._store(
            webhooks.deliveries_forget_old, self._pace
        ):
            self._forgot_at = moment
        chosen = self._slots.choose(await self._store(webhooks.due_streams))
        if not chosen:
            return
        for delivery in await self._store(
            webhooks.deliveries_claim, chosen, pace=self._pace, by=self._name
        ):
            self._slots.start(delivery.stream[1])
            tasks.create_task(self._deliver(delivery), name=f"webhook {delivery.message_id}")

    async def _deliver(self, delivery: ClaimedDelivery) -> None:
        """Send the deliveries of a stream until one fails, or none is left."""
        group_id, url = delivery.stream
        bind(group=group_id)
        loop = asyncio.get_running_loop()
        following: ClaimedDelivery | None = delivery
        try:
            while following is not None:
                began = loop.time()
                answer = await self._client.send(url, following.message_id, following.body)
                self._slots.note_answer(url, loop.time() - began)
                if answer.error:
                    logger.info(
                        "Webhook of %s: %s not delivered: %s",
                        group_id,
                        following.message_id,
                        answer.error,
                    )
                following = await self._store(
                    webhooks.delivery_settle, following, answer, pace=self._pace, by=self._name
                )
        except Exception:
            logger.exception(
                "Webhooks: unexpected error; the delivery is repeated when its claim has expired"
            )
        finally:
            self._slots.end(url)
