"""``director submit``: the request, the output and the saved files."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time

import pytest

from director.demo.workflow import text_to_image
from jobgroups.outputs.png_workflow import workflow_in_png
from tests.cli.conftest import Desk
from tests.client.server import FakeDirector


def _newest(desk: Desk) -> list[str]:
    return [group["job_group_id"] for group in desk.json("list", "-n", "1")]


def test_submit_prints_the_group_and_how_to_watch_it(desk: Desk) -> None:
    out = desk.out("submit", "workflow.json", "-b", "gpu-1", "-b", "gpu-2")
    group_id = out.split(":")[0]
    assert out == f"{group_id}: 2 jobs on gpu-1, gpu-2. See: director watch {group_id}\n"
    assert desk.json("show", group_id)["total_count"] == 2


def test_submit_stores_every_option(desk: Desk) -> None:
    (desk.folder / "prompt.txt").write_text("a red fox, \u96ea\n", encoding="utf-8")
    made = desk.json(
        *("submit", "workflow.json", "-b", "gpu-1"),
        *("--set", "3.cfg=8.5", "--set", "6.text=@prompt.txt", "--set", "7.text=@@home"),
        *("--meta", "scene=shot_001", "--meta", "take=3", "--meta", "version=1.10"),
        *("--seeds", "golden_ratio", "--base-seed", "42", "--count", "3", "--timeout", "60"),
        DIRECTOR_SUBMITTER="ada@studio",
    )
    group_id = made["job_group_id"]
    group = desk.json("show", group_id)
    assert made["type"] == "submitted"
    assert group["metadata"] == {"scene": "shot_001", "take": 3, "version": "1.10"}
    assert [child["seed"] for child in group["child_jobs"]] == [42, 67, 109]
    assert group["timeout_seconds"] == 60
    assert group["submitter"] == "ada@studio"
    assert desk.json("show", group_id, "--workflow") == text_to_image()
    desk.run("watch", group_id, "--save", "out")
    images = sorted((desk.folder / "out").iterdir())
    # Sorted by name, files are in the order of their jobs.
    assert [int(image.name.split("_")[1]) for image in images] == [42, 67, 109]
    desk.run("save", group_id, "--to", "out")
    assert sorted((desk.folder / "out").iterdir()) == images
    for image in images:
        # ComfyUI writes the executed workflow into the image.
        executed = workflow_in_png(image.read_bytes())
        assert executed["3"]["inputs"]["cfg"] == 8.5
        assert executed["6"]["inputs"]["text"] == "a red fox, \u96ea"
        assert executed["7"]["inputs"]["text"] == "@home"


@pytest.mark.parametrize(
    ("words", "ids"),
    [
        (["--all", "--count", "5"], ["gpu-1", "gpu-2", "gpu-3", "gpu-1", "gpu-2"]),
        ([], ["gpu-1", "gpu-2", "gpu-3"]),
        (["-b", "34gb,14gb"], ["gpu-3", "gpu-1"]),
    ],
)
def test_submit_distributes_jobs_to_backends(desk: Desk, words: list[str], ids: list[str]) -> None:
    made = desk.json("submit", "workflow.json", *words)
    assert [child["backend_id"] for child in made["child_jobs"]] == ids


def test_submit_leaves_out_unavailable_backends_also_in_a_dry_run(desk: Desk) -> None:
    skipped = [{"backend_id": "gpu-2", "reason": "disabled"}]
    desk.run("backends", "disable", "gpu-2")
    try:
        ended = desk.run("submit", "workflow.json", "--all", "--count", "4")
        assert "Left out: gpu-2: disabled" in ended.stderr
        assert "Left out: gpu-2: disabled" in desk.said("submit", "workflow.json", "-q")
        [made] = desk.lines("submit", "workflow.json", "--all")
        assert made["skipped_backends"] == skipped
        group_id = ended.stdout.split(":")[0]
        ids = [child["backend_id"] for child in desk.json("show", group_id)["child_jobs"]]
        assert ids == ["gpu-1", "gpu-3", "gpu-1", "gpu-3"]
        words = ["submit", "workflow.json", "-b", "gpu-2", "-b", "gpu-1", "--base-seed", "4711"]
        planned, made = desk.json(*words, "--dry-run"), desk.json(*words)
        assert planned["skipped_backends"] == skipped
        assert planned["children"] == [
            {"backend_id": child["backend_id"], "seed": child["seed"]} for child in made["child_jobs"]
        ]
        said = desk.said("submit", "workflow.json", "-b", "gpu-2", "--dry-run", status=4)
        assert "None of these backends can accept jobs now:\n  gpu-2: disabled" in said
    finally:
        desk.run("backends", "enable", "gpu-2")
    words = ["submit", "workflow.json", "--all", "--requires", "34gb"]
    for jobs in (desk.json(*words, "--dry-run")["children"], desk.json(*words)["child_jobs"]):
        assert [job["backend_id"] for job in jobs] == ["gpu-3"]


def test_dry_run_shows_the_submission_and_sends_nothing(desk: Desk) -> None:
    before = _newest(desk)
    words = ["submit", "workflow.json", "--all", "--count", "4", "--seeds", "golden_ratio"]
    words += ["--base-seed", "42", "--set", "steps=30"]
    out = desk.out(*words, "--dry-run")
    assert "Nothing is sent. It would be 4 jobs, seeds golden_ratio from 42:" in out
    assert "3 KSampler.steps: 20 → 30" in out
    assert "3 KSampler.seed: 0 → the job's seed" in out
    planned = desk.json(*words, "--dry-run")["children"]
    assert [job["seed"] for job in planned] == [42, 67, 109, 177]
    assert _newest(desk) == before
    made = desk.json(*words)["child_jobs"]
    assert [(job["backend_id"], job["seed"]) for job in made] == [(job["backend_id"], job["seed"]) for job in planned]


def test_same_key_makes_one_group(desk: Desk) -> None:
    key = ["--base-seed", "7", "--key", desk.folder.name]
    words = ["submit", "workflow.json", "-b", "gpu-1", *key]
    first = desk.out(*words, "-q")
    second = desk.run(*words)
    assert second.stdout.split(":")[0] == first.strip()
    assert "used before" in second.stderr
    assert "use a new key" in desk.said(*words, "--count", "2", status=4)


def test_key_of_a_lost_answer_finds_the_group(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("director.client.calls.RETRY_DELAYS_S", ())
    backend = {"name": "a", "url": "http://a:8188", "enabled": True, "status": "online"}
    with FakeDirector() as server:
        server.answers["GET", "/api/backends"] = (200, {"backends": [{**backend, "backend_id": "gpu-1"}]})
        server.lose["POST", "/api/job-group"] = 1
        words = ["submit", "workflow.json", "--base-seed", "8"]
        lost = desk.said(*words, status=3, DIRECTOR_URL=server.url)
        found = re.search(r"Repeat the command with --key (\S+): it makes one group", lost)
        assert found is not None, lost
        again = desk.run(*words, "--key", found[1], DIRECTOR_URL=server.url)
        assert again.stdout.split(":")[0] in server.groups
        assert len(server.groups) == 1


def test_submit_reads_standard_input_and_the_workflow_of_a_png(desk: Desk) -> None:
    text = (desk.folder / "workflow.json").read_text(encoding="utf-8")
    words = ["-b", "gpu-1", "--save", "out", "--name", "first_{name}"]
    assert desk.out("submit", "-", *words, stdin=text).startswith("jg_")
    [image] = (desk.folder / "out").iterdir()
    group_id = desk.out("submit", str(image), "-b", "gpu-2", "-q").strip()
    assert desk.json("show", group_id, "--workflow")["3"]["class_type"] == "KSampler"


def test_watched_submission_prints_one_line_per_change(desk: Desk) -> None:
    out = desk.out("submit", "workflow.json", "-b", "gpu-1", "--base-seed", "42", "--save", "out")
    first, *lines = out.splitlines()
    assert lines[:2] == ["gpu-1 seed 42: running", "gpu-1 seed 42: completed"]
    [image] = (desk.folder / "out").iterdir()
    assert image.name.startswith("0001_42_gpu-1_")
    assert image.read_bytes().startswith(b"\x89PNG")
    assert f"saved out/{image.name}" in lines
    assert lines[-1].startswith(f"{first.split(':')[0]} completed: 1 completed in ")


def test_watched_submission_prints_one_event_per_line_as_json(desk: Desk) -> None:
    lines = desk.lines("submit", "workflow.json", "-b", "gpu-1", "--save", "out")
    types = [line["type"] for line in lines]
    assert types[:2] == ["submitted", "initial_state"]
    stored = [line["seq"] for line in lines if line.get("seq") and "child_jobs" not in line]
    assert stored == sorted(set(stored))
    assert "group_complete" in types
    [saved] = [line for line in lines if line["type"] == "file_saved"]
    assert (desk.folder / saved["path"]).exists()


def test_failed_job_is_reported_with_its_reason_and_status_1(desk: Desk) -> None:
    desk.sims.fault("out_of_memory", on=1)
    words = ["submit", "workflow.json", "--all", "--base-seed", "5", "--watch"]
    last = desk.out(*words, status=1).split("partly completed: ")[1]
    assert last.startswith("2 completed, 1 failed in ")
    assert "gpu-2 seed" in last
    assert "out of memory" in last.lower()
    assert "Retry them: director retry jg_" in last


def test_retry_policy_completes_the_job_on_another_backend(desk: Desk) -> None:
    desk.sims.fault("out_of_memory", on=1)
    words = ["submit", "workflow.json", "--all", "--max-attempts", "3", "--elsewhere", "group"]
    out = desk.out(*words, "--watch")
    assert "completed: 2 completed, 1 completed after 2 attempts in " in out
    assert "queued: again, after gpu-2: " in out
    assert out.count(" completed with attempt 2") == 1


def test_refused_output_is_a_warning_or_a_failure(desk: Desk) -> None:
    second = {"class_type": "SaveImage", "inputs": {"filename_prefix": "second"}}
    graph = {**text_to_image(), "second": second}
    (desk.folder / "two.json").write_text(json.dumps(graph), encoding="utf-8")
    cause = "node second (SaveImage): Required input is missing: images"
    warned = desk.out("submit", "two.json", "-b", "gpu-1", "--base-seed", "5", "--watch")
    did_not = f"ComfyUI did not execute output {cause}"
    assert f"gpu-1 seed 5: completed: warning: {did_not}\n" in warned
    assert f"  gpu-1 seed 5: Warning: {did_not}\n" in warned
    group_id = warned.split(":")[0]
    assert f"warning: {did_not}" in desk.out("show", group_id)
    (child,) = desk.json("show", group_id)["child_jobs"]
    assert child["warnings"] == [did_not]
    policy = ["--partial-outputs", "fail", "--watch"]
    failed = desk.out("submit", "two.json", "-b", "gpu-1", *policy, status=1)
    assert f"ComfyUI refused a part of the workflow: {cause} (workflow_refused)" in failed
    assert "Partial outputs: fail" in desk.out("show", failed.split(":")[0])


def test_ctrl_c_leaves_the_group_running(desk: Desk) -> None:
    desk.sims.fault("slow", on=0, seconds=3.0)
    with desk.start("submit", "workflow.json", "-b", "gpu-1", "--watch") as process:
        assert process.stdout is not None
        group_id = process.stdout.readline().split(":")[0]
        assert "running" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
    assert process.returncode == 130
    assert said.startswith(f"Stopped watching. {group_id} continues.\n")
    assert f"director watch {group_id}" in said
    assert "Traceback" not in said
    assert desk.json("show", group_id)["status"] == "running"
    desk.run("cancel", group_id)


def test_command_starts_without_django(desk: Desk) -> None:
    code = (
        "import sys; from director.cli import app; app.run(['submit', '--help']);"
        "found = {name.split('.')[0] for name in sys.modules};"
        "assert not found & {'django', 'channels', 'rest_framework', 'daphne', 'twisted'}, found"
    )
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, env=desk.environment())
    # A wide limit: it takes 0.2 s, and 2 s with Django.
    assert time.monotonic() - began < 5
