"""``director backends``: the ComfyUIs, by id or by tag."""

from __future__ import annotations

import re

import pytest

from backends.simulator.threaded import SimulatorThread
from tests.cli.conftest import Desk


def _status(desk: Desk, name: str) -> str:
    [row] = desk.json("backends", "list", name)
    return str(row["status"])


def test_backends_are_listed_by_id_and_by_tag(desk: Desk) -> None:
    head, *rows = desk.out("backends").splitlines()
    assert head.split()[:3] == ["ID", "STATUS", "JOBS"]
    assert [row.split()[0] for row in rows][:3] == ["gpu-1", "gpu-2", "gpu-3"]
    assert [row["backend_id"] for row in desk.json("backends")][:3] == ["gpu-1", "gpu-2", "gpu-3"]
    ids = [row["backend_id"] for row in desk.json("backends", "list", "all", "gpu-2")]
    assert ids == ["gpu-1", "gpu-2", "gpu-3", "gpu-2"]


def test_backend_is_added_tested_and_removed(desk: Desk) -> None:
    with SimulatorThread(seconds=0.2) as sim:
        address = sim.url.removeprefix("http://")
        assert "answers: ComfyUI" in desk.out("backends", "test", address)
        fields = ["--id", "attic", "--tag", "8gb", "--name", "Attic"]
        assert desk.out("backends", "add", address, *fields) == "attic is online\n"
        [row] = desk.json("backends", "list", "attic")
        assert (row["name"], row["tags"]) == ("Attic", ["8gb"])
        assert desk.json("backends", "test", "attic")[0]["ok"] is True
        assert "backend_exists" in desk.said("backends", "add", address, "--json", status=4)
        assert desk.out("backends", "remove", "attic") == "attic removed\n"
    assert "attic" not in desk.out("backends")
    out = desk.out("backends", "test", "localhost:9", status=1)
    assert out.startswith("http://localhost:9 does not answer: ")


def test_find_and_found_list_unregistered_comfyuis(desk: Desk) -> None:
    """Whether ``find`` finds one depends on this host. This Director discovers nothing."""
    found = desk.json("backends", "find")
    out = desk.run("backends", "find")
    assert len(out.stdout.splitlines()) == len(found)
    assert found or "No ComfyUI answers" in out.stderr
    assert desk.json("backends", "found") == {"added": [], "found": []}
    assert "no other ComfyUI" in desk.said("backends", "found")
    for option in ("--add", "--ignore", "--unignore"):
        said = desk.said("backends", "found", option, "localhost:8198", status=4)
        assert "No ComfyUI was found at this address." in said


def test_disable_drain_and_enable_change_a_backend(desk: Desk) -> None:
    try:
        assert desk.out("backends", "disable", "24gb").startswith("gpu-2 is disabled")
        assert _status(desk, "gpu-2") == "disabled"
        assert desk.out("backends", "enable", "gpu-2").startswith("gpu-2 is ")
        assert _status(desk, "gpu-2") != "disabled"
        out = desk.out("backends", "drain", "gpu-2", "--reason", "moves to another room")
        assert out.startswith(("gpu-2 is draining", "gpu-2 is disabled"))
    finally:
        desk.run("backends", "resume", "gpu-2")
        desk.run("backends", "enable", "gpu-2")
    desk.group("gpu-2")


def test_pause_keeps_jobs_queued_until_resume(desk: Desk) -> None:
    try:
        out = desk.out("backends", "pause", "gpu-1", "--reason", "driver update")
        assert re.fullmatch(r"gpu-1 is paused since [\d:]+: driver update\n", out)
        assert re.search(r"driver update, since [\d:]+$", desk.out("backends", "list", "gpu-1"))
        group_id = desk.out("submit", "workflow.json", "-b", "gpu-1", "-q").strip()
        [child] = desk.json("show", group_id)["child_jobs"]
        assert child["status"] == "queued"
        assert "driver update" in desk.out("show", group_id)
    finally:
        desk.run("backends", "resume", "gpu-1")
    desk.run("watch", group_id, "-q")


def test_quarantine_ends_with_release_and_a_success(desk: Desk) -> None:
    try:
        out = desk.out("backends", "quarantine", "gpu-3", "--minutes", "5", "--reason", "smoke")
        assert out.startswith("gpu-3 is quarantined")
        said = desk.said("submit", "workflow.json", "-b", "gpu-3", status=4)
        assert "None of these backends can accept jobs now:\n  gpu-3: " in said
    finally:
        desk.run("backends", "release", "gpu-3")
    assert _status(desk, "gpu-3") != "quarantined"
    assert "On probation" in desk.out("backends", "list", "gpu-3")
    desk.group("gpu-3")
    assert "On probation" not in desk.out("backends", "list", "gpu-3")


@pytest.mark.parametrize(
    "command", ["pause", "drain", "resume", "quarantine", "release", "enable", "disable", "remove"]
)
def test_unknown_name_is_refused_with_the_closest_match(desk: Desk, command: str) -> None:
    said = desk.said("backends", command, "gpu1", status=4)
    assert "No backend has the id or the tag 'gpu1'." in said
    assert "Did you mean gpu-" in said
