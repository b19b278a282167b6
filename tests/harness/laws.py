"""The laws: compares the audit log of the simulators with the database file."""

import datetime as dt
import itertools
import json
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.harness.director import rows
from tests.harness.machines import STRANGER, Entry

FINAL = {"completed", "failed", "timeout", "cancelled"}
ENDS = {f"child_{status}" for status in FINAL}
#: After an attempt that ended so, its child may be rendered again: it did not execute, or its
#: result was lost with the backend.
_MAY_BE_REPEATED = {"never_accepted", "lost", "not_sent"}
#: Seconds that may pass between a prompt's end and the question how it ended, on a loaded machine.
_UNASKED = 4.0


@dataclass(slots=True)
class Seen:
    """The audit log's entries, sorted by prompt."""

    entries: list[Entry]
    #: Seconds that may pass between a prompt's end and the question how it ended.
    unasked: float = _UNASKED
    kinds: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    outcome: dict[str, str] = field(default_factory=dict)
    job: dict[str, str] = field(default_factory=dict)
    strangers: set[str] = field(default_factory=set)
    #: When each prompt arrived, in seconds since the epoch.
    arrived: dict[str, float] = field(default_factory=dict)

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
        self.arrived[entry["prompt_id"]] = entry["time"]
        mark = (entry["extra_data"] or {}).get("director")
        if mark is None:
            assert entry["client_id"] == STRANGER, f"a prompt of no known client: {entry}"
            self.strangers.add(entry["prompt_id"])
        else:
            self.job[entry["prompt_id"]] = mark["job"]


def check(data: Path, entries: list[Entry], *, unasked: float = _UNASKED) -> None:
    """Hold the laws against a Director's data folder and the audit log of its backends."""
    seen = Seen(entries, unasked)
    check_file(data)
    check_rows(data)
    _check_prompts(data, seen)
    _check_strangers(seen)


def check_file(data: Path) -> None:
    assert [tuple(row) for row in rows(data, "PRAGMA integrity_check")] == [("ok",)]
    assert rows(data, "PRAGMA foreign_key_check") == []


def check_rows(data: Path) -> None:
    """Hold that every group has ended, once in each run, and that its events match."""
    for group in rows(data, "SELECT * FROM jobgroups_jobgroup"):
        children = rows(data, "SELECT * FROM jobgroups_childjob WHERE group_id = ?", group["id"])
        log = rows(
            data, "SELECT * FROM jobgroups_jobevent WHERE group_id = ? ORDER BY seq", group["id"]
        )
        events = [json.loads(one["frame"]) for one in log]
        assert group["completed_at"] is not None, f"{group['id']} has not ended"
        assert [one["seq"] for one in log] == list(range(1, group["seq"] + 1)), "seq has gaps"
        assert [one["seq"] for one in events] == [one["seq"] for one in log]
        runs = list(range(1, group["run"] + 1))
        assert [one["run"] for one in events if one["type"] == "group_complete"] == runs
        assert [one["run"] for one in events if one["type"] == "group_reopened"] == runs[1:]
        assert [one["run"] for one in events] == sorted(one["run"] for one in events)
        assert events[0]["type"] == "group_created"
        assert events[-1]["type"] == "group_complete"
        assert len(children) == group["total_count"]
        for child in children:
            _check_stories(child, [one for one in events if one.get("job_id") == child["id"]])
    active = rows(data, "SELECT prompt_id, state FROM jobgroups_attempt WHERE ended_at IS NULL")
    assert [tuple(one) for one in active] == [], "attempts without an end"


def _check_stories(child: Any, events: list[dict[str, Any]]) -> None:
    """Hold that a child ended once in each run it was in, in the last one as it stands now."""
    assert child["status"] in FINAL, f"{child['id']} is {child['status']}"
    runs = sorted({one["run"] for one in events})
    assert runs[-1] == child["run"], f"{child['id']}: {runs}"
    for run in runs:
        kinds = [one["type"] for one in events if one["run"] == run]
        status = child["status"] if run == runs[-1] else None
        _check_story(child["id"], kinds, status)


def _check_story(child_id: str, kinds: list[str], status: str | None) -> None:
    """Hold that a run's events are: started, as often as it was put back or tried again; then one
    end.

    A failure that a person's retry follows is no end: the events around it are two stories.
    """
    for at, kind in enumerate(kinds[:-1]):
        if kind in ("child_failed", "child_timeout") and kinds[at + 1] == "child_retrying":
            _check_story(child_id, kinds[: at + 1], kind.removeprefix("child_"))
            _check_story(child_id, kinds[at + 2 :], status)
            return
    ends = [kind for kind in kinds if kind in ENDS]
    assert len(ends) == 1, f"{child_id}: {kinds}"
    assert kinds[-1] == ends[0]
    assert ends[0] != "child_completed" or status == "completed", f"{child_id} completed, and again"
    assert status is None or ends == [f"child_{status}"], f"{child_id}: {kinds}"
    running = False
    for kind in kinds[:-1]:
        if kind == "child_retrying":
            # Also of one that was refused, or moved while it waited.
            running = False
            continue
        assert kind == ("child_requeued" if running else "child_started"), kinds
        running = not running
    if ends == ["child_completed"]:
        assert running, f"completed without a start: {kinds}"


def _check_prompts(data: Path, seen: Seen) -> None:
    attempts = rows(
        data,
        "SELECT a.*, c.status AS child_status, c.outputs_json AS child_outputs,"
        " c.current_attempt_id = a.id AS is_current, g.max_attempts"
        " FROM jobgroups_attempt a JOIN jobgroups_childjob c ON c.id = a.child_id"
        " JOIN jobgroups_jobgroup g ON g.id = c.group_id ORDER BY a.id",
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
        for one, following in itertools.pairwise(executed):
            if one["run"] < following["run"] and one["state"] != "success":
                continue  # a user retried it
            interrupted = one["state"] == "interrupted" and not one["charged"]
            # How often, ``check_policies`` counts.
            tried_again = one["failure_class"] and one["charged"] and one["max_attempts"] > 1
            # Its sender stood still in the middle of sending it, and was taken for dead.
            came_late = not one["charged"] and _seconds(following["created_at"]) < seen.arrived.get(
                one["prompt_id"], 0.0
            )
            allowed = interrupted or tried_again or came_late or one["state"] in _MAY_BE_REPEATED
            assert allowed, (
                f"{child_id} was executed {len(executed)} times, though attempt {one['number']} "
                f"ended {one['state']}"
            )


def _seconds(stored: str) -> float:
    return dt.datetime.fromisoformat(stored).replace(tzinfo=dt.UTC).timestamp()


def _check_attempt(attempt: Any, seen: Seen) -> None:
    """Hold that an attempt's state is what really became of its prompt."""
    prompt_id, state = attempt["prompt_id"], attempt["state"]
    outcome = seen.outcome.get(prompt_id)
    if state == "success":
        assert outcome == "success", f"{prompt_id}: stored success, the audit log has {outcome}"
    if outcome in ("success", "error"):
        message = f"{prompt_id}: it ended in {outcome}, and is stored as {state}"
        forgotten = state in ("lost", "never_accepted") and was_forgotten(prompt_id, seen)
        assert state == outcome or forgotten, message
    if attempt["is_current"] and attempt["child_status"] == "completed":
        outputs = json.loads(attempt["child_outputs"])
        assert outputs["prompt_id"] == prompt_id
        assert len(outputs["images"]) == 1
        assert outcome == "success"


def was_forgotten(prompt_id: str, seen: Seen) -> bool:
    """Whether its backend died before the runner could read how it ended."""
    (end,) = (e for e in seen.entries if e["kind"] == "ended" and e["prompt_id"] == prompt_id)
    return any(
        entry["kind"] in ("restarted", "crashed", "unplugged")
        and entry["backend"] == end["backend"]
        and 0 <= entry["time"] - end["time"] < seen.unasked
        for entry in seen.entries
    )


def _check_strangers(seen: Seen) -> None:
    for prompt_id in seen.strangers:
        assert seen.kinds[prompt_id]["deleted"] == 0, f"{prompt_id} was deleted"
        if seen.kinds[prompt_id]["lost"] or seen.outcome.get(prompt_id) == "error":
            continue  # by its machine's own failure
        assert seen.outcome.get(prompt_id) == "success", f"{prompt_id}: {seen.kinds[prompt_id]}"
        assert seen.kinds[prompt_id]["started"] == 1
    for entry in seen.entries:
        if entry["kind"] == "interrupted":
            assert entry["target"] in seen.job, (
                f"an interrupt that names no prompt of ours: {entry}"
            )
            assert not entry["hit"] or entry["running"] == [entry["target"]]


def executed_once(entries: list[Entry]) -> list[str]:
    """Hold that no prompt started twice, and return the jobs whose prompts ended well, in order."""
    seen = Seen(entries)
    assert all(kinds["started"] <= 1 for kinds in seen.kinds.values()), seen.kinds
    return sorted(seen.job[one] for one, end in seen.outcome.items() if end == "success")


def statuses(data: Path, group_id: str) -> Counter[str]:
    found = rows(data, "SELECT status FROM jobgroups_childjob WHERE group_id = ?", group_id)
    return Counter(one["status"] for one in found)


def stored_events(data: Path, group_id: str) -> list[dict[str, Any]]:
    log = "SELECT frame FROM jobgroups_jobevent WHERE group_id = ? ORDER BY seq"
    return [json.loads(one["frame"]) for one in rows(data, log, group_id)]
