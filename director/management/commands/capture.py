"""``director capture``: copy outputs of completed jobs that the Director does not have."""

import argparse
import json
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from jobgroups.domain.text import pluralize
from jobgroups.queries.groups import group_exists
from jobgroups.services.captures import captures_request


class Command(BaseCommand):
    help = (
        "Have the runners copy the outputs of completed jobs that are neither stored nor pending: of jobs of an earlier"
        " release, or given up. Files that their backend does not have any more are given up again."
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.epilog = "Examples: director capture, director capture jg_0c1d9a77e3f2 --json"
        parser.add_argument("group", nargs="?", metavar="GROUP", help="only the jobs of this group")
        parser.add_argument("--json", action="store_true", help="print JSON, for programs")

    def handle(self, *args: Any, **options: Any) -> None:
        if not settings.DIRECTOR_CAPTURE:
            raise CommandError("Captures are off: set DIRECTOR_CAPTURE=1 here and for the runners.")
        group = options["group"]
        if group is not None and not group_exists(group):
            raise CommandError(f"There is no group {group}.")
        count = captures_request(group_id=group)
        if options["json"]:
            self.stdout.write(json.dumps({"requested": count}))
            return
        self.stdout.write(f"{pluralize(count, 'file')} will be copied. The admin lists them under captures.")
