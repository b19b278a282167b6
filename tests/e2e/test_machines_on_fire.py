"""Machines that fail while a group is rendered: who sees what, by the machines' own audit log.

One of five machines is on fire, and the artist only sees "4 done, 1 done on the second try".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from jobgroups.domain.failures import FailureClass
from tests.e2e.backend_failures import eight, promises
from tests.e2e.backend_failures.scene import Scene, rare_picture, scene
from tests.harness.machines import Build
from tests.harness.processes import ROOT
from tests.harness.simulators import Entry
from tests.harness.waits import until
from tests.harness.watcher import all_events

pytestmark = [pytest.mark.timeout(180), pytest.mark.slow]

FIVE = tuple(f"gpu-{number}" for number in range(1, 6))
BURNING = "gpu-3"
WELL = Build(BURNING)


# --- one of five ----------------------------------------------------------------------------------


def _nothing(_play: Scene) -> None:
    """Nothing more happens to it than was ordered at its start."""


def _unplug(play: Scene) -> None:
    play.machines[BURNING].unplug()


def _occupy(play: Scene) -> None:
    """Have somebody else's long prompt run there, behind which ours waits."""
    play.machines[BURNING].stranger(1, seconds=60.0)
    play.machines.wait_seen(lambda seen: any(one["kind"] == "started" for one in seen))


def _unplug_before_its_start(play: Scene) -> None:
    play.machines.wait_seen(_ours_waits_there)
    play.machines[BURNING].unplug()


def _unplug_in_its_render(play: Scene) -> None:
    play.machines.wait_seen(_ours_runs_there)
    # The Director must have received the start: else the job was queued there, as far as it knows.
    until(lambda: any(one["backend_id"] == BURNING for one in _running(play)))
    play.machines[BURNING].unplug()


def _running(play: Scene) -> list[dict[str, Any]]:
    (group_id,) = play.labels
    jobs = play.group(group_id)["child_jobs"]
    return [one for one in jobs if one["status"] == "running"]


def _ours_runs_there(entries: list[Entry]) -> bool:
    return any(one["backend"] == BURNING and one["kind"] == "started" for one in entries)


def _ours_waits_there(entries: list[Entry]) -> bool:
    there = [one for one in entries if one["backend"] == BURNING and one["kind"] == "accepted"]
    return any(one["extra_data"].get("director") for one in there)


@dataclass(frozen=True, slots=True)
class Fire:
    """What is wrong with the one machine, and how it is told.

    Attributes:
        failure: the class of the failed attempt, or of what moved the child.
        first_told: the class in the event, where the attempt's is found out later.
        build: of the machine.
        before, after: what happens to it before and after the submission.
        started: how many of our prompts begin, on all machines.
        attempts: how many of them the burning child has.
        needs_power: whether the machine must be plugged in again for its prompts to end.
    """

    failure: str
    build: Build = WELL
    first_told: str = ""
    before: Callable[[Scene], None] = _nothing
    after: Callable[[Scene], None] = _nothing
    started: int = 6
    attempts: int = 2
    needs_power: bool = False


FIRES = {
    "its GPU is broken": Fire("cuda_fatal", Build(BURNING, faults=("cuda_fatal:count=0",))),
    "it crashes in every render": Fire(
        "backend_lost", Build(BURNING, faults=("restart:at=step,step=2,down=0.3,count=0",))
    ),
    "it crashes in a render and stays dark": Fire(
        "backend_lost", Build(BURNING, faults=("crash:at=step,step=2",)), needs_power=True
    ),
    "it is unplugged in a render": Fire(
        "backend_lost", Build(BURNING, seconds=20.0), after=_unplug_in_its_render, needs_power=True
    ),
    "it lacks the model": Fire("node_or_model_missing", Build(BURNING, models=()), started=5),
    "its card is too small": Fire("out_of_memory", Build(BURNING, vram=8, faults=("out_of_memory:count=0",))),
    "it is unplugged before its child is sent": Fire(
        "unreachable", before=_unplug, started=5, attempts=1, needs_power=True
    ),
    "it is unplugged before its child starts": Fire(
        "unreachable", before=_occupy, after=_unplug_before_its_start, started=5, needs_power=True
    ),
    "it hangs and cannot be interrupted": Fire(
        "stalled", Build(BURNING, faults=("stuck:interruptible=0,count=0",)), first_told="timeout", needs_power=True
    ),
}


@pytest.mark.parametrize("fire", FIRES.values(), ids=FIRES.keys())
def test_one_of_five_is_on_fire_and_every_picture_is_made(fire: Fire, tmp_path: Path) -> None:
    builds = [fire.build if name == BURNING else Build(name) for name in FIVE]
    with scene(tmp_path, builds) as play:
        fire.before(play)
        group_id = play.submit("one of five", rare_picture(), FIVE, max_attempts=3, retry_elsewhere=True)
        fire.after(play)
        play.wait_ended()
        group = play.group(group_id)
        burnt = _check_told(play, group, fire)
        _check_attempts(play, group_id, burnt, fire)
        if fire.needs_power:
            if play.machines[BURNING].runs:
                play.machines[BURNING].unplug()
            play.machines[BURNING].start()
        play.end()
        _check_executed(play, burnt, fire)


def _check_told(play: Scene, group: dict[str, Any], fire: Fire) -> dict[str, Any]:
    """Hold what the snapshot and the stream say; return the child that met the fire."""
    counts = {name: group[name] for name in ("status", "completed_count", "failed_count")}
    assert counts == {"status": "completed", "completed_count": 5, "failed_count": 0}
    # The watcher may connect on a busy machine when the retry has been stored already.
    events = all_events(play.director, group["job_group_id"])
    (retrying,) = [one for one in events if one["type"] == "child_retrying"]
    kind = fire.first_told or fire.failure
    assert (retrying["backend_id"], retrying["failure_class"]) == (BURNING, kind)
    (burnt,) = [one for one in group["child_jobs"] if one["job_id"] == retrying["job_id"]]
    assert burnt["backend_id"] == retrying["next_backend_id"] != BURNING
    tries = {one["job_id"]: one["attempts"] for one in group["child_jobs"]}
    assert tries.pop(burnt["job_id"]) == fire.attempts
    assert set(tries.values()) == {1}
    last = events[-1]
    assert (last["type"], last["succeeded"], last["failed"]) == ("group_complete", 5, 0)
    ends = [one["type"] for one in events if one["type"].startswith("child_") and "outputs" in one]
    assert ends == ["child_completed"] * 5
    found: dict[str, Any] = burnt
    return found


def _check_attempts(play: Scene, group_id: str, burnt: dict[str, Any], fire: Fire) -> None:
    *failed, last = play.attempts(group_id, burnt["job_id"])
    assert (last["backend_id"], last["outcome"]) == (burnt["backend_id"], "success")
    told = [(one["backend_id"], one["failure_class"]) for one in failed]
    assert told == [(BURNING, fire.failure)] * (fire.attempts - 1)


def _check_executed(play: Scene, burnt: dict[str, Any], fire: Fire) -> None:
    """Hold what the machines did: no prompt began twice, and none more than was needed."""
    began = [one for one in play.machines.seen() if one["kind"] == "started"]
    ours = [one["prompt_id"] for one in began if not one["prompt_id"].startswith("stranger")]
    assert len(ours) == len(set(ours)) == fire.started
    ended = [one for one in play.machines.seen() if one.get("outcome") == "success"]
    where = sorted(one["backend"] for one in ended)
    assert where == sorted([*(name for name in FIVE if name != BURNING), burnt["backend_id"]])


def test_killed_backend_without_retry_elsewhere_loses_its_job_at_the_timeout(tmp_path: Path) -> None:
    builds = [Build(BURNING, seconds=20.0), Build("gpu-1")]
    with scene(tmp_path, builds) as play:
        group_id = play.submit("two of two", rare_picture(), [build.name for build in builds])
        _unplug_in_its_render(play)
        reasons: set[str] = set()
        while not (group := play.group(group_id))["completed_at"]:
            reasons |= {one["waiting_reason"] or "" for one in group["child_jobs"]}
        assert any(
            one.startswith(f"{BURNING} has not been reachable since ") and "Fails at" in one for one in reasons
        ), reasons
        lost, kept = group["child_jobs"]
        assert (kept["status"], kept["waiting_reason"]) == ("completed", None)
        told = (lost["status"], lost["failure_class"], lost["error_type"], lost["waiting_reason"])
        assert told == ("failed", "backend_lost", "ConnectionError", None)
        assert lost["error_message"].startswith(f"{BURNING} went offline at ")
        assert lost["error_message"].endswith(", while it rendered this job")
        play.machines[BURNING].start()
        play.wait_ended()
        play.end()


# --- eight unequal ones ---------------------------------------------------------------------------

#: Failure classes that the eight cannot cause, and the tests of their own that do.
ELSEWHERE_TESTED = {
    FailureClass.OUTPUT_GONE: (
        "tests/runner/test_retry_elsewhere.py",
        "test_files_that_are_gone_are_made_again_after_the_cache_was_emptied",
    ),
    FailureClass.INTERNAL: ("tests/db/test_retry_in_run.py", "test_internal_error_fails_its_job_and_is_not_retried"),
}


def test_eight_unequal_machines_and_two_hundred_children(tmp_path: Path) -> None:
    assert eight.CHILDREN == 200
    # Short of a quarter of an hour, so that a machine comes back while somebody waits.
    with scene(tmp_path, eight.MACHINES, {"DIRECTOR_QUARANTINE_FORGIVE_MINUTES": "0.1"}) as play:
        play.machines.strangers()
        story = eight.Story(play)
        story.submit()
        story.go_on()
        groups = {label: play.group(group_id) for label, group_id in story.groups.items()}
        play.end()
        _check_groups(groups)
        found = promises.reached(play.director.data, play.machines.seen())
        assert set(found) == set(FailureClass) - set(ELSEWHERE_TESTED)
        _check_where(found)
        set_aside = {one.backend_id for one in promises.quarantines(play.director.data)}
        assert {"broken", "steady"} <= set_aside
        promises.check_pictures(play.director.data, play.machines)


def _check_groups(groups: dict[str, dict[str, Any]]) -> None:
    """Hold how the groups ended whose policy decides it alone."""
    ended = {label: _ended(group) for label, group in groups.items()}
    assert ended["wrong"] == [("failed", "workflow_refused", 1)] * 4
    assert ended["cursed"] == [("failed", "node_error", 2)] * 6
    assert ended["cursed once"] == [("failed", "node_error", 1)] * 4
    assert ended["too large, and stays"] == [("failed", "out_of_memory", 2)] * 4
    assert ended["struck"].count(("failed", "interrupted", 1)) == 2
    assert groups["careful"]["status"] == "completed"
    well = [one["status"] for one in groups["nothing said"]["child_jobs"] if one["backend_id"] in ("swift", "steady")]
    assert well == ["completed"] * 10, "a healthy machine's child did not end well"


def _ended(group: dict[str, Any]) -> list[tuple[str, str | None, int]]:
    children = group["child_jobs"]
    return [(one["status"], one["failure_class"], one["attempts"]) for one in children]


def _check_where(found: dict[FailureClass, set[str]]) -> None:
    """Hold that each class was met where its cause is, and nowhere else."""
    assert found[FailureClass.CUDA_FATAL] == {"broken"}
    assert found[FailureClass.OUT_OF_MEMORY] == {"small"}
    assert found[FailureClass.NODE_OR_MODEL_MISSING] == {"bare"}
    assert found[FailureClass.NODE_ERROR] == {"swift"}
    assert found[FailureClass.INTERRUPTED] == {"steady"}
    # Of one that was unplugged in a render nobody can say whether it goes on.
    for kind in (FailureClass.STALLED, FailureClass.TIMEOUT):
        assert {"hanging"} <= found[kind] <= {"hanging", "flapping"}, kind
    # What waited in the queue of one that was down for more than a second moved uncounted.
    assert {"flapping"} <= found[FailureClass.UNREACHABLE] <= {"flapping", "crashing", "broken"}
    assert "crashing" in found[FailureClass.BACKEND_LOST]


@pytest.mark.parametrize("kind", ELSEWHERE_TESTED, ids=str)
def test_what_the_eight_cannot_cause_has_a_test_of_its_own(kind: FailureClass) -> None:
    file, name = ELSEWHERE_TESTED[kind]
    assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8")
