"""``python manage.py runner``: a runner in a separate process."""

import argparse
import asyncio
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from director.cli import output
from director.server import data_dir, shutdown, startup
from jobgroups.database.locks import AlreadyLocked, Lock
from jobgroups.database.threads import DatabaseThreads
from jobgroups.events.hub import hub
from jobgroups.queries.groups import group_seqs
from jobgroups.runner.service import RunnerReplaced
from jobgroups.runner.supervisor import RunnerSupervisor


class Command(BaseCommand):
    """Run one runner until SIGTERM or Ctrl-C. Running prompts continue at their backends."""

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
        """Prepare as ``serve`` does, acquire the lock on the name, and run."""
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
                startup.use_fast_loop()
                asyncio.run(self._run(name, lock))
        except _REFUSALS as error:
            raise CommandError(str(error)) from error

    async def _run(self, name: str, lock: Lock) -> None:
        loop = asyncio.get_running_loop()
        reader = DatabaseThreads(threads=1, name="hub")
        hub.bind(loop, read_seqs=lambda ids: reader.run(group_seqs, ids))
        runner = RunnerSupervisor(name=name, hub=hub, find_local=settings.DIRECTOR_DISCOVER, lock=lock)
        shutdown.on_signals(loop, runner.stop)
        try:
            await runner.run(ready=lambda: self._say(f"Runner {name} is ready."))
        finally:
            await hub.aclose()
            reader.close()

    def _say(self, sentence: str) -> None:
        output.print_line(self.stdout, sentence)


_REFUSALS = (data_dir.DataFolderUnusable, AlreadyLocked, RunnerReplaced, startup.CannotStart)
