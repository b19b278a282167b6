"""A command that runs a process without a web until a signal: a runner, or one that copies files."""

import argparse
import asyncio
from collections.abc import Coroutine
from contextlib import nullcontext
from typing import Any, Final

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from director.apps import START
from director.cli import output
from director.server import child, data_dir, garbage, shutdown, startup
from director.server.child import Child
from director.server.listen import CannotListen
from jobgroups.database.locks import AlreadyLocked, Lock
from jobgroups.database.shared_threads import close_shared_threads
from jobgroups.runner.files import OutOfMemory
from jobgroups.runner.service import RunnerReplaced

_REFUSALS: Final = (
    *(
        data_dir.DataFolderUnusable,
        AlreadyLocked,
        RunnerReplaced,
        OutOfMemory,
        startup.CannotStart,
        CannotListen,
    ),
)


class WorkerCommand(BaseCommand):
    requires_system_checks = [START]

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--no-migrate",
            action="store_true",
            help="do not migrate the database; wait until it is migrated",
        )
        child.add_argument(parser)

    def work(
        self,
        run: Coroutine[Any, Any, None],
        *,
        migrate: bool,
        own: Child | None = None,
        lock: Lock | None = None,
    ) -> None:
        """Prepare folder, database and metrics, and run a coroutine while a lock is held.

        ``own`` is what a process of ``serve`` inherited. ``serve`` has prepared the folder, and has
        all metrics.
        """
        shutdown.exit_on_signals()
        startup.raise_file_limit()
        try:
            if own is None:
                self.say(f"Data folder: {data_dir.prepare(self.say)}")
            startup.wait_for_database(self.say)
            with startup.hold_lock(lock, self.say) if lock else nullcontext():
                startup.open_database(migrate=migrate, say=self.say)
                if own is not None:
                    own.layer.opened()
                elif settings.DIRECTOR_METRICS_LISTEN:
                    from director.server.metrics import serve_metrics  # noqa: PLC0415 it imports parts of the web

                    serve_metrics(*settings.DIRECTOR_METRICS_LISTEN)
                    self.say(
                        "Metrics are at http://{}:{}/metrics".format(
                            *settings.DIRECTOR_METRICS_LISTEN
                        )
                    )
                startup.use_fast_loop()
                garbage.collect_new_objects()
                asyncio.run(run)
        except _REFUSALS as error:
            raise CommandError(str(error)) from error
        finally:
            run.close()
            close_shared_threads()

    def say(self, sentence: str) -> None:
        """Print a message for the operator."""
        output.print_line(self.stdout, sentence)
