"""``director capture``: copy outputs of completed jobs that the Director does not have."""

import argparse
import json
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from director.apps import START
from jobgroups.domain.text import pluralize
from jobgroups.errors import StorageAway, StorageFull
from jobgroups.queries.groups import group_exists
from jobgroups.runner.recaptures import copies_recheck
from jobgroups.services.captures import captures_request


class Command(BaseCommand):
    requires_system_checks = [START]
    help = (
        "Have the runners copy the outputs of completed jobs that are neither stored nor pending: "
        "of jobs of an earlier"
        " release, or given up. Files that their backend does not have any more are given up "
        "again. With --again: judge"
        " the stored ones, and read those again that are web pages, truncated pictures or of "
        "another kind."
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.epilog = (
            "Examples: director capture, director capture jg_0c1d9a77e3f2 --json, director "
            "capture --again"
        )
        parser.add_argument("group", nargs="?", metavar="GROUP", help="only the jobs of this group")
        parser.add_argument(
            "--again",
            action="store_true",
            help="replace doubtful copies by good ones of their jobs",
        )
        parser.add_argument("--json", action="store_true", help="print JSON, for programs")

    def handle(self, *args: Any, **options: Any) -> None:
        if not settings.DIRECTOR_CAPTURE:
            raise CommandError("Captures are off: set DIRECTOR_CAPTURE=1 here and for the runners.")
        group = options["group"]
        if group is not None and not group_exists(group):
            raise CommandError(f"There is no group {group}.")
        if options["again"]:
            self._recheck(group, as_json=options["json"])
            return
        count = captures_request(group_id=group)
        if options["json"]:
            self.stdout.write(json.dumps({"requested": count}))
            return
        self.stdout.write(
            f"{pluralize(count, 'file')} will be copied. The admin lists them under captures."
        )

    def _recheck(self, group: str | None, *, as_json: bool) -> None:
        try:
            done = list(copies_recheck(group_id=group))
        except (StorageAway, StorageFull) as error:
            raise CommandError(str(error)) from None
        replaced, kept = done.count(True), done.count(False)
        if as_json:
            self.stdout.write(json.dumps({"replaced": replaced, "kept": kept}))
            return
        text = f"{pluralize(replaced, 'doubtful copy', 'doubtful copies')} replaced"
        self.stdout.write(f"{text}, {kept} kept with a warning.")
