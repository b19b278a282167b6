"""``python manage.py serve``: the whole Director in one process."""

from __future__ import annotations

import argparse
from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
from django.db import OperationalError

from director import datadir, listening
from jobgroups.management.commands.runner import SQLITE_RUNNER, runner_lock
from jobgroups.runner.locks import NameTaken, ProcessLock

DEFAULT_PORT = 9820


class Command(BaseCommand):
    """Serve REST, WebSockets, pages and admin, and drive the backends, in one process and loop."""

    help = "Run the whole Director: API, pages and runner. Ctrl-C ends it; renders go on."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the options."""
        parser.add_argument("--host", default="localhost", help="address to listen on (loopback)")
        parser.add_argument("--port", type=int, default=DEFAULT_PORT, help="port (default 9820)")
        parser.add_argument(
            "--allow-anonymous",
            action="store_true",
            help="let everybody who reaches a --host other than loopback submit and cancel;"
            " not needed with DIRECTOR_TOKEN",
        )
        parser.add_argument(
            "--no-migrate",
            action="store_true",
            help="do not bring the database's tables up to date",
        )
        parser.add_argument(
            "--no-runner",
            action="store_true",
            help="only serve; `runner` processes drive the backends",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Check, lock, migrate, listen."""
        host = options["host"]
        is_guarded = listening.is_loopback(host) or bool(settings.DIRECTOR_TOKEN)
        if not is_guarded and not options["allow_anonymous"]:
            raise CommandError(
                f"--host {host} lets everybody on the network use the Director. Set DIRECTOR_TOKEN"
                " to have them sign in, or add --allow-anonymous if that is what you want."
            )
        try:
            folder = datadir.prepare()
            places = listening.places(host, options["port"])
            locks = self._take_locks(options, places[0].port)
        except (datadir.DataFolderUnusable, listening.CannotListen, NameTaken) as error:
            raise CommandError(str(error)) from error
        try:
            self._prepare_database(migrate=not options["no_migrate"])
            if not listening.is_loopback(host):
                settings.ALLOWED_HOSTS = [*settings.ALLOWED_HOSTS, *listening.own_names(host)]
            from director.serving import serve  # noqa: PLC0415 importing daphne installs a reactor

            runner_name = None if options["no_runner"] else SQLITE_RUNNER
            self.stdout.write(f"Data folder: {folder}")
            code = serve(
                places=places,
                runner_name=runner_name,
                announce=lambda port: self._announce(listening.shown_hosts(host), port),
            )
        finally:
            for lock in locks:
                lock.release()
        if code:
            raise CommandError("The Director ended because of a defect; see the log above.")

    def _take_locks(self, options: dict[str, Any], port: int) -> list[ProcessLock]:
        name = "serve.lock" if not options["no_runner"] else f"serve-{port}.lock"
        wanted = [ProcessLock(settings.DIRECTOR_DATA_DIR / name, "A Director")]
        if not options["no_runner"]:
            wanted.append(runner_lock(SQLITE_RUNNER))
        taken: list[ProcessLock] = []
        try:
            for lock in wanted:
                lock.acquire()
                taken.append(lock)
        except NameTaken:
            for lock in taken:
                lock.release()
            raise
        return taken

    def _prepare_database(self, *, migrate: bool) -> None:
        from backends.services import backends_ensure  # noqa: PLC0415 needs no database until here

        try:
            if migrate:
                call_command("migrate", verbosity=0, interactive=False)
            backends_ensure(settings.DIRECTOR_BACKENDS)
        except OperationalError as error:
            raise CommandError(
                f"The database does not open: {error}. DIRECTOR_DATABASE_URL or DIRECTOR_DATA_DIR"
                " says where it is."
            ) from error
        except ValueError as error:
            raise CommandError(f"DIRECTOR_BACKENDS: {error}") from error

    def _announce(self, hosts: list[str], port: int) -> None:
        first, *others = [f"http://{host}:{port}" for host in hosts]
        self.stdout.write(f"Director is ready at {first}")
        for url in others:
            self.stdout.write(f"On the network: {url}")
        if hosts != ["localhost"] and not settings.DIRECTOR_TOKEN:
            self.stdout.write(
                "Everybody who reaches it there can submit and cancel; with DIRECTOR_TOKEN they"
                " sign in first."
            )
        self.stdout.flush()
