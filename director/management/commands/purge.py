"""``director purge``: delete old groups, and assets that were not used for as long."""

import argparse
import datetime as dt
import json
from dataclasses import asdict
from typing import Any, Final

from django.core.management.base import BaseCommand

from director.cli.option_types import age
from director.cli.text import plural
from jobgroups.domain.clock import iso, now
from jobgroups.services.assets import assets_expire, unused_assets
from jobgroups.services.captures import files_collect
from jobgroups.services.purge import YOUNGEST, Purged, files_purgeable, groups_purge, groups_purgeable
from jobgroups.services.stored_files import clean, gibibytes
from jobgroups.services.timings import timings_purge

#: Maximum age; the calendar cannot represent much earlier times.
_OLDEST: Final = dt.timedelta(days=36_500)


class Command(BaseCommand):
    help = (
        "Delete groups that ended long ago, with their jobs, attempts, events and captured files, and assets that were"
        " not used since then. The files at the backends stay. Groups are deleted by this command only."
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.epilog = "Examples: director purge --older-than 90d --dry-run, director purge --older-than 12w --json"
        parser.add_argument("--older-than", required=True, type=_age, metavar="AGE", help="90d, 12w; 1d at least")
        parser.add_argument("--starred", action="store_true", help="also groups with starred jobs")
        parser.add_argument("--dry-run", action="store_true", help="only print what would be deleted")
        parser.add_argument("--json", action="store_true", help="print JSON, for programs")

    def handle(self, *args: Any, **options: Any) -> None:
        before, starred = now() - options["older_than"], options["starred"]
        if options["dry_run"]:
            total = groups_purgeable(before=before, starred=starred)
            assets = len(unused_assets(before))
            files, size = files_purgeable(before=before, starred=starred)
        else:
            total = sum(groups_purge(before=before, starred=starred), Purged())
            timings_purge()
            assets = assets_expire(before=before)
            files, size = files_collect()
            clean()
        if options["json"]:
            said = {"before": iso(before), "dry_run": options["dry_run"], **asdict(total)}
            said |= {"assets": assets, "files": files, "bytes": size}
            self.stdout.write(json.dumps(said))
            return
        did = "Would delete" if options["dry_run"] else "Deleted"
        self.stdout.write(
            f"{did} {plural(total.groups, 'group')} that ended before {iso(before)}, with"
            f" {plural(total.children, 'job')}, {plural(total.attempts, 'attempt')}"
            f" and {plural(total.events, 'event')}, {plural(files, 'captured file')} ({gibibytes(size)});"
            f" {plural(assets, 'asset')} not used since then."
        )


def _age(text: str) -> dt.timedelta:
    try:
        found = age(text)
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(f"{text!r} is no age like 90d, 12w or 48h") from None
    if found > _OLDEST:
        raise argparse.ArgumentTypeError(f"{text!r} is too long ago")
    if found < YOUNGEST:
        raise argparse.ArgumentTypeError(f"{text!r} is too young: 1d at least")
    return found
