"""What must hold after a run, checked against a copy of the database and the audit log of the
machines.
"""

import datetime as dt
import itertools
import json
import sqlite3
from collections import defaultdict
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import psycopg
from blake3 import blake3

from backends.simulator import read_audit_log
from jobgroups.domain.failures import TAXONOMY, FailureClass, RetryTarget
from tests.harness import laws
from tests.harness.director import rows
from tests.harness.watcher import Watcher
from tests.ws.client_state import picked

DATABASE: Final = "director.sqlite3"
AUDIT_LOG: Final = "audit.jsonl"
#: Seconds: a runner that is paused, and the one that waits for its lease, query no machine
#: meanwhile.
_UNASKED: Final = 48.0
_TABLES: Final = (
    "SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename ~ "
    "'^(backends|jobgroups|chaos)_'"
)
_CHILDREN: Final = (
    "SELECT c.*, g.max_attempts, g.retry_elsewhere, g.retry_on, v.candidates"
    " FROM jobgroups_childjob c JOIN jobgroups_jobgroup g ON g.id = c.group_id"
    " LEFT JOIN jobgroups_variant v ON v.id = c.variant_id"
)


def copy(database: psycopg.Connection[Any], folder: Path) -> None:
    """Copy the tables into an SQLite file, which the laws read."""
    with closing(sqlite3.connect(folder / DATABASE)) as copied, copied:
        for (table,) in database.execute(_TABLES).fetchall():
            found = database.execute(f'SELECT * FROM "{table}"')  # noqa: S608 our own names
            assert found.description is not None
            names = [f'"{column.name}"' for column in found.description]
            copied.execute(f'CREATE TABLE "{table}" ({", ".join(names)})')
            query = f'INSERT INTO "{table}" VALUES ({", ".join("?" * len(names))})'  # noqa: S608
            copied.executemany(query, [[_plain(value) for value in row] for row in found])


def _plain(value: Any) -> Any:
    """Return a value as Django keeps it in SQLite."""
    if isinstance(value, dt.datetime):
        return value.astimezone(dt.UTC).replace(tzinfo=None).isoformat(" ")
    return json.dumps(value) if isinstance(value, dict | list) else value


def check(folder: Path, promised: Sequence[str], *, has_leases: bool = True) -> None:
    """Check that no group was lost or doubled, and that the laws hold; of several runners, that
    each write had the lease.
    """
    stored = [one["id"] for one in rows(folder, "SELECT id FROM jobgroups_jobgroup")]
    assert sorted(stored) == sorted(promised), "groups were lost or doubled"
    laws.check(folder, read_audit_log(folder / AUDIT_LOG), unasked=_UNASKED)
    check_policies(folder)
    if not has_leases:
        return
    found = [dict(one) for one in rows(folder, "SELECT * FROM chaos_trespass")]
    assert found == [], f"written without the lease: {found}"


def check_copies(folder: Path, outputs: Path) -> None:
    """Check that each output of a completed job is captured as its machine has it; ``outputs`` has
    their folders.
    """
    found = rows(
        folder,
        "SELECT c.id, c.backend_id, c.outputs_json, p.reason, f.blake3 FROM jobgroups_childjob c"
        " LEFT JOIN jobgroups_capture p ON p.child_id = c.id LEFT JOIN jobgroups_storedfile f ON "
        "f.id = p.file_id"
        " WHERE c.status = 'completed'",
    )
    for one in found:
        (image,) = json.loads(one["outputs_json"])["images"]
        path = outputs / one["backend_id"] / image["type"] / image["subfolder"] / image["filename"]
        message = f"{one['id']} has another copy than {path} ({one['reason']})"
        assert one["blake3"] == blake3(path.read_bytes()).hexdigest(), message


def check_stream(folder: Path, watcher: Watcher, snapshot: dict[str, Any]) -> None:
    """Check that a watcher was sent each event as it is stored, and came to the state of the
    snapshot.
    """
    state, stored = watcher.state, laws.stored_events(folder, watcher.group_id)
    assert list(state.children.values()) == [picked(one) for one in snapshot["child_jobs"]]
    assert (state.seq, state.group["status"]) == (snapshot["seq"], snapshot["status"]), (
        watcher.group_id
    )
    assert watcher.events, watcher.group_id
    assert watcher.events == stored[-len(watcher.events) :], (
        f"{watcher.group_id}: another log than the stored one"
    )


def check_policies(data: Path) -> None:
    """Check that each child was attempted as often, where and with the seed that its group allows."""
    attempts, events, allowed = defaultdict(list), defaultdict(list), defaultdict(set)
    for one in rows(data, "SELECT * FROM jobgroups_attempt ORDER BY id"):
        attempts[one["child_id"]].append(one)
    for one in rows(data, "SELECT frame FROM jobgroups_jobevent ORDER BY group_id, seq"):
        frame = json.loads(one["frame"])
        events[frame.get("job_id")].append(frame)
    children = rows(data, _CHILDREN)
    for child in children:
        allowed[child["group_id"]].add(_submitted_to(child, events[child["id"]]))
    for child in children:
        mine, its_events = attempts[child["id"]], events[child["id"]]
        for _, of_run in itertools.groupby(mine, lambda one: one["run"]):
            _check_attempts(child, [one for one in of_run if one["charged"]])
        used = {one["backend_id"] for one in mine} | {child["backend_id"]}
        if child["candidates"] is not None:
            may = {*json.loads(child["candidates"]), None}
            assert used <= may, f"{child['id']} may only be at {may}, and was at {used}"
        elif child["retry_elsewhere"] != "any":
            own = {_submitted_to(child, its_events)}
            may = allowed[child["group_id"]] if child["retry_elsewhere"] == "group" else own
            assert used <= may, f"{child['id']} may only be at {may}, and was at {used}"
        seeds = {one["seed"] for one in its_events if "seed" in one} | {child["seed"]}
        assert len(seeds) == 1, f"{child['id']} changed its seed: {seeds}"


def _submitted_to(child: Any, events: list[dict[str, Any]]) -> str:
    """Return the child's backend before its first move."""
    moves = [one["backend_id"] for one in events if one["type"] == "child_retrying"]
    return str(moves[0] if moves else child["backend_id"])


def _check_attempts(child: Any, counted: list[Any]) -> None:
    """Check the counted attempts of one run: how many, after which failures, and where."""
    text = f"{child['id']}: {_text(counted)}"
    assert len(counted) <= child["max_attempts"], text
    named = child["retry_on"] and json.loads(child["retry_on"])
    for failed, following in itertools.pairwise(counted):
        assert failed["failure_class"], text
        retry = TAXONOMY[FailureClass(failed["failure_class"])].retry
        assert retry is not RetryTarget.NEVER, text
        assert named is None or failed["failure_class"] in named, f"{text}; only after {named}"
        if retry is RetryTarget.OTHER_BACKEND:
            assert failed["backend_id"] != following["backend_id"], text


def _text(attempts: Sequence[Any]) -> str:
    return "; ".join(
        f"{one['number']} {one['backend_id']} {one['state']} {one['failure_class'] or '-'}"
        for one in attempts
    )
