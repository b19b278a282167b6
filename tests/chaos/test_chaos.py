"""The short form of chaos: two webs, two runners, eight machines, struck for two minutes; and its checker.

``make chaos`` strikes for longer. One run serves all tests of this file.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
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
from tests.harness.processes import ROOT
from tests.harness.servers import needs_servers

WANTED = Wanted(seed=25, kills=28, children=240, pace=SHORT)


@dataclass(frozen=True, slots=True)
class Kept:
    """What the run has kept, and what it hit."""

    folder: Path
    tally: Tally


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    """Run once, and hold all laws."""
    folder = tmp_path_factory.mktemp("chaos") / "kept"
    return Kept(folder, run(WANTED, folder, print))


@needs_servers
@pytest.mark.timeout(600)
@pytest.mark.slow
def test_a_farm_that_is_struck_for_two_minutes_loses_and_doubles_nothing(kept: Kept) -> None:
    checker.check_reached(kept.tally, each=5)
    assert kept.tally.kinds == Counter(one.kind for one in _plan())


# --- the plan -------------------------------------------------------------------------------------


def _plan(seed: int = WANTED.seed) -> list[Strike]:
    return plan(seed, WANTED.kills, WANTED.pace)


def test_a_seed_is_a_plan() -> None:
    assert _plan() == _plan()
    assert _plan() != _plan(WANTED.seed + 1)


def test_the_short_plan_has_what_a_farm_must_survive() -> None:
    kinds = {one.kind for one in _plan()}
    wanted = {"pause runner", "kill runner", "restart PostgreSQL", "restart Redis", "half-open"}
    assert wanted | {"reset in a POST's answer", "kill web"} <= kinds


def test_a_round_has_every_kind_and_every_state() -> None:
    strikes = plan(1, sum(often for _, often in KINDS.values()), LONG)
    assert {one.kind for one in strikes} == set(KINDS)
    assert {one.state for one in strikes} == set(IN_FLIGHT)


# --- the checker ----------------------------------------------------------------------------------


@needs_servers
@pytest.mark.timeout(600)
@pytest.mark.slow
def test_what_is_kept_can_be_checked_again(kept: Kept) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos", "--check", str(kept.folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "none executed twice" in done.stdout


def _change(folder: Path, query: str) -> None:
    with closing(sqlite3.connect(folder / checker.DATABASE)) as database, database:
        assert database.execute(query).rowcount == 1


def _event_lost(folder: Path) -> None:
    _change(folder, "DELETE FROM jobgroups_jobevent WHERE rowid = 7")


def _ended_twice(folder: Path) -> None:
    _change(
        folder,
        "UPDATE jobgroups_jobevent SET frame = replace(frame, 'child_started', 'child_completed')"
        " WHERE rowid = (SELECT rowid FROM jobgroups_jobevent WHERE type = 'child_started' LIMIT 1)",
    )


def _group_lost(folder: Path) -> None:
    promised = folder / checker.PROMISED
    groups = json.loads(promised.read_text(encoding="utf-8"))
    promised.write_text(json.dumps([*groups, "jg_000000000000"]), encoding="utf-8")


def _group_open(folder: Path) -> None:
    _change(
        folder,
        "UPDATE jobgroups_jobgroup SET completed_at = NULL WHERE id = (SELECT id FROM jobgroups_jobgroup LIMIT 1)",
    )


def _trespassed(folder: Path) -> None:
    _change(folder, "INSERT INTO chaos_trespass VALUES ('', 'runner-1', 'UPDATE', '', 'runner-2 3')")


def _recorded(folder: Path, kind: str, *, stranger: bool, as_kind: str) -> None:
    audit_log = folder / checker.AUDIT_LOG
    lines = audit_log.read_text(encoding="utf-8").splitlines()
    entries = [json.loads(line) for line in lines]
    found = next(
        entry
        for entry in entries
        if entry["kind"] == kind and str(entry["prompt_id"]).startswith("stranger") is stranger
    )
    more = json.dumps({**found, "kind": as_kind})
    audit_log.write_text("\n".join([*lines, more]) + "\n", encoding="utf-8")


def _executed_twice(folder: Path) -> None:
    _recorded(folder, "started", stranger=False, as_kind="started")


def _stranger_deleted(folder: Path) -> None:
    _recorded(folder, "accepted", stranger=True, as_kind="deleted")


def _stream(folder: Path, change: Callable[[list[str]], list[str]]) -> None:
    stream = min((folder / checker.STREAMS).glob("*.jsonl"))
    lines = stream.read_text(encoding="utf-8").splitlines()
    assert len(lines) > 4
    stream.write_text("\n".join(change(lines)) + "\n", encoding="utf-8")


def _heard_twice(folder: Path) -> None:
    _stream(folder, lambda lines: [*lines[:3], lines[2], *lines[3:]])


def _not_heard(folder: Path) -> None:
    _stream(folder, lambda lines: [*lines[:-2], lines[-1]])


TAMPERINGS = {
    "an event is missing": (_event_lost, "seq has gaps"),
    "a child has two results": (_ended_twice, "child_completed"),
    "a promised group is gone": (_group_lost, "groups were lost or doubled"),
    "a group has no end": (_group_open, "has not ended"),
    "a runner wrote without its lease": (_trespassed, "written without the lease"),
    "a prompt was executed twice": (_executed_twice, "was executed twice"),
    "a stranger's prompt was deleted": (_stranger_deleted, "was deleted"),
    "an event was heard twice": (_heard_twice, ""),
    "an event was not heard": (_not_heard, ""),
}


@needs_servers
@pytest.mark.timeout(600)
@pytest.mark.slow
@pytest.mark.parametrize(("tamper", "said"), TAMPERINGS.values(), ids=TAMPERINGS.keys())
def test_the_checker_notices(tamper: Callable[[Path], None], said: str, kept: Kept, tmp_path: Path) -> None:
    folder = tmp_path / "tampered"
    shutil.copytree(kept.folder, folder, ignore=shutil.ignore_patterns("outputs", "*.log"))
    tamper(folder)
    with pytest.raises(AssertionError, match=said or None):
        checker.check(folder)
