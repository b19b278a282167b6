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
from urllib.parse import urlsplit

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
    """The process, and what it printed. Started again it keeps its data folder and its address."""

    def __init__(self, folder: Path, comfyui_url: str) -> None:
        self._folder = folder
        self._environment = _environment(folder / "data", comfyui_url)
        self._port = 0
        self._logs: list[Path] = []
        self.url = ""
        self.start()

    def start(self) -> None:
        """Start it, and return once it says it is ready.

        Raises:
            AssertionError: It ended, or was not ready in time.
        """
        self._logs.append(self._folder / f"serve-{len(self._logs) + 1}.log")
        command = [sys.executable, "manage.py", "serve", "--port", str(self._port)]
        with self._logs[-1].open("wb") as out:
            self._process = subprocess.Popen(
                command, cwd=ROOT, env=self._environment, stdout=out, stderr=out
            )
        self.url = eventually("serve is ready", self._announced, seconds=40)
        self._port = urlsplit(self.url).port or 0

    def printed(self) -> str:
        return "".join(log.read_text(encoding="utf-8", errors="replace") for log in self._logs)

    def _announced(self) -> str | None:
        """Return the address it says it is ready at, None before."""
        code = self._process.poll()
        assert code is None, f"serve ended with {code}:\n{self.printed()}"
        found = READY.search(self._logs[-1].read_text(encoding="utf-8", errors="replace"))
        return found[1] if found else None

    def kill(self) -> None:
        """End it as a power cut does.

        Raises:
            AssertionError: It had ended before.
        """
        self._process.kill()
        assert self._process.wait() == -signal.SIGKILL, self.printed()

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
def served(folder: Path, comfyui_url: str) -> Iterator[tuple[Served, Director]]:
    """Serve with ``comfyui_url`` as the only backend; yields it and a client, once that is online.

    Raises:
        AssertionError: It did not start, did not see the backend, or did not stop as it should.
    """
    process = Served(folder, comfyui_url)
    try:
        with Director(process.url) as client:
            eventually("the backend is online", lambda: _all_online(client))
            yield process, client
    finally:
        process.stop()


@contextmanager
def serving(folder: Path, comfyui_url: str) -> Iterator[Director]:
    """Do the same for who needs the client alone."""
    with served(folder, comfyui_url) as (_, client):
        yield client


def _all_online(client: Director) -> bool:
    return all(backend.status in ("online", "busy") for backend in client.backends())
