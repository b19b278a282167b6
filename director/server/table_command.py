"""Base class of the commands that change accounts."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError

from backends.errors import RequestError
from director.server import startup


class TableCommand(BaseCommand):
    """Prepares folder, keys and tables as ``serve`` does, and prints a refusal as a sentence."""

    def handle(self, *args: Any, **options: Any) -> None:
        startup.open_tables(self.stderr.write)
        try:
            self.run(**options)
        except RequestError as error:
            raise CommandError(error.detail) from None

    def run(self, *, action: str, **options: Any) -> None:
        """Do what the command line says."""
        raise NotImplementedError
