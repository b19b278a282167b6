"""``python manage.py runner``: drive the backends from a process of its own."""

from __future__ import annotations

import argparse
import asyncio
import platform
import signal
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from jobgroups.hub import hub
from jobgroups.runner.db import Database
from jobgroups.runner.locks import NameTaken, ProcessLock
from jobgroups.runner.service import RunnerReplaced
from jobgroups.runner.supervision import SupervisedRunner
from jobgroups.selectors import group_seqs

#: SQLite has one writer and one data folder, so it has one runner, whatever the machine's name.
SQLITE_RUNNER = "local"


class Command(BaseCommand):
    """Run one runner until SIGTERM or Ctrl-C. Prompts go on at their backends meanwhile."""

    help = "Drive the ComfyUI backends. `serve` does this too; use this for a farm of processes."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the options."""
        parser.add_argument(
            "--name",
            default=platform.node() or "runner",
            help="this runner's name; each needs its own (default: the machine's)",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Take the name's lock and run."""
        name = SQLITE_RUNNER if settings.DIRECTOR_ON_SQLITE else options["name"]
        lock = runner_lock(name)
        try:
            lock.acquire()
        except NameTaken as error:
            raise CommandError(str(error)) from error
        try:
            asyncio.run(self._run(name))
        except RunnerReplaced as error:
            raise CommandError(str(error)) from error
        finally:
            lock.release()

    async def _run(self, name: str) -> None:
        loop = asyncio.get_running_loop()
        reader = Database(threads=1, name="hub")
        hub.bind(loop, read_seqs=lambda ids: reader.call(group_seqs, ids))
        runner = SupervisedRunner(name=name, hub=hub, find_local=settings.DIRECTOR_DISCOVER)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, runner.stop)
        try:
            await runner.run(ready=lambda: print(f"Runner {name} is ready.", flush=True))
        finally:
            await hub.aclose()
            reader.close()


def runner_lock(name: str) -> ProcessLock:
    """Return the lock on a runner's name, in the data folder (which must exist)."""
    path = settings.DIRECTOR_DATA_DIR / f"runner-{name}.lock"
    return ProcessLock(path, f"A runner named {name}")
