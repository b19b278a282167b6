"""Standard output, which may be a closed pipe, a full disk, or missing."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOBase
from typing import Final, TextIO

from director.cli.exit_status import CommandError, Status

#: Errors of a write that are not defects of the program.
_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})


@contextmanager
def flushed_output() -> Iterator[None]:
    """Flush standard output at the end; handle a closed pipe and a full disk.

    Raises ``SystemExit`` if the reader closed the pipe, ``CommandError`` if the output could not be
    written.
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


def print_line(out: TextIO | TextIOBase, line: str) -> None:
    """Print a line at once. If the reader closed the pipe, the line is lost and the server
    continues.
    """
    try:
        out.write(f"{line}\n")
        out.flush()
    except BrokenPipeError:
        _discard()


def _discard() -> None:
    """Discard the buffer: Python would report an error at exit."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
