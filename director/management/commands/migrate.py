"""Django's ``migrate``, which also prints every ten seconds how long a migration has been running."""

import threading
import time
from typing import Any

from django.core.management.commands import migrate

PROGRESS_SECONDS = 10.0


class Command(migrate.Command):
    _ended = threading.Event()

    def handle(self, *args: Any, **options: Any) -> None:
        """Migrate the database."""
        try:
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
