"""``python manage.py demo``: three pictures from three simulated GPUs, on a machine without any."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime as dt
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from director.client import DirectorError
from director.demo.processes import ProcessFailed
from director.demo.scenario import Plan, run
from director.demo.screen import Screen

#: What a shell says of a program that Ctrl-C ended.
_INTERRUPTED = 130


class Command(BaseCommand):
    """Start three simulated ComfyUIs and a Director, submit three groups, show what comes of them."""

    help = "Play three job groups on three simulated ComfyUIs; serves until Ctrl-C."
    # It has processes of its own, which check themselves and have a database of their own.
    requires_system_checks: list[str] = []
    requires_migrations_checks = False

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the options."""
        parser.epilog = "Examples: director demo, director demo --once --seconds 1"
        parser.add_argument("--once", action="store_true", help="end after the three groups")
        parser.add_argument(
            "--folder",
            type=Path,
            help="folder for all that it makes (default: a new one in ./demo-data)",
        )
        parser.add_argument(
            "--seconds", type=float, default=4.0, help="that a simulated render takes (default 4)"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Play the demo; status 0 only if all of it was as it must be."""
        plan = Plan(
            folder=_folder(options["folder"]), once=options["once"], seconds=options["seconds"]
        )
        try:
            found = asyncio.run(_interruptible(plan, Screen()))
        except ExceptionGroup as errors:
            raise CommandError(_in_words(errors, plan.folder)) from errors
        except (KeyboardInterrupt, asyncio.CancelledError):
            sys.exit(_INTERRUPTED)
        if found:
            raise CommandError("The demo was not as it must be:\n  " + "\n  ".join(found))


async def _interruptible(plan: Plan, screen: Screen) -> list[str]:
    """Play the demo so that every way to ask for its end ends its processes first."""
    task = asyncio.current_task()
    loop = asyncio.get_running_loop()
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        # Windows: asyncio.run takes Ctrl-C itself, and the processes' leash is torn by the rest.
        with contextlib.suppress(NotImplementedError, AttributeError):
            loop.add_signal_handler(getattr(signal, name), task.cancel if task else loop.stop)
    return await run(plan, screen)


def _folder(wanted: Path | None) -> Path:
    """Make the demo's folder; below the temporary one where it cannot be made here."""
    name = dt.datetime.now(dt.UTC).strftime("%Y-%m-%d-%H%M%S")
    folder = (wanted or Path("demo-data", name)).absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if wanted is not None:
            raise CommandError(f"{folder} cannot be used: {error.strerror or error}.") from error
        return Path(tempfile.mkdtemp(prefix="director-demo-"))
    return folder


def _in_words(errors: ExceptionGroup[Exception], folder: Path) -> str:
    """Return what went wrong in sentences.

    Raises:
        ExceptionGroup: what is no failure of the demo but a defect of it.
    """
    expected, defects = errors.split((ProcessFailed, DirectorError, TimeoutError, OSError))
    if defects is not None or expected is None:
        raise errors
    sentences = [str(error) or "It took too long." for error in expected.exceptions]
    return "\n".join(["The demo failed.", *sentences, f"What its processes said: {folder}"])
