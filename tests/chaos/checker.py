"""Whether all laws held, read from what a run has kept: on the same folder again and again.

A run's folder has ``director.sqlite3`` (the database, copied), ``audit.jsonl`` (the machines'
audit log), ``promised.json`` (the ids of the groups that were promised), ``streams/`` (what each watcher was
sent), ``snapshots.json`` (each group by HTTP at the end), ``run.json`` and the logs.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any, Final

from backends.simulator import read_audit_log
from tests.chaos.killer import Tally
from tests.chaos.plan import IN_FLIGHT
from tests.e2e.backend_failures import promises
from tests.harness import laws
from tests.harness.director import rows
from tests.ws.client_state import ClientState, picked

DATABASE: Final = "director.sqlite3"
AUDIT_LOG: Final = "audit.jsonl"
PROMISED: Final = "promised.json"
STREAMS: Final = "streams"
SNAPSHOTS: Final = "snapshots.json"
RUN: Final = "run.json"


def check(folder: Path) -> str:
    """Hold the laws against what a run has kept, and return what was held, in words.

    Raises:
        AssertionError: a law was broken; it says which, and by whom.
    """
    entries = read_audit_log(folder / AUDIT_LOG)
    unasked = json.loads((folder / RUN).read_text(encoding="utf-8"))["unasked"]
    _check_promised(folder)
    laws.check(folder, entries, unasked=unasked)
    promises.check_policies(folder)
    _check_trespass(folder)
    events = _check_streams(folder)
    return _told(folder, events)


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


def _told(folder: Path, events: int) -> str:
    def pluralize(query: str) -> str:
        found = Counter({row[0]: row[1] for row in rows(folder, query)})
        return ", ".join(f"{name} {count}" for name, count in found.most_common())

    children = pluralize("SELECT status, count(*) FROM jobgroups_childjob GROUP BY 1")
    attempts = pluralize("SELECT state, count(*) FROM jobgroups_attempt GROUP BY 1")
    takings: list[Any] = rows(folder, "SELECT sum(epoch) FROM jobgroups_lease")
    groups = rows(folder, "SELECT count(*) FROM jobgroups_jobgroup")[0][0]
    return (
        f"{groups} groups, each ended once; children: {children}\n"
        f"attempts: {attempts}; none executed twice\n"
        f"{events} events heard, in order, none missed or doubled\n"
        f"leases taken {takings[0][0]} times, nothing written without one"
    )
