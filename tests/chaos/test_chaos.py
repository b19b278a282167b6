"""The short form of chaos: two webs, two runners, eight machines, struck for two minutes; and its checker.

``make chaos`` strikes for longer, and keeps what the checker reads. One run serves all tests of this file.
"""

import json
import os
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.chaos import checker
from tests.chaos.killer import Tally
from tests.chaos.plan import IN_FLIGHT, KINDS, LONG, SHORT, Strike, plan
from tests.chaos.run import Wanted, run
from tests.harness.servers import needs_servers
from tests.harness.simulators import STRANGER

SHORT_RUN = Wanted(seed=25, kills=28, children=240, pace=SHORT)
WANTED = SHORT_RUN
if "CHAOS_SEED" in os.environ:
    WANTED = Wanted(*(int(os.environ[f"CHAOS_{one}"]) for one in ("SEED", "KILLS", "CHILDREN")))
in_time = pytest.mark.timeout(600 if WANTED is SHORT_RUN else 0)


@dataclass(frozen=True, slots=True)
class Kept:
    folder: Path
    tally: Tally


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    folder = Path(os.environ.get("CHAOS_KEEP") or tmp_path_factory.mktemp("chaos") / "kept")
    return Kept(folder, run(WANTED, folder, print))


@needs_servers
@in_time
@pytest.mark.slow
def test_a_farm_that_is_struck_for_two_minutes_loses_and_doubles_nothing(kept: Kept) -> None:
    if WANTED.kills >= SHORT_RUN.kills:
        checker.check_reached(kept.tally, each=5)
    struck = plan(WANTED.seed, WANTED.kills, WANTED.pace)
    assert kept.tally.kinds == Counter(one.kind for one in struck)


def _plan(seed: int = SHORT_RUN.seed) -> list[Strike]:
    return plan(seed, SHORT_RUN.kills, SHORT)


def test_seed_decides_a_plan_that_leaves_nothing_out() -> None:
    assert _plan() == _plan() != _plan(SHORT_RUN.seed + 1)
    a_round = plan(1, sum(often for _, often, _ in KINDS.values()), LONG)
    assert {one.kind for one in a_round} == set(KINDS)
    assert {one.state for one in a_round} == set(IN_FLIGHT)
    wanted = {"pause runner", "kill runner", "restart PostgreSQL", "restart Redis", "half-open"}
    assert wanted | {"reset in a POST's answer", "kill web"} <= {one.kind for one in _plan()}


# --- the checker ----------------------------------------------------------------------------------


def _query(query: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        with closing(sqlite3.connect(folder / checker.DATABASE)) as database, database:
            assert database.execute(query).rowcount == 1

    return change


def _group_lost(folder: Path) -> None:
    promised = folder / checker.PROMISED
    groups = json.loads(promised.read_text(encoding="utf-8"))
    promised.write_text(json.dumps([*groups, "jg_000000000000"]), encoding="utf-8")


def _again(kind: str, *, as_kind: str, stranger: bool = False) -> Callable[[Path], None]:
    """Return what repeats an entry of the audit log as one of another kind."""

    def change(folder: Path) -> None:
        audit_log = folder / checker.AUDIT_LOG
        text = audit_log.read_text(encoding="utf-8")
        found = next(
            entry
            for entry in map(json.loads, text.splitlines())
            if entry["kind"] == kind and (entry["client_id"] == STRANGER) is stranger
        )
        more = json.dumps({**found, "kind": as_kind})
        audit_log.write_text(f"{text}{more}\n", encoding="utf-8")

    return change


def _stream(change: Callable[[list[str]], list[str]]) -> Callable[[Path], None]:
    """Return what changes the lines that a watcher was sent."""

    def changed(folder: Path) -> None:
        stream = min((folder / checker.STREAMS).glob("*.jsonl"))
        lines = stream.read_text(encoding="utf-8").splitlines()
        assert len(lines) > 4
        stream.write_text("\n".join(change(lines)) + "\n", encoding="utf-8")

    return changed


_ENDED_TWICE = (
    "UPDATE jobgroups_jobevent SET frame = replace(frame, 'child_started', 'child_completed')"
    " WHERE rowid = (SELECT rowid FROM jobgroups_jobevent WHERE type = 'child_started' LIMIT 1)"
)
_OPEN = "UPDATE jobgroups_jobgroup SET completed_at = NULL WHERE id = (SELECT id FROM jobgroups_jobgroup LIMIT 1)"
_TRESPASS = "INSERT INTO chaos_trespass VALUES ('', 'runner-1', 'UPDATE', '', 'runner-2 3')"
TAMPERINGS = {
    "an event is missing": (_query("DELETE FROM jobgroups_jobevent WHERE rowid = 7"), "seq has gaps"),
    "a child has two results": (_query(_ENDED_TWICE), "child_completed"),
    "a promised group is gone": (_group_lost, "groups were lost or doubled"),
    "a group has no end": (_query(_OPEN), "has not ended"),
    "a runner wrote without its lease": (_query(_TRESPASS), "written without the lease"),
    "a prompt was executed twice": (_again("started", as_kind="started"), "was executed twice"),
    "a stranger's prompt was deleted": (_again("accepted", as_kind="deleted", stranger=True), "was deleted"),
    "an event was sent twice": (_stream(lambda lines: [*lines[:3], lines[2], *lines[3:]]), ""),
    "an event was not sent": (_stream(lambda lines: [*lines[:-2], lines[-1]]), ""),
}


@needs_servers
@in_time
@pytest.mark.slow
@pytest.mark.parametrize(("tamper", "said"), TAMPERINGS.values(), ids=TAMPERINGS.keys())
def test_the_checker_notices(tamper: Callable[[Path], None], said: str, kept: Kept, tmp_path: Path) -> None:
    folder = tmp_path / "tampered"
    shutil.copytree(kept.folder, folder, ignore=shutil.ignore_patterns("outputs", "*.log"))
    tamper(folder)
    with pytest.raises(AssertionError, match=said or None):
        checker.check(folder)
