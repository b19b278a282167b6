"""The end of database threads: no connection is left, whatever is under way."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from django.db import DEFAULT_DB_ALIAS, connections

from backends.models import Backend
from jobgroups.database.threads import DatabaseThreads

pytestmark = pytest.mark.django_db(transaction=True)


def test_busy_threads_close_their_connections() -> None:
    database = DatabaseThreads(threads=4, name="test-end")
    opened: list[Any] = []
    meet, over = threading.Barrier(3), threading.Event()

    def work() -> None:
        own = connections[DEFAULT_DB_ALIAS]
        Backend.objects.count()
        opened.append(own)
        meet.wait(10)
        over.wait(10)

    async def two_at_work() -> None:
        works = [asyncio.create_task(database.run(work)) for _ in range(2)]
        await asyncio.to_thread(meet.wait, 10)
        ended = asyncio.create_task(asyncio.to_thread(database.close))
        await asyncio.sleep(0.2)
        over.set()
        await asyncio.gather(ended, *works)

    asyncio.run(two_at_work())
    assert [one.connection for one in opened] == [None, None]
    database.close()
