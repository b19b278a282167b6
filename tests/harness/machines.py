"""Simulated backends, each a process that can be killed and started again."""

import json
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from backends.simulator import read_audit_log
from backends.simulator.config import RECORDED_VERSIONS
from tests.harness.graphs import strangers_id, strangers_picture
from tests.harness.processes import Launched
from tests.harness.simulators import STRANGER, Entry
from tests.harness.waits import until

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
    """

    name: str
    seconds: float = 0.2
    vram: float = 24.0
    faults: tuple[str, ...] = ()
    models: tuple[str, ...] = (RARE_MODEL,)
    version: str = RECORDED_VERSIONS[0]


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
        words += ["--comfyui-version", build.version]
        words += [word for model in build.models for word in ("--model", model)]
        self._common = words
        self._at_first = [word for fault in build.faults for word in ("--fault", fault)]
        super().__init__(folder, [], {}, program=("-m", "backends.simulator"))

    @property
    def _log(self) -> Path:
        return self.folder / f"{self.name}-{self.starts}.log"

    def start(self, *, wait: bool = True, as_built: bool = False, **variables: str) -> None:
        """Plug it in where it listened before: with the faults that it was built with, or later well."""
        where = ["--port", self.url.rsplit(":", 1)[1] if self.url else "0"]
        faults = self._at_first if as_built or not self.url else []
        self._words = [*where, *self._common, *faults]
        super().start(wait=wait, **variables)

    def wait_ready(self, within: float = 60.0) -> None:
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

    def clear_faults(self) -> None:
        self._ask("DELETE", "/simulator/faults").raise_for_status()

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
        return httpx.request(method, f"{self.url}{path}", trust_env=False, timeout=20.0, **options)


class Machines:
    """Several of them, by name, and what their common audit log contains."""

    def __init__(self, folder: Path, builds: Sequence[Build]) -> None:
        self._audit_log = folder / "audit.jsonl"
        self.by_name = {build.name: Machine(build, folder) for build in builds}

    def __getitem__(self, name: str) -> Machine:
        return self.by_name[name]

    @property
    def names(self) -> list[str]:
        """All names, in order."""
        return list(self.by_name)

    def seen(self) -> list[Entry]:
        return read_audit_log(self._audit_log)

    def wait_idle(self, within: float = 60.0) -> None:
        for machine in self.by_name.values():
            until(lambda machine=machine: not machine.standing(), within, machine.standing)


@contextmanager
def plugged_in(folder: Path, builds: Sequence[Build]) -> Iterator[Machines]:
    machines = Machines(folder, builds)
    try:
        for machine in machines.by_name.values():
            machine.start(wait=False)
        for machine in machines.by_name.values():
            machine.wait_ready()
        yield machines
    finally:
        for machine in machines.by_name.values():
            machine.close()
