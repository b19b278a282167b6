"""``watch``, ``list``, ``show``, ``save``, ``retry``, ``cancel``, ``open``, ``events``."""

from __future__ import annotations

import json
import shlex
import signal
import time
from pathlib import Path

import pytest

from director.client import Director
from director.demo.workflow import text_to_picture
from tests.cli.conftest import Desk
from tests.cli.way import between
from tests.served import Served


def test_watching_a_group_that_has_ended_says_what_came_of_it(desk: Desk) -> None:
    group_id = desk.group("gpu-1")
    assert f"{group_id} completed: 1 done in" in desk.out("watch", group_id)


def test_watching_tells_scripts_by_its_status_alone(desk: Desk) -> None:
    good, bad = desk.group("gpu-1"), desk.group("gpu-1", fails=[0])
    assert desk.out("watch", good, "-q") == ""
    assert desk.out("watch", bad, "-q", status=1) == ""


def test_a_group_is_named_by_the_address_of_its_page_too(desk: Desk) -> None:
    group_id = desk.group("gpu-1")
    assert group_id in desk.out("watch", f"{desk.url}/groups/{group_id}")


def test_watching_outlives_a_restart_of_the_director(desk: Desk, tmp_path: Path) -> None:
    """Killed in mid-render and started again: the same command tells the rest, each change once."""
    folder = tmp_path / "killed"
    folder.mkdir()
    served = Served(folder, [desk.sims.url], keeps_port=True)
    try:
        served.wait_online()
        desk.sims.fault("slow", on=0, seconds=4.0)
        [row] = served.ask("GET", "/api/backends").json()["backends"]
        words = ["submit", "workflow.json", "-b", row["backend_id"], "--base-seed", "42", "--watch"]
        with desk.start(*words, environment={"DIRECTOR_URL": served.url}) as process:
            assert process.stdout is not None
            process.stdout.readline()
            assert "started" in process.stdout.readline()
            served.kill()
            served.start()
            rest, said = process.communicate(timeout=60)
        assert process.returncode == 0, said
        assert rest.splitlines()[0] == f"{row['backend_id']} seed 42: completed"
        assert "completed: 1 done" in rest.splitlines()[1]
    finally:
        served.stop()


def test_watching_follows_two_runs(desk: Desk) -> None:
    group_id = desk.group("gpu-1", "gpu-2", fails=[1])
    assert "1 done, 1 failed" in desk.out("watch", group_id, status=1)
    out = desk.out("retry", group_id, "--watch")
    assert out.startswith(f"{group_id}: 1 child again, run 2.")
    assert "completed: 1 done, 1 done after 2 attempts" in out


def test_a_retry_of_one_child_leaves_the_other(desk: Desk) -> None:
    group_id = desk.group("gpu-1", "gpu-2", fails=[0, 1])
    job = desk.json("show", group_id)["child_jobs"][1]["job_id"]
    desk.run("retry", group_id, "--job", job, "--watch", status=1)
    statuses = [child["status"] for child in desk.json("show", group_id)["child_jobs"]]
    assert statuses == ["failed", "completed"]


def test_a_failed_child_is_retried_where_the_person_says_while_its_group_runs(desk: Desk) -> None:
    desk.run("backends", "pause", "gpu-3")
    try:
        desk.sims.fault("out_of_memory", on=0)
        # Both moves must come while what is retried renders, on a busy machine too.
        desk.sims.fault("slow", on=1, seconds=12.0)
        with Director(desk.url) as director:
            group_id = director.submit(text_to_picture(), ["gpu-1", "gpu-3"]).job_group_id
        job, waiting = (one["job_id"] for one in desk.json("show", group_id)["child_jobs"])
        _until_failed(desk, group_id)
        assert "until then only" in desk.said("retry", group_id, "--job", waiting, status=4)
        out = desk.out("retry", group_id, "--job", job, "--backend", "gpu-2")
        assert out.startswith(f"{group_id}: 1 child again, run 1.")
        assert f"{job} at gpu-2" in out
        out = desk.out("move", group_id, waiting, "gpu-2")
        assert out.startswith(f"{waiting} waits for gpu-2 now.")
        assert "already" in desk.out("move", group_id, waiting, "gpu-2")
        assert "completed: 1 done, 1 done after 2 attempts" in desk.out("watch", group_id)
        children = desk.json("show", group_id)["child_jobs"]
        assert [one["backend_id"] for one in children] == ["gpu-2", "gpu-2"]
        assert "not waiting" in desk.said("move", group_id, waiting, "gpu-1", status=4)
    finally:
        desk.run("backends", "resume", "gpu-3")


def _until_failed(desk: Desk, group_id: str) -> None:
    end = time.monotonic() + 30
    while desk.json("show", group_id)["failed_count"] == 0:
        assert time.monotonic() < end
        time.sleep(0.2)


def test_a_retry_that_names_two_places_or_none_is_refused(desk: Desk) -> None:
    group_id = desk.group("gpu-1", fails=[0])
    said = desk.said("retry", group_id, "--where", "same", "--backend", "gpu-2", status=2)
    assert "Use one of" in said
    assert "gpu-9" in desk.said("retry", group_id, "--backend", "gpu-9", status=4)
    desk.run("retry", group_id, "--where", "other", "--watch")
    [child] = desk.json("show", group_id)["child_jobs"]
    assert child["backend_id"] != "gpu-1"


def test_a_retry_of_what_did_not_fail_is_refused(desk: Desk) -> None:
    group_id = desk.group("gpu-1")
    assert desk.said("retry", group_id, status=4).startswith("Error: ")


def test_list_shows_the_newest_first(desk: Desk) -> None:
    first, second = desk.group("gpu-1"), desk.group("gpu-2")
    assert [row["job_group_id"] for row in desk.json("list", "-n", "2")] == [second, first]
    head, *rows = desk.out("list", "-n", "2").splitlines()
    assert head.split() == ["ID", "STATE", "DONE", "FAILED", "AT", "WHAT"]
    assert rows[0].split()[:3] == [second, "completed", "1/1"]


def test_list_finds_what_failed(desk: Desk) -> None:
    good = desk.group("gpu-1")
    part = desk.group("gpu-1", "gpu-2", fails=[1])
    bad = desk.group("gpu-1", fails=[0])
    ids = [row["job_group_id"] for row in desk.json("list", "--failed", "--since", "1h")]
    assert ids[:2] == [bad, part]
    assert good not in ids
    only = desk.json("list", "--failed", "--state", "partial_complete", "-n", "1")
    assert [row["job_group_id"] for row in only] == [part]


def test_list_finds_by_state_note_backend_and_person(desk: Desk) -> None:
    scene = f"scene={desk.folder.name}"
    words = ["submit", "workflow.json", "-b", "gpu-3", "--meta", scene, "--watch", "-q"]
    desk.run(*words, DIRECTOR_SUBMITTER="ada@studio")
    [found] = desk.json("list", "--meta", scene)
    by_all = ["--state", "completed", "-b", "gpu-3", "--meta", scene, "--mine"]
    assert desk.json("list", *by_all, DIRECTOR_SUBMITTER="ada@studio") == [found]
    assert desk.json("list", *by_all, DIRECTOR_SUBMITTER="bob@studio") == []
    assert desk.json("list", "--meta", scene, "-b", "gpu-1") == []
    assert desk.json("list", "--meta", scene, "--before", "1h") == []


def test_list_shows_a_group_once_however_it_is_asked_for(desk: Desk) -> None:
    group_id = desk.group("gpu-1")
    words = ["list", "--state", "completed", "--state", "completed", "-n", "2"]
    first, second = desk.json(*words)
    assert first["job_group_id"] == group_id
    assert second["job_group_id"] != group_id


def test_list_without_a_find_says_so(desk: Desk) -> None:
    assert desk.said("list", "--meta", "scene=nowhere") == "No such group.\n"


def test_show_says_what_went_wrong_with_each_child(desk: Desk) -> None:
    group_id = desk.group("gpu-1", "gpu-2", fails=[1])
    out = desk.out("show", group_id)
    assert f"{group_id} partly completed: 1 done, 1 failed" in out
    [failed] = [line for line in out.splitlines() if " failed " in line and "gpu-2" in line]
    assert "out of memory" in failed.lower()


def test_show_lists_the_attempts_of_a_child(desk: Desk) -> None:
    group_id = desk.group("gpu-1", fails=[0])
    job = desk.json("show", group_id)["child_jobs"][0]["job_id"]
    out = desk.out("show", group_id, job)
    assert out.splitlines()[0].startswith(f"{job} failed on gpu-1, seed ")
    assert out.splitlines()[-1].split()[:4] == ["1", "1", "gpu-1", "error"]
    assert len(desk.json("show", group_id, job)["attempts"]) == 1


def test_save_fetches_all_files_and_doubles_none(desk: Desk) -> None:
    group_id = desk.group("gpu-1", "gpu-2")
    first = desk.out("save", group_id, "--to", "out")
    names = sorted(path.name for path in (desk.folder / "out").iterdir())
    assert len(names) == 2
    assert desk.out("save", group_id, "--to", "out").splitlines() != []
    assert sorted(path.name for path in (desk.folder / "out").iterdir()) == names
    assert all(f"out/{name}" in first for name in names)


def test_save_takes_a_name_of_ones_own(desk: Desk) -> None:
    group_id = desk.group("gpu-1")
    job = desk.json("show", group_id)["child_jobs"][0]["job_id"]
    desk.run("save", group_id, "--to", "out", "--name", "{backend}/{job}.png")
    assert (desk.folder / "out" / "gpu-1" / f"{job}.png").is_file()


def test_what_could_not_be_saved_is_told_with_the_command_that_tries_again(desk: Desk) -> None:
    group_id = desk.group("gpu-1")
    (desk.folder / "my pictures").mkdir()
    (desk.folder / "my pictures" / "gpu-1").write_text("in the way", encoding="utf-8")
    words = ["save", group_id, "--to", "my pictures", "--name", "{backend}/{name}"]
    said = desk.said(*words, status=1)
    assert "was not saved: " in said
    again = shlex.split(said.splitlines()[-1].removeprefix("Try again: director "))
    assert again == words


def test_a_replaced_file_is_reported_and_not_saved(desk: Desk) -> None:
    def render() -> str:
        for one in desk.sims[0].output_folder.rglob("*.png"):
            one.unlink()
        return desk.group("gpu-1")

    group_id, _ = render(), render()
    file = desk.json("show", group_id)["child_jobs"][0]["outputs"]["images"][0]
    assert file["reason"] == "replaced"
    said = desk.said("save", group_id, "--to", "out", status=1)
    assert said.splitlines() == [
        f"Error: Not saved: {file['filename']} was replaced:"
        " another file has its name on gpu-1 now."
    ]
    assert list((desk.folder / "out").iterdir()) == []


def test_files_come_through_the_director(desk: Desk) -> None:
    """This machine need not reach the backends."""
    group_id = desk.group("gpu-1")
    job = desk.json("show", group_id)["child_jobs"][0]["job_id"]
    with between(desk.url) as way:
        desk.run("save", group_id, "--to", "out", DIRECTOR_URL=way.url)
    assert f"GET /api/job-groups/{group_id}/jobs/{job}/outputs/0" in way.passed
    [picture] = (desk.folder / "out").iterdir()
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_cancel_says_what_it_did_and_may_be_repeated(desk: Desk) -> None:
    desk.sims.fault("slow", on=0, seconds=5.0)
    group_id = desk.out("submit", "workflow.json", "-b", "gpu-1", "-q").strip()
    assert f"{group_id} cancelled: 1 child cancelled" in desk.out("cancel", group_id)
    assert "0 children cancelled" in desk.out("cancel", group_id)
    assert desk.json("show", group_id)["status"] == "cancelled"
    desk.run("watch", group_id, "-q", status=1)


def test_cancel_takes_several_and_single_children(desk: Desk) -> None:
    desk.sims.fault("slow", on=0, seconds=5.0)
    words = ["submit", "workflow.json", "-b", "gpu-1", "--count", "4", "-q"]
    first, second = desk.out(*words).strip(), desk.out(*words).strip()
    job = desk.json("show", first)["child_jobs"][3]["job_id"]
    assert f"{job} cancelled" in desk.out("cancel", first, "--job", job)
    said = desk.json("cancel", first, second)
    assert [one["id"] for one in said] == [first, second]
    assert desk.json("show", first)["cancelled_count"] >= 1


def test_open_prints_the_page_of_a_group(desk: Desk) -> None:
    group_id = desk.group("gpu-1")
    assert desk.out("open", group_id, "--print") == f"{desk.url}/groups/{group_id}\n"
    assert desk.json("open") == {"url": f"{desk.url}/"}
    assert "not found" in desk.said("open", "jg_000000000000", "--print", status=4)


def test_events_are_printed_in_order(desk: Desk) -> None:
    group_id = desk.group("gpu-1")
    lines = desk.out("events", group_id).splitlines()
    assert [line.split()[1] for line in lines] == [
        "group_created",
        "child_started",
        "child_completed",
        "group_complete",
    ]
    assert lines[0] == "   1 group_created"
    assert [event["seq"] for event in desk.lines("events", group_id, "--since", "2")] == [3, 4]


def test_events_follow_to_the_end(desk: Desk) -> None:
    desk.sims.fault("slow", on=0, seconds=1.0)
    group_id = desk.out("submit", "workflow.json", "-b", "gpu-1", "-q").strip()
    seqs = [event["seq"] for event in desk.lines("events", group_id, "--follow")]
    assert seqs == [1, 2, 3, 4]


def test_following_events_ends_with_ctrl_c(desk: Desk) -> None:
    desk.sims.fault("slow", on=0, seconds=4.0)
    group_id = desk.out("submit", "workflow.json", "-b", "gpu-1", "-q").strip()
    with desk.start("events", group_id, "--follow", "--json") as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["seq"] == 1
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Traceback" not in said
    desk.run("cancel", group_id)


@pytest.mark.parametrize("command", ["watch", "show", "save", "events", "cancel", "retry", "open"])
def test_an_unknown_group_is_refused_with_what_to_type(desk: Desk, command: str) -> None:
    said = desk.said(command, "jg_000000000000", status=4)
    assert "Job group jg_000000000000 not found" in said
    assert "director list" in said
