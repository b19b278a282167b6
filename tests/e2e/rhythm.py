"""How long a healthy machine stands idle between two prompts, with and without a sick neighbour.

``python -m tests.e2e.rhythm [--rounds 4] [names]`` prints a table. The gap is from a prompt's end to the
next one's start, by the machine's own witness. Blocks with and without the neighbour take turns, so
that whatever else this computer does weighs on both alike.

Measured with one prompt at a machine at a time: the Director's whole turn is in the gap then. The end is
heard, asked for and stored, and the next child is claimed and sent. With two, as is usual, the next
prompt stands at the machine already, and nothing of that is seen.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.bench.figures import Figure, machine, p50, table
from tests.e2e.burning.machines import Build
from tests.e2e.burning.scene import Scene, rare_picture, scene
from tests.e2e.killing.gpus import picture

WELL = "well"
#: The most that a sick neighbour may add to the gap's median.
ALLOWED = 1.10
#: A prompt's sampling time; a sick machine takes about as long to fail.
_SECONDS = 0.05
#: Prompts of a block at the healthy machine.
_BLOCK = 30


def _sick(name: str, *faults: str, **fields: object) -> Build:
    return Build(name, _SECONDS, faults=faults, **fields)  # type: ignore[arg-type]


#: What is wrong with the neighbour.
NEIGHBOURS = {
    "nothing": _sick("healthy"),
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
    """Gaps in seconds at the healthy machine, by what its neighbour has, and alone beside each."""

    def __init__(self, names: Sequence[str]) -> None:
        self.beside: dict[str, list[float]] = {name: [] for name in names}
        self.alone: dict[str, list[float]] = {name: [] for name in names}

    def ratio(self, name: str) -> float:
        """Return by what the gap's median is longer beside such a neighbour than alone."""
        return statistics.median(self.beside[name]) / statistics.median(self.alone[name])

    def measure(self, play: Scene, rounds: int) -> None:
        """Measure further rounds of blocks, alone and beside each neighbour in turn."""
        for _, name in itertools.product(range(rounds), self.beside):
            self.alone[name] += _block(play)
            with_it = play.director.submit(
                rare_picture(), [NEIGHBOURS[name].name] * 10 * _BLOCK, metadata={"label": name}
            )
            self.beside[name] += _block(play)
            play.director.ask("DELETE", f"/api/job-groups/{with_it}").raise_for_status()

    def figures(self) -> list[Figure]:
        """Return a line for each neighbour: the gap beside it, and alone as its floor."""
        return [
            Figure(
                name=f"idle gap beside a neighbour with {name}",
                value=p50(self.beside[name]),
                floor=p50(self.alone[name]),
                gate=p50(self.alone[name]) * ALLOWED,
            )
            for name in self.beside
        ]


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
    builds = [Build(WELL, _SECONDS), *(NEIGHBOURS[name] for name in names)]
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
