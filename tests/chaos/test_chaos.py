"""Two webs and two runners, or one ``serve`` with its three processes, and eight machines with
faults for two minutes.

``make chaos`` strikes for longer, and keeps what the checks read. One run of each serves all tests
of this file.
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

from tests.chaos import checks
from tests.chaos.scenario import round_of, run
from tests.harness.director import rows
from tests.harness.machines import STRANGER
from tests.harness.servers import needs_servers

pytestmark = [pytest.mark.slow, pytest.mark.timeout(0 if "CHAOS_SEED" in os.environ else 600)]


@dataclass(frozen=True, slots=True)
class Kept:
    folder: Path
    database: str
    kinds: Counter[str]
    hits: Counter[str]


POSTGRES = pytest.param("postgres", marks=needs_servers)
on_postgres = pytest.mark.parametrize("kept", [POSTGRES], indirect=True)


@pytest.fixture(scope="module", params=[POSTGRES, "sqlite"])
def kept(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Kept:
    database = request.param
    folder = Path(os.environ.get("CHAOS_KEEP") or tmp_path_factory.mktemp("chaos")) / database
    seed, children = (
        int(os.environ.get("CHAOS_SEED", "25")),
        int(os.environ.get("CHAOS_CHILDREN", "240")),
    )
    strikes = int(os.environ.get("CHAOS_KILLS", len(round_of(database))))
    kinds, hits = run(folder, database, seed=seed, strikes=strikes, children=children)
    assert kinds.total() == strikes
    return Kept(folder, database, kinds, hits)


def test_a_farm_that_is_struck_for_two_minutes_loses_and_doubles_nothing(kept: Kept) -> None:
    strikes, of_a_round = kept.kinds.total(), round_of(kept.database)
    if len(of_a_round) <= strikes:
        assert set(kept.kinds) == set(of_a_round)
        assert kept.hits["any"] * 2 >= strikes, kept.hits
        assert all(kept.hits[one] >= 5 for one in ("intent", "uncertain", "accepted", "running")), (
            kept.hits
        )


def _query(query: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        with closing(sqlite3.connect(folder / checks.DATABASE)) as database, database:
            assert database.execute(query).rowcount == 1

    return change


def _again(kind: str, *, as_kind: str, stranger: bool = False) -> Callable[[Path], None]:
    """Return what repeats an entry of the audit log as one of another kind."""

    def change(folder: Path) -> None:
        audit_log = folder / checks.AUDIT_LOG
        text = audit_log.read_text(encoding="utf-8")
        found = next(
            entry
            for entry in map(json.loads, text.splitlines())
            if entry["kind"] == kind and (entry["client_id"] == STRANGER) is stranger
        )
        audit_log.write_text(f"{text}{json.dumps({**found, 'kind': as_kind})}\n", encoding="utf-8")

    return change


_ENDED_TWICE = (
    "UPDATE jobgroups_jobevent SET frame = replace(frame, 'child_started', 'child_completed')"
    " WHERE rowid = (SELECT rowid FROM jobgroups_jobevent WHERE type = 'child_started' LIMIT 1)"
)
_OPEN = (
    "UPDATE jobgroups_jobgroup SET completed_at = NULL WHERE id = (SELECT id FROM "
    "jobgroups_jobgroup LIMIT 1)"
)
_LOST = "DELETE FROM jobgroups_jobgroup WHERE id = (SELECT id FROM jobgroups_jobgroup LIMIT 1)"
_TRESPASS = "INSERT INTO chaos_trespass VALUES ('', 'runner-1', 'UPDATE', '', 'runner-2 3')"
TAMPERINGS = {
    "an event is missing": (
        _query("DELETE FROM jobgroups_jobevent WHERE rowid = 7"),
        "seq has gaps",
    ),
    "a child has two results": (_query(_ENDED_TWICE), "child_completed"),
    "a promised group is gone": (_query(_LOST), "groups were lost or doubled"),
    "a group has no end": (_query(_OPEN), "has not ended"),
    "a runner wrote without its lease": (_query(_TRESPASS), "written without the lease"),
    "a prompt was executed twice": (_again("started", as_kind="started"), "was executed twice"),
    "a stranger's prompt was deleted": (
        _again("accepted", as_kind="deleted", stranger=True),
        "was deleted",
    ),
}


@on_postgres
@pytest.mark.parametrize(("tamper", "said"), TAMPERINGS.values(), ids=TAMPERINGS.keys())
def test_the_checks_notice(
    tamper: Callable[[Path], None], said: str, kept: Kept, tmp_path: Path
) -> None:
    for name in (checks.DATABASE, checks.AUDIT_LOG):
        shutil.copy(kept.folder / name, tmp_path)
    promised = [one["id"] for one in rows(tmp_path, "SELECT id FROM jobgroups_jobgroup")]
    tamper(tmp_path)
    with pytest.raises(AssertionError, match=said):
        checks.check(tmp_path, promised)


@on_postgres
def test_the_checks_notice_a_wrong_copy(kept: Kept, tmp_path: Path) -> None:
    shutil.copy(kept.folder / checks.DATABASE, tmp_path)
    _query("UPDATE jobgroups_storedfile SET blake3 = 'of a web page' WHERE rowid = 1")(tmp_path)
    with pytest.raises(AssertionError, match="has another copy than"):
        checks.check_copies(tmp_path, kept.folder / "outputs")
