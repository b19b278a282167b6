"""Whether all laws held, read from what a run has kept."""

import json
from pathlib import Path
from typing import Final

from backends.simulator import read_audit_log
from tests.chaos.killer import Tally
from tests.chaos.plan import IN_FLIGHT
from tests.chaos.policies import check_policies
from tests.harness import laws
from tests.harness.director import rows
from tests.ws.client_state import ClientState, picked

DATABASE: Final = "director.sqlite3"  # a copy
AUDIT_LOG: Final = "audit.jsonl"  # of all machines
PROMISED: Final = "promised.json"  # ids of the groups whose submission was answered
STREAMS: Final = "streams"  # what each watcher was sent
SNAPSHOTS: Final = "snapshots.json"  # each group by HTTP at the end
RUN: Final = "run.json"


def check(folder: Path) -> str:
    """Hold the laws against what a run has kept, and return what was held, in words."""
    entries = read_audit_log(folder / AUDIT_LOG)
    unasked = json.loads((folder / RUN).read_text(encoding="utf-8"))["unasked"]
    _check_promised(folder)
    laws.check(folder, entries, unasked=unasked)
    check_policies(folder)
    _check_trespass(folder)
    events = _check_streams(folder)
    groups = rows(folder, "SELECT count(*) FROM jobgroups_jobgroup")[0][0]
    return f"{groups} groups, each ended once; {events} events, in order, none missed or doubled"


def _check_promised(folder: Path) -> None:
    """Hold that what was promised is there, and nothing else: no group lost, none doubled."""
    promised = json.loads((folder / PROMISED).read_text(encoding="utf-8"))
    stored = [one["id"] for one in rows(folder, "SELECT id FROM jobgroups_jobgroup")]
    assert sorted(stored) == sorted(promised), "groups were lost or doubled"


def _check_trespass(folder: Path) -> None:
    """Hold that no runner wrote about an attempt whose backend was another one's."""
    found = [dict(one) for one in rows(folder, "SELECT * FROM chaos_trespass")]
    assert found == [], f"written without the lease: {found}"


def _check_streams(folder: Path) -> int:
    """Hold that each watcher was sent each event once, and came to the snapshot; return how many."""
    snapshots = json.loads((folder / SNAPSHOTS).read_text(encoding="utf-8"))
    count = 0
    for group_id, snapshot in snapshots.items():
        text = (folder / STREAMS / f"{group_id}.jsonl").read_text(encoding="utf-8")
        frames = [json.loads(line) for line in text.splitlines()]
        assert frames[0]["type"] == "initial_state", group_id
        state = ClientState()
        for frame in frames:
            state.take(frame)
        assert list(state.children.values()) == [picked(one) for one in snapshot["child_jobs"]]
        assert {name: state.group[name] for name in ("seq", "status")} == {
            name: snapshot[name] for name in ("seq", "status")
        }, group_id
        heard = [frame for frame in frames if frame["type"] != "initial_state"]
        stored = laws.stored_events(folder, group_id)
        assert heard == stored[len(stored) - len(heard) :], f"{group_id}: another log than the stored"
        count += len(heard)
    return count


def check_reached(tally: Tally, *, each: int) -> None:
    """Hold that half of the strikes hit an attempt in flight, and each state often enough."""
    total = tally.kinds.total()
    assert tally.in_flight * 2 >= total, f"only {tally.in_flight} of {total} hit an attempt"
    seldom = {one.value: tally.states[one] for one in IN_FLIGHT if tally.states[one] < each}
    assert not seldom, f"hit fewer than {each} times: {seldom}"
