"""``python manage.py files``: copies the outputs of jobs in a separate process, which has a bound
of its memory.
"""

import argparse
import asyncio
from typing import Any

from django.conf import settings

from director.server import child, shutdown, startup
from director.server.child import Child
from director.server.worker import WorkerCommand
from jobgroups.runner.files import FilesService
from jobgroups.runner.intervals import Intervals


class Command(WorkerCommand):
    help = (
        "Copy the outputs of jobs into the storage, instead of the runners, which do so while no "
        "such process is alive."
        " Start as many as you want."
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.epilog = (
            "Examples: director files, DIRECTOR_FILES_MEMORY_BYTES=4294967296 director files"
        )
        super().add_arguments(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        own = child.attach(options)
        startup.lower_priority()
        startup.limit_memory(settings.DIRECTOR_FILES_MEMORY_BYTES)
        self.work(self._run(own), migrate=not options["no_migrate"], own=own)

    async def _run(self, own: Child | None) -> None:
        loop = asyncio.get_running_loop()
        if own is not None:
            own.layer.bind(loop)
        files = FilesService(
            version=settings.DIRECTOR_VERSION,
            intervals=Intervals.scaled(settings.DIRECTOR_TIME_SCALE),
            captures=settings.DIRECTOR_CAPTURE,
        )
        shutdown.on_signals(loop, files.stop)
        await files.run(
            ready=own.layer.ready if own else lambda: self.say("The files process is ready.")
        )
