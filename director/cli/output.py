"""Standard output may be a pipe that was closed, a disk that is full, or nothing at all."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Protocol

from director.cli.exit_status import CommandError, Status

if TYPE_CHECKING:

    class Out(Protocol):
        """What is written to, and then flushed."""

        def write(self, text: str, /) -> object:
            """Take a text."""

        def flush(self) -> None:
            """Hand on what was taken."""


#: What a write to a file meets that no program is to blame for.
_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})


@contextmanager
def written() -> Iterator[None]:
    """Have all that is printed inside reach its reader before the process ends.

    Raises:
        SystemExit: the reader closed the pipe; nothing more is to be said to it.
        CommandError: there is no room for the output.
    """
    try:
        try:
            yield
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except BrokenPipeError:
        _leave_it()
        raise SystemExit(int(Status.CLOSED_PIPE)) from None
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        _leave_it()
        message = f"The output cannot be written: {error.strerror}."
        raise CommandError(message, Status.FAILED) from None


def say(out: Out, sentence: str) -> None:
    """Print a sentence at once. Where no_backends_error reads any more it is lost, and no more than it: what
    serves goes on.
    """
    try:
        out.write(f"{sentence}\n")
        out.flush()
    except BrokenPipeError:
        _leave_it()


def _leave_it() -> None:
    """Let what is still buffered go nowhere: Python would complain of it at its exit."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
