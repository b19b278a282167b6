"""Runs a management command that ends with its parent process.

``python -m director.demo.child_process serve --port 0`` runs the command until its standard input
closes. The parent process holds the other end of that pipe. When the parent ends, also by SIGKILL,
the operating system closes the pipe on every platform. No process is left behind.
"""

import sys
from typing import Final

from director.__main__ import main
from director.server.lifeline import end_with_input

GRACE_S: Final = 8.0  #: Seconds for an orderly end before the process exits without cleanup.


if __name__ == "__main__":
    end_with_input(GRACE_S)
    sys.argv[0] = "manage.py"
    main()
