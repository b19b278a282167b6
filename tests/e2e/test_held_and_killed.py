"""A machine is held back in the middle of a group, and the Director dies right after its answer.

What was said stays said: nothing more is sent there, what is given back is rendered once, elsewhere or
after the hold, nothing is lost or doubled, and no attempt is charged for it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.backend_failures.promises import seconds
from tests.e2e.backend_failures.scene import Scene, scene
from tests.harness.machines import Build
from tests.harness.simulators import Entry, picture

pytestmark = [pytest.mark.timeout(180), pytest.mark.slow]

MACHINES = ("gpu-1", "gpu-2", "gpu-3")
HELD = "gpu-2"
CHILDREN = 40


@dataclass(frozen=True, slots=True)
class Deed:
    """What is said of the machine, the word that is shown for it then, and what ends it.

    Attributes:
        gives_back: whether what runs there is interrupted, to be rendered again.
        empties: whether what waits there goes elsewhere, where that is allowed.
    """

    word: str
    shown: str
    undone_by: str
    said: dict[str, Any]
    gives_back: bool
    empties: bool


#: Of a machine that is paused only what is given back may go elsewhere: its queue waits for it.
DEEDS = {
    "paused now": Deed("pause", "paused", "resume", {"now": True, "by": "anna"}, True, False),
    "drained now": Deed("drain", "draining", "resume", {"now": True, "by": "anna"}, True, True),
    "set aside": Deed("quarantine", "quarantined", "release", {"by": "anna"}, False, True),
}


@pytest.mark.parametrize("elsewhere", [True, False], ids=["may go", "stays"])
@pytest.mark.parametrize("deed", DEEDS.values(), ids=DEEDS.keys())
def test_what_was_said_outlives_the_director(deed: Deed, elsewhere: bool, tmp_path: Path) -> None:
    with scene(tmp_path, [_build(name, deed) for name in MACHINES]) as play:
        play.machines.strangers()
        named = [MACHINES[n % len(MACHINES)] for n in range(CHILDREN)]
        group_id = play.submit(deed.word, picture(), named, retry_elsewhere=elsewhere)
        play.machines.wait_seen(_one_of_ours_runs_there)
        answer = play.tell(HELD, deed.word, **deed.said)
        answered_at = time.time()
        play.director.kill()
        assert answer["status"] == deed.shown
        play.machines.strangers()
        play.director.start()
        goes = elsewhere and deed.empties
        undone_at = float("inf") if goes else _undone(play, deed)
        play.end()
        _check_children(play, group_id)
        _check_sent_nothing(play, answered_at, undone_at)
        _check_given_back(play, deed)


def _build(name: str, deed: Deed) -> Build:
    """Return a machine; where one gives back, its first prompt of ours ends by being interrupted alone.

    Else it may be rendered before the Director is there again.
    """
    lasts = deed.gives_back and name == HELD
    return Build(name, seconds=0.8, faults=("stuck:mark=director",) if lasts else ())


def _one_of_ours_runs_there(entries: list[Entry]) -> bool:
    ours = {one["prompt_id"] for one in entries if one["kind"] == "accepted" and one["extra_data"].get("director")}
    there = [one for one in entries if one["kind"] == "started" and one["backend"] == HELD]
    return any(one["prompt_id"] in ours for one in there)


def _undone(play: Scene, deed: Deed) -> float:
    """Wait until nothing but what waits for the machine is left, then let it work; when that was said."""
    end = time.monotonic() + 60
    waits = (
        "SELECT backend_id, count(*) FROM jobgroups_childjob WHERE status IN ('queued', 'running') GROUP BY backend_id"
    )
    active = "SELECT 1 FROM jobgroups_attempt WHERE ended_at IS NULL"
    while [one["backend_id"] for one in play.director.rows(waits)] != [HELD] or (play.director.rows(active)):
        assert time.monotonic() < end, [tuple(one) for one in play.director.rows(waits)]
        time.sleep(0.1)
    assert play.backends()[HELD]["status"] == deed.shown
    undone_at = time.time()
    play.tell(HELD, deed.undone_by, by="anna")
    return undone_at


def _check_children(play: Scene, group_id: str) -> None:
    """Hold that every child has its picture by one attempt, and no other one was charged.

    One that was given back, and quicker than its interrupt, has made it.
    """
    tries = play.director.rows(
        "SELECT c.id, c.status, count(a.id) AS charged, max(a.state) AS state FROM jobgroups_childjob c"
        " JOIN jobgroups_attempt a ON a.child_id = c.id AND (a.charged OR a.state = 'success')"
        " WHERE c.group_id = ? GROUP BY c.id",
        group_id,
    )
    assert len(tries) == CHILDREN
    told = {(one["status"], one["charged"], one["state"]) for one in tries}
    assert told == {("completed", 1, "success")}


def _check_sent_nothing(play: Scene, answered_at: float, undone_at: float) -> None:
    """Hold that nothing was claimed for the machine while it was held back."""
    rows = play.director.rows("SELECT prompt_id, created_at FROM jobgroups_attempt WHERE backend_id = ?", HELD)
    late = [one for one in rows if answered_at < seconds(one["created_at"]) < undone_at]
    assert late == [], f"{len(late)} prompts were claimed for a machine that is held back"


def _check_given_back(play: Scene, deed: Deed) -> None:
    """Hold that what ran there was given back where that was said, and else was finished."""
    query = "SELECT state FROM jobgroups_attempt WHERE backend_id = ? AND NOT charged"
    states = {one["state"] for one in play.director.rows(query, HELD)}
    interrupted = [one for one in play.machines.seen() if one.get("outcome") == "interrupted"]
    if deed.gives_back:
        assert "interrupted" in states
        assert {one["backend"] for one in interrupted} == {HELD}
    else:
        assert interrupted == []
    shown = play.director.rows("SELECT * FROM backends_backend WHERE id = ?", HELD)[0]
    assert (shown["said_by"] or shown["quarantine_by"] or "anna") == "anna"
