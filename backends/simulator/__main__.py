"""`python -m backends.simulator`."""

import sys

from backends.simulator.cli import main

if __name__ == "__main__":
    sys.exit(main())
