"""How long a healthy machine stands idle between two prompts beside a sick neighbour, and a healthy one.

``python -m tests.e2e.rhythm [--rounds 4] [names]`` prints a table. The gap is from a prompt's end to the
next one's start, by the machine's own audit log. Blocks alone, beside a healthy neighbour and beside the sick
one take turns, so that whatever else this computer does weighs on all of them.

A neighbour that works costs a few milliseconds, since one Director drives both: what is asked is that a sick
one costs no more than a healthy one that is as busy. Measured with one prompt at a machine at a time: the
Director's whole turn is in the gap then. The end is heard, asked for and stored, and the next child is claimed
and sent. With two, as is usual, the next prompt stands at the machine already, and nothing of that is seen.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.bench.figures import Figure, machine, p50, table
from tests.e2e.backend_failures.scene import Scene, rare_picture, scene
from tests.harness.machines import Build
from tests.harness.simulators import picture

WELL = "well"
#: By how much a sick neighbour's gap may exceed a healthy one's, in the median.
ALLOWED = 1.10
#: A prompt's sampling time; a sick machine takes about as long to fail.
_SECONDS = 0.05
#: Prompts of a block at the healthy machine.
_BLOCK = 30


def _sick(name: str, *faults: str, **fields: object) -> Build:
    return Build(name, _SECONDS, faults=faults, **fields)  # type: ignore[arg-type]


#: The neighbour with which the others are compared.
HEALTHY = _sick("healthy")
#: What is wrong with the neighbour.
NEIGHBOURS = {
    "a broken GPU": _sick("broken", "cuda_fatal:step=3,count=0"),
    "too small a card": _sick("small", "out_of_memory:step=3,count=0"),
    "a missing model": _sick("bare", models=()),
    "a crash in every render": _sick("crashing", "restart:at=step,step=3,down=0.1,count=0"),
    "a render that never ends": _sick("hanging", "stuck:interruptible=0,count=0"),
    "sockets that break": _sick("deaf", "drop_sockets:at=step,step=3,count=0"),
    "questions not answered": _sick("silent", "hang_http:route=/history,count=0"),
    "answers without end": _sick("endless", "endless:route=/history,count=0"),
}

#: Each neighbour goes on failing: it is never set aside, and its jobs stay with it.
_ENVIRONMENT = {"DIRECTOR_DEPTH": "1", "DIRECTOR_QUARANTINE_FAILURES": "0", "PLUG_TIMEOUT": "30"}


class Rhythm:
    """Gaps in seconds at the healthy machine: by what its neighbour has, and at the same time without it."""

    def __init__(self, names: Sequence[str]) -> None:
        self.sick: dict[str, list[float]] = {name: [] for name in names}
        self.healthy: dict[str, list[float]] = {name: [] for name in names}
        self.alone: list[float] = []

    def measure(self, play: Scene, rounds: int) -> None:
        """Measure further rounds of blocks: alone, beside the healthy neighbour, beside each sick one."""
        for _, name in itertools.product(range(rounds), self.sick):
            self.alone += _block(play)
            self.healthy[name] += _beside(play, HEALTHY)
            self.sick[name] += _beside(play, NEIGHBOURS[name])

    def figures(self) -> list[Figure]:
        """Return a line for each neighbour, with the healthy one as its floor; and what it is alone."""
        alone = Figure(name="idle gap without a neighbour", value=p50(self.alone))
        return [alone] + [
            Figure(
                name=f"idle gap beside a neighbour with {name}",
                value=p50(self.sick[name]),
                floor=p50(self.healthy[name]),
                of_floor=True,
                gate=ALLOWED,
            )
            for name in self.sick
        ]


def _beside(play: Scene, neighbour: Build) -> list[float]:
    """Return the gaps of a block beside a neighbour that has more to do than it can meanwhile."""
    _make_available(play, neighbour.name)
    its_work = [neighbour.name] * 10 * _BLOCK
    group_id = play.director.submit(rare_picture(), its_work, metadata={"label": neighbour.name})
    gaps = _block(play)
    play.director.ask("DELETE", f"/api/job-groups/{group_id}").raise_for_status()
    return gaps


def _make_available(play: Scene, name: str) -> None:
    """Plug a neighbour in anew where it is out of the game: one whose render never ended is offline."""
    if play.backends()[name]["status"] not in ("online", "busy"):
        play.machines[name].unplug()
        play.machines[name].start(as_built=True)
        play.wait_seen()


def _block(play: Scene) -> list[float]:
    """Have the healthy machine render a group, and return the gaps between its prompts."""
    group_id = play.submit("well", picture(), [WELL] * _BLOCK)
    play.watchers[group_id].wait_ended()
    assert play.group(group_id)["status"] == "completed"
    ours = {
        one["prompt_id"]
        for one in play.machines.seen()
        if one["kind"] == "accepted" and one["extra_data"]["director"]["group"] == group_id
    }
    told = [one for one in play.machines.seen() if one.get("prompt_id") in ours]
    began = sorted(one["time"] for one in told if one["kind"] == "started")
    ended = sorted(one["time"] for one in told if one["kind"] == "ended")
    assert len(began) == len(ended) == _BLOCK
    return [begin - end for end, begin in zip(ended, began[1:], strict=False)]


def measured(folder: Path, names: Sequence[str], rounds: int) -> Rhythm:
    """Measure so many rounds over a farm of the healthy machine and the named neighbours."""
    rhythm = Rhythm(names)
    builds = [Build(WELL, _SECONDS), HEALTHY, *(NEIGHBOURS[name] for name in names)]
    with scene(folder, builds, _ENVIRONMENT) as play:
        _block(play)  # the first one opens connections
        rhythm.measure(play, rounds)
    return rhythm


def main() -> int:
    """Return 1 where a neighbour disturbs."""
    parser = argparse.ArgumentParser(prog="python -m tests.e2e.rhythm", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"the neighbours: {', '.join(NEIGHBOURS)}")
    parser.add_argument("--rounds", type=int, default=4, help="blocks of each kind")
    given = parser.parse_args()
    names = given.names or list(NEIGHBOURS)
    if unknown := [name for name in names if name not in NEIGHBOURS]:
        parser.error(f"no neighbour has {unknown[0]!r}; there are {', '.join(NEIGHBOURS)}")
    with tempfile.TemporaryDirectory() as folder:
        figures = measured(Path(folder), names, given.rounds).figures()
    print(machine(), table(figures), sep="\n\n")
    return int(any(not one.reaches(one.gate) for one in figures))


if __name__ == "__main__":
    sys.exit(main())
