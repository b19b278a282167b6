"""Delivers notices: merged into messages, at most one per minute."""

import asyncio
import logging
import time
from collections.abc import Sequence

from jobgroups.database.threads import DatabaseThreads
from jobgroups.domain import notices as noticing
from jobgroups.domain.notices import NoticeIntervals, StoredNotice
from jobgroups.models import Notice
from jobgroups.runner.notices.channels import Service, services_of
from jobgroups.services import notices, outbox

logger = logging.getLogger(__name__)


class Notifier:
    """Delivers the notices of one runner to the services in ``urls``. ``database`` is a thread of
    its own.
    """

    def __init__(
        self, *, urls: Sequence[str], name: str, pace: NoticeIntervals, database: DatabaseThreads
    ) -> None:
        self._services = services_of(urls)
        self._name = name
        self._pace = pace
        self._database = database
        #: Marks of services, and the notices that they accepted after the timeout.
        self._late: list[tuple[str, list[int]]] = []
        self._began_at = float("inf")
        self._posted_at = float("-inf")
        self._forgot_at = float("-inf")

    async def run(self) -> None:
        """Poll and deliver until cancelled. Errors are logged and stop no job."""
        self._began_at = time.monotonic()
        while True:
            try:
                await self._look()
            except Exception:
                logger.exception("Unexpected error in the delivery of notices; polling again")
            await asyncio.sleep(self._pace.poll)

    async def _look(self) -> None:
        store = self._database.run_with_retry
        # Before, a row may still say what was seen when the last runner ended, hours ago.
        if time.monotonic() - self._began_at >= self._pace.settled_after:
            await store(outbox.enqueue_backend_notices, self._pace)
        await store(outbox.enqueue_queue_empty, self._pace)
        while self._late:
            mark, ids = self._late[0]
            await store(outbox.notices_delivered_to, mark=mark, ids=ids)
            del self._late[0]
        moment = asyncio.get_running_loop().time()
        if moment - self._forgot_at > self._pace.empty_every:
            self._forgot_at = moment
            await store(outbox.notices_forget_old, self._pace)
        if moment - self._posted_at < self._pace.min_interval:
            return
        due = await store(outbox.notices_claim, pace=self._pace, by=self._name)
        if due:
            await self._tell(due)
            self._posted_at = asyncio.get_running_loop().time()

    async def _tell(self, due: Sequence[Notice]) -> None:
        store = self._database.run_with_retry
        async with asyncio.TaskGroup() as tasks:
            posts = [
                (
                    service.mark,
                    tasks.create_task(self._post(service, due), name=f"notice {service.name}"),
                )
                for service in self._services
            ]
        failed = {mark: error for mark, post in posts if (error := post.result()) is not None}
        rest = [notice for notice in due if any(mark not in notice.delivered_to for mark in failed)]
        if len(rest) < len(due):
            await store(
                outbox.notices_delivered, [notice.id for notice in due if notice not in rest]
            )
        if rest:
            error = " ".join(failed.values())
            logger.warning("%d notices could not be delivered: %s", len(rest), error)
            await store(outbox.notices_failed, rest, pace=self._pace, error=error)

    async def _post(self, service: Service, due: Sequence[Notice]) -> str | None:
        """Have a service take what it has not taken yet; return None, or what went wrong."""
        missing = [notice for notice in due if service.mark not in notice.delivered_to]
        if not missing:
            return None
        ids = [notice.id for notice in missing]
        stored = [
            StoredNotice(entry.kind, entry.title, entry.body, entry.urgency) for entry in missing
        ]
        message = noticing.merge(stored, notices.link_to("/"))
        error = await service.post(
            message,
            patience=self._pace.timeout,
            late=lambda: self._late.append((service.mark, ids)),
        )
        if error is None and len(self._services) > 1:
            # At once: another service may hang, and after a kill this one must not get the notices
            # again.
            await self._database.run_with_retry(
                outbox.notices_delivered_to, mark=service.mark, ids=ids
            )
        return error
