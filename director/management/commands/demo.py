"""``python manage.py demo``: three groups on three simulated GPUs."""

import argparse
import asyncio
import contextlib
import datetime as dt
import signal
import sys
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from director.client import DirectorError
from director.demo.processes import ProcessFailed
from director.demo.scenario import run

_INTERRUPTED = 130  #: Exit status of a program that Ctrl-C ended.


class Command(BaseCommand):
    help = "Run three job groups on three simulated ComfyUIs; serve until Ctrl-C."
    # The demo's own processes run the checks, with a separate database.
    requires_system_checks: list[str] = []
    requires_migrations_checks = False

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.epilog = "Examples: director demo, director demo --once --seconds 1"
        parser.add_argument("--once", action="store_true", help="end after the three groups")
        parser.add_argument(
            "--folder", type=Path, help="folder for all files (default: a new one in ./demo-data)"
        )
        parser.add_argument(
            "--seconds", type=float, default=4.0, help="duration of a simulated job (default 4)"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        folder = _folder(options["folder"])
        demo = run(folder, once=options["once"], seconds=options["seconds"])
        try:
            problems = asyncio.run(_interruptible(demo))
        except (ProcessFailed, DirectorError, TimeoutError, OSError) as error:
            reason = str(error) or "It took too long."
            raise CommandError(
                f"The demo failed.\n{reason}\nLog of the Director: {folder}/director.log"
            ) from error
        except (KeyboardInterrupt, asyncio.CancelledError):
            sys.exit(_INTERRUPTED)
        if problems:
            raise CommandError("The demo failed its checks:\n  " + "\n  ".join(problems))


async def _interruptible(demo: Coroutine[Any, Any, list[str]]) -> list[str]:
    """Run the demo; every signal ends its processes first."""
    task = asyncio.current_task()
    loop = asyncio.get_running_loop()
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        # Windows: asyncio.run handles Ctrl-C; the processes end with their standard input.
        with contextlib.suppress(NotImplementedError, AttributeError):
            loop.add_signal_handler(getattr(signal, name), task.cancel if task else loop.stop)
    return await demo


def _folder(wanted: Path | None) -> Path:
    """Create the demo's folder; in the temporary folder if the current one is not writable."""
    name = dt.datetime.now(dt.UTC).strftime("%Y-%m-%d-%H%M%S")
    folder = (wanted or Path("demo-data", name)).absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if wanted is not None:
            raise CommandError(f"{folder} cannot be used: {error.strerror or error}.") from error
        return Path(tempfile.mkdtemp(prefix="director-demo-"))
    return folder
