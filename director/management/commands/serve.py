"""``python manage.py serve``: the whole Director in one process."""

import argparse
from contextlib import ExitStack
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from director.cli import output
from director.server import data_dir, listen, shutdown, startup
from jobgroups.database.locks import AlreadyLocked, FileLock, Lock

DEFAULT_PORT = 9820
_REFUSALS = (data_dir.DataFolderUnusable, listen.CannotListen, AlreadyLocked, startup.CannotStart)


class Command(BaseCommand):
    help = "Run the whole Director: API, pages and runner. Ctrl-C ends it; running jobs continue."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.epilog = (
            "Examples: director serve, director serve --port 9821, DIRECTOR_TOKEN=… director serve --host 0.0.0.0"
        )
        parser.add_argument("--host", default="localhost", help="address to listen on (loopback)")
        parser.add_argument("--port", type=int, default=DEFAULT_PORT, help="port (default 9820)")
        parser.add_argument(
            "--allow-anonymous",
            action="store_true",
            help="allow everyone on the network to submit and cancel, with a --host other than"
            " loopback; not needed with DIRECTOR_TOKEN",
        )
        parser.add_argument(
            "--no-migrate", action="store_true", help="do not migrate the database; wait until it is migrated"
        )
        parser.add_argument("--no-runner", action="store_true", help="start no runner; use separate `runner` processes")

    def handle(self, *args: Any, **options: Any) -> None:
        host = options["host"]
        is_guarded = listen.is_loopback(host) or bool(settings.DIRECTOR_TOKEN)
        if not is_guarded and not options["allow_anonymous"]:
            raise CommandError(
                f"--host {host} lets everyone on the network use the Director. Set DIRECTOR_TOKEN"
                " to require a sign-in, or add --allow-anonymous."
            )
        shutdown.exit_on_signals()
        startup.raise_file_limit()
        try:
            folder = data_dir.prepare(self._say)
            addresses = listen.listen_addresses(host, options["port"])
            self._say(f"Data folder: {folder}")
            code = self._serve(addresses, host, options)
        except _REFUSALS as error:
            raise CommandError(str(error)) from error
        if code:
            raise CommandError("The Director ended after an unexpected error; see the log above.")

    def _serve(self, addresses: list[listen.ListenAddress], host: str, options: dict[str, Any]) -> int:
        runner_name = None if options["no_runner"] else startup.runner_name()
        with ExitStack() as held:
            folder_lock = _folder_lock(addresses[0].port, alone=runner_name is not None)
            held.enter_context(startup.held(folder_lock, self._say))
            startup.wait_for_database(self._say)
            name_lock = None
            if runner_name is not None:
                name_lock = startup.runner_lock(runner_name)
                held.enter_context(startup.held(name_lock, self._say))
            else:
                startup.warn_missing(self._say)
            startup.open_database(migrate=not options["no_migrate"], say=self._say)
            if not listen.is_loopback(host):
                settings.ALLOWED_HOSTS = [*settings.ALLOWED_HOSTS, *listen.local_host_names(host)]
            startup.use_fast_loop()
            from director.server.process import serve  # noqa: PLC0415 importing daphne installs a reactor

            return serve(
                addresses=addresses,
                runner_name=runner_name,
                lock=name_lock,
                announce=lambda port: self._announce(listen.display_hosts(host), port),
            )

    def _say(self, sentence: str) -> None:
        output.print_line(self.stdout, sentence)

    def _announce(self, hosts: list[str], port: int) -> None:
        first, *others = [f"http://{host}:{port}" for host in hosts]
        self._say(f"Director is ready at {first}")
        for url in others:
            self._say(f"On the network: {url}")
        if hosts != ["localhost"] and not settings.DIRECTOR_TOKEN:
            self._say("Everyone on the network can submit and cancel; set DIRECTOR_TOKEN to require a sign-in.")


def _folder_lock(port: int, *, alone: bool) -> Lock:
    """Return the lock on the data folder: one Director with a runner, and one for each other port."""
    folder = settings.DIRECTOR_DATA_DIR
    return FileLock(
        folder / ("serve.lock" if alone else f"serve-{port}.lock"),
        f"A Director is already running with this data folder ({folder}). Stop it first, or set DIRECTOR_DATA_DIR.",
    )
