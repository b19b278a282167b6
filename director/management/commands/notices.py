"""``python manage.py notices``: list sent notices, and test ``DIRECTOR_NOTIFY``."""

import argparse
import asyncio
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from director.apps import START
from jobgroups.domain.clock import iso
from jobgroups.domain.notices import Message, NoticeIntervals
from jobgroups.models import Notice
from jobgroups.runner.notices.channels import services_of

_TRIAL = Message("Test notice of the Director", "This is a test. Nothing happened.")


class Command(BaseCommand):
    requires_system_checks = [START]
    help = (
        "List the newest notices. With --test: send a test notice to each entry of DIRECTOR_NOTIFY."
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--test", action="store_true", help="send a test notice now and print the result"
        )
        parser.add_argument("--limit", type=int, default=20, help="how many to list (default 20)")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["test"]:
            self._test()
        else:
            self._list(max(options["limit"], 1))

    def _test(self) -> None:
        services = services_of(settings.DIRECTOR_NOTIFY)
        if not services:
            raise CommandError("Notifications are off: DIRECTOR_NOTIFY is not set.")
        failed = 0
        for service in services:
            wrong = asyncio.run(service.post(_TRIAL, patience=NoticeIntervals().timeout))
            failed += wrong is not None
            self.stdout.write(wrong or f"{service.name}: delivered.")
        if failed:
            raise CommandError(f"{failed} of {len(services)} services failed.")

    def _list(self, limit: int) -> None:
        rows = list(Notice.objects.order_by("-id")[:limit])
        if not rows:
            self.stdout.write("No notices yet.")
        for notice in reversed(rows):
            self.stdout.write(f"{iso(notice.created_at)}  {_state(notice)}  {notice.title}")


def _state(notice: Notice) -> str:
    if notice.sent_at is not None:
        return f"sent {iso(notice.sent_at)}"
    if notice.next_attempt_at is None:
        return f"not sent ({notice.last_error})"
    if notice.claimed_by:
        return f"being sent by {notice.claimed_by}"
    tries = (
        f", tried {notice.attempt_count} times: {notice.last_error}" if notice.attempt_count else ""
    )
    return f"pending{tries}"
