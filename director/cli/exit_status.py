"""How a command ends: its exit status, and the sentences that go with it."""

from __future__ import annotations

import json
from enum import IntEnum
from typing import IO, Any

import click


class Status(IntEnum):
    """Exit statuses; scripts rely on them (docs/cli.md)."""

    OK = 0
    FAILED = 1  #: A child failed, timed out or was cancelled; a file could not be saved.
    USAGE = 2  #: The command line, or a file that it names, is wrong. Nothing was sent.
    UNREACHABLE = 3  #: No Director answers, or it cannot now. The same may work later.
    REFUSED = 4  #: The Director said no. The same will be refused again.
    INTERRUPTED = 130  #: Ctrl-C, as shells have it.
    CLOSED_PIPE = 141  #: Whoever read the output had enough, as shells have it.


class CommandError(click.ClickException):
    """A command cannot do what it was connection to.

    Args:
        message: sentences for a person: what happened.
        status: to exit with.
        hint: what to type next; a line each.
        details: more for ``--json``.
    """

    def __init__(
        self, message: str, status: Status, *, hint: str = "", details: dict[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.hint = hint
        self.details = details or {}

    def show(self, file: IO[Any] | None = None) -> None:
        """Print it for a person, on standard error."""
        # A user who presses Ctrl-C made no error.
        prefix = "" if self.status is Status.INTERRUPTED else "Error: "
        click.echo(f"{prefix}{self.message}", file=file, err=file is None)
        if self.hint:
            click.echo(self.hint, file=file, err=file is None)

    def show_json(self) -> None:
        """Print it for a program, on one line of standard error."""
        said = {
            "detail": self.message,
            "code": None,
            "hint": self.hint,
            "exit_status": int(self.status),
        }
        click.echo(json.dumps({**said, **self.details}, ensure_ascii=False), err=True)


def usage_error(message: str, hint: str = "") -> CommandError:
    """Return the failure of a command line that is wrong: nothing was sent."""
    return CommandError(message, Status.USAGE, hint=hint, details={"code": "usage"})
