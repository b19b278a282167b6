"""Discovery of ComfyUIs on this machine: probes the ports on which people start them."""

import asyncio
import logging
from collections.abc import Iterable

from backends import discovery
from backends.comfyui.probe import BackendReport, attempt_all
from jobgroups.database.threads import DatabaseThreads
from jobgroups.events.hub import Hub
from jobgroups.services.backends import adopted_depart

logger = logging.getLogger(__name__)

LOOK_EVERY = 10.0  #: Seconds between two probes of a port; a ComfyUI that is started later is found within this time.
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
        answers = {url: one for url, one in results.items() if isinstance(one, BackendReport)}
        adopted = await database.run_with_retry(discovery.answers_store, answers=answers)
        for backend_id in adopted:
            logger.info("discovery: registered %s (a ComfyUI on this machine)", backend_id)
        departed = [
            backend_id
            for url, backend_id in leaving.items()
            if url not in answers and await database.run_with_retry(adopted_depart, backend_id=backend_id)
        ]
        for backend_id in departed:
            logger.info("discovery: removed %s (no answer, no jobs)", backend_id)
        if adopted or departed:
            hub.notify_runners()
        await asyncio.sleep(LOOK_EVERY)
