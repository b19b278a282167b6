import json

import httpx

from director.cli.check import check_lines
from director.client import BackendCheck, CheckReason
from director.demo.workflow import text_to_image
from tests.cli.conftest import NAMES, Desk
from tests.harness.graphs import EDITOR_FILE
from tests.harness.processes import python


def test_check_shows_which_backends_can_run_a_workflow(desk: Desk) -> None:
    out = desk.out("check", "workflow.json", "--set", "steps=3").splitlines()
    assert out[0].split() == ["BACKEND", "CAN", "RUN", "IT", "NODE", "REASON"]
    assert [line.split() for line in out[1:-1]] == [[name, "yes"] for name in NAMES]
    assert out[-1] == "3 of 3 backends."
    found = desk.json("check", "workflow.json", "-b", "gpu-1", "--tag", "34gb")
    assert [one["backend_id"] for one in found["backends"]] == ["gpu-1", "gpu-3"]


def test_check_shows_reasons_and_fails_if_no_backend_can_run_it(desk: Desk) -> None:
    graph = text_to_image()
    graph["4"]["inputs"]["ckpt_name"] = "tiny_sd16.safetensors"
    (desk.folder / "other.json").write_text(json.dumps(graph), encoding="utf-8")
    words = ("check", "other.json", "-b", "gpu-1", "--requires", "nothing")
    out = desk.out(*words, status=1)
    assert "gpu-1    no" in out
    assert "Lacks nothing." in out
    assert "4 CheckpointLoaderSimple" in out
    assert "nearest: tiny_sd15.safetensors" in out
    assert out.endswith("0 of 1 backend.\n")
    assert desk.json(*words, status=1)["can_run"] == 0
    assert "No backend has the id or the tag 'gpu-9'." in desk.said(
        "check", "other.json", "-b", "gpu-9", status=4
    )
    assert "--set 4.nope" in desk.said("check", "workflow.json", "--set", "4.nope=1", status=2)


def test_editor_file_is_checked_and_planned(desk: Desk) -> None:
    editor = json.loads(EDITOR_FILE.read_text(encoding="utf-8"))
    next(node for node in editor["nodes"] if node["id"] == 6)["widgets_values"] = ["a {b|c}"]
    (desk.folder / "saved.json").write_text(json.dumps(editor), encoding="utf-8")
    assert desk.json("check", "saved.json")["can_run"] == len(NAMES)
    assert "cfg" in str(desk.json("submit", "saved.json", "--set", "cfg=3", "--dry-run")["changes"])
    assert (
        'Warning: Node 6 (CLIPTextEncode): "text" has braces'
        in desk.run("check", "saved.json").stderr
    )


def test_check_shows_what_is_not_known_and_what_runs_in_part() -> None:
    reason = CheckReason(code="file_missing", message="No such file", node_id="4", class_type="X")
    lines = check_lines(
        [
            BackendCheck(backend_id="gpu-1", can_run=True),
            BackendCheck(backend_id="gpu-2", can_run=True, known=True, reasons=(reason, reason)),
        ],
        {"gpu-1": "gpu:1"},
    )
    assert [line.split("  ")[0] for line in lines[1:]] == ["gpu:1", "gpu-2", "", "2 of 2 backends."]
    assert "not known" in lines[1]
    assert "in part" in lines[2]
    assert check_lines([], {}) == ["There is no enabled backend."]


def test_check_of_manage_py_is_that_of_django() -> None:
    done = python("manage.py", "check")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("System check identified no issues")


def test_usage_and_check_name_a_backend_as_the_pages_do(desk: Desk) -> None:
    desk.group("gpu-1")
    path = f"{desk.url}/api/backends/gpu-1"
    httpx.patch(path, json={"name": "Room 1"}, trust_env=False).raise_for_status()
    try:
        assert "\nRoom 1 " in desk.out("usage", "--by", "backend")
        assert "Room 1   yes" in desk.out("check", "workflow.json", "-b", "Room 1")
    finally:
        httpx.patch(path, json={"name": "gpu-1"}, trust_env=False).raise_for_status()
