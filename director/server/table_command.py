"""Base class of the commands that change accounts."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError

from backends.errors import RequestError
from director.apps import START
from director.cli import environment
from director.server import startup
from jobgroups.domain.audit import Actor, actor


def act_as_host() -> None:
    """Have what this process does recorded as done by its user, on this host."""
    actor.set(Actor(name=environment.submitter(None) or ""))


class TableCommand(BaseCommand):
    """Prepares folder, keys and tables as ``serve`` does, and prints a refusal as a sentence."""

    requires_system_checks = [START]

    def handle(self, *args: Any, **options: Any) -> None:
        startup.open_tables(self.stderr.write)
        act_as_host()
        try:
            self.run(**options)
        except RequestError as error:
            raise CommandError(error.detail) from None

    def run(self, *, action: str, **options: Any) -> None:
        """Do what the command line says."""
        raise NotImplementedError
