"""A Director of a test's own: ``manage.py serve`` as a process, with a fresh data folder."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parents[1]
_READY = re.compile(r"Director is ready at (http://\S+)")


class Served:
    """The process, what it printed, and where it answers.

    Args:
        folder: for its data folder and its log; used again, the same Director starts again.
        backends: addresses to register.
        arguments: more arguments of ``serve``.
        environment: more variables.
    """

    def __init__(
        self,
        folder: Path,
        backends: Sequence[str] = (),
        *,
        arguments: Sequence[str] = ("--port", "0"),
        environment: dict[str, str] | None = None,
    ) -> None:
        self._log = folder / "serve.log"
        # What the person who runs the tests has set for a Director of theirs must not leak in.
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("DIRECTOR_")}
        variables = {
            "DIRECTOR_DATA_DIR": str(folder / "data"),
            "DIRECTOR_BACKENDS": ",".join(backends),
            "DIRECTOR_DISCOVER": "0",
            "PYTHONUNBUFFERED": "1",
            **(environment or {}),
        }
        with self._log.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "manage.py", "serve", *arguments],
                cwd=ROOT,
                env=inherited | variables,
                stdout=out,
                stderr=out,
            )
        self.url = self._announced()

    def printed(self) -> str:
        """Return all that it has printed."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def _announced(self, within: float = 40.0) -> str:
        end = time.monotonic() + within
        while time.monotonic() < end:
            found = _READY.search(self.printed())
            if found:
                return found[1]
            code = self.process.poll()
            assert code is None, f"serve ended with {code}:\n{self.printed()}"
            time.sleep(0.05)
        raise AssertionError(f"serve was not ready within {within} s:\n{self.printed()}")

    def wait_online(self, within: float = 20.0) -> None:
        """Wait until every registered backend is online."""
        end = time.monotonic() + within
        while True:
            rows = httpx.get(f"{self.url}/api/backends", trust_env=False).json()["backends"]
            if all(row["status"] in ("online", "busy") for row in rows):
                return
            assert time.monotonic() < end, rows
            time.sleep(0.05)

    def stop(self, within: float = 15.0) -> int:
        """Ask it to end, and return its exit status."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(within)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(
                f"serve did not end within {within} s:\n{self.printed()}"
            ) from None


@contextmanager
def serving(
    folder: Path, backends: Sequence[str] = (), *, environment: dict[str, str] | None = None
) -> Iterator[Served]:
    """Serve, with every backend online; end it in order, and fail if it met a defect."""
    served = Served(folder, backends, environment=environment)
    try:
        served.wait_online()
        yield served
    finally:
        code = served.stop()
        assert code == 0, f"serve ended with {code}:\n{served.printed()}"
        assert "Traceback" not in served.printed(), served.printed()
