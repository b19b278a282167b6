"""Completed jobs whose files are to be copied, and what that costs, in a process with Django: see
``captured``.
"""

import asyncio
import contextlib
import datetime as dt
import json
import threading
import time
from collections.abc import Iterator
from typing import Any, Final

from django.core.management import call_command
from django.db.backends.signals import connection_created

from jobgroups.domain.clock import now
from jobgroups.domain.outputs import digests
from jobgroups.models import Attempt, Capture, ChildJob, ReportedFile
from jobgroups.runner.captures import Capturer
from jobgroups.runner.intervals import Intervals
from jobgroups.services.captures import captures_request
from tests.harness import factories

_OF_GROUP: Final = 100
_LATER: Final = dt.timedelta(days=1)


def fill(count: int, urls: list[str], prefix: str) -> None:
    """Fill the database with completed jobs of one file each, none of which is due yet."""
    call_command("migrate", verbosity=0)
    names = [f"gpu-{at}" for at in range(len(urls))]
    for name, url in zip(names, urls, strict=True):
        factories.online(name, url=url)
    for first in range(0, count, _OF_GROUP):
        factories.submit(*(names[at % len(names)] for at in range(first, first + _OF_GROUP)))
    children, moment = list(ChildJob.objects.order_by("pk")), now()
    reported = [
        {"filename": f"{prefix}_{at:05}_.png", "subfolder": "", "type": "output"}
        for at in range(count)
    ]
    attempts = [
        Attempt(
            child=child,
            number=1,
            run=1,
            backend_id=child.backend_id,
            prompt_id=child.pk,
            epoch=1,
            state="success",
            node_outputs_json=json.dumps({"9": {"images": [file]}}),
            **dict.fromkeys(("created_at", "started_at", "ended_at", "backend_ended_at"), moment),
        )
        for child, file in zip(children, reported, strict=True)
    ]
    Attempt.objects.bulk_create(attempts)
    ReportedFile.objects.bulk_create(
        ReportedFile(attempt=attempt, digest=digest, executed=True)
        for attempt, file in zip(attempts, reported, strict=True)
        for digest in digests(attempt.backend_id, {"9": {"images": [file]}}, {"9"})
    )
    for child, attempt, file in zip(children, attempts, reported, strict=True):
        child.status, child.current_attempt, child.completed_at = "completed", attempt, moment
        child.outputs_json = json.dumps(
            {"images": [{**file, "url": f"/view?filename={file['filename']}"}]}
        )
    ChildJob.objects.bulk_update(
        children,
        ["status", "current_attempt", "completed_at", "outputs_json"],
        batch_size=_OF_GROUP,
    )
    captures_request()
    Capture.objects.update(due_at=moment + _LATER)


class _Statements:
    """Counts the statements of the threads of captures, by connections that are opened from now on."""

    def __init__(self) -> None:
        self.count = 0
        connection_created.connect(self._wrap, weak=False)

    def _wrap(self, connection: Any, **_: Any) -> None:
        # A connection that is opened again keeps its wrappers.
        if self._execute not in connection.execute_wrappers:
            connection.execute_wrappers.append(self._execute)

    def _execute(self, execute: Any, *arguments: Any) -> Any:
        self.count += threading.current_thread().name.startswith("shared")
        return execute(*arguments)


def measure(each: int) -> None:
    """Copy so many files at a time; print the CPU seconds and the statements that each of them
    took, as JSON.
    """
    print(json.dumps(asyncio.run(_measure(each))))


async def _measure(each: int) -> list[tuple[float, float]]:
    statements, found = _Statements(), []
    copies = Capturer(runner=None, intervals=Intervals.scaled(0.01))
    running = asyncio.create_task(copies.run())
    for ids in await asyncio.to_thread(lambda: list(_parts(each))):
        wait = asyncio.to_thread(_copied, ids)
        before = time.process_time(), statements.count
        await wait
        found.append(
            (
                (time.process_time() - before[0]) / len(ids),
                (statements.count - before[1]) / len(ids),
            )
        )
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    await asyncio.to_thread(copies.close)
    return found


def _parts(each: int) -> Iterator[list[int]]:
    ids = list(Capture.objects.order_by("pk").values_list("pk", flat=True))
    yield from (ids[first : first + each] for first in range(0, len(ids), each))


def _copied(ids: list[int]) -> None:
    """Have these captures copied, and wait for it."""
    rows = Capture.objects.filter(pk__in=ids)
    rows.update(due_at=now())
    while rows.filter(file=None).exists():
        time.sleep(0.05)
