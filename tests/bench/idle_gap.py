"""The idle time of a healthy backend between two prompts, beside a failing neighbour and a healthy
one.

``python -m tests.bench gap`` prints a table for every neighbour. Blocks alone, beside the healthy
neighbour and beside the failing one alternate, so that other load of this machine affects all of
them. With ``DIRECTOR_DEPTH`` 1 the gap contains everything that the Director does between two
prompts.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.bench.figures import Figure, p50
from tests.harness.director import Director, directing
from tests.harness.graphs import picture
from tests.harness.machines import RARE_MODEL, Build, Machines, plugged_in

WELL = "well"
#: By how much the median gap beside a failing neighbour may exceed the one beside a healthy one.
ALLOWED = 1.10
#: A prompt's sampling time.
_SECONDS = 0.05
#: Prompts of a block at the healthy backend.
_BLOCK = 30


def _neighbour(name: str, *faults: str, **fields: Any) -> Build:
    return Build(name, _SECONDS, faults=faults, **fields)


HEALTHY = _neighbour("healthy")
NEIGHBOURS = {
    "a broken GPU": _neighbour("broken", "cuda_fatal:step=3,count=0"),
    "too small a card": _neighbour("small", "out_of_memory:step=3,count=0"),
    "a missing model": _neighbour("bare", models=()),
    "a crash in every render": _neighbour("crashing", "restart:at=step,step=3,down=0.1,count=0"),
    "a render that never ends": _neighbour("hanging", "stuck:interruptible=0,count=0"),
    "sockets that break": _neighbour("cut", "drop_sockets:at=step,step=3,count=0"),
    "questions not answered": _neighbour("silent", "hang_http:route=/history,count=0"),
    "answers without end": _neighbour("endless", "endless:route=/history,count=0"),
}
#: Each neighbour continues to fail: it is never quarantined, and its jobs stay with it.
_ENVIRONMENT = {
    "DIRECTOR_DEPTH": "1",
    "DIRECTOR_QUARANTINE_FAILURES": "0",
    "DIRECTOR_MOVE_AFTER_SECONDS": "1",
    "DIRECTOR_GIVE_UP_SECONDS": "5",
    "PLUG_TIMEOUT": "30",
}


class Bench:
    """A Director over the healthy backend and its neighbours."""

    def __init__(self, director: Director, machines: Machines) -> None:
        self._director = director
        self._machines = machines
        director.start()
        for one in machines:
            body = {"url": one.url, "backend_id": one.name}
            director.ask("POST", "/api/backends", json=body).raise_for_status()
        director.wait_online()

    def beside(self, neighbour: Build) -> list[float]:
        """Return the gaps of a block beside a neighbour that has more work than it can finish."""
        self._make_available(neighbour.name)
        workflow = picture()
        workflow["4"]["inputs"]["ckpt_name"] = RARE_MODEL
        group_id = self._director.submit(workflow, [neighbour.name] * 10 * _BLOCK)
        gaps = self.block()
        self._director.ask("DELETE", f"/api/job-groups/{group_id}").raise_for_status()
        return gaps

    def _make_available(self, name: str) -> None:
        """Restart a neighbour that is offline since its render never ended."""
        rows = self._director.ask("GET", "/api/backends").json()["backends"]
        if {row["backend_id"]: row["status"] for row in rows}[name] not in ("online", "busy"):
            self._machines[name].unplug()
            self._machines[name].start(as_built=True)
            self._director.wait_online(60.0)

    def block(self) -> list[float]:
        """Have the healthy backend render a group, and return the gaps between its prompts."""
        group = self._director.wait_ended(self._director.submit(picture(), [WELL] * _BLOCK), 90.0)
        assert group["status"] == "completed"
        prompts = {one["outputs"]["prompt_id"] for one in group["child_jobs"]}
        seen = [one for one in self._machines.seen() if one.get("prompt_id") in prompts]
        started = sorted(one["time"] for one in seen if one["kind"] == "started")
        ended = sorted(one["time"] for one in seen if one["kind"] == "ended")
        assert len(started) == len(ended) == _BLOCK
        return [start - end for end, start in zip(ended, started[1:], strict=False)]


def measured(
    folder: Path, names: Sequence[str] = tuple(NEIGHBOURS), rounds: int = 4
) -> list[Figure]:
    """Return a figure without a neighbour, and one for each neighbour with the healthy one as its
    floor.
    """
    builds = [Build(WELL, _SECONDS), HEALTHY, *(NEIGHBOURS[name] for name in names)]
    alone: list[float] = []
    failing: dict[str, list[float]] = {name: [] for name in names}
    healthy: dict[str, list[float]] = {name: [] for name in names}
    with plugged_in(folder, builds) as machines, directing(folder, [], _ENVIRONMENT) as director:
        bench = Bench(director, machines)
        bench.block()  # the first one opens connections
        for _ in range(rounds):
            alone += bench.block()
            for name in names:
                healthy[name] += bench.beside(HEALTHY)
                failing[name] += bench.beside(NEIGHBOURS[name])
    return [Figure("idle gap without a neighbour", p50(alone))] + [
        Figure(
            f"idle gap beside a neighbour with {name}",
            p50(failing[name]),
            floor=p50(healthy[name]),
            of_floor=True,
            gate=ALLOWED,
        )
        for name in names
    ]
