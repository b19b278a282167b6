"""Simulated backends, each a process that can be killed and started again."""

import itertools
import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from backends.simulator import read_audit_log
from backends.simulator.config import RECORDED_VERSIONS
from tests.harness.graphs import strangers_id, strangers_picture
from tests.harness.processes import Launched
from tests.harness.waits import NO_TLS, answers, until

STRANGER = "a-stranger"
Entry = dict[str, Any]
#: A checkpoint that only those machines have which were given it.
RARE_MODEL = "night.safetensors"


@dataclass(frozen=True, slots=True)
class Build:
    """What a machine is.

    Attributes:
        name: also the id under which a Director registers it.
        seconds: a prompt's sampling time.
        vram: in GiB.
        faults: ordered at its start, as the simulator's command takes them.
        models: checkpoints that it has besides the usual ones.
        version: of ComfyUI.
        preview_fps: previews per second.
    """

    name: str
    seconds: float = 0.2
    vram: float = 24.0
    faults: tuple[str, ...] = ()
    models: tuple[str, ...] = (RARE_MODEL,)
    version: str = RECORDED_VERSIONS[0]
    preview_fps: float = 0.0


class Machine(Launched):
    ready = re.compile(r"simulated ComfyUI at (http://\S+)")

    def __init__(self, build: Build, folder: Path) -> None:
        self.build = build
        self.name = build.name
        self.url = ""
        self.outputs = folder / "outputs" / build.name
        self._audit_log = folder / "audit.jsonl"
        words = ["--name", build.name, "--seconds", str(build.seconds), "--vram", str(build.vram)]
        words += ["--audit-log", str(self._audit_log), "--output-dir", str(self.outputs)]
        words += ["--comfyui-version", build.version, "--preview-fps", str(build.preview_fps)]
        words += [word for model in build.models for word in ("--model", model)]
        self._common = words
        self._at_first = [word for fault in build.faults for word in ("--fault", fault)]
        super().__init__(folder, [], {}, program=("-m", "backends.simulator"))

    @property
    def _log(self) -> Path:
        return self.folder / f"{self.name}-{self.starts}.log"

    def start(self, *, wait: bool = True, as_built: bool = False, **variables: str) -> None:
        """Plug it in where it listened before: with the faults that it was built with, or later
        well.
        """
        where = ["--port", self.url.rsplit(":", 1)[1] if self.url else "0"]
        faults = self._at_first if as_built or not self.url else []
        self._words = [*where, *self._common, *faults]
        super().start(wait=wait, **variables)

    def wait_ready(self, within: float = 90.0) -> None:
        self.url = self.wait_printed(self.ready, within)[1]

    def unplug(self) -> None:
        """Kill it, and record that in the audit log in its place."""
        super().kill()
        entry = {"kind": "unplugged", "time": time.time(), "backend": self.name}
        with self._audit_log.open("a", encoding="utf-8") as audit_log:
            audit_log.write(json.dumps(entry) + "\n")

    def fault(self, name: str, **options: Any) -> None:
        order = {"name": name, **options}
        self._ask("POST", "/simulator/faults", json=order).raise_for_status()

    def clear_faults(self, name: str | None = None) -> None:
        self._ask(
            "DELETE", "/simulator/faults", params={"name": name} if name else None
        ).raise_for_status()

    def standing(self) -> list[str]:
        state = self._ask("GET", "/simulator/state").json()
        return [*state["running"], *state["pending"]]

    def stranger(self, number: int, seconds: float = 0.1) -> str:
        prompt_id = strangers_id(number)
        body = {"prompt": strangers_picture(number, seconds), "prompt_id": prompt_id}
        self._ask("POST", "/prompt", json=body | {"client_id": STRANGER}).raise_for_status()
        return prompt_id

    def _ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        # A connection of its own: it may be another process than the one that answered last.
        return httpx.request(
            method, f"{self.url}{path}", trust_env=False, verify=NO_TLS, timeout=60.0, **options
        )


class Machines:
    """Several of them, by name, and what their common audit log contains."""

    def __init__(self, folder: Path, builds: Sequence[Build]) -> None:
        self._audit_log = folder / "audit.jsonl"
        self._strangers = 0
        self.by_name = {build.name: Machine(build, folder) for build in builds}

    def __getitem__(self, name: str) -> Machine:
        return self.by_name[name]

    def __iter__(self) -> Iterator[Machine]:
        return iter(self.by_name.values())

    @property
    def names(self) -> list[str]:
        """All names, in order."""
        return list(self.by_name)

    @property
    def urls(self) -> list[str]:
        return [machine.url for machine in self]

    @property
    def ids(self) -> list[str]:
        """The ids of the backends that a Director derives from these URLs."""
        return [f"localhost_{url.rsplit(':', 1)[1]}" for url in self.urls]

    def seen(self) -> list[Entry]:
        """Return all entries of the audit log, oldest first."""
        return read_audit_log(self._audit_log)

    def wait_seen(self, what: Callable[[list[Entry]], bool], within: float = 90.0) -> None:
        """Wait until the audit log's entries satisfy a condition."""
        until(lambda: what(self.seen()), within, lambda: self.seen()[-10:])

    def wait_kind(self, kind: str, count: int, *, after: int = 0) -> None:
        """Wait for so many entries of a kind, without the first ``after`` entries of the audit log."""
        self.wait_seen(lambda seen: sum(entry["kind"] == kind for entry in seen[after:]) >= count)

    def fault(self, name: str, *, of: int | None = None, **options: Any) -> None:
        """Order a fault of one machine (by its place), or of all."""
        for machine in self if of is None else [list(self)[of]]:
            machine.fault(name, **options)

    def clear_faults(self, name: str | None = None) -> None:
        for machine in self:
            machine.clear_faults(name)

    def forget_everything(self) -> None:
        """Restart them all: queue and history are gone."""
        before = len(self.seen())
        self.fault("restart", down=0.0)
        self.wait_kind("restarted", len(self.by_name), after=before)
        for url in self.urls:
            until(lambda url=url: answers(f"{url}/prompt"))

    def strangers(self, each: int = 1) -> None:
        """Queue prompts of another client at every machine."""
        for machine in [*self] * each:
            self._strangers += 1
            machine.stranger(self._strangers)

    def wait_idle(self, within: float = 90.0) -> None:
        for machine in self:
            until(lambda machine=machine: not machine.standing(), within, machine.standing)


@contextmanager
def plugged_in(folder: Path, builds: Sequence[Build]) -> Iterator[Machines]:
    machines = Machines(folder, builds)
    try:
        for machine in machines:
            machine.start(wait=False)
        for machine in machines:
            machine.wait_ready()
        yield machines
    finally:
        for machine in machines:
            machine.close()


@contextmanager
def simulated(
    folder: Path, *, count: int = 3, seconds: float = 0.12, preview_fps: float = 0.0
) -> Iterator[Machines]:
    """Start machines, which are of each recorded version in turn, the newest first."""
    versions = itertools.islice(itertools.cycle(reversed(RECORDED_VERSIONS)), count)
    builds = [
        Build(f"gpu-{number}", seconds, version=version, preview_fps=preview_fps)
        for number, version in enumerate(versions, start=1)
    ]
    with plugged_in(folder, builds) as machines:
        yield machines
