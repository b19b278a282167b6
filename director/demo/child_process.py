"""A management command that ends when whoever started it does.

``python -m director.demo.child_process serve --port 0`` runs the command until its standard input ends. The
starter holds the other end of that pipe, and the operating system closes it whatever ends the
starter, a SIGKILL too: so no process is left behind, on any system.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from typing import Final

from director.__main__ import main

#: Seconds for an orderly end before the process is ended without one.
GRACE_S: Final = 8.0


def _end_with_input() -> None:
    """Read standard input to its end, then ask this process to end, then insist."""
    with contextlib.suppress(OSError):
        while os.read(0, 1024):
            pass
    signal.raise_signal(signal.SIGTERM)
    time.sleep(GRACE_S)
    os._exit(1)


def run(arguments: list[str]) -> None:
    """Run the management command that ``arguments`` name, on the leash."""
    threading.Thread(target=_end_with_input, name="leash", daemon=True).start()
    sys.argv = ["manage.py", *arguments]
    main()


if __name__ == "__main__":
    run(sys.argv[1:])
