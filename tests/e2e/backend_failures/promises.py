"""The promises of a group's policy, counted from the machines' own audit log and the database file."""

from __future__ import annotations

import datetime as dt
import itertools
import json
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from jobgroups.domain.failures import TAXONOMY, FailureClass, RetryTarget
from tests.harness.director import rows
from tests.harness.laws import Seen, was_forgotten
from tests.harness.machines import Machines
from tests.harness.simulators import Entry

#: A prompt that was claimed just before its backend was set aside is on its way for so long, in seconds.
_ON_ITS_WAY = 3.0
#: After so many seconds without an end (a minute, shortened) a prompt that is to be stopped hangs.
_HANGS_AFTER = 6.0


def check(data: Path, entries: list[Entry]) -> None:
    """Hold the promises against a Director's data folder and the audit log of its machines."""
    check_policies(data)
    _check_quarantines(data, Seen(entries))
    reached(data, entries)


def check_policies(data: Path) -> None:
    """Hold that every child was tried as often, where and with the seed that its group allows."""
    for group in _groups(data):
        for child in group.children:
            _check_attempts(group, child)
            _check_places(group, child)
            _check_seed(child)


# --- what is stored -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Child:
    """A child with its attempts, oldest first, and its events."""

    row: Any
    attempts: list[Any]
    events: list[dict[str, Any]]

    @property
    def id(self) -> str:
        """Its id."""
        return str(self.row["id"])


@dataclass(frozen=True, slots=True)
class Group:
    """A group, its children, and the backends it was submitted to."""

    row: Any
    children: list[Child]

    @property
    def submitted_to(self) -> set[str]:
        """Where its children were before anything moved them."""
        return {_first_place(child) for child in self.children}


def _groups(data: Path) -> Iterator[Group]:
    attempts, events = defaultdict(list), defaultdict(list)
    for one in rows(data, "SELECT * FROM jobgroups_attempt ORDER BY id"):
        attempts[one["child_id"]].append(one)
    for one in rows(data, "SELECT frame FROM jobgroups_jobevent ORDER BY group_id, seq"):
        frame = json.loads(one["frame"])
        events[frame.get("job_id")].append(frame)
    children = defaultdict(list)
    for one in rows(data, "SELECT * FROM jobgroups_childjob ORDER BY group_id, position"):
        children[one["group_id"]].append(Child(one, attempts[one["id"]], events[one["id"]]))
    for one in rows(data, "SELECT * FROM jobgroups_jobgroup ORDER BY created_at"):
        yield Group(one, children[one["id"]])


def _first_place(child: Child) -> str:
    # What moved it names where it was; else it is where it was submitted to.
    moves = [one["backend_id"] for one in child.events if one["type"] == "child_retrying"]
    return str(moves[0] if moves else child.row["backend_id"])


# --- the policy -----------------------------------------------------------------------------------


def _check_attempts(group: Group, child: Child) -> None:
    """Hold that it was tried as often as its group allows, and again only where it may be."""
    for _, of_run in itertools.groupby(child.attempts, lambda one: one["run"]):
        tries = list(of_run)
        charged = [one for one in tries if one["charged"]]
        assert len(charged) <= group.row["max_attempts"], f"{child.id}: {_told(tries)}"
        for one in charged[:-1]:
            _check_may_follow(group, child, one)
        for one, following in itertools.pairwise(charged):
            if one["failure_class"] and _kind(one).retry is RetryTarget.OTHER_BACKEND:
                assert one["backend_id"] != following["backend_id"], f"{child.id}: {_told(tries)}"


def _check_may_follow(group: Group, child: Child, failed: Any) -> None:
    """Hold that after this attempt another one was allowed."""
    told = f"{child.id} was tried again after {_told([failed])}"
    assert failed["failure_class"], told
    assert _kind(failed).retry is not RetryTarget.NEVER, told
    named = group.row["retry_on"] and json.loads(group.row["retry_on"])
    assert named is None or failed["failure_class"] in named, f"{told}; only after {named}"


def _kind(attempt: Any) -> Any:
    return TAXONOMY[FailureClass(attempt["failure_class"])]


def _check_places(group: Group, child: Child) -> None:
    """Hold that it was nowhere where its group does not let it go."""
    places = {one["backend_id"] for one in child.attempts} | {child.row["backend_id"]}
    elsewhere = group.row["retry_elsewhere"]
    if elsewhere == "never":
        assert places == {_first_place(child)}, f"{child.id} may not move, and was at {places}"
    elif elsewhere == "group":
        assert places <= group.submitted_to, f"{child.id} left its group's backends: {places}"


def _check_seed(child: Child) -> None:
    seeds = {one["seed"] for one in child.events if "seed" in one} | {child.row["seed"]}
    assert len(seeds) == 1, f"{child.id} changed its seed: {seeds}"


# --- quarantines ----------------------------------------------------------------------------------


def log_quarantines(data: Path) -> None:
    """Have the database itself note every beginning and end of a quarantine, as it is stored."""
    with closing(sqlite3.connect(data / "director.sqlite3")) as database:
        database.executescript(
            """
            CREATE TABLE test_quarantines (backend_id, quarantined_at, forgiven_at, by_person);
            CREATE TRIGGER test_quarantined AFTER UPDATE ON backends_backend
            WHEN OLD.quarantined_at IS NOT NEW.quarantined_at
            BEGIN
                INSERT INTO test_quarantines
                VALUES (NEW.id, NEW.quarantined_at, NEW.forgiven_at, NEW.quarantine_by);
            END;
            """
        )


@dataclass(frozen=True, slots=True)
class Quarantine:
    """One of a backend, in seconds since the epoch; not over: it ends never."""

    backend_id: str
    since: float
    until: float
    by: str


def quarantines(data: Path) -> list[Quarantine]:
    """Return every quarantine there was, as the database noted it."""
    found: list[Quarantine] = []
    log = rows(data, "SELECT * FROM test_quarantines ORDER BY rowid")
    for backend_id in sorted({one["backend_id"] for one in log}):
        begun: Any = None
        for one in (one for one in log if one["backend_id"] == backend_id):
            if begun is not None and one["quarantined_at"] is None:
                found.append(_quarantine(begun, seconds(one["forgiven_at"])))
            begun = one if one["quarantined_at"] else None
        if begun is not None:
            found.append(_quarantine(begun, float("inf")))
    return found


def _quarantine(begun: Any, until: float) -> Quarantine:
    since = seconds(begun["quarantined_at"])
    return Quarantine(begun["backend_id"], since, until, begun["by_person"])


def _check_quarantines(data: Path, seen: Seen) -> None:
    """Hold that nothing was sent to a backend that was set aside."""
    created = {
        one["prompt_id"]: seconds(one["created_at"])
        for one in rows(data, "SELECT prompt_id, created_at FROM jobgroups_attempt")
    }
    for one in quarantines(data):
        for entry in seen.entries:
            if entry["backend"] != one.backend_id or entry["kind"] not in ("accepted", "refused"):
                continue
            prompt_id = entry["prompt_id"] or ""
            if prompt_id not in created or not one.since < entry["time"] < one.until:
                continue
            late = entry["time"] - one.since
            told = f"{prompt_id} came to {one.backend_id} {late:.3f} s after it was set aside"
            # Claimed before, it was on its way.
            assert created[prompt_id] <= one.since, told
            assert late < _ON_ITS_WAY, told


def seconds(stored: str) -> float:
    """Return a stored time in seconds since the epoch."""
    return dt.datetime.fromisoformat(stored).replace(tzinfo=dt.UTC).timestamp()


# --- classes and their causes ---------------------------------------------------------------------


def reached(data: Path, entries: list[Entry]) -> dict[FailureClass, set[str]]:
    """Return each failure class that was met, and where; hold that each attempt's is what happened."""
    seen = Seen(entries)
    ends = {one["prompt_id"]: one for one in entries if one["kind"] == "ended"}
    asked_for = {one["asked"] for one in entries if one["kind"] == "interrupted"}
    found: dict[FailureClass, set[str]] = defaultdict(set)
    for row in rows(data, "SELECT * FROM jobgroups_attempt WHERE failure_class != ''"):
        kind, prompt_id = FailureClass(row["failure_class"]), row["prompt_id"]
        found[kind].add(row["backend_id"])
        end = ends.get(prompt_id, {})
        one = _Evidence(
            row,
            seen.kinds[prompt_id],
            end,
            asked_for=prompt_id in asked_for,
            went_dark=_went_dark(prompt_id, entries),
            was_forgotten=bool(end) and was_forgotten(prompt_id, seen),
        )
        assert _CAUSES[kind](one), f"the machine saw {dict(one.kinds)}, {end}: {_told([row])}"
    for one in rows(data, "SELECT * FROM jobgroups_childjob WHERE failure_class != ''"):
        found[FailureClass(one["failure_class"])].add(one["backend_id"])
    return found


@dataclass(frozen=True, slots=True)
class _Evidence:
    """An attempt, and what its machine saw of its prompt: how often what, and how it ended."""

    row: Any
    kinds: Counter[str]
    end: Mapping[str, Any]
    asked_for: bool
    #: Whether its machine was unplugged while it ran, or died before anybody asked how it ended.
    went_dark: bool
    was_forgotten: bool

    @property
    def raised(self) -> str:
        """The exception that a node raised, without its module."""
        return str(self.end.get("exception_type", "")).rsplit(".", 1)[-1]

    @property
    def outcome(self) -> str:
        """How it ended there; "" where it never did."""
        return str(self.end.get("outcome", ""))

    @property
    def hung_for(self) -> float:
        """For how many seconds it went on after it was to be stopped."""
        return float(self.end.get("time", "inf")) - seconds(self.row["stop_requested_at"])


def _went_dark(prompt_id: str, entries: list[Entry]) -> bool:
    """Whether a machine was unplugged between a prompt's start and the next one there."""
    running = ""
    began = [one for one in entries if one["kind"] == "started" and one["prompt_id"] == prompt_id]
    for entry in entries:
        if began and entry["backend"] == began[0]["backend"]:
            running = entry["prompt_id"] if entry["kind"] == "started" else running
            if entry["kind"] == "unplugged" and running == prompt_id:
                return True
    return False


def _refused(one: _Evidence) -> bool:
    return one.kinds["refused"] == 1 and not one.kinds["started"]


#: Whether what the machine saw is the cause that a class names.
_CAUSES: dict[FailureClass, Callable[[_Evidence], bool]] = {
    FailureClass.WORKFLOW_REFUSED: _refused,
    FailureClass.NODE_OR_MODEL_MISSING: _refused,
    FailureClass.OUT_OF_MEMORY: lambda one: one.raised == "OutOfMemoryError",
    FailureClass.CUDA_FATAL: lambda one: one.raised == "AcceleratorError",
    FailureClass.NODE_ERROR: lambda one: one.raised == "RuntimeError",
    FailureClass.UNREACHABLE: lambda one: one.outcome != "success",
    FailureClass.BACKEND_LOST: lambda one: one.kinds["lost"] == 1 or one.was_forgotten,
    FailureClass.STALLED: lambda one: one.hung_for >= _HANGS_AFTER,
    # Of a machine that is away when the time is up nobody knows better.
    FailureClass.TIMEOUT: lambda one: (
        (one.outcome == "interrupted" and one.asked_for) or (one.went_dark and not one.outcome)
    ),
    FailureClass.INTERRUPTED: lambda one: one.outcome == "interrupted" and not one.asked_for,
    FailureClass.OUTPUT_GONE: lambda one: one.outcome == "success",
    FailureClass.INTERNAL: lambda _one: False,
}


# --- pictures -------------------------------------------------------------------------------------


def check_pictures(data: Path, machines: Machines) -> None:
    """Hold that each completed child's picture was made with its seed, and is no other child's."""
    owners: dict[Path, str] = {}
    for child in rows(data, "SELECT * FROM jobgroups_childjob WHERE status = 'completed'"):
        for image in json.loads(child["outputs_json"])["images"]:
            file = machines[child["backend_id"]].outputs / "output" / image["filename"]
            assert owners.setdefault(file, child["id"]) == child["id"], f"{file} is two children's"
            with Image.open(file) as picture:
                graph = json.loads(picture.info["prompt"])
            seeds = {n["inputs"]["seed"] for n in graph.values() if "seed" in n["inputs"]}
            assert seeds == {child["seed"]}, f"{child['id']}: {seeds} at {file}"


# --- for a reader ---------------------------------------------------------------------------------


def told(data: Path, labels: Mapping[str, str]) -> str:
    """Return every group, and of each child that was not done at the first try its attempts."""
    lines = []
    for group in _groups(data):
        row = group.row
        ended = Counter(child.row["status"] for child in group.children)
        policy = f"{row['max_attempts']}×, {row['retry_elsewhere']}, on {row['retry_on'] or 'all'}"
        label = labels.get(row["id"], "")
        lines.append(f"{row['id']} {label} ({policy}): {row['status']} {dict(ended)}")
        for child in group.children:
            if child.row["status"] != "completed" or len(child.attempts) != 1:
                place = child.row["backend_id"]
                tries = _told(child.attempts)
                lines.append(f"    {child.id} {child.row['status']} at {place}: {tries}")
    lines += [f"    {one}" for one in quarantines(data)]
    return "\n".join(lines)


def _told(attempts: Iterable[Any]) -> str:
    return "; ".join(
        f"{one['number']} {one['backend_id']} {one['state']}"
        f" {one['failure_class'] or '-'}{'' if one['charged'] else ' (uncharged)'}"
        for one in attempts
    )
