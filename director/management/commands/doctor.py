"""``director doctor``: checks of this installation, with a remedy for each problem."""

import argparse
import json
import logging
import sys
from collections.abc import Mapping
from typing import Any, Final

from django.conf import settings
from django.core.management.base import BaseCommand

from director import __version__
from director.client.transport import with_scheme
from director.doctor import checks, report
from director.doctor.checks import SEVERITY, Finding, Level
from director.server.supervise import DEFAULT_PORT
from jobgroups.domain.clock import iso, now

_INDENT: Final = " " * 9


class Command(BaseCommand):
    help = (
        "Check this installation: Python, packages, data folder, port, database, runner, each"
        " backend. Run it where the Director runs, with the same settings. Status 1: a problem."
    )
    # This command reports the problems that these checks would refuse.
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.epilog = (
            "Examples: director doctor, director doctor --json > report.json, director doctor "
            "--port 9821, director doctor --server http://farm:9820"
        )
        parser.add_argument(
            "--json", action="store_true", help="a report without secrets, for support"
        )
        parser.add_argument(
            "--port",
            type=_port,
            default=DEFAULT_PORT,
            help=f"of the Director (default {DEFAULT_PORT})",
        )

        parser.add_argument(
            "--server",
            metavar="URL",
            help="check the Director at this address instead, as far as it reports of itself; with "
            "DIRECTOR_TOKEN",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        # The findings report what would be logged.
        logging.disable(logging.CRITICAL)
        if url := options["server"]:
            findings_by_subject = checks.remote(with_scheme(url), settings.DIRECTOR_TOKEN or None)
        else:
            findings_by_subject = report.run_checks(options["port"])
        worst = max((finding.level for finding in findings_by_subject.values()), key=SEVERITY.index)
        if options["json"]:
            head = {"version": __version__, "created_at": iso(now()), "status": worst}
            findings = [
                {"subject": subject, **finding._asdict()}
                for subject, finding in findings_by_subject.items()
            ]
            self.stdout.write(
                json.dumps({**head, "findings": findings}, indent=2, ensure_ascii=False)
            )
        else:
            self._print(findings_by_subject)
        if worst is Level.PROBLEM:
            sys.exit(1)

    def _print(self, findings: Mapping[str, Finding]) -> None:
        self.stdout.write(f"Director {__version__}")
        for subject, finding in findings.items():
            self.stdout.write(f"{finding.level.value:<8} {subject}: {finding.said}".rstrip())
            for line in finding.todo.splitlines():
                self.stdout.write(f"{_INDENT}→ {line}")
        levels = [finding.level for finding in findings.values()]
        problems, warnings = levels.count(Level.PROBLEM), levels.count(Level.WARNING)
        if problems or warnings:
            self.stdout.write(f"\nProblems: {problems}. Warnings: {warnings}.")
        else:
            self.stdout.write("\nNo problems.")


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 2**16:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port from 1 to 65535")
    return int(text)
