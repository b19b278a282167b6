"""Exit statuses and errors of the commands."""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import IO, Any

import click


class Status(IntEnum):
    """Exit statuses; scripts rely on them (docs/cli.md)."""

    OK = 0
    #: A job failed, timed out or was cancelled; a file could not be saved; no backend can run it.
    FAILED = 1
    USAGE = 2  #: The command line, or a file that it names, is wrong. Nothing was sent.
    UNREACHABLE = 3  #: No Director answers, or it cannot now. Try again later.
    REFUSED = 4  #: The Director refused. It will refuse again.
    INTERRUPTED = 130  #: Ctrl-C, as in shells.
    CLOSED_PIPE = 141  #: The reader of the output closed the pipe, as in shells.


class CommandError(click.ClickException):
    """An error of a command, for users; ``hint`` says what to do, one line each, and ``details``
    are for ``--json``.
    """

    def __init__(
        self, message: str, status: Status, *, hint: str = "", details: dict[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.hint = hint
        self.details = details or {}

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the error for users, on standard error."""
        # A user who presses Ctrl-C made no error.
        prefix = "" if self.status is Status.INTERRUPTED else "Error: "
        click.echo(f"{prefix}{self.message}", file=file, err=file is None)
        if self.hint:
            click.echo(self.hint, file=file, err=file is None)

    def show_json(self) -> None:
        """Print the error for programs, on one line of standard error."""
        from director.cli.text import json_text  # noqa: PLC0415 it imports the client, which servers do not need

        error = {
            "detail": self.message,
            "code": None,
            "hint": self.hint,
            "exit_status": self.status,
        }
        click.echo(json_text({**error, **self.details}), err=True)


def confirm(question: str, refused: str) -> None:
    """Raise ``CommandError`` unless the question is answered with yes."""
    try:
        click.confirm(question, err=True, abort=True)
    except click.Abort:
        hint = "With --yes there is no question."
        raise CommandError(refused, Status.INTERRUPTED, hint=hint) from None


def usage_error(message: str, hint: str = "", code: str | None = "usage") -> CommandError:
    """Return the error of a wrong command line: nothing was sent."""
    return CommandError(message, Status.USAGE, hint=hint, details={"code": code})


@contextmanager
def usable(name: object, use: str = "read") -> Iterator[None]:
    """Raise the ``CommandError`` of a file that cannot be used."""
    try:
        yield
    except OSError as error:
        raise usage_error(f"{name} cannot be {use}: {error.strerror or error}.") from None
