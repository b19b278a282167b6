"""``python manage.py runner``: a runner in a separate process."""

import argparse
import asyncio
from typing import Any

from django.conf import settings

from director.server import child, shutdown, startup
from director.server.child import Child
from director.server.worker import WorkerCommand
from jobgroups.database.locks import Lock
from jobgroups.events.hub import hub
from jobgroups.runner.supervisor import RunnerSupervisor
from jobgroups.streams.reads import close_rows, read_seqs


class Command(WorkerCommand):
    help = "Run a runner, which sends jobs to the backends. `serve` has one; use this in a farm."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.epilog = "Examples: director runner, director runner --name rack-2"
        parser.add_argument(
            "--name",
            help="unique name of this runner (default: the name of the machine; not with SQLite, "
            "which has one runner)",
        )
        super().add_arguments(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        own = child.attach(options)
        name = startup.runner_name(options["name"])
        lock = startup.runner_lock(name)
        self.work(self._run(name, lock, own), migrate=not options["no_migrate"], own=own, lock=lock)

    async def _run(self, name: str, lock: Lock, own: Child | None) -> None:
        loop = asyncio.get_running_loop()
        if own is None:
            startup.warn_missing(self.say)
        else:
            own.layer.bind(loop)
        hub.bind(loop, read_seqs=read_seqs)
        runner = RunnerSupervisor(
            name=name, hub=hub, find_local=settings.DIRECTOR_DISCOVER, lock=lock
        )
        shutdown.on_signals(loop, runner.stop)
        try:
            await runner.run(
                ready=own.layer.ready if own else lambda: self.say(f"Runner {name} is ready.")
            )
        finally:
            await hub.aclose()
            close_rows()
