"""`python -m backends.simulator`."""

from __future__ import annotations

import sys

from backends.simulator.cli import main

if __name__ == "__main__":
    sys.exit(main())
