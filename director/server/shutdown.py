"""How a process ends: when it is asked to, in order, and soon whatever hangs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any, Final

logger = logging.getLogger(__name__)

#: Seconds after a signal at which the process leaves, whatever still holds it.
EXIT_TIMEOUT: Final = 4.5
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


def exit_on_signals() -> None:
    """Have SIGTERM and Ctrl-C end the process with status 0, until a loop takes them over.

    Nothing runs yet that had to be ended in order. Without a handler, the first process of a container
    would not even hear SIGTERM.
    """
    for number in _SIGNALS:
        signal.signal(number, _leave)


def _leave(*_: Any) -> None:
    exit_after()
    raise SystemExit(0)


def on_signals(loop: asyncio.AbstractEventLoop, stop: Callable[[], None]) -> None:
    """Have SIGTERM and Ctrl-C call ``stop`` in the loop; what then does not end is left behind."""

    def ending() -> None:
        exit_after()
        for number in _SIGNALS:
            # A second signal would meet the default handler at the very end, and look like a crash.
            with contextlib.suppress(NotImplementedError):
                loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_IGN)
        stop()

    for number in _SIGNALS:
        try:
            loop.add_signal_handler(number, ending)
        except NotImplementedError:
            # Windows: the handler runs in the main thread, between two steps of the loop.
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(ending))


def exit_after(seconds: float = EXIT_TIMEOUT, *, status: int = 0) -> None:
    """Leave in so many seconds at the latest: a thread may wait for a database that hangs for ever.

    That is no worse than a power cut, which costs no render, and better than an end that never comes.

    Args:
        seconds: from now.
        status: the process's, if it has to be left so: 0 where somebody asked for its end.
    """
    timer = threading.Timer(seconds, _exit_now, [seconds, status])
    timer.daemon = True
    timer.start()


def _exit_now(seconds: float, status: int) -> None:
    logger.warning(
        "Something (a database, most likely) has not let go within %g s; the Director leaves without"
        " it. What is stored stays; renders go on and are taken up at the next start.",
        seconds,
    )
    sys.stdout.flush()
    os._exit(status)
