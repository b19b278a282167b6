"""``python manage.py files``: copies the outputs of jobs in a separate process, which has a bound of its memory."""

import argparse
import asyncio
from typing import Any

from django.conf import settings

from director.server import shutdown, startup
from director.server.worker import WorkerCommand
from jobgroups.runner.files import FilesService
from jobgroups.runner.intervals import Intervals


class Command(WorkerCommand):
    help = (
        "Copy the outputs of jobs into the storage, instead of the runners, which do so while no such process is alive."
        " Start as many as you want."
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.epilog = "Examples: director files, DIRECTOR_FILES_MEMORY_BYTES=4294967296 director files"
        super().add_arguments(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        startup.lower_priority()
        startup.limit_memory(settings.DIRECTOR_FILES_MEMORY_BYTES)
        self.work(self._run(), migrate=not options["no_migrate"])

    async def _run(self) -> None:
        files = FilesService(
            version=settings.DIRECTOR_VERSION,
            intervals=Intervals.scaled(settings.DIRECTOR_TIME_SCALE),
            captures=settings.DIRECTOR_CAPTURE,
        )
        shutdown.on_signals(asyncio.get_running_loop(), files.stop)
        await files.run(ready=lambda: self.say("The files process is ready."))
