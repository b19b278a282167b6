"""`manage.py simulate`: serve simulated ComfyUIs; needs no database."""

import sys
from argparse import Namespace
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from backends.simulator import cli


class Command(BaseCommand):
    """Serve simulated ComfyUIs until Ctrl-C."""

    help = "Serve simulated ComfyUIs: real servers without a GPU, for demos, tests and development."
    requires_system_checks: list[str] = []
    requires_migrations_checks = False

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the simulator's options."""
        parser.epilog = (
            "Examples: director simulate --count 3 --port 8188, director simulate --vram 8 --fault out_of_memory"
        )
        cli.add_arguments(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        """Serve; a failure to start ends with status 1."""
        if status := cli.run(Namespace(**options)):
            sys.exit(status)
