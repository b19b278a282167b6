"""Runs a management command that ends with its parent process.

``python -m director.demo.child_process serve --port 0`` runs the command until its standard input closes.
The parent process holds the other end of that pipe. When the parent ends, also by SIGKILL, the operating
system closes the pipe on every platform. No process is left behind.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from typing import Final

from director.__main__ import main

GRACE_S: Final = 8.0  #: Seconds for an orderly end before the process exits without cleanup.


def _end_with_input() -> None:
    """Wait until standard input closes, raise SIGTERM, and exit after the grace period."""
    with contextlib.suppress(OSError):
        while os.read(0, 1024):
            pass
    signal.raise_signal(signal.SIGTERM)
    time.sleep(GRACE_S)
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_end_with_input, name="end with input", daemon=True).start()
    sys.argv[0] = "manage.py"
    main()
