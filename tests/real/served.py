"""A Director of its own: ``manage.py serve`` as a process, with a fresh data folder."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from director.client import Director
from tests.real.waiting import eventually

ROOT = Path(__file__).resolve().parents[2]


READY = re.compile(r"Director is ready at (http://\S+)")


def _environment(data_folder: Path, comfyui_url: str) -> dict[str, str]:
    # What the person who runs the tests has set for a Director of theirs must not leak in.
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("DIRECTOR_")}
    return inherited | {
        "DIRECTOR_DATA_DIR": str(data_folder),
        "DIRECTOR_BACKENDS": comfyui_url,
        "DIRECTOR_DISCOVER": "0",
        "PYTHONUNBUFFERED": "1",
    }


class Served:
    """The process, and what it printed."""

    def __init__(self, folder: Path, comfyui_url: str) -> None:
        self._log = folder / "serve.log"
        command = [sys.executable, "manage.py", "serve", "--port", "0"]
        environment = _environment(folder / "data", comfyui_url)
        with self._log.open("wb") as out:
            self._process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=out, stderr=out
            )

    def printed(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    def announced(self) -> str | None:
        """Return the address it says it is ready at, None before."""
        code = self._process.poll()
        assert code is None, f"serve ended with {code}:\n{self.printed()}"
        found = READY.search(self.printed())
        return found[1] if found else None

    def stop(self) -> None:
        """Ask it to end.

        Raises:
            AssertionError: It took longer than 15 s, or said that something was wrong.
        """
        self._process.send_signal(signal.SIGTERM)
        try:
            code = self._process.wait(15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise AssertionError(f"serve did not end within 15 s:\n{self.printed()}") from None
        assert code == 0, f"serve ended with {code}:\n{self.printed()}"
        assert "Traceback" not in self.printed(), self.printed()


@contextmanager
def serving(folder: Path, comfyui_url: str) -> Iterator[Director]:
    """Serve with ``comfyui_url`` as the only backend; yields a client, once that is online.

    Raises:
        AssertionError: It did not start, did not see the backend, or did not stop as it should.
    """
    served = Served(folder, comfyui_url)
    try:
        with Director(eventually("serve is ready", served.announced, seconds=40)) as client:
            eventually("the backend is online", lambda: _all_online(client))
            yield client
    finally:
        served.stop()


def _all_online(client: Director) -> bool:
    return all(backend.status in ("online", "busy") for backend in client.backends())
