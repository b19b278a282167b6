"""Django's ``migrate``, which also prints every ten seconds how long a migration has been running."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from django.core.management.commands import migrate
from django.db import DatabaseError, connections
from django.db.backends.base.base import BaseDatabaseWrapper

PROGRESS_SECONDS = 10.0


class Command(migrate.Command):
    _ended = threading.Event()

    def handle(self, *args: Any, **options: Any) -> None:
        """Migrate the database."""
        try:
            with _without_lock_timeout(connections[options["database"]]):
                super().handle(*args, **options)
        finally:
            self._ended.set()

    def migration_progress_callback(
        self, action: str, migration: Any = None, fake: bool = False
    ) -> None:
        """Print that a migration begins and ends, and between both how long it runs."""
        super().migration_progress_callback(action, migration, fake)
        if action == "apply_start":
            self._ended = threading.Event()
            threading.Thread(
                target=self._report, args=(migration, self._ended), daemon=True
            ).start()
        elif action == "apply_success":
            self._ended.set()

    def _report(self, migration: Any, ended: threading.Event) -> None:
        begun = time.monotonic()
        while not ended.wait(PROGRESS_SECONDS):
            self.stdout.write(
                f"Migrating the database: {migration} has been running for "
                f"{time.monotonic() - begun:.0f} s."
            )


@contextmanager
def _without_lock_timeout(connection: BaseDatabaseWrapper) -> Iterator[None]:
    """A migration may have to wait for the transactions of processes that run."""
    if connection.vendor != "postgresql":
        yield
        return
    with connection.cursor() as cursor:
        cursor.execute("SET lock_timeout = 0")
    try:
        yield
    finally:
        with suppress(DatabaseError), connection.cursor() as cursor:
            cursor.execute("RESET lock_timeout")
