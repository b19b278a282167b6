"""One run: build the farm, strike it while it works, wait for its peace, keep all, check all."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.chaos import checker, rows
from tests.chaos.house import House, house
from tests.chaos.killer import Killer, Tally
from tests.chaos.load import Load
from tests.chaos.plan import LONG, Pace, plan

#: Seconds that the farm has to come to rest after the last strike.
_PEACE: Final = 240.0
#: Sampling time of a prompt.
_SECONDS: Final = 0.3


@dataclass(frozen=True, slots=True)
class Wanted:
    """A run: the seed of its plan, how many strikes, and how many children at least."""

    seed: int
    kills: int
    children: int
    pace: Pace = LONG


def run(wanted: Wanted, folder: Path, say: Callable[[str], object]) -> Tally:
    """Run, check, and return what was hit. All that the checker needs stays in the folder."""
    (folder / checker.STREAMS).mkdir(parents=True)
    began = time.monotonic()
    with house(folder, seconds=_SECONDS) as farm:
        farm.start()
        say(f"The farm stands after {time.monotonic() - began:.0f} s.")
        load = Load(farm, folder / checker.STREAMS, seed=wanted.seed, children=wanted.children)
        load.start()
        try:
            with (folder / "strikes.log").open("w", encoding="utf-8") as log:
                killer = Killer(farm, log)
                killer.work_off(plan(wanted.seed, wanted.kills, wanted.pace))
            say(str(killer.tally))
            load.stop(within=_PEACE + wanted.children / 2)
            _wait_settled(farm)
        finally:
            _keep(farm, load, wanted, folder)
        farm.stop()
    say(checker.check(folder))
    defects = farm.defects()
    assert not defects, f"{len(defects)} defects: {defects[:5]}"
    say(f"Held for {time.monotonic() - began:.0f} s. Kept: {folder}")
    return killer.tally


def _wait_settled(farm: House) -> None:
    """Wait until no attempt is active and no prompt stands anywhere."""
    end = time.monotonic() + _PEACE
    with farm.connect() as database:
        while left := database.execute(
            "SELECT prompt_id, backend_id, state FROM jobgroups_attempt WHERE ended_at IS NULL"
        ).fetchall():
            assert time.monotonic() < end, f"attempts that do not end: {left[:5]}\n{farm.printed()}"
            time.sleep(0.2)
    farm.machines.wait_idle()


def _keep(farm: House, load: Load, wanted: Wanted, folder: Path) -> None:
    facts = {
        "seed": wanted.seed,
        "kills": wanted.kills,
        # A runner that stands still, and whoever waits for its lease, ask no machine meanwhile.
        "unasked": wanted.pace.frozen + 30.0,
    }
    _write(folder / checker.RUN, facts)
    _write(folder / checker.PROMISED, list(load.watchers))
    snapshots = {one: farm.ask("GET", f"/api/job-groups/{one}").json() for one in load.watchers}
    _write(folder / checker.SNAPSHOTS, snapshots)
    with farm.connect() as database:
        rows.copy(database, folder / checker.DATABASE)


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")
