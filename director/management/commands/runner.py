"""``python manage.py runner``: a runner in a separate process."""

import argparse
import asyncio
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from director.cli import output
from director.server import data_dir, shutdown, startup
from director.server.listen import CannotListen
from director.server.metrics import serve_metrics
from jobgroups.database.locks import AlreadyLocked, Lock
from jobgroups.events.hub import hub
from jobgroups.runner.service import RunnerReplaced
from jobgroups.runner.supervisor import RunnerSupervisor
from jobgroups.streams.reads import close_rows, read_seqs


class Command(BaseCommand):
    help = "Run a runner, which sends jobs to the backends. `serve` has one; use this in a farm."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.epilog = "Examples: director runner, director runner --name rack-2"
        parser.add_argument(
            "--name",
            help="unique name of this runner (default: the name of the machine; not with SQLite, which has one runner)",
        )
        parser.add_argument(
            "--no-migrate", action="store_true", help="do not migrate the database; wait until it is migrated"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        shutdown.exit_on_signals()
        startup.raise_file_limit()
        name = startup.runner_name(options["name"])
        try:
            folder = data_dir.prepare(self._say)
            self._say(f"Data folder: {folder}")
            startup.wait_for_database(self._say)
            lock = startup.runner_lock(name)
            with startup.held(lock, self._say):
                startup.warn_missing(self._say)
                startup.open_database(migrate=not options["no_migrate"], say=self._say)
                if settings.DIRECTOR_METRICS_LISTEN:
                    serve_metrics(*settings.DIRECTOR_METRICS_LISTEN)
                    self._say("Metrics are at http://{}:{}/metrics".format(*settings.DIRECTOR_METRICS_LISTEN))
                startup.use_fast_loop()
                asyncio.run(self._run(name, lock))
        except _REFUSALS as error:
            raise CommandError(str(error)) from error

    async def _run(self, name: str, lock: Lock) -> None:
        loop = asyncio.get_running_loop()
        hub.bind(loop, read_seqs=read_seqs)
        runner = RunnerSupervisor(name=name, hub=hub, find_local=settings.DIRECTOR_DISCOVER, lock=lock)
        shutdown.on_signals(loop, runner.stop)
        try:
            await runner.run(ready=lambda: self._say(f"Runner {name} is ready."))
        finally:
            await hub.aclose()
            close_rows()

    def _say(self, sentence: str) -> None:
        output.print_line(self.stdout, sentence)


_REFUSALS = (data_dir.DataFolderUnusable, AlreadyLocked, RunnerReplaced, startup.CannotStart, CannotListen)
