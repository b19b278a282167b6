"""Restarts a runner after an unexpected error, and records the error in its row."""

import asyncio
import logging
from collections.abc import Callable

from django.conf import settings

from jobgroups.database.locks import Lock
from jobgroups.database.threads import TRANSIENT, DatabaseThreads
from jobgroups.domain.notices import NoticeIntervals
from jobgroups.events.hub import Hub
from jobgroups.runner.context import RunnerSettings
from jobgroups.runner.discovery import discover
from jobgroups.runner.intervals import Intervals
from jobgroups.runner.notices.notifier import Notifier
from jobgroups.runner.service import RunnerReplaced, RunnerService, innermost
from jobgroups.services import runners

logger = logging.getLogger(__name__)


def runner_settings(name: str) -> RunnerSettings:
    """Return what Django's settings say about a runner of this name."""
    return RunnerSettings(
        name=name,
        version=settings.DIRECTOR_VERSION,
        depth=settings.DIRECTOR_DEPTH,
        give_up_s=settings.DIRECTOR_GIVE_UP_SECONDS,
        move_after_s=settings.DIRECTOR_MOVE_AFTER_SECONDS,
        queued_limit_s=settings.DIRECTOR_QUEUED_LIMIT_SECONDS,
        max_answer_bytes=settings.DIRECTOR_MAX_ANSWER_BYTES,
        captures=settings.DIRECTOR_CAPTURE,
        marks_outputs=settings.DIRECTOR_MARK_OUTPUTS,
        comfy_org_api_key=settings.DIRECTOR_COMFY_ORG_API_KEY,
        threads=1 if settings.DIRECTOR_ON_SQLITE else 4,
        intervals=Intervals.scaled(settings.DIRECTOR_TIME_SCALE),
    )


class RunnerSupervisor:
    """Runs runner services one after the other until :meth:`stop`.

    ``find_local``: look for ComfyUIs on this machine. The lock on the name, held by the caller, is kept from here on.
    """

    def __init__(self, *, name: str, hub: Hub, find_local: bool, lock: Lock | None = None) -> None:
        self._settings = runner_settings(name)
        self._lock = lock
        self._hub = hub
        self._find_local = find_local
        self._service: RunnerService | None = None
        self._stopping = False
        self._ended: asyncio.Task[None] | None = None

    def stop(self) -> None:
        """End the current service soon, and start no other one."""
        self._stopping = True
        if self._service is not None:
            self._service.stop()

    async def run(self, ready: Callable[[], None] | None = None) -> None:
        """Run until :meth:`stop`; ``ready`` is called when the runner is registered as alive for the first time.

        Raises ``RunnerReplaced`` if another process runs under this name.
        """
        while not self._stopping:
            self._service = RunnerService(self._settings, self._hub, self._lock)
            try:
                await self._run_once(self._service, ready)
            except* RunnerReplaced as replaced:
                raise RunnerReplaced(str(innermost(replaced))) from None
            except* Exception as defect:
                logger.exception("Unexpected error in the runner; restarting it")
                await self._record(defect)
                await asyncio.sleep(self._settings.intervals.restart_pause)
            ready = None

    async def _run_once(self, service: RunnerService, ready: Callable[[], None] | None) -> None:
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(service.run(), name="runner")
            helpers = [tasks.create_task(self._when_ready(service, ready), name="runner: ready")]
            if self._find_local:
                helpers.append(tasks.create_task(self._discover(), name="runner: discovery"))
            if settings.DIRECTOR_NOTIFY:
                helpers.append(tasks.create_task(self._notify(service), name="runner: notices"))
            await asyncio.wait([running])
            for helper in helpers:
                helper.cancel()

    async def _when_ready(self, service: RunnerService, ready: Callable[[], None] | None) -> None:
        await service.wait_ready()
        if ready is not None:
            ready()

    async def _discover(self) -> None:
        database = DatabaseThreads(threads=1, name="runner-discovery")
        try:
            await discover(ports=settings.DIRECTOR_DISCOVER_PORTS, database=database, hub=self._hub)
        finally:
            await asyncio.shield(asyncio.to_thread(database.close))

    async def _notify(self, service: RunnerService) -> None:
        await service.wait_ready()
        database = DatabaseThreads(threads=1, name="runner-notices")
        pace = NoticeIntervals.scaled(settings.DIRECTOR_TIME_SCALE)
        try:
            await Notifier(urls=settings.DIRECTOR_NOTIFY, name=self._settings.name, pace=pace, database=database).run()
        finally:
            await asyncio.shield(asyncio.to_thread(database.close))

    async def _record(self, defect: Exception) -> None:
        cause = innermost(defect)
        database = DatabaseThreads(threads=1, name="runner-defect")
        try:
            await database.run(
                runners.runner_failed, name=self._settings.name, error=f"{type(cause).__name__}: {cause}"
            )
        except TRANSIENT:
            logger.warning("The unexpected error of the runner could not be stored.")
        finally:
            await asyncio.to_thread(database.close)
