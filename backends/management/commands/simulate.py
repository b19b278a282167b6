"""`manage.py simulate`: serve simulated ComfyUIs; needs no database."""

import sys
from argparse import Namespace
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from backends.simulator import cli


class Command(BaseCommand):
    help = "Serve simulated ComfyUIs: real servers without a GPU, for demos, tests and development."
    requires_system_checks: list[str] = []
    requires_migrations_checks = False

    def add_arguments(self, parser: CommandParser) -> None:
        parser.epilog = (
            "Examples: director simulate --count 3 --port 8188, director simulate --vram 8 "
            "--fault out_of_memory"
        )
        cli.add_arguments(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        if status := cli.run(Namespace(**options)):
            sys.exit(status)
