"""``python -m tests.chaos``: strike a farm of processes, and hold that nothing was lost or doubled."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.chaos import checker
from tests.chaos.plan import LONG, SHORT, plan
from tests.chaos.run import Wanted, run
from tests.harness.servers import is_there

#: Each state is to be hit so often in a run of at least so many strikes.
_EACH, _OF = 5, 40


def main() -> int:
    """Return 1 where a law was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="decides the plan of strikes")
    parser.add_argument("--kills", type=_count, default=60, help="how many strikes (60)")
    parser.add_argument("--children", type=_count, default=2_000, help="at least so many (2000)")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="a new folder for all that is kept")
    parser.add_argument("--short", action="store_true", help="at the pace of the test suite")
    parser.add_argument("--plan", action="store_true", help="print the plan, and do nothing")
    parser.add_argument("--check", type=Path, metavar="DIR", help="check what a run has kept")
    asked = parser.parse_args()
    pace = SHORT if asked.short else LONG
    if asked.plan:
        print(*plan(asked.seed, asked.kills, pace), sep="\n")
        return 0
    if asked.check is not None:
        if not (asked.check / checker.DATABASE).exists():
            parser.error(f"{asked.check} is no folder that a run has kept")
        return _told(lambda: print(checker.check(asked.check)))
    for program in ("initdb", "redis-server"):
        if not is_there(program):
            parser.error(f"{program} is not installed: PostgreSQL's and Redis's programs are needed")
    folder = asked.keep or Path(tempfile.mkdtemp(prefix="director-chaos-"))
    if folder.exists() and any(folder.iterdir()):
        parser.error(f"{folder} is not empty; --keep takes a new folder")
    wanted = Wanted(seed=asked.seed, kills=asked.kills, children=asked.children, pace=pace)

    def strike() -> None:
        tally = run(wanted, folder.absolute(), lambda line: print(line, flush=True))
        if asked.kills >= _OF:
            checker.check_reached(tally, each=_EACH)

    # Its processes have sessions of their own: whoever ends this one must not leave them behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    print(f"Seed {asked.seed}, {asked.kills} strikes; what happens is kept in {folder}")
    return _told(strike)


def _told(work: Callable[[], object]) -> int:
    try:
        work()
    except AssertionError as broken:
        print(f"BROKEN: {broken}", file=sys.stderr)
        return 1
    return 0


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return value


if __name__ == "__main__":
    sys.exit(main())
