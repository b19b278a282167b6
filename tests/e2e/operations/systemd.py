"""``systemctl`` and ``journalctl``, imitated for the units of the page.

A test is not process 1. This module reads the unit files as systemd does (``EnvironmentFile``,
``%i``, ``ExecStart`` without a shell, a clean environment), and starts and ends their processes.
``systemd-analyze`` checks the files themselves.
"""

import configparser
import fnmatch
import platform
import re
import shlex
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.harness.processes import Launched, stop_in_order


class Unit(Launched):
    """One unit of the page, named with its instance."""

    ready = re.compile(r"Director is ready|is ready\.")
    cwd = Path("/")

    def __init__(self, name: str, file: Path, logs: Path, environment: Mapping[str, str]) -> None:
        super().__init__(logs, [name], {})
        self.name = name
        self._file = file
        self._clean = environment
        self._settings = configparser.RawConfigParser(strict=False, delimiters=("=",))
        self._settings.optionxform = str  # type: ignore[assignment,method-assign]  # as systemd

    def _setting(self, name: str) -> str:
        instance = self.name.partition("@")[2]
        value = self._settings["Service"][name]
        return value.replace("%i", instance).replace("%H", platform.node())

    def start(self, *, wait: bool = True, **variables: str) -> None:
        """Start it, and wait until it is ready; if it is ``oneshot``, until it has ended."""
        assert not self.runs, f"{self.name} runs already"
        self._settings.clear()
        self._settings.read_string(self._file.read_text(encoding="utf-8"))
        self.environment = {**self._clean, **self._variables()}
        is_oneshot = self._setting("Type") == "oneshot"
        super().start(wait=wait and not is_oneshot, **variables)
        if is_oneshot:
            assert self.process.wait(60) == 0, self.printed()

    def _command(self) -> list[str]:
        return shlex.split(self._setting("ExecStart"))

    def _variables(self) -> dict[str, str]:
        lines = Path(self._setting("EnvironmentFile")).read_text(encoding="utf-8").splitlines()
        pairs = [line.partition("=") for line in lines if line and not line.startswith("#")]
        return {name: "".join(shlex.split(value)) for name, _, value in pairs}

    def end(self) -> None:
        """End it as systemd does, and check that it ended in order and in time."""
        number = signal.Signals[self._setting("KillSignal")]
        stop_in_order(self, number=number, within=float(self._setting("TimeoutStopSec")))

    def journal(self) -> str:
        """Return what all its processes printed."""
        return "".join(
            log.read_text(encoding="utf-8", errors="replace")
            for log in self.folder.glob(f"{self.name}-*")
        )


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
            self.enabled = (
                self.enabled | set(names) if verb == "enable" else self.enabled - set(names)
            )
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
                unit.end()
            if verb in ("start", "restart"):
                unit.start()

    def unit(self, name: str) -> Unit:
        if name not in self.units:
            stem, at, _ = name.partition("@")
            file = self._files / f"{stem}{at}.service"
            assert file.exists(), f"the page does not copy {file.name}"
            self.units[name] = Unit(name, file, self._logs, self._environment)
        return self.units[name]

    def journal(self, words: Sequence[str]) -> str:
        pattern = words[words.index("--unit") + 1]
        found = fnmatch.filter(self.units, pattern)
        assert found, pattern
        return "".join(self.units[name].journal() for name in sorted(found))

    def close(self) -> None:
        for unit in self.units.values():
            unit.close()
