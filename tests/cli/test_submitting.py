"""``director submit``: what is sent, what is shown, what lies in the folder afterwards."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time

import pytest

from director.demo.workflow import text_to_picture
from jobgroups.outputs.png_workflow import workflow_in_png
from tests.cli.conftest import Desk
from tests.cli.way import between


def test_it_returns_at_once_and_says_how_to_come_back(desk: Desk) -> None:
    out = desk.out("submit", "workflow.json", "-b", "gpu-1", "-b", "gpu-2")
    group_id = out.split(":")[0]
    assert out == (f"{group_id}: 2 children on gpu-1, gpu-2. See: director watch {group_id}\n")
    assert desk.json("show", group_id)["total_count"] == 2


def test_quiet_prints_the_id_alone(desk: Desk) -> None:
    group_id = desk.out("submit", "workflow.json", "-b", "gpu-1", "-q").strip()
    assert desk.json("show", group_id)["job_group_id"] == group_id


def test_what_is_said_of_it_is_what_is_stored(desk: Desk) -> None:
    (desk.folder / "prompt.txt").write_text("a red fox, \u96ea\n", encoding="utf-8")
    made = desk.json(
        *("submit", "workflow.json", "-b", "gpu-1"),
        *("--set", "3.cfg=8.5", "--set", "6.text=@prompt.txt", "--set", "7.text=@@home"),
        *("--meta", "scene=shot_001", "--meta", "take=3", "--meta", "version=1.10"),
        *("--seeds", "golden_ratio", "--base-seed", "42", "--count", "3", "--timeout", "60"),
        DIRECTOR_SUBMITTER="ada@studio",
    )
    group = desk.json("show", made["job_group_id"])
    assert made["type"] == "submitted"
    assert group["metadata"] == {"scene": "shot_001", "take": 3, "version": "1.10"}
    assert [child["seed"] for child in group["child_jobs"]] == [42, 67, 109]
    assert group["timeout_seconds"] == 60
    assert group["submitter"] == "ada@studio"
    assert desk.json("show", made["job_group_id"], "--workflow") == text_to_picture()
    desk.run("watch", made["job_group_id"], "--save", "out")
    pictures = sorted((desk.folder / "out").iterdir())
    assert len(pictures) == 3
    for picture in pictures:
        # ComfyUI writes what it rendered into the picture.
        rendered = workflow_in_png(picture.read_bytes())
        assert rendered["3"]["inputs"]["cfg"] == 8.5
        assert rendered["6"]["inputs"]["text"] == "a red fox, \u96ea"
        assert rendered["7"]["inputs"]["text"] == "@home"


def test_a_count_is_dealt_out_in_turn(desk: Desk) -> None:
    made = desk.json("submit", "workflow.json", "--all", "--count", "5")
    ids = [child["backend_id"] for child in made["child_jobs"]]
    assert ids == ["gpu-1", "gpu-2", "gpu-3", "gpu-1", "gpu-2"]


def test_without_a_backend_all_of_them_are_used(desk: Desk) -> None:
    made = desk.json("submit", "workflow.json")
    assert [child["backend_id"] for child in made["child_jobs"]] == ["gpu-1", "gpu-2", "gpu-3"]


def test_saved_files_sort_in_the_order_of_their_jobs(desk: Desk) -> None:
    words = ["submit", "workflow.json", "--count", "4", "--seeds", "random", "--save", "out"]
    made = desk.lines(*words)[0]
    seeds = [child["seed"] for child in made["child_jobs"]]
    names = sorted(path.name for path in (desk.folder / "out").iterdir())
    assert [int(name.split("_")[1]) for name in names] == seeds
    desk.run("save", made["job_group_id"], "--to", "out")
    assert sorted(path.name for path in (desk.folder / "out").iterdir()) == names


def test_a_backend_is_named_by_its_tag_too(desk: Desk) -> None:
    made = desk.json("submit", "workflow.json", "-b", "34gb,14gb")
    assert [child["backend_id"] for child in made["child_jobs"]] == ["gpu-3", "gpu-1"]


def test_twelve_are_twelve_though_one_backend_is_away(desk: Desk) -> None:
    desk.run("backends", "disable", "gpu-2")
    try:
        ended = desk.run("submit", "workflow.json", "--all", "--count", "4")
        assert "Left out: gpu-2: disabled" in ended.stderr
        quiet = desk.run("submit", "workflow.json", "-q")
        assert "Left out: gpu-2: disabled" in quiet.stderr
        [made] = desk.lines("submit", "workflow.json", "--all")
        assert made["skipped_backends"] == [{"backend_id": "gpu-2", "reason": "disabled"}]
        group_id = ended.stdout.split(":")[0]
        ids = [child["backend_id"] for child in desk.json("show", group_id)["child_jobs"]]
        assert ids == ["gpu-1", "gpu-3", "gpu-1", "gpu-3"]
    finally:
        desk.run("backends", "enable", "gpu-2")


def test_the_same_key_makes_one_group(desk: Desk) -> None:
    words = [
        "submit",
        "workflow.json",
        "-b",
        "gpu-1",
        "--base-seed",
        "7",
        "--key",
        desk.folder.name,
    ]
    first = desk.run(*words, "-q")
    second = desk.run(*words)
    assert second.stdout.split(":")[0] == first.stdout.strip()
    assert "used before" in second.stderr
    third = desk.run(*words, "--count", "2", status=4)
    assert "use a new key" in third.stderr


def test_it_reads_standard_input(desk: Desk) -> None:
    text = (desk.folder / "workflow.json").read_text(encoding="utf-8")
    assert desk.out("submit", "-", "-b", "gpu-1", "-q", stdin=text).startswith("jg_")


def test_a_picture_is_rendered_again_from_itself(desk: Desk) -> None:
    desk.run("submit", "workflow.json", "-b", "gpu-1", "--save", "out", "--name", "first_{name}")
    [picture] = (desk.folder / "out").iterdir()
    group_id = desk.out("submit", str(picture), "-b", "gpu-2", "-q").strip()
    assert desk.json("show", group_id, "--workflow")["3"]["class_type"] == "KSampler"


def _newest(desk: Desk) -> list[str]:
    return [group["job_group_id"] for group in desk.json("list", "-n", "1")]


def test_dry_run_sends_nothing_and_says_what_it_would(desk: Desk) -> None:
    before = _newest(desk)
    words = ["submit", "workflow.json", "--all", "--count", "4", "--seeds", "golden_ratio"]
    words += ["--base-seed", "42", "--set", "steps=30", "--dry-run"]
    out = desk.run(*words)
    assert "Nothing is sent. It would be 4 children, golden_ratio from base 42:" in out.stdout
    assert "3 KSampler.steps: 20 → 30" in out.stdout
    assert "3 KSampler.seed: 0 → the child's seed" in out.stdout
    said = desk.json(*words)
    assert [child["seed"] for child in said["children"]] == [42, 67, 109, 177]
    assert _newest(desk) == before


def test_what_a_dry_run_says_is_what_a_submission_does(desk: Desk) -> None:
    words = ["submit", "workflow.json", "-b", "gpu-3", "-b", "gpu-1", "--base-seed", "4711"]
    planned = desk.json(*words, "--dry-run")["children"]
    made = desk.json(*words)["child_jobs"]
    assert [(one["backend_id"], one["seed"]) for one in made] == [
        (one["backend_id"], one["seed"]) for one in planned
    ]


def test_a_dry_run_leaves_out_whom_the_director_would(desk: Desk) -> None:
    words = ["submit", "workflow.json", "-b", "gpu-2", "-b", "gpu-1", "--base-seed", "4711"]
    desk.run("backends", "disable", "gpu-2")
    try:
        planned = desk.json(*words, "--dry-run")
        made = desk.json(*words)
        assert planned["children"] == [
            {"backend_id": one["backend_id"], "seed": one["seed"]} for one in made["child_jobs"]
        ]
        assert planned["skipped_backends"] == [{"backend_id": "gpu-2", "reason": "disabled"}]
        said = desk.said("submit", "workflow.json", "-b", "gpu-2", "--dry-run", status=4)
        assert "None of these backends can take work now:\n  gpu-2: disabled" in said
    finally:
        desk.run("backends", "enable", "gpu-2")
    words = ["submit", "workflow.json", "--all", "--requires", "34gb"]
    assert [one["backend_id"] for one in desk.json(*words, "--dry-run")["children"]] == ["gpu-3"]
    assert [one["backend_id"] for one in desk.json(*words)["child_jobs"]] == ["gpu-3"]


def test_watched_without_a_terminal_it_prints_one_line_a_change(desk: Desk) -> None:
    out = desk.out("submit", "workflow.json", "-b", "gpu-1", "--base-seed", "42", "--save", "out")
    first, *lines = out.splitlines()
    assert lines[:2] == ["gpu-1 seed 42: started", "gpu-1 seed 42: completed"]
    [picture] = (desk.folder / "out").iterdir()
    assert picture.name.startswith("0001_42_gpu-1_")
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert f"saved out/{picture.name}" in lines
    assert lines[-1].startswith(f"{first.split(':')[0]} completed: 1 done in ")


def test_watched_as_json_each_line_is_an_event(desk: Desk) -> None:
    lines = desk.lines("submit", "workflow.json", "-b", "gpu-1", "--save", "out")
    types = [line["type"] for line in lines]
    assert types[:2] == ["submitted", "initial_state"]
    stored = [line["seq"] for line in lines if line.get("seq") and "child_jobs" not in line]
    assert stored == sorted(set(stored))
    assert "group_complete" in types
    [saved] = [line for line in lines if line["type"] == "file_saved"]
    assert (desk.folder / saved["path"]).exists()


def test_a_failed_child_is_told_with_its_reason_and_status_1(desk: Desk) -> None:
    desk.sims.fault("out_of_memory", on=1)
    ended = desk.run("submit", "workflow.json", "--all", "--base-seed", "5", "--watch", status=1)
    last = ended.stdout.split("partly completed: ")[1]
    assert last.startswith("2 done, 1 failed in ")
    assert "gpu-2 seed" in last
    assert "out of memory" in last.lower()
    assert "Render these again: director retry jg_" in last


def test_refused_output_is_a_warning_or_a_failure(desk: Desk) -> None:
    second = {"class_type": "SaveImage", "inputs": {"filename_prefix": "second"}}
    graph = {**text_to_picture(), "second": second}
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
    said = ["--partial-outputs", "fail", "--watch"]
    failed = desk.run("submit", "two.json", "-b", "gpu-1", *said, status=1).stdout
    assert f"ComfyUI refused a part of the workflow: {cause} (workflow_refused)" in failed
    assert "Partial outputs: fail" in desk.out("show", failed.split(":")[0])


def test_a_machine_on_fire_costs_a_second_try_and_no_more(desk: Desk) -> None:
    desk.sims.fault("out_of_memory", on=1)
    words = ["submit", "workflow.json", "--all", "--max-attempts", "3", "--elsewhere", "group"]
    out = desk.out(*words, "--watch")
    assert "completed: 2 done, 1 done after 2 attempts in " in out
    assert "waits: again, after gpu-2: " in out
    assert out.count(" completed with attempt 2") == 1


def test_ctrl_c_leaves_the_group_running_and_says_how_to_come_back(desk: Desk) -> None:
    desk.sims.fault("slow", on=0, seconds=3.0)
    with desk.start("submit", "workflow.json", "-b", "gpu-1", "--watch") as process:
        assert process.stdout is not None
        group_id = process.stdout.readline().split(":")[0]
        assert "started" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
    assert process.returncode == 130
    assert said.startswith(f"Stopped watching. {group_id} continues.\n")
    assert f"director watch {group_id}" in said
    assert "Traceback" not in said
    assert desk.json("show", group_id)["status"] == "running"
    desk.run("watch", group_id)
    assert desk.json("show", group_id)["status"] == "completed"


@pytest.mark.parametrize("words", [["list"], ["submit", "workflow.json", "--all", "--watch"]])
def test_a_closed_pipe_ends_it_without_a_word(desk: Desk, words: list[str]) -> None:
    with desk.start(*words) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        said = process.stderr.read()
        assert process.wait(30) in (141, 130)
    assert said == ""


def test_after_a_lost_answer_the_key_it_names_finds_the_group(desk: Desk) -> None:
    words = ["submit", "workflow.json", "-b", "gpu-1", "--base-seed", "8"]
    who = f"somebody@{desk.folder.name}"
    with between(desk.url, loses="POST") as way:
        lost = desk.run(*words, status=3, DIRECTOR_URL=way.url, DIRECTOR_SUBMITTER=who)
    found = re.search(r"The same command with --key (\S+) makes it once", lost.stderr)
    assert found is not None, lost.stderr
    desk.run(*words, "--key", found[1], DIRECTOR_SUBMITTER=who)
    assert len(desk.json("list", "--mine", DIRECTOR_SUBMITTER=who)) == 1


def test_it_starts_without_django(desk: Desk) -> None:
    code = (
        "import sys; from director.cli import app; app.run(['submit', '--help']);"
        "found = {name.split('.')[0] for name in sys.modules};"
        "assert not found & {'django', 'channels', 'rest_framework', 'daphne', 'twisted'}, found"
    )
    began = time.monotonic()
    subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, env=desk.environment()
    )
    # A gross limit: it takes a fifth of a second, and two with Django.
    assert time.monotonic() - began < 5
