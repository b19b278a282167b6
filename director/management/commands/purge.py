"""``director purge``: delete old groups, and assets that were not used for as long."""

import argparse
import contextlib
import datetime as dt
import json
from dataclasses import asdict
from typing import Any, Final

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from director.apps import START
from director.cli.option_types import age
from director.server.table_command import act_as_host
from jobgroups.domain.clock import iso, now
from jobgroups.domain.text import gibibytes, pluralize
from jobgroups.queries.retention import retention_text
from jobgroups.services.assets import assets_expire, unused_assets
from jobgroups.services.captures import files_collect
from jobgroups.services.purge import (
    YOUNGEST,
    Limits,
    Purged,
    groups_purge,
    groups_purgeable,
    retention,
)
from jobgroups.services.stored_files import clean
from jobgroups.services.timings import timings_purge

#: Maximum age; the calendar cannot represent much earlier times.
_OLDEST: Final = dt.timedelta(days=36_500)


class Command(BaseCommand):
    requires_system_checks = [START]
    help = (
        "Delete groups with their jobs, attempts, events and captured files, and unused assets: "
        "what the retention does"
        " not keep, as the runners do every hour, or what ended long ago. The files at the "
        "backends stay."
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.epilog = "Examples: director purge --dry-run, director purge --older-than 12w --json"
        older = "90d, 12w; 1d at least; instead of the limits of the installation"
        parser.add_argument("--older-than", type=_age, metavar="AGE", help=older)
        parser.add_argument(
            "--starred",
            action="store_true",
            help="with --older-than: also groups with starred jobs",
        )
        parser.add_argument(
            "--dry-run", action="store_true", help="only print what would be deleted, and why"
        )
        parser.add_argument("--json", action="store_true", help="print JSON, for programs")

    def handle(self, *args: Any, **options: Any) -> None:
        act_as_host()
        older, is_dry = options["older_than"], options["dry_run"]
        due: list[dict[str, Any]] = []
        if options["starred"] and older is None:
            raise CommandError("--starred needs --older-than: the retention keeps stars.")
        limits = retention() if older is None else Limits(age=older, starred=options["starred"])
        unused = now() - (older or dt.timedelta(days=settings.DIRECTOR_ASSET_DAYS or _OLDEST.days))
        if is_dry:
            total, due = groups_purgeable(limits)
            assets = len(unused_assets(unused))
        else:
            total = sum(groups_purge(limits), Purged())
            timings_purge()
            assets = assets_expire(before=unused)
            total += Purged(0, 0, *files_collect())
            clean()
        if options["json"]:
            answer = {
                "before": older and iso(now() - older),
                "dry_run": is_dry,
                **asdict(total),
                "assets": assets,
            }
            self.stdout.write(
                json.dumps(
                    answer
                    | {
                        "due": [
                            {**group, "completed_at": iso(group["completed_at"])} for group in due
                        ]
                    }
                )
            )
            return
        for group in due:
            self.stdout.write(
                f"{group['id']} ended {iso(group['completed_at'])}: beyond the limit of {group['reason']}"
            )
        if older is None:
            self.stdout.write(
                retention_text()
                or "Retention is off: only groups with days of their own are deleted."
            )
        which = "" if older is None else f" that ended before {iso(now() - older)}"
        self.stdout.write(
            f"{'Would delete' if is_dry else 'Deleted'} "
            f"{pluralize(total.groups, 'group')}{which}, with"
            f" {pluralize(total.children, 'job')} and {pluralize(total.files, 'captured file')} "
            f"({gibibytes(total.bytes)});"
            f" {pluralize(assets, 'unused asset')}."
        )


def _age(text: str) -> dt.timedelta:
    with contextlib.suppress(ValueError, OverflowError):
        if YOUNGEST <= (duration := age(text)) <= _OLDEST:
            return duration
    raise argparse.ArgumentTypeError(
        f"{text!r} is no age like 90d or 12w, from 1d to {_OLDEST.days}d"
    )
