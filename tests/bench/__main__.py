"""``python -m tests.bench [names]``: measure all, or what is named, and print the table."""

import argparse
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from tests.bench import (
    captured,
    farm,
    first_prompts,
    frames,
    http_api,
    idle_gap,
    line,
    listener,
    metrics,
    pool,
    startup,
    status,
    store,
    stored,
    throughput,
    thumbnails,
    watchers,
)
from tests.bench.figures import Figure, machine, table
from tests.harness.processes import PROCESSES

GAP = "gap"
#: In the order in which they are measured.
MEASURES: dict[str, Callable[[Path], list[Figure]]] = {
    "start": startup.measure,
    "api": http_api.measure,
    "status": status.measure,
    "prompts": first_prompts.measure,
    "frames": frames.measure,
    "thumbnails": thumbnails.measure,
    "captures": captured.measure,
    "groups": throughput.measure,
    "watchers": watchers.measure,
    "farm": farm.measure,
    "line": line.measure,
    "turns": line.turns,
    "pool": pool.measure,
    "listener": listener.measure,
    "store": store.measure,
    "list": stored.measure,
    "usage": stored.usage,
    "metrics": metrics.measure,
    # Only where it is named.
    GAP: idle_gap.measured,
}


def main() -> int:
    """Return 1 where a gate is missed or a part could not be measured."""
    # As users start it.
    os.environ.setdefault(PROCESSES, "3")
    # A bench that is terminated ends its servers too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"what to measure: {', '.join(MEASURES)}")
    parser.add_argument(
        "--before",
        type=Path,
        metavar="CHECKOUT",
        help="for line and turns: a checkout of an earlier commit, which is measured in turn and"
        " whose figures are the floors",
    )
    arguments = parser.parse_args()
    names = arguments.names or [one for one in MEASURES if one != GAP]
    if unknown := [name for name in names if name not in MEASURES]:
        parser.error(f"{unknown[0]} is not measured; there are {', '.join(MEASURES)}")
    if arguments.before:
        MEASURES["line"] = partial(line.measure, before=arguments.before.resolve())
        MEASURES["turns"] = partial(line.turns, before=arguments.before.resolve())
    return _measure(names)


def _measure(names: Sequence[str]) -> int:
    figures: list[Figure] = []
    failed: list[str] = []
    for name in names:
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            try:
                figures += MEASURES[name](Path(folder))
            except Exception:  # noqa: BLE001 what the others measured is worth printing
                traceback.print_exc()
                failed.append(name)
        print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    print(machine(), table(figures), sep="\n\n")
    for name in failed:
        print(f"\n{name} could not be measured; why stands above.")
    return int(bool(failed) or any(not one.reaches(one.gate) for one in figures))


if __name__ == "__main__":
    sys.exit(main())
