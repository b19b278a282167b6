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
        """An output stream."""

        def write(self, text: str, /) -> object:
            """Write a text."""

        def flush(self) -> None:
            """Flush the stream."""


#: Errors of a write that are not defects of the program.
_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})


@contextmanager
def written() -> Iterator[None]:
    """Flush standard output at the end; handle a closed pipe and a full disk.

    Raises:
        SystemExit: The reader closed the pipe.
        CommandError: The output could not be written.
    """
    try:
        try:
            yield
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except BrokenPipeError:
        _discard()
        raise SystemExit(int(Status.CLOSED_PIPE)) from None
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        _discard()
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
        _discard()


def _discard() -> None:
    """Discard the buffer: Python would report an error at exit."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
