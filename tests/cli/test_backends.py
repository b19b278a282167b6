import re

from director.client import Director
from tests.cli.conftest import Desk
from tests.harness.graphs import text_to_image
from tests.harness.processes import Served
from tests.harness.simulator_thread import SimulatorThread
from tests.harness.waits import until


def test_backends_are_listed_by_id_and_by_tag(desk: Desk) -> None:
    head, *rows = desk.out("backends").splitlines()
    assert head.split()[:8] == ["ID", "NAME", "STATUS", "JOBS", "OTHERS", "S/JOB", "DONE", "FAILED"]
    assert [row.split()[0] for row in rows][:3] == ["gpu-1", "gpu-2", "gpu-3"]
    assert [row["backend_id"] for row in desk.json("backends")][:3] == ["gpu-1", "gpu-2", "gpu-3"]
    ids = [row["backend_id"] for row in desk.json("backends", "list", "all", "gpu-2")]
    assert ids == ["gpu-1", "gpu-2", "gpu-3", "gpu-2"]


def test_backend_is_added_tested_and_removed(desk: Desk) -> None:
    with SimulatorThread(seconds=0.2) as sim:
        address = sim.url.removeprefix("http://")
        assert "answers: ComfyUI" in desk.out("backends", "test", address)
        fields = ["--id", "attic", "--tag", "8gb", "--name", "Attic"]
        assert desk.out("backends", "add", address, *fields) == "Attic is online\n"
        [row] = desk.json("backends", "list", "attic")
        assert (row["name"], row["tags"]) == ("Attic", ["8gb"])
        # The name that the pages show means it, too.
        assert [one["backend_id"] for one in desk.json("backends", "list", "Attic")] == ["attic"]
        assert desk.json("backends", "test", "Attic")[0]["ok"] is True
        assert "backend_exists" in desk.said("backends", "add", address, "--json", status=4)
        assert desk.out("backends", "remove", "Attic") == "Attic removed\n"
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


def test_changed_backend_is_shown_with_reason_and_time(desk: Desk) -> None:
    def out(*words: str) -> str:
        return desk.out("backends", *words)

    try:
        said = out("pause", "gpu-1", "--reason", "driver update")
        assert re.fullmatch(r"gpu-1 is paused since [\d:]+: driver update\n", said)
        assert re.search(r"driver update, since [\d:]+$", out("list", "gpu-1"))
        assert out("disable", "24gb").startswith("gpu-2 is disabled")
        assert desk.json("backends", "list", "gpu-2")[0]["status"] == "disabled"
        assert out("enable", "gpu-2").startswith("gpu-2 is online")
        said = out("drain", "gpu-2", "--reason", "moves to another room")
        assert said.startswith(("gpu-2 is draining", "gpu-2 is disabled"))
        said = out("quarantine", "gpu-3", "--minutes", "5", "--reason", "smoke")
        assert said.startswith("gpu-3 is quarantined")
        with Director(desk.url) as director:
            quarantine = director.backend("gpu-3").quarantine
        assert quarantine is not None
        assert quarantine.reason == "smoke"
        said = desk.said("submit", "workflow.json", "-b", "gpu-3", status=4)
        assert "None of these backends can accept jobs now:\n  gpu-3: " in said
        assert out("release", "gpu-3").startswith("gpu-3 is online")
        assert "On probation" in out("list", "gpu-3")
    finally:
        for command, name in (("resume", "1"), ("resume", "2"), ("enable", "2"), ("release", "3")):
            desk.run("backends", command, f"gpu-{name}")
    desk.group("gpu-1", "gpu-2", "gpu-3")
    assert "On probation" not in out("list", "gpu-3")


def test_unknown_name_is_refused_with_the_closest_match(desk: Desk) -> None:
    for command in ("pause", "drain", "resume", "quarantine", "release", "enable", "remove"):
        said = desk.said("backends", command, "gpu1", status=4)
        assert "No backend has the id or the tag 'gpu1'.\nDid you mean gpu-" in said


def test_partner_nodes_are_allowed_and_forbidden(desk: Desk) -> None:
    for options, is_allowed in ([], True), (["--off"], False):
        [shown] = desk.json("backends", "partner-nodes", "gpu-1", *options)
        assert shown["partner_nodes_allowed"] is is_allowed
    # Allowed, and without a key all the same.
    said = desk.out("backends", "partner-nodes", "gpu-1").splitlines()
    assert said[1] == "  Allowed to run partner nodes."
    assert (
        said[-1] == "  Partner nodes need an API key of Comfy.org: set DIRECTOR_COMFY_ORG_API_KEY."
    )
    assert len(desk.out("backends", "partner-nodes", "gpu-1", "--off").splitlines()) == 1


def test_extensions_are_allowed_and_forbidden(desk: Desk) -> None:
    said = desk.out("backends", "extensions", "gpu-1").splitlines()
    assert said[1:] == ["  Allowed to extend ComfyUI's editor."]
    [shown] = desk.json("backends", "extensions", "gpu-1", "--off")
    assert shown["extensions_allowed"] is False


def test_exclusions_are_listed_and_lifted(desk: Desk, served: Served) -> None:
    # ComfyUI does not list files in folders, so only the backend itself can refuse it.
    graph = text_to_image()
    graph["90"] = {"class_type": "LoadImage", "inputs": {"image": "shots/nowhere.png"}}
    graph["9"]["inputs"]["images"] = ["90", 0]
    body = {"workflow_json": graph, "backend_ids": ["gpu-1"], "count": 1}
    group = served.ask("POST", "/api/job-group", json=body).json()["job_group_id"]
    rows = until(lambda: desk.json("backends", "exclusions", "gpu-1"))
    desk.out("cancel", group)
    number = str(rows[0]["exclusion_id"])
    assert rows[0]["kind"] == "missing"
    head, row = desk.out("backends", "exclusions", "gpu-1").splitlines()
    assert head.split() == ["N", "KIND", "COUNT", "UNTIL", "GROUP", "REASON"]
    assert row.split()[:3] == [number, "missing", "1"]
    assert "nowhere.png" in row
    desk.said("backends", "exclusions", "gpu-1", "--lift", "x", status=2)
    assert "no exclusion 0" in desk.said("backends", "exclusions", "gpu-1", "--lift", "0", status=4)
    said = desk.said("backends", "exclusions", "gpu-1", "--lift", number)
    assert said == "gpu-1 is excluded from no workflow.\n"
    assert desk.json("backends", "exclusions", "gpu-1", "--lift") == []


def test_hours_are_set_shown_and_ended(desk: Desk) -> None:
    try:
        out = desk.out("backends", "hours", "gpu-1", "--set", "mon 07:00-07:00")
        assert "gpu-1 is paused: Outside its hours: its hours never open." in out
        assert "  Hours: mon 07:00-07:00 (UTC)\n" in desk.out("backends", "hours", "gpu-1")
        said = desk.said("backends", "hours", "gpu-1", "--set", "monday", status=4)
        assert "is no part of hours" in said
    finally:
        out = desk.out("backends", "hours", "gpu-1", "--always")
    assert "Hours" not in out
