"""The verdict: what the simulators' witness saw, against what the database file says."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.e2e.killing.director import rows
from tests.e2e.killing.gpus import STRANGER, Entry

FINAL = {"completed", "failed", "timeout", "cancelled"}
ENDS = {f"child_{status}" for status in FINAL}
#: After an attempt that ended so, its child may be rendered again: it did not execute, or its
#: result was lost with the backend.
_MAY_BE_REPEATED = {"never_accepted", "lost", "not_sent"}


@dataclass(slots=True)
class Seen:
    """The witness's entries, sorted by prompt."""

    entries: list[Entry]
    kinds: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    outcome: dict[str, str] = field(default_factory=dict)
    job: dict[str, str] = field(default_factory=dict)
    strangers: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        for entry in self.entries:
            prompt_id = entry.get("prompt_id")
            if prompt_id is not None:
                self.kinds[prompt_id][entry["kind"]] += 1
            if entry["kind"] == "ended":
                self.outcome[prompt_id or ""] = entry["outcome"]
            if entry["kind"] == "accepted":
                self._accepted(entry)

    def _accepted(self, entry: Entry) -> None:
        mark = (entry["extra_data"] or {}).get("director")
        if mark is None:
            assert entry["client_id"] == STRANGER, f"nobody's prompt: {entry}"
            self.strangers.add(entry["prompt_id"])
        else:
            self.job[entry["prompt_id"]] = mark["job"]


def check(data: Path, entries: list[Entry]) -> None:
    """Hold the laws against a Director's data folder and the witness of its backends."""
    seen = Seen(entries)
    check_file(data)
    check_rows(data)
    _check_prompts(data, seen)
    _check_strangers(seen)


# --- the database by itself -----------------------------------------------------------------------


def check_file(data: Path) -> None:
    """Hold that the file is whole."""
    assert [tuple(row) for row in rows(data, "PRAGMA integrity_check")] == [("ok",)]
    assert rows(data, "PRAGMA foreign_key_check") == []


def check_rows(data: Path) -> None:
    """Hold that every group has ended, once, and that its log tells just that."""
    for group in rows(data, "SELECT * FROM jobgroups_jobgroup"):
        children = rows(data, "SELECT * FROM jobgroups_childjob WHERE group_id = ?", group["id"])
        log = rows(
            data, "SELECT * FROM jobgroups_jobevent WHERE group_id = ? ORDER BY seq", group["id"]
        )
        events = [json.loads(one["frame"]) for one in log]
        assert group["completed_at"] is not None, f"{group['id']} has not ended"
        assert [one["seq"] for one in log] == list(range(1, group["seq"] + 1)), "seq has gaps"
        assert [one["seq"] for one in events] == [one["seq"] for one in log]
        assert [one["type"] for one in events].count("group_complete") == 1
        assert events[0]["type"] == "group_created"
        assert events[-1]["type"] == "group_complete"
        assert len(children) == group["total_count"]
        for child in children:
            _check_story(child, [one for one in events if one.get("job_id") == child["id"]])
    active = rows(data, "SELECT prompt_id, state FROM jobgroups_attempt WHERE ended_at IS NULL")
    assert [tuple(one) for one in active] == [], "attempts that nobody has ended"


def _check_story(child: Any, events: list[dict[str, Any]]) -> None:
    """Hold that a child's events are: started, as often as it was requeued; then one end."""
    assert child["status"] in FINAL, f"{child['id']} is {child['status']}"
    kinds = [one["type"] for one in events]
    ends = [kind for kind in kinds if kind in ENDS]
    assert ends == [f"child_{child['status']}"], f"{child['id']}: {kinds}"
    assert kinds[-1] in ENDS
    running = False
    for kind in kinds[:-1]:
        assert kind == ("child_requeued" if running else "child_started"), kinds
        running = not running
    if child["status"] == "completed":
        assert running, f"completed without a start: {kinds}"


# --- against the witness --------------------------------------------------------------------------


def _check_prompts(data: Path, seen: Seen) -> None:
    attempts = rows(
        data,
        "SELECT a.*, c.status AS child_status, c.outputs_json AS child_outputs,"
        " c.current_attempt_id = a.id AS is_current"
        " FROM jobgroups_attempt a JOIN jobgroups_childjob c ON c.id = a.child_id ORDER BY a.id",
    )
    known = {one["prompt_id"]: one for one in attempts}
    for prompt_id, job in seen.job.items():
        assert prompt_id in known, f"{prompt_id} was sent, and no row knows it"
        assert known[prompt_id]["child_id"] == job
        assert seen.kinds[prompt_id]["accepted"] == 1, f"{prompt_id} was sent twice"
        assert seen.kinds[prompt_id]["started"] <= 1, f"{prompt_id} was executed twice"
    for one in attempts:
        _check_attempt(one, seen)
    by_child = defaultdict(list)
    for one in attempts:
        if seen.kinds[one["prompt_id"]]["started"]:
            by_child[one["child_id"]].append(one)
    for child_id, executed in by_child.items():
        for one in executed[:-1]:
            struck = one["state"] == "interrupted" and not one["charged"]
            assert struck or one["state"] in _MAY_BE_REPEATED, (
                f"{child_id} was executed {len(executed)} times, though attempt {one['number']}"
                f" ended {one['state']}"
            )


def _check_attempt(attempt: Any, seen: Seen) -> None:
    """Hold that an attempt's state is what really became of its prompt."""
    prompt_id, state = attempt["prompt_id"], attempt["state"]
    outcome = seen.outcome.get(prompt_id)
    if state == "success":
        assert outcome == "success", f"{prompt_id}: stored success, the witness saw {outcome}"
    if outcome == "success":
        assert state == "success", f"{prompt_id}: it succeeded, and is stored as {state}"
    if outcome == "error":
        assert state == "error", f"{prompt_id}: it raised, and is stored as {state}"
    if attempt["is_current"] and attempt["child_status"] == "completed":
        outputs = json.loads(attempt["child_outputs"])
        assert outputs["prompt_id"] == prompt_id
        assert len(outputs["images"]) == 1
        assert outcome == "success"


def _check_strangers(seen: Seen) -> None:
    for prompt_id in seen.strangers:
        assert seen.kinds[prompt_id]["deleted"] == 0, f"{prompt_id} was deleted"
        assert seen.outcome.get(prompt_id) == "success", f"{prompt_id}: {seen.kinds[prompt_id]}"
        assert seen.kinds[prompt_id]["started"] == 1
    for entry in seen.entries:
        if entry["kind"] == "interrupted":
            assert entry["asked"] in seen.job, f"an interrupt that names no prompt of ours: {entry}"
            assert not entry["hit"] or entry["running"] == [entry["asked"]]


def statuses(data: Path, group_id: str) -> Counter[str]:
    """Return how many children of a group ended how."""
    found = rows(data, "SELECT status FROM jobgroups_childjob WHERE group_id = ?", group_id)
    return Counter(one["status"] for one in found)


def stored_events(data: Path, group_id: str) -> list[dict[str, Any]]:
    """Return a group's log as its frames."""
    log = "SELECT frame FROM jobgroups_jobevent WHERE group_id = ? ORDER BY seq"
    return [json.loads(one["frame"]) for one in rows(data, log, group_id)]
