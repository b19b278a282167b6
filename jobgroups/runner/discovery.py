"""ComfyUIs on this machine, found without being told: the ports that people start them on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from backends import selectors as backend_selectors
from backends.comfyui.errors import BackendError
from backends.comfyui.probe import probe
from backends.services import backends_ensure
from jobgroups.hub import Hub
from jobgroups.runner.db import Database

logger = logging.getLogger(__name__)

#: Seconds between two looks; a ComfyUI that is started later is found within this time.
LOOK_EVERY = 10.0
_ANSWER_WITHIN = 1.5


async def discover(*, ports: Iterable[int], database: Database, hub: Hub) -> None:
    """Register the ComfyUIs that answer on this machine's ``ports``, again and again, until cancelled.

    A disabled backend stays registered, so it is not found anew; one that was deleted is, while it
    answers: who does not want a backend disables it.
    """
    wanted = list(ports)
    while True:
        known = {row["url"] for row in await database.store(backend_selectors.backend_addresses)}
        urls = [f"http://localhost:{port}" for port in wanted]
        for url in [url for url in urls if url not in known]:
            if await _answers(url):
                created = await database.store(backends_ensure, [url])
                for backend_id in created:
                    logger.info("Found a ComfyUI on this machine: %s", backend_id)
                hub.wake_runners()
        await asyncio.sleep(LOOK_EVERY)


async def _answers(url: str) -> bool:
    try:
        await probe(url, timeout=_ANSWER_WITHIN)
    except BackendError:
        return False
    return True
