"""Restarts a runner after an unexpected error, which its row records; finds the ComfyUIs on its
machine.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final

from django.conf import settings

from backends import discovery
from backends.comfyui.answers import SystemStats
from backends.comfyui.probe import attempt_all
from jobgroups.database.locks import Lock
from jobgroups.database.threads import TRANSIENT, DatabaseThreads
from jobgroups.domain.deliveries import DeliveryIntervals
from jobgroups.domain.notices import NoticeIntervals
from jobgroups.events.hub import Hub
from jobgroups.runner.context import RunnerSettings
from jobgroups.runner.intervals import Intervals
from jobgroups.runner.notices.notifier import Notifier
from jobgroups.runner.service import RunnerReplaced, RunnerService, innermost
from jobgroups.runner.webhooks import WebhookSender
from jobgroups.services import runners
from jobgroups.services.backends import adopted_depart

logger = logging.getLogger(__name__)

#: Threads of the loops whose jobs are rare: name lock, cleaning, discovery, notices and webhooks.
#: One more than the loops, of which each has a job at a time (notices also one for each service): a
#: bucket or a row that blocks one job must not delay the lock on the name, which other runners
#: expect within 4 s.
_BACKGROUND: Final = 6


class RunnerSupervisor:
    """Runs runner services one after the other until :meth:`stop`.

    ``find_local``: look for ComfyUIs on this machine. The lock on the name, held by the caller, is
    kept from here on.
    """

    def __init__(self, *, name: str, hub: Hub, find_local: bool, lock: Lock | None = None) -> None:
        self._settings = RunnerSettings(
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
        self._lock = lock
        self._background = background = DatabaseThreads(
            threads=_BACKGROUND, name="runner-background", is_shared=True
        )
        self._hub = hub
        self._service: RunnerService | None = None
        self._stopping = False
        scale = settings.DIRECTOR_TIME_SCALE
        sender = WebhookSender(name=name, pace=DeliveryIntervals.scaled(scale), database=background)
        self._loops = {"webhooks": sender.run}
        if settings.DIRECTOR_NOTIFY:
            pace, urls = NoticeIntervals.scaled(scale), settings.DIRECTOR_NOTIFY
            self._loops["notices"] = Notifier(
                urls=urls, name=name, pace=pace, database=background
            ).run
        if find_local:
            ports = settings.DIRECTOR_DISCOVER_PORTS
            self._loops["discovery"] = partial(discover, ports=ports, database=background, hub=hub)

    def stop(self) -> None:
        """End the current service soon, and start no other one."""
        self._stopping = True
        if self._service is not None:
            self._service.stop()

    async def run(self, ready: Callable[[], None] | None = None) -> None:
        """Run until :meth:`stop`; ``ready`` is called when the runner is registered as alive for
        the first time.

        Raises ``RunnerReplaced`` if another process runs under this name.
        """
        try:
            while not self._stopping:
                self._service = RunnerService(
                    self._settings, self._hub, self._background, self._loops, self._lock
                )
                try:
                    await self._service.run(ready)
                except* RunnerReplaced as replaced:
                    raise RunnerReplaced(str(innermost(replaced))) from None
                except* Exception as defect:
                    logger.exception("Unexpected error in the runner; restarting it")
                    await self._record(defect)
                    await asyncio.sleep(self._settings.intervals.restart_pause)
                ready = None
        finally:
            await asyncio.shield(asyncio.to_thread(self._background.close))

    async def _record(self, defect: Exception) -> None:
        cause = innermost(defect)
        try:
            await self._background.run(
                runners.runner_failed,
                name=self._settings.name,
                error=f"{type(cause).__name__}: {cause}",
            )
        except TRANSIENT:
            logger.warning("The unexpected error of the runner could not be stored.")


#: Seconds between two probes of a port; a ComfyUI that is started later is found within this time.
LOOK_EVERY = 10.0
_ANSWER_WITHIN = 1.5


async def discover(*, ports: Iterable[int], database: DatabaseThreads, hub: Hub) -> None:
    """Register or offer the ComfyUIs that answer on this machine's ``ports``, until cancelled.

    Which of the two is decided in ``backends.discovery``.
    """
    urls = [f"http://localhost:{port}" for port in ports]
    while True:
        registered = await database.run_with_retry(discovery.addresses_registered)
        leaving = {url: registered[url] for url in urls if registered.get(url)}
        probed = [url for url in urls if url not in registered or url in leaving]
        results = await attempt_all(probed, timeout=_ANSWER_WITHIN)
        answers = {
            url: answer for url, answer in results.items() if isinstance(answer, SystemStats)
        }
        adopted = await database.run_with_retry(discovery.answers_store, answers=answers)
        for backend_id in adopted:
            logger.info("discovery: registered %s (a ComfyUI on this machine)", backend_id)
        departed = [
            backend_id
            for url, backend_id in leaving.items()
            if url not in answers
            and await database.run_with_retry(adopted_depart, backend_id=backend_id)
        ]
        for backend_id in departed:
            logger.info("discovery: removed %s (no answer, no jobs)", backend_id)
        if adopted or departed:
            hub.notify_runners()
        await asyncio.sleep(LOOK_EVERY)
