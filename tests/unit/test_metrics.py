"""The files of processes' metrics: what a process keeps of earlier ones. The library's state is
global: in processes.
"""

import json
import struct
from pathlib import Path
from typing import Any

from tests.harness.processes import python

_SCRIPT = """
import datetime as dt, json, sys, time
import django; django.setup()
from pathlib import Path
from jobgroups import metrics
folder, backends, workflows, days = json.loads(sys.argv[1])
now, moment = time.time, dt.datetime(2026, 2, 1)
time.time = lambda: now() + days * 86_400
metrics.open_files(Path(folder), backends)
for workflow in workflows:
    metrics.observe_job(workflow, "gpu-1", 2.0)
    metrics.open_sockets.labels("group").inc()
    for at in range(5):
        turn = {"level": 57, "submitter": f"{workflow}-{at}"}
        metrics.observe_wait(moment, moment + dt.timedelta(seconds=3), is_bound=False, **turn)
metrics.failures.labels("stalled", "gpu-2").inc()
found = {}
for family in metrics.ProcessesCollector().collect():
    for one in family.samples:
        found["|".join((one.name, *one.labels.values()))] = one.value
print(json.dumps(found))
"""
SECONDS = "director_job_seconds_sum"
WAIT = "director_turn_wait_seconds_sum|50"


def _process(
    folder: Path, backends: list[str], workflows: list[str], days: float = 0
) -> dict[str, float]:
    """Return the metrics that a process shows after one job of each workflow, so many days later."""
    argument = json.dumps([str(folder / "metrics"), backends, workflows, days])
    settings = {"DIRECTOR_DATA_DIR": str(folder), "DJANGO_SETTINGS_MODULE": "director.settings"}
    done = python("-c", _SCRIPT, argument, **settings)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_values_continue_and_labels_are_bounded(tmp_path: Path) -> None:
    first = _process(tmp_path, ["gpu-1", "gpu-2"], [f"w{at}" for at in range(10)])
    assert (first[f"{SECONDS}|w7"], first[f"{SECONDS}|other"]) == (2.0, 4.0)
    assert f"{SECONDS}|w8" not in first
    assert first["director_open_sockets|group"] == 10
    waits = {name: value for name, value in first.items() if name.startswith(WAIT)}
    assert len(waits) == 17
    assert waits[f"{WAIT}|other"] == 34 * 3
    # Another process, since that one has ended: no socket is left of it.
    second = _process(tmp_path, ["gpu-1"], ["w0", "w8"], days=3)
    assert (second[f"{SECONDS}|w0"], second[f"{SECONDS}|w7"], second[f"{SECONDS}|other"]) == (
        4.0,
        2.0,
        6.0,
    )
    assert second["director_open_sockets|group"] == 2
    third = _process(tmp_path, ["gpu-1", "gpu-2"], ["w8"], days=11)
    assert (third[f"{SECONDS}|w0"], third[f"{SECONDS}|w8"], third[f"{SECONDS}|other"]) == (
        4.0,
        2.0,
        6.0,
    )
    assert f"{SECONDS}|w7" not in third
    assert {name for name in third if name.startswith(WAIT)} == {
        *(f"{WAIT}|{name}" for name in ("w0-0", "w0-1", "w0-2", "w0-3", "w0-4", "other")),
        *(f"{WAIT}|w8-{at}" for at in range(5)),
    }
    assert [one["director_failures_total|gpu-2|stalled"] for one in (first, second, third)] == [
        1,
        1,
        2,
    ]


def test_damaged_file_begins_at_zero(tmp_path: Path) -> None:
    assert _process(tmp_path, ["gpu-1"], ["w0"])[f"{SECONDS}|w0"] == 2.0
    (tmp_path / "metrics" / "histogram_1.db").write_bytes(b"\xff" * 100)
    (tmp_path / "metrics" / "counter_7.db").write_bytes(struct.pack("ii", 400, 0) + b"\0" * 400)
    (tmp_path / "metrics" / "counter_8.db").write_bytes(b"")
    again = _process(tmp_path, ["gpu-1"], ["w0"])
    assert (again[f"{SECONDS}|w0"], again["director_backend_job_seconds_sum|gpu-1|w0"]) == (
        2.0,
        4.0,
    )
