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
    """Delivers the notices of one runner to the services in ``urls``. ``database`` is a thread of its own."""

    def __init__(self, *, urls: Sequence[str], name: str, pace: NoticeIntervals, database: DatabaseThreads) -> None:
        self._services = services_of(urls)
        self._name = name
        self._pace = pace
        self._database = database
        #: Marks of services, and the notices that they accepted after the timeout.
        self._late: list[tuple[str, list[int]]] = []
        self._began_at = time.monotonic()
        self._posted_at = float("-inf")
        self._forgot_at = float("-inf")

    async def run(self) -> None:
        """Poll and deliver until cancelled. Errors are logged and stop no job."""
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
        wrong: list[str] = []
        taken = {
            service: {notice.id for notice in due if service.mark in notice.delivered_to} for service in self._services
        }
        async with asyncio.TaskGroup() as tasks:
            for service in self._services:
                tasks.create_task(self._post(service, due, taken[service], wrong), name=f"notice {service.name}")
        stored = [notice for notice in due if all(notice.id in ids for ids in taken.values())]
        rest = [notice for notice in due if notice not in stored]
        if stored:
            await self._database.run_with_retry(outbox.notices_delivered, [notice.id for notice in stored])
        if rest:
            error = " ".join(wrong)
            logger.warning("%d notices could not be delivered: %s", len(rest), error)
            await self._database.run_with_retry(outbox.notices_failed, rest, pace=self._pace, error=error)

    async def _post(self, service: Service, due: Sequence[Notice], taken: set[int], wrong: list[str]) -> None:
        """Have a service take what it has not taken yet; add that to ``taken``, or what went wrong."""
        missing = [notice for notice in due if notice.id not in taken]
        if not missing:
            return
        ids = [notice.id for notice in missing]
        stored = [StoredNotice(one.kind, one.title, one.body, one.urgency) for one in missing]
        message = noticing.merged(stored, notices.link_to("/"))
        error = await service.post(
            message, patience=self._pace.timeout, late=lambda: self._late.append((service.mark, ids))
        )
        if error is not None:
            wrong.append(error)
            return
        taken.update(ids)
        if len(self._services) > 1:
            # At once: another service may hang, and after a kill this one must not get the notices again.
            await self._database.run_with_retry(outbox.notices_delivered_to, mark=service.mark, ids=ids)
