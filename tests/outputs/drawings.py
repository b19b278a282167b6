"""What a process that draws does in tests: each function is called there."""

import os
import signal
import time
from pathlib import Path


def crash() -> bytes:
    os.abort()


def hang() -> bytes:
    os.kill(os.getpid(), signal.SIGSTOP)
    return b""


def hoard() -> bytes:
    return bytes(2**40)


def number() -> bytes:
    return str(os.getpid()).encode()


def print_first() -> bytes:
    os.write(1, b"a decoder's own words")
    return b"drawn"


def variables() -> bytes:
    return " ".join(os.environ).encode()


def write_until(path: str, end: str) -> bytes:
    """Append to a file at the beginning, and at the end, when another file is there."""
    for word in ("begins", "ends"):
        with Path(path).open("a", encoding="ascii") as file:
            file.write(f"{word}\n")
        while not Path(end).exists():
            time.sleep(0.02)
    return b""
