"""``systemctl`` and ``journalctl``, imitated for the units of the page.

A test is not process 1. This module reads the unit files as systemd does (``EnvironmentFile``, ``%i``,
``ExecStart`` without a shell, a clean environment), and starts and ends their processes. ``systemd-analyze``
checks the files themselves.
"""

import configparser
import fnmatch
import os
import platform
import shlex
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

#: Log texts of a long-running unit that is ready.
_READY: Final = ("Director is ready", "is ready.")


class Unit:
    """One unit of the page, named with its instance, its process and its output."""

    def __init__(self, name: str, file: Path, log: Path, environment: Mapping[str, str]) -> None:
        self.name = name
        self._log = log
        self._settings = configparser.RawConfigParser(strict=False, delimiters=("=",))
        self._settings.optionxform = str  # type: ignore[assignment,method-assign]  # as systemd
        self._settings.read_string(file.read_text(encoding="utf-8"))
        self._environment = environment
        self.process: subprocess.Popen[bytes] | None = None

    def setting(self, name: str) -> str:
        instance = self.name.partition("@")[2]
        value = self._settings["Service"][name]
        return value.replace("%i", instance).replace("%H", platform.node())

    def start(self) -> None:
        """Start it, and wait until it is ready; if it is ``oneshot``, until it has ended."""
        assert not self.runs, f"{self.name} runs already"
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                shlex.split(self.setting("ExecStart")),
                cwd="/",
                env={**self._environment, **self._file()},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        if self.setting("Type") == "oneshot":
            assert self.process.wait(30) == 0, self.printed()
            return
        self._wait_ready(len(self.printed()))

    def _file(self) -> dict[str, str]:
        lines = Path(self.setting("EnvironmentFile")).read_text(encoding="utf-8").splitlines()
        pairs = [line.partition("=") for line in lines if line and not line.startswith("#")]
        return {name: "".join(shlex.split(value)) for name, _, value in pairs}

    def _wait_ready(self, already: int) -> None:
        assert self.process is not None
        end = time.monotonic() + 40.0
        while not any(word in self.printed()[already:] for word in _READY):
            assert self.process.poll() is None, f"{self.name} ended:\n{self.printed()}"
            assert time.monotonic() < end, f"{self.name} is not ready:\n{self.printed()}"
            time.sleep(0.05)

    @property
    def runs(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def printed(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace") if self._log.exists() else ""

    def kill(self) -> None:
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        """End it as systemd does, and check that it ended in order and in time."""
        assert self.process is not None
        self.process.send_signal(signal.Signals[self.setting("KillSignal")])
        code = self.process.wait(float(self.setting("TimeoutStopSec")))
        assert code == 0, f"{self.name} ended with {code}:\n{self.printed()}"
        assert "Traceback" not in self.printed(), self.printed()


class Systemd:
    """The units below the root's ``etc/systemd/system``, with the commands that the page uses."""

    def __init__(self, root: Path, logs: Path, environment: Mapping[str, str]) -> None:
        self._files = root / "etc/systemd/system"
        self._logs = logs
        self._environment = environment
        self.units: dict[str, Unit] = {}
        self.enabled: set[str] = set()

    def control(self, words: Sequence[str]) -> None:
        verb, names = words[0], [word for word in words[1:] if not word.startswith("-")]
        if verb == "daemon-reload":
            return
        if verb in ("enable", "disable"):
            self.enabled = self.enabled | set(names) if verb == "enable" else self.enabled - set(names)
            if "--now" not in words:
                return
            verb = {"enable": "start", "disable": "stop"}[verb]
        for name in names:
            self._one(verb, name.removesuffix(".service"))

    def _one(self, verb: str, pattern: str) -> None:
        if pattern.endswith(".timer"):
            assert (self._files / pattern).exists()
            return
        known = self.enabled if verb == "start" and "*" in pattern else set(self.units) | {pattern}
        names = sorted(fnmatch.filter(known, pattern)) if "*" in pattern else [pattern]
        assert names, pattern
        for name in names:
            unit = self.unit(name)
            if verb in ("stop", "restart") and unit.runs:
                unit.stop()
            if verb in ("start", "restart"):
                unit.start()

    def unit(self, name: str) -> Unit:
        """Return a unit. Its file is read again if it does not run."""
        known = self.units.get(name)
        if known is None or not known.runs:
            stem, at, _ = name.partition("@")
            file = self._files / f"{stem}{at}.service"
            assert file.exists(), f"the page does not copy {file.name}"
            log = self._logs / f"{name}.log"
            self.units[name] = Unit(name, file, log, self._environment)
        return self.units[name]

    def journal(self, words: Sequence[str]) -> str:
        pattern = words[words.index("--unit") + 1]
        found = fnmatch.filter(self.units, pattern)
        assert found, pattern
        return "".join(self.units[name].printed() for name in sorted(found))

    def close(self) -> None:
        for unit in self.units.values():
            if unit.runs:
                unit.kill()
