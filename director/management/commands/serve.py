"""``python manage.py serve``: the whole Director."""

import argparse
import functools
import socket
from contextlib import ExitStack
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from director.apps import START
from director.cli import output
from director.server import child, listen, shutdown, startup, supervise
from director.server.child import Child

_REFUSALS = (*supervise.REFUSALS, startup.CannotStart)


class Command(BaseCommand):
    requires_system_checks = [START]
    help = "Run the whole Director: API, pages and runner. Ctrl-C ends it; running jobs continue."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.epilog = (
            "Examples: director serve, director serve --port 9821, DIRECTOR_TOKEN=… director "
            "serve --host 0.0.0.0"
        )
        supervise.add_arguments(parser)
        child.add_argument(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            if (own := child.attach(options)) is not None:
                code = self._serve_as_child(own, options)
            elif supervise.is_supervised(options):
                code = supervise.run(options, self._say)
            else:
                with supervise.prepared(options, self._say) as sockets:
                    code = self._serve(sockets, options)
        except _REFUSALS as error:
            raise CommandError(str(error)) from error
        if code:
            raise CommandError("The Director ended after an unexpected error; see the log above.")

    def _serve_as_child(self, own: Child, options: dict[str, Any]) -> int:
        shutdown.exit_on_signals()
        startup.raise_file_limit()
        startup.use_fast_loop()
        # While another process migrates the database.
        from director.server.process import serve  # noqa: PLC0415 importing daphne installs a reactor

        settings.DIRECTOR_COMFYUI_PORT = options["comfyui_port"] or 0
        own.layer.wait_begin()
        startup.open_metrics(self._say)
        settings.DIRECTOR_PORT = listen.port_of(own.sockets[0])
        startup.say_first_code(settings.DIRECTOR_PORT, self._say)
        self._allow(options["host"])
        return serve(
            sockets=own.sockets, runner_name=None, layer=own.layer, announce=own.layer.ready
        )

    def _serve(self, sockets: list[socket.socket], options: dict[str, Any]) -> int:
        startup.raise_file_limit()
        runner_name = None if options["no_runner"] else startup.runner_name()
        with ExitStack() as held:
            startup.wait_for_database(self._say)
            name_lock = None
            if runner_name is not None:
                name_lock = startup.runner_lock(runner_name)
                held.enter_context(startup.hold_lock(name_lock, self._say))
            else:
                startup.warn_missing(self._say)
            startup.open_database(migrate=not options["no_migrate"], say=self._say)
            settings.DIRECTOR_PORT = listen.port_of(sockets[0])
            startup.say_first_code(settings.DIRECTOR_PORT, self._say)
            self._allow(options["host"])
            startup.use_fast_loop()
            from director.server.process import serve  # noqa: PLC0415 importing daphne installs a reactor

            return serve(
                sockets=sockets,
                runner_name=runner_name,
                lock=name_lock,
                announce=functools.partial(
                    supervise.announce, options["host"], settings.DIRECTOR_PORT, self._say
                ),
            )

    def _allow(self, host: str) -> None:
        if not listen.is_loopback(host):
            settings.ALLOWED_HOSTS = [*settings.ALLOWED_HOSTS, *listen.local_host_names(host)]

    def _say(self, sentence: str) -> None:
        output.print_line(self.stdout, sentence)
