"""``python manage.py notices``: what people were told, and a trial of ``DIRECTOR_NOTIFY``."""

from __future__ import annotations

import argparse
import asyncio
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from jobgroups.domain.clock import iso
from jobgroups.domain.notices import Message, NoticeIntervals
from jobgroups.models import Notice
from jobgroups.runner.notices.channels import services_of

_TRIAL = Message("The Director can reach you", "This is a trial. Nothing happened.")


class Command(BaseCommand):
    """List the newest notices, or send a trial to every service at once."""

    help = "List the newest notices. With --test: send a trial to each entry of DIRECTOR_NOTIFY."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the options."""
        parser.add_argument(
            "--test", action="store_true", help="send a trial now, and say how it went"
        )
        parser.add_argument("--limit", type=int, default=20, help="how many to list (default 20)")

    def handle(self, *args: Any, **options: Any) -> None:
        """List, or try."""
        if options["test"]:
            self._try()
        else:
            self._list(max(options["limit"], 1))

    def _try(self) -> None:
        services = services_of(settings.DIRECTOR_NOTIFY)
        if not services:
            raise CommandError("DIRECTOR_NOTIFY is not set: nobody is told of anything.")
        failed = 0
        for service in services:
            wrong = asyncio.run(service.post(_TRIAL, patience=NoticeIntervals().patience))
            failed += wrong is not None
            self.stdout.write(wrong or f"{service.name} took it.")
        if failed:
            raise CommandError(f"{failed} of {len(services)} did not take it.")

    def _list(self, limit: int) -> None:
        rows = list(Notice.objects.order_by("-id")[:limit])
        if not rows:
            self.stdout.write("Nobody was told of anything yet.")
        for one in reversed(rows):
            self.stdout.write(f"{iso(one.created_at)}  {_state(one)}  {one.title}")


def _state(notice: Notice) -> str:
    if notice.sent_at is not None:
        return f"told {iso(notice.sent_at)}"
    if notice.next_attempt_at is None:
        return f"not told ({notice.last_error})"
    tries = (
        f", tried {notice.attempt_count} times: {notice.last_error}" if notice.attempt_count else ""
    )
    return f"waits{tries}"
