import json
import re
from typing import Any

import pytest
from PIL import Image

from director.demo.workflow import text_to_image
from jobgroups.outputs.png_workflow import workflow_in_png
from tests.cli.conftest import Desk
from tests.client.server import FakeDirector
from tests.harness.graphs import EDITOR_FILE


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
        *(
            "--seeds",
            "golden_ratio",
            "--base-seed",
            "42",
            "--count",
            "3",
            "--timeout",
            "60",
            "--stall-timeout",
            "90",
        ),
        *("--retention-days", "30"),
        *("--max-attempts", "3", "--elsewhere", "group", "--partial-outputs", "fail"),
        *("--stop-when", "completed=4", "--stop-when", "failed=10"),
        DIRECTOR_SUBMITTER="ada@studio",
    )
    group_id = made["job_group_id"]
    group = desk.json("show", group_id)
    assert made["type"] == "submitted"
    assert group["metadata"] == {"scene": "shot_001", "take": 3, "version": "1.10"}
    assert [child["seed"] for child in group["child_jobs"]] == [42, 67, 109]
    assert (group["timeout_seconds"], group["stall_seconds"], group["submitter"]) == (
        60,
        90,
        "ada@studio",
    )
    assert group["retention_days"] == 30
    policy = (group["max_attempts"], group["retry_elsewhere"], group["partial_outputs"])
    assert policy == (3, "group", "fail")
    assert group["stop_when"] == {"completed": 4, "failed": 10}
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


def test_file_of_the_editor_is_in_the_images_as_it_was_drawn(desk: Desk) -> None:
    editor = json.loads(EDITOR_FILE.read_text(encoding="utf-8"))
    next(node for node in editor["nodes"] if node["id"] == 6)["widgets_values"] = ["a {b|c}"]
    (desk.folder / "saved.json").write_text(json.dumps(editor), encoding="utf-8")
    words = ("submit", "saved.json", "--set", "3.cfg=5", "--base-seed", "42", "--save", "drawn")
    assert desk.run(*words).stderr.count('"text" has braces') == 1
    [path] = (desk.folder / "drawn").iterdir()
    with Image.open(path) as image:
        drawn = json.loads(image.info["workflow"])
    next(node for node in editor["nodes"] if node["id"] == 3)["widgets_values"][0:4:3] = [42, 5]
    assert drawn == editor


@pytest.mark.parametrize(
    ("words", "ids"),
    [
        (["--all"], ["gpu-1", "gpu-2", "gpu-3"]),
        (["-b", "34gb,14gb"], ["gpu-3", "gpu-1"]),
        ([], [None]),
        (["-n", "2"], [None, None]),
        (["--all", "--count", "2"], [None, None]),
        (["-b", "gpu-1", "-b", "gpu-2", "-n", "2"], [None, None]),
        (["--tag", "34gb"], [None]),
    ],
)
def test_submit_sends_jobs_to_backends_or_to_the_pool(
    desk: Desk, words: list[str], ids: list[str | None]
) -> None:
    made = desk.json("submit", "workflow.json", *words)
    assert [child["backend_id"] for child in made["child_jobs"]] == ids


def test_jobs_of_the_pool_go_to_any_free_backend(desk: Desk) -> None:
    out = desk.out("submit", "workflow.json", "-n", "6", "--save", "out")
    first, *_, last = out.splitlines()
    group_id = first.split(":")[0]
    assert first == f"{group_id}: 6 jobs on any free backend. See: director watch {group_id}"
    assert f"{group_id} completed: 6 completed in " in out
    assert last.startswith("  Made by: gpu-")
    jobs = desk.json("show", group_id)["child_jobs"]
    made = {job["backend_id"] for job in jobs}
    assert made <= {"gpu-1", "gpu-2", "gpu-3"}
    # Each file is named after the backend that made it.
    names = sorted(path.name for path in (desk.folder / "out").iterdir())
    assert [name.split("_")[2] for name in names] == [job["backend_id"] for job in jobs]
    shown = desk.out("show", group_id)
    assert "  Made by: gpu-" in shown
    events = desk.out("events", group_id)
    assert "child_started gpu-" in events


def test_waiting_job_of_the_pool_is_shown_without_a_backend(desk: Desk) -> None:
    desk.run("backends", "pause", "gpu-1")
    try:
        group_id, _, said = desk.out("submit", "workflow.json", "-n", "1", "-b", "gpu-1").partition(
            ":"
        )
        assert said.startswith(" 1 job on any free backend of gpu-1. See: ")
        [job] = desk.json("show", group_id)["child_jobs"]
        assert job["backend_id"] is None
        assert [line.split()[1] for line in desk.out("show", group_id).splitlines()[-1:]] == ["any"]
        assert " queued on any, seed " in desk.out("show", group_id, job["job_id"])
        desk.run("cancel", group_id)
        assert "child_cancelled -" in desk.out("events", group_id)
        assert "Made by" not in desk.out("show", group_id)
    finally:
        desk.run("backends", "resume", "gpu-1")


def _jobs(shown: list[dict[str, Any]]) -> list[tuple[str | None, int]]:
    return [(job["backend_id"], job["seed"]) for job in shown]


def test_submit_leaves_out_unavailable_backends_also_in_a_dry_run(desk: Desk) -> None:
    desk.run("backends", "disable", "gpu-2")
    try:
        ended = desk.run("submit", "workflow.json", "--all")
        assert "Left out: gpu-2: Disabled" in ended.stderr
        assert "Left out: gpu-2: Disabled" in desk.said("submit", "workflow.json", "--all", "-q")
        [made] = desk.lines("submit", "workflow.json", "--all")
        assert [one["backend_id"] for one in made["skipped_backends"]] == ["gpu-2"]
        assert [child["backend_id"] for child in made["child_jobs"]] == ["gpu-1", "gpu-3"]
        words = ["submit", "workflow.json", "-n", "2", "-b", "gpu-2", "-b", "gpu-1"]
        planned = desk.json(*words, "--dry-run")
        assert [one["backend_id"] for one in planned["backends"] if one["can_run"]] == ["gpu-1"]
        assert [one["backend_id"] for one in planned["skipped_backends"]] == ["gpu-2"]
        assert "Not ready: gpu-2: Disabled" in desk.said(*words)
        assert desk.said(*words, "-q") == "", "the group has all of its jobs"
        assert desk.json("submit", "workflow.json", "--dry-run")["skipped_backends"] == []
        words = ["submit", "workflow.json", "-b", "gpu-2", "-b", "gpu-1", "--base-seed", "4711"]
        planned, made = desk.json(*words, "--dry-run"), desk.json(*words)
        assert planned["skipped_backends"] == made["skipped_backends"]
        assert _jobs(planned["jobs"]) == _jobs(made["child_jobs"])
        said = desk.said("submit", "workflow.json", "-b", "gpu-2", "--dry-run", status=4)
        assert "None of these backends can accept jobs now:\n  gpu-2: Disabled" in said
    finally:
        desk.run("backends", "enable", "gpu-2")
    words = ["submit", "workflow.json", "--all", "--requires", "34gb"]
    for jobs in (desk.json(*words, "--dry-run")["jobs"], desk.json(*words)["child_jobs"]):
        assert [job["backend_id"] for job in jobs] == ["gpu-3"]


def test_dry_run_shows_the_submission_and_sends_nothing(desk: Desk) -> None:
    before = desk.newest()
    words = ["submit", "workflow.json", "--count", "4", "--seeds", "golden_ratio"]
    words += ["--base-seed", "42", "--set", "steps=30"]
    out = desk.out(*words, "--dry-run")
    assert "Ready to take them: gpu-1, gpu-2, gpu-3\n" in out
    assert "Nothing is submitted. It would be 4 jobs, seeds golden_ratio from 42:" in out
    assert "3 KSampler.steps: 20 → 30" in out
    assert "3 KSampler.seed: 0 → the job's seed" in out
    planned = desk.json(*words, "--dry-run")["jobs"]
    assert [job["seed"] for job in planned] == [42, 67, 109, 177]
    assert desk.newest() == before
    made = desk.json(*words)["child_jobs"]
    assert _jobs(made) == _jobs(planned)


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
    with FakeDirector() as server:
        server.lose["POST", "/api/job-group"] = 1
        words = ["submit", "workflow.json", "--base-seed", "8"]
        lost = desk.said(*words, status=3, DIRECTOR_URL=server.url)
        found = re.search(r"Repeat the command with --key (\S+): it makes one group", lost)
        assert found is not None, lost
        again = desk.run(*words, "--key", found[1], DIRECTOR_URL=server.url)
        assert again.stdout.split(":")[0] in server.groups
        assert len(server.groups) == 1
        assert not server.sent("GET", "/api/backends"), "the pool needs no list of backends"


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
