"""The end of a process with its parent: the parent holds the other end of its standard input.

When the parent ends, also by SIGKILL, the operating system closes that end on every platform.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from typing import Final

EXIT_SECONDS: Final = 5.5  #: Of a process of ``serve`` whose exit timer did not work.


def end_with_input(seconds: float = EXIT_SECONDS) -> None:
    """From now on treat the end of standard input as SIGTERM; exit that many seconds later without
    cleanup.
    """
    threading.Thread(
        target=_wait_and_end, args=[seconds], name="end with input", daemon=True
    ).start()


def _wait_and_end(seconds: float) -> None:
    with contextlib.suppress(OSError):
        while os.read(0, 1024):
            pass
    main = threading.main_thread().ident
    if sys.platform == "win32" or main is None:
        signal.raise_signal(signal.SIGTERM)
    else:
        # To the main thread, so that it leaves a system call.
        signal.pthread_kill(main, signal.SIGTERM)
    time.sleep(seconds)
    os._exit(1)
