import json
from pathlib import Path

from tests.cli.conftest import LOAD, Desk


def test_dry_run_shows_the_plan_and_the_sweep_makes_it(desk: Desk) -> None:
    before = desk.newest()
    words = [
        "submit",
        "workflow.json",
        "--sweep",
        "3.cfg=5,7",
        "--sweep",
        '6.text="a, b",c',
        "--base-seed",
        "42",
    ]
    lines = desk.out(*words, "--dry-run").splitlines()
    assert lines[0] == "Nothing is submitted. It would be 4 jobs, seed 42:"
    assert lines[1:4] == ["   SEED  3.cfg  6.text", "1  42    5      a, b", "2  42    5      c"]
    assert "Ready to take them: gpu-1, gpu-2, gpu-3" in lines
    assert (
        "… and 80 more"
        in desk.out("submit", "workflow.json", "--sweep", "seed=x100", "--dry-run").splitlines()
    )
    later = desk.out(*words, "--dry-run", "--start-after", "12h")
    assert "\nExpected end not known: Starts at " in later
    planned = desk.json(*words, "--dry-run")
    assert desk.newest() == before
    desk.run(*words, "--save", "out", "--name", "{cfg}/{6.text}")
    shown = desk.json("show", desk.newest() or "")
    assert [job["variation"] for job in shown["child_jobs"]] == [
        job["variation"] for job in planned["jobs"]
    ]
    files = sorted(
        path.relative_to(desk.folder / "out").as_posix() for path in desk.folder.glob("out/*/*")
    )
    assert files == ["5/a, b.png", "5/c.png", "7/a, b.png", "7/c.png"]
    assert "3.cfg=5 6.text=a, b" in desk.out("show", shown["job_group_id"])
    job = desk.out("show", shown["job_group_id"], shown["child_jobs"][3]["job_id"])
    assert "  Variation: 3.cfg=7 6.text=c\n" in job


def test_rows_of_a_csv_are_jobs_with_metadata(desk: Desk) -> None:
    (desk.folder / "shots.csv").write_text(
        "6.text;seed;meta:shot\na;7;sc_1\n;8;sc_2\n", encoding="utf-8"
    )
    words = [
        "submit",
        "workflow.json",
        "--csv",
        "shots.csv",
        "--name",
        "{shot}_{text}",
        "--tag",
        "24gb",
    ]
    jobs = desk.json("show", desk.json(*words)["job_group_id"])["child_jobs"]
    assert [(job["seed"], job["variation"], job["metadata"]) for job in jobs] == [
        (7, {"6.text": "a"}, {"shot": "sc_1"}),
        (8, None, {"shot": "sc_2"}),
    ]
    assert "without --count" in desk.said(*words, "-n", "2", status=2)
    assert "No file has {cfg}" in desk.said(*words, "--name", "{cfg}", status=2)


def test_files_are_uploaded_and_become_an_axis(desk: Desk) -> None:
    (desk.folder / "load.json").write_text(json.dumps(LOAD), encoding="utf-8")
    (desk.folder / "frames").mkdir()
    for number in (10, 9):
        Path(desk.folder, "frames", f"frame{number}.png").write_bytes(b"frame %d" % number)
    words = [
        "submit",
        "load.json",
        "--inputs",
        "frames/*.png",
        "--sweep",
        "seed=1,2",
        "-b",
        "gpu-1",
        "--json",
    ]
    stored = desk.json("assets", "list")
    planned = json.loads(desk.out(*words, "--dry-run"))
    assert (planned["total_count"], [one["jobs"] for one in planned["backends"]]) == (4, [4])
    assert desk.json("assets", "list") == stored
    jobs = desk.json("show", json.loads(desk.out(*words))["job_group_id"])["child_jobs"]
    names = {one["id"]: one["name"] for one in desk.json("assets", "list")}
    ids = [(job["seed"], job["variation"]["1.image"]["info"]["id"]) for job in jobs]
    assert [(seed, names[one]) for seed, one in ids] == [
        (seed, f"frame{number}.png") for seed in (1, 2) for number in (9, 10)
    ]
