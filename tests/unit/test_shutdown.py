"""Signals before a process has its event loop."""

import signal
import subprocess
import sys

import pytest

_SIGNALLED_IN_A_CALLBACK = """
import os, signal, sys, time
from director.server.shutdown import exit_on_signals

class Dying:
    def __del__(self):
        os.kill(os.getpid(), int(sys.argv[1]))
        time.sleep(0.01)

exit_on_signals()
Dying()
time.sleep(30)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_a_start_also_where_python_ignores_exceptions(number: int) -> None:
    words = [sys.executable, "-c", _SIGNALLED_IN_A_CALLBACK, str(int(number))]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=25, check=True)
    assert ended.stderr == ""
