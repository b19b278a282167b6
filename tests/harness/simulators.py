"""Simulated backends in a process of their own, which outlives the Director, and their audit log."""

import itertools
import json
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import httpx

from backends.simulator import read_audit_log
from backends.simulator.config import RECORDED_VERSIONS
from tests.harness.graphs import strangers_id, strangers_picture
from tests.harness.processes import ROOT
from tests.harness.waits import answers, until

STRANGER = "a-stranger"
Entry = dict[str, Any]


class Gpus:
    def __init__(self, urls: list[str], audit_log: Path) -> None:
        self.urls = urls
        self._audit_log = audit_log
        self._http = httpx.Client(trust_env=False, timeout=20.0)
        self._strangers = 0

    @property
    def ids(self) -> list[str]:
        return [f"localhost_{url.rsplit(':', 1)[1]}" for url in self.urls]

    def seen(self) -> list[Entry]:
        """Return all entries of the audit log, oldest first."""
        return read_audit_log(self._audit_log)

    def wait_seen(self, what: Callable[[list[Entry]], bool], within: float = 30.0) -> list[Entry]:
        """Wait until the audit log's entries satisfy a condition, and return them."""

        def found() -> list[Entry] | None:
            entries = self.seen()
            return entries if what(entries) else None

        entries: list[Entry] = until(found, within, lambda: self.seen()[-10:])
        return entries

    def fault(self, name: str, *, of: int | None = None, **options: Any) -> None:
        """Order a fault of one simulator (by its place), or of all."""
        for url in self.urls if of is None else [self.urls[of]]:
            self._http.post(f"{url}/simulator/faults", json={"name": name, **options}).raise_for_status()

    def clear_faults(self) -> None:
        for url in self.urls:
            self._http.delete(f"{url}/simulator/faults").raise_for_status()

    def forget_everything(self) -> None:
        """Restart them all: queue and history are gone."""
        lives = len([one for one in self.seen() if one["kind"] == "restarted"])
        self.fault("restart", down=0.0)
        self.wait_seen(lambda seen: sum(e["kind"] == "restarted" for e in seen) == lives + len(self.urls))
        for url in self.urls:
            until(lambda url=url: answers(f"{url}/prompt"), 10.0)

    def strangers(self, each: int = 1) -> None:
        """Queue prompts of another client at every simulator."""
        for url in self.urls * each:
            self._strangers += 1
            body = {
                "prompt": strangers_picture(self._strangers),
                "prompt_id": strangers_id(self._strangers),
                "client_id": STRANGER,
            }
            self._http.post(f"{url}/prompt", json=body).raise_for_status()

    def standing(self) -> list[str]:
        """Return the prompt ids that run or wait at any of them now."""
        states = [self._http.get(f"{url}/simulator/state").json() for url in self.urls]
        return [one for state in states for one in (*state["pending"], *state["running"])]

    def wait_idle(self, within: float = 30.0) -> None:
        until(lambda: not self.standing(), within, self.standing)

    def close(self) -> None:
        self._http.close()


@contextmanager
def simulated(folder: Path, *, count: int = 3, seconds: float = 0.12, preview_fps: float = 0.0) -> Iterator[Gpus]:
    """Start backends, which are of each recorded version in turn, the newest first."""
    audit_log = folder / "audit.jsonl"
    words = ["--json", "--port", "0", "--seconds", str(seconds), "--preview-fps", str(preview_fps)]
    words += ["--audit-log", str(audit_log)]
    of_version = Counter(itertools.islice(itertools.cycle(reversed(RECORDED_VERSIONS)), count))
    with (folder / "simulators.log").open("wb") as log, ExitStack() as stack:
        processes = [
            stack.enter_context(
                _ending([*words, "--count", str(some), "--name", version, "--comfyui-version", version], log)
            )
            for version, some in of_version.items()
        ]
        urls = [json.loads(one.stdout.readline())["urls"] for one in processes if one.stdout is not None]
        gpus = Gpus([url for some in itertools.zip_longest(*urls) for url in some if url], audit_log)
        try:
            yield gpus
        finally:
            gpus.close()


@contextmanager
def _ending(words: list[str], log: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """Start simulators, and end them at last."""
    command = [sys.executable, "-m", "backends.simulator", *words]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, start_new_session=True) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            reaper = threading.Timer(10.0, process.kill)
            reaper.start()
            process.wait()
            reaper.cancel()
