"""The program of a process that draws: it decodes untrusted pictures, one at a time, within bounds
of memory and time.

It imports neither Django nor settings. A request is a pickled function with its arguments, an
answer a head and bytes: the process that decodes pictures is not trusted with a pickle. It ends
with its input, so with its parent.
"""

import os
import pickle
import signal
import struct
import sys
from collections.abc import Callable
from typing import Final

from jobgroups.outputs.resize import NotAnImage, TooLarge

HEAD: Final = struct.Struct("!cQ")  #: The kind of an answer, and its length.
DRAWN, REFUSED, TOO_LARGE, GONE = b"D", b"R", b"L", b"G"


def main(memory: int, within: int) -> None:
    """Answer requests until the input ends. ``memory``: bytes of the address space, 0 for any;
    ``within``: seconds for one.
    """
    # Ctrl-C is for the parent, which ends this process. What a decoder prints is no answer.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if sys.platform != "win32":
        import resource  # noqa: PLC0415 there is none on Windows

        os.nice(5)
        most = resource.getrlimit(resource.RLIMIT_AS)[1]
        if memory and (most == resource.RLIM_INFINITY or memory < most):
            resource.setrlimit(resource.RLIMIT_AS, (memory, most))
    while True:
        try:
            function, arguments = pickle.load(sys.stdin.buffer)  # noqa: S301 of the parent
        except EOFError:
            return
        if sys.platform != "win32":
            # The parent ends a process that takes too long; this is for one without a parent.
            signal.alarm(within)
        kind, content = _answer(function, arguments)
        if sys.platform != "win32":
            signal.alarm(0)
        answers.write(HEAD.pack(kind, len(content)) + content)
        answers.flush()


def _answer(function: Callable[..., bytes], arguments: tuple[object, ...]) -> tuple[bytes, bytes]:
    try:
        return DRAWN, function(*arguments)
    except FileNotFoundError:
        return GONE, b""
    except TooLarge:
        return TOO_LARGE, b""
    except NotAnImage as error:
        if isinstance(error.__cause__, MemoryError):
            # of what earlier pictures left, perhaps: the parent tries it once in a new process
            raise
        return REFUSED, str(error).encode()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
