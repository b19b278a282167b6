"""``director purge``: delete old groups."""

from __future__ import annotations

import argparse
import datetime as dt
import json
from typing import Any, Final

from django.core.management.base import BaseCommand

from director.cli.option_types import age
from director.cli.text import plural
from jobgroups.domain.clock import iso, now
from jobgroups.services.purge import YOUNGEST, Purged, groups_purge, groups_purgeable

#: Maximum age; the calendar cannot represent much earlier times.
_OLDEST: Final = dt.timedelta(days=36_500)


class Command(BaseCommand):
    """Delete finished groups above an age, in small transactions."""

    help = (
        "Delete groups that ended long ago, with their jobs, attempts and events. Output files stay"
        " at the backends. Nothing is deleted without this command."
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the options."""
        parser.epilog = "Examples: director purge --older-than 90d --dry-run, director purge --older-than 12w --json"
        parser.add_argument("--older-than", required=True, type=_age, metavar="AGE", help="90d, 12w; 1d at least")
        parser.add_argument("--starred", action="store_true", help="also groups with starred jobs")
        parser.add_argument("--dry-run", action="store_true", help="only print what would be deleted")
        parser.add_argument("--json", action="store_true", help="print JSON, for programs")

    def handle(self, *args: Any, **options: Any) -> None:
        """Delete, or count."""
        before, starred = now() - options["older_than"], options["starred"]
        if options["dry_run"]:
            total = groups_purgeable(before=before, starred=starred)
        else:
            total = sum(groups_purge(before=before, starred=starred), Purged())
        if options["json"]:
            said = {
                "before": iso(before),
                "dry_run": options["dry_run"],
                "groups": total.groups,
                "children": total.children,
                "attempts": total.attempts,
                "events": total.events,
            }
            self.stdout.write(json.dumps(said))
            return
        did = "Would delete" if options["dry_run"] else "Deleted"
        self.stdout.write(
            f"{did} {plural(total.groups, 'group')} that ended before {iso(before)}, with"
            f" {plural(total.children, 'job')}, {plural(total.attempts, 'attempt')}"
            f" and {plural(total.events, 'event')}."
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
