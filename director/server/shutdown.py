"""Shutdown on a signal: in order, or by a timer if a thread hangs."""

import asyncio
import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Final

logger = logging.getLogger(__name__)

#: Seconds after a signal at which the process exits, even if a thread hangs.
EXIT_TIMEOUT: Final = 4.5
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


def exit_on_signals() -> None:
    """Exit with status 0 on SIGTERM and Ctrl-C, until :func:`on_signals` replaces the handlers.

    Nothing needs an orderly end yet. The first process of a container ignores SIGTERM without a
    handler.
    """
    for number in _SIGNALS:
        # An exception would be lost where Python ignores those of callbacks, as in imports.
        signal.signal(number, lambda *_: os._exit(0))


def on_signals(
    loop: asyncio.AbstractEventLoop, stop: Callable[[], None], *, within: float = EXIT_TIMEOUT
) -> None:
    """Call ``stop`` in the loop on SIGTERM and Ctrl-C; the process exits ``within`` so many
    seconds.
    """

    def ending() -> None:
        exit_after(within)
        for number in _SIGNALS:
            # A second signal would call the default handler and look like a crash.
            with contextlib.suppress(NotImplementedError):
                loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_IGN)
        stop()

    for number in _SIGNALS:
        try:
            loop.add_signal_handler(number, ending)
        except NotImplementedError:
            # Windows: the handler runs in the main thread, between two callbacks of the loop.
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(ending))


def exit_after(seconds: float = EXIT_TIMEOUT, *, status: int = 0) -> None:
    """Exit the process after so many seconds: a thread may wait for a database that never answers.

    This has the effect of a power cut, after which no job is lost. The status is 0 if the shutdown
    was requested.
    """
    timer = threading.Timer(seconds, _exit_now, [seconds, status])
    timer.daemon = True
    timer.start()


def _exit_now(seconds: float, status: int) -> None:
    logger.warning(
        "Shutdown: a thread still runs after %g s (probably a database query); exiting. Jobs "
        "continue at"
        " their backends and are resumed at the next start.",
        seconds,
    )
    sys.stdout.flush()
    os._exit(status)
