import json
import shlex

from PIL import Image

from director.client import Director
from tests.cli.conftest import Desk
from tests.client.server import FakeDirector


def _jobs(desk: Desk, group_id: str) -> list[str]:
    return [child["job_id"] for child in desk.json("show", group_id)["child_jobs"]]


def test_watch_reports_the_result_of_a_finished_group(desk: Desk, failed_group: str) -> None:
    good = desk.group("gpu-1")
    assert f"{good} completed: 1 completed in" in desk.out("watch", good)
    out = desk.out("watch", f"{desk.url}/groups/{failed_group}", status=1)
    assert f"{failed_group} partly completed: 1 completed, 1 failed in" in out
    assert desk.out("watch", good, "-q") == ""
    assert desk.out("watch", failed_group, "-q", status=1) == ""


def test_provenance_of_a_job_is_printed_as_json(desk: Desk) -> None:
    group_id = desk.group("gpu-1")
    assert desk.out("show", group_id, "--editor") == f"{desk.url}/groups/{group_id}/editor\n"
    (job,) = _jobs(desk, group_id)
    record = json.loads(desk.out("provenance", group_id, job))
    assert (record["job_id"], record["attempt"]["backend_id"]) == (job, "gpu-1")
    assert {"3", "9"} <= record["attempt"]["node_seconds"].keys() <= record["workflow"].keys()


def test_retry_runs_the_failed_jobs_again(desk: Desk) -> None:
    group_id = desk.group("gpu-1", "gpu-2", fails=[0, 1])
    first, second = _jobs(desk, group_id)
    assert "Use one of" in desk.said(
        "retry", group_id, "--where", "same", "--backend", "gpu-2", status=2
    )
    assert "gpu-9" in desk.said("retry", group_id, "--backend", "gpu-9", status=4)
    desk.run("retry", group_id, "--job", second, "--watch", status=1)
    children = desk.json("show", group_id)["child_jobs"]
    assert [child["status"] for child in children] == ["failed", "completed"]
    out = desk.out("retry", group_id, "--where", "other", "--watch")
    assert out.startswith(f"{group_id}: 1 job queued again, run 3.")
    assert f"\n  {first} on gpu-" in out
    assert "completed: 2 completed in " in out
    assert desk.json("show", group_id)["child_jobs"][0]["backend_id"] != "gpu-1"
    refused = desk.said("retry", group_id, status=4)
    assert "names that job" in refused
    assert "job_ids" not in refused


def test_queued_job_moves(desk: Desk) -> None:
    desk.run("backends", "pause", "gpu-3")
    with Director(desk.url) as director:
        director.update_backend("gpu-2", name="Render:2")
    try:
        group_id = desk.out("submit", "workflow.json", "-b", "gpu-3", "-q").strip()
        [job] = _jobs(desk, group_id)
        assert "until then only" in desk.said("retry", group_id, "--job", job, status=4)
        out = desk.out("move", group_id, job, "Render:2")
        assert out.startswith(f"{job} is queued on Render:2 now.")
        watched = desk.out("watch", group_id)
        assert "completed: 1 completed" in watched
        assert "Render:2 seed" in watched
        assert "Render:2" in desk.out("show", group_id)
        for words in (["list"], ["outputs"]):
            assert group_id in desk.out(*words, "--backend", "Render:2")
        assert desk.json("show", group_id)["child_jobs"][0]["backend_id"] == "gpu-2"
        assert "not waiting" in desk.said("move", group_id, job, "gpu-1", status=4)
    finally:
        desk.run("backends", "resume", "gpu-3")
        with Director(desk.url) as director:
            director.update_backend("gpu-2", name="gpu-2")


def test_list_shows_the_newest_group_first_and_filters_by_failure(desk: Desk) -> None:
    part = desk.group("gpu-1", "gpu-2", fails=[1])
    bad, good = desk.group("gpu-1", fails=[0]), desk.group("gpu-2")
    repeated = ["--state", "completed", "--state", "failed", "--state", "completed"]
    rows = desk.json("list", "-n", "2", *repeated)
    assert [row["job_group_id"] for row in rows] == [good, bad]
    head, *lines = desk.out("list", "-n", "2").splitlines()
    assert head.split() == ["ID", "STATUS", "COMPLETED", "FAILED", "CREATED", "TITLE"]
    assert lines[0].split()[:3] == [good, "Completed", "1/1"]
    ids = [row["job_group_id"] for row in desk.json("list", "--failed", "--since", "1h")]
    assert (ids[:2], good in ids) == ([bad, part], False)


def test_list_filters_by_state_metadata_backend_and_submitter(desk: Desk) -> None:
    scene = f"scene={desk.folder.name}"
    words = ["submit", "workflow.json", "-b", "gpu-3", "--meta", scene, "--watch", "-q"]
    desk.run(*words, DIRECTOR_SUBMITTER="ada@studio")
    [found] = desk.json("list", "--meta", scene)
    by_all = ["--state", "completed", "-b", "gpu-3", "--meta", scene, "--mine"]
    [same] = desk.json("list", *by_all, DIRECTOR_SUBMITTER="ada@studio")
    # Its revision grows when a file is captured.
    assert same["job_group_id"] == found["job_group_id"]
    assert desk.json("list", *by_all, DIRECTOR_SUBMITTER="bob@studio") == []
    assert desk.json("list", "--meta", scene, "-b", "gpu-1") == []
    assert desk.json("list", "--meta", scene, "--before", "1h") == []
    assert desk.said("list", "--meta", "scene=nowhere") == "No group was found.\n"


def test_groups_are_renamed_archived_and_found_again(desk: Desk) -> None:
    word = desk.folder.name
    group_id = desk.out("submit", "workflow.json", "--title", f"{word} owl", "-q").strip()
    assert f" {word} owl" in desk.out("list", "--text", f"OWL {word}")
    assert "--title: Must be a string of 1 to 200" in desk.said(
        "submit", "workflow.json", "--title", "x" * 201, status=4
    )
    assert desk.out("rename", group_id, f"{word} fox") == f"{group_id} is called {word} fox.\n"
    assert f"  Title: {word} fox\n" in desk.out("show", group_id)
    said = desk.run("archive", group_id, "jg_000000000000", status=4)
    assert said.stdout == f"{group_id} is archived.\n"
    assert desk.json("list", "--text", word) == []
    assert [row["name"] for row in desk.json("list", "--text", word, "--archived")] == [
        f"{word} fox"
    ]
    assert desk.out("archive", group_id, "--undo") == f"{group_id} is in the lists again.\n"
    assert len(desk.json("list", "--text", word)) == 1


def test_group_has_a_priority_and_is_next(desk: Desk) -> None:
    group_id = desk.out("submit", "workflow.json", "--priority", "40", "-q").strip()
    assert "  Priority: 40, counts as 40\n" in desk.out("show", group_id)
    assert desk.out("priority", group_id, "100") == f"{group_id} has the priority 100.\n"
    assert desk.json("show", group_id)["priority"] == 100
    assert "101 is not in the range" in desk.said("priority", group_id, "101", status=2)
    said = desk.run("next", "jg_000000000000", status=4)
    assert "jg_000000000000" in said.stderr


def test_cancel_of_all_groups_asks_with_their_number(desk: Desk) -> None:
    desk.out("cancel", "--all", "--yes")
    assert desk.out("cancel", "--all") == "No group was open.\n"
    groups = [desk.out("submit", "workflow.json", "-q").strip() for _ in range(2)]
    said = desk.said("cancel", "--all", stdin="n\n", status=130)
    assert "Nothing was cancelled." in said
    assert desk.run("cancel", "--all", stdin="y\n").stdout.endswith("cancelled.\n")
    assert {desk.json("show", group)["status"] for group in groups} <= {"cancelled", "completed"}
    for words in ((), ("--all", groups[0])):
        assert "Name the groups, or use --all." in desk.said("cancel", *words, status=2)
    said = desk.said("cancel", "--all", "--job", "j_91ce44d07b3a", status=2)
    assert "use it without --job" in said


def test_weight_of_a_submitter_is_set(desk: Desk) -> None:
    assert desk.out("weight", "anna", "2") == "anna: weight 2, 0 s used lately.\n"
    known = desk.json("weight", "anna")
    assert (known["name"], known["weight"], known["used_seconds"]) == ("anna", 2.0, 0.0)
    desk.run("weight", "anna", "1")


def test_groups_submitters_and_the_farm_are_paused_and_limited(desk: Desk) -> None:
    try:
        state = desk.out("queue", "pause", "--reason", "power", "--until", "2h")
        assert state.startswith("The farm is paused until ")
        assert state.endswith(": power.\n")
        group_id = desk.out("submit", "workflow.json", "--max-running", "3", "-q").strip()
        assert desk.out("pause", group_id, "--until", "1h").startswith(f"{group_id} is paused")
        shown = desk.out("show", group_id)
        assert "  At once: at most 3\n" in shown
        assert "  Paused: paused, as the whole farm is until" in shown
    finally:
        assert desk.out("queue", "resume") == "The farm is not paused.\n"
    assert desk.out("resume", group_id) == f"{group_id} is not paused.\n"
    assert (
        desk.out("limit", group_id, "--max-running", "any") == f"{group_id}: any number at once.\n"
    )
    assert "starts after" in desk.out("limit", group_id, "--start-after", "30m")
    assert "Give --max-running" in desk.said("limit", group_id, status=2)
    assert "is not a while" in desk.said("limit", group_id, "--start-after", "soon", status=2)
    desk.out("cancel", group_id)  # others wait for what is open
    line = desk.out("submitters", "carl", "--max-running", "4", "--max-queued", "9", "--pause")
    assert line.startswith("carl: weight 1, 0 s used lately, at most 4 at once, at most 9 queued, ")
    assert "belong to --pause" in desk.said("submitters", "carl", "--reason", "x", status=2)
    line = desk.out("submitters", "carl", "--resume", "--max-running", "any", "--max-queued", "any")
    assert line == "carl: weight 1, 0 s used lately.\n"


def test_record_is_listed_by_action(desk: Desk) -> None:
    group_id = desk.group("gpu-1")
    for action in ("group.submitted", "group"):
        [entry] = desk.json("audit", "--action", action, "--target", group_id)
        assert (entry["action"], entry["target"]) == ("group.submitted", group_id)
    assert "'group.submitted'" in desk.said("audit", "--action", "nothing", status=2)


def test_delete_shows_what_goes_and_asks(desk: Desk) -> None:
    group_id = desk.group("gpu-1")
    for answer in ("n\n", ""):
        said = desk.said("delete", group_id, stdin=answer, status=130)
        assert f"{group_id} rolling hills" in said
        assert ": 1 job, " in said
        assert "Delete 1 group? [y/N]: " in said
        assert "Nothing was deleted.\nWith --yes there is no question." in said
    done = desk.run("delete", group_id, "jg_000000000000", "--yes", status=4)
    assert done.stdout.startswith(f"{group_id} is deleted: 1 job, ")
    assert "not found" in done.stderr
    assert "not found" in desk.said("show", group_id, status=4)


def test_list_refuses_an_unknown_backend_without_groups(desk: Desk) -> None:
    said = desk.said("list", "-b", "gpu1", status=4)
    assert said.startswith("Error: No backend has the id 'gpu1'.\nDid you mean gpu-")


def test_show_has_the_reason_of_each_failure(desk: Desk, failed_group: str) -> None:
    out = desk.out("show", failed_group)
    assert f"{failed_group} partly completed: 1 completed, 1 failed" in out
    [failed] = [line for line in out.splitlines() if " Failed " in line and "gpu-2" in line]
    assert "out of memory" in failed.lower()
    job = _jobs(desk, failed_group)[1]
    lines = desk.out("show", failed_group, job).splitlines()
    assert lines[0].startswith(f"{job} failed on gpu-2, seed ")
    assert lines[-1].split()[:4] == ["1", "1", "gpu-2", "error"]
    assert len(desk.json("show", failed_group, job)["attempts"]) == 1


def test_jobs_are_read_page_by_page(desk: Desk, failed_group: str) -> None:
    with Director(desk.url) as director:
        jobs = director.status(failed_group).child_jobs
        assert len(jobs) > 1
        assert tuple(director.jobs(failed_group, limit=1)) == jobs


def test_save_writes_each_file_once_under_the_name_of_the_template(
    desk: Desk, failed_group: str
) -> None:
    job = _jobs(desk, failed_group)[0]
    words = ["save", failed_group, "--to", "out", "--name", "{backend}/{job}.png"]
    for _ in range(2):
        assert f"out/gpu-1/{job}.png" in desk.out(*words)
        files = [path for path in (desk.folder / "out").rglob("*") if path.is_file()]
        assert files == [desk.folder / "out" / "gpu-1" / f"{job}.png"]
    for refused in (words[:-1], ["submit", "workflow.json", "--save", "out", "--name"]):
        assert "No file has {nope}. Names: {index}" in desk.said(*refused, "{nope}", status=2)


def test_save_prints_the_command_for_files_that_were_not_saved(
    desk: Desk, failed_group: str
) -> None:
    (desk.folder / "my images").mkdir()
    (desk.folder / "my images" / "gpu-1").write_text("in the way", encoding="utf-8")
    words = ["save", failed_group, "--to", "my images", "--name", "{backend}/{name}"]
    said = desk.said(*words, status=1)
    assert "was not saved: " in said
    again = shlex.split(said.splitlines()[-1].removeprefix("Try again: director "))
    assert again == words


def test_save_reads_files_through_the_director(desk: Desk) -> None:
    """The backends need not be reachable from the client's host."""
    with FakeDirector() as server:
        group_id = server.group()
        [job] = server.groups[group_id].body["child_jobs"]
        image = {"filename": "a.png", "url": "http://unreachable.invalid/a.png"}
        job.update(status="completed", outputs={"images": [image]})
        path = f"/api/job-groups/{group_id}/jobs/{job['job_id']}/outputs/0"
        server.answers["GET", path] = (200, "content")
        desk.run("save", group_id, "--to", "out", DIRECTOR_URL=server.url)
    [image] = (desk.folder / "out").iterdir()
    assert image.read_text() == "content"


def test_outputs_of_all_groups_are_listed_and_saved(desk: Desk) -> None:
    first, second = desk.group("gpu-1"), desk.group("gpu-2")
    rows = desk.json("outputs", "--since", "1h", "--kind", "image", "-n", "2")
    assert [(row["job_group_id"], row["backend_id"]) for row in rows] == [
        (second, "gpu-2"),
        (first, "gpu-1"),
    ]
    table = desk.out("outputs", "--group", first)
    assert table.splitlines()[1].startswith(first)
    words = ["outputs", "--group", first, "--name", "{backend}/{number}_{job}.png", "--save"]
    name = f"gpu-1/1_{rows[1]['job_id']}.png"
    assert desk.out(*words).strip() == f"saved {name}"
    assert desk.out(*words, "all").strip() == f"saved all/{name}"
    assert "{cfg}" in desk.said("outputs", "--save", "--name", "{cfg}.png", status=2)
    assert desk.said("outputs", "--text", "no such words", "--save") == "No output was found.\n"


def test_sheet_is_saved_and_replaced(desk: Desk, failed_group: str) -> None:
    for _ in range(2):
        assert desk.json("sheet", failed_group, "-o", "all.webp") == ["all.webp"]
    with Image.open(desk.folder / "all.webp", formats=["WEBP"]) as image:
        assert image.width > 3 * 320
    assert "3.cfg is no axis" in desk.said("sheet", failed_group, "--axes", "3.cfg", status=4)
    assert "cannot be written" in desk.said(
        "sheet", failed_group, "-o", "nowhere/all.webp", status=2
    )


def test_groups_that_wait_are_next_and_cancelled_whole_or_by_job(desk: Desk) -> None:
    desk.sims.fault("slow", on=0, seconds=5.0)
    words = ["submit", "workflow.json", "-b", "gpu-1", "--count", "4", "-q"]
    first, second = desk.out(*words).strip(), desk.out(*words).strip()
    # The last one that is brought forward is first.
    assert desk.out("next", second, first) == f"{first} is next.\n{second} is next.\n"
    assert desk.out("next", first, "--before", second) == f"{first} is before {second}.\n"
    rows = desk.json("queue", "-b", "gpu-1", "--mine")["items"]
    assert {row["job_group_id"] for row in rows} == {first, second}
    table = desk.out("queue", "-n", "1")
    assert table.startswith("PLACE  ID")
    assert len(table.splitlines()) == 2
    assert desk.said("queue", "--submitter", "cleo") == "No job runs or waits.\n"
    assert f"{_jobs(desk, first)[3]} cancelled" in desk.out(
        "cancel", first, "--job", _jobs(desk, first)[3]
    )
    assert [row["id"] for row in desk.json("cancel", first, second)] == [first, second]
    assert f"{first} cancelled: 0 jobs cancelled, 0 completed before" in desk.out("cancel", first)
    assert desk.json("show", second)["cancelled_count"] == 4
    assert desk.json("show", second)["status"] == "cancelled"
    desk.run("watch", second, "-q", status=1)


def test_open_prints_the_address_of_the_page(desk: Desk, failed_group: str) -> None:
    address = f"{desk.url}/groups/{failed_group}\n"
    assert desk.out("open", failed_group, "--print") == address
    assert desk.json("open") == {"url": f"{desk.url}/"}


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


def test_events_are_followed_until_the_end(desk: Desk) -> None:
    desk.sims.fault("slow", on=0, seconds=1.0)
    group_id = desk.out("submit", "workflow.json", "-b", "gpu-1", "-q").strip()
    with desk.start("events", group_id, "--follow", "--json") as process:
        seqs = [event["seq"] for event in desk.lines("events", group_id, "--follow")]
        out, _ = process.communicate(timeout=60)
    assert seqs == [1, 2, 3, 4]
    assert [json.loads(line)["seq"] for line in out.splitlines()] == seqs


def test_unknown_group_is_refused_with_a_hint(desk: Desk) -> None:
    for command in ("watch", "show", "save", "events", "cancel", "retry", "open"):
        said = desk.said(command, "jg_000000000000", status=4)
        assert "Job group jg_000000000000 not found" in said
        assert "director list" in said
