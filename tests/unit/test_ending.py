"""A process leaves in time whatever hangs, with the status that says how it ended."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

_HANGS = """
import threading
from director.server import shutdown
shutdown.exit_after(0.2, status={status})
# As a database thread that waits for ever: the process would wait for it, too.
threading.Thread(target=threading.Event().wait).start()
"""


@pytest.mark.parametrize("status", [0, 1])
def test_what_hangs_is_left_behind_with_the_status_that_was_meant(status: int) -> None:
    began = time.monotonic()
    left = subprocess.run(
        [sys.executable, "-c", _HANGS.format(status=status)], check=False, capture_output=True, text=True, timeout=30
    )
    assert left.returncode == status, left.stderr
    assert "a thread still runs after 0.2 s" in left.stderr
    assert time.monotonic() - began < 20
