"""Rows in which every state occurs that a page can show, with names and errors that strain it.

``python -m tests.browser.every_state FOLDER`` makes them in a data folder of its own and prints
``{"looks": group, …}``. States are written, not reached: what leads to them is tested elsewhere,
and here only how they look counts.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.harness.processes import ROOT

LONG_NAME = "shot_0410_castle_at_dawn_" + "and_no_blank_" * 9
LONG_ERROR = (
    "Allocation on device 0 would exceed allowed memory. (out of memory) Currently allocated: 21.63 "
    "GiB Requested: 2.25 GiB Device limit: 23.64 GiB " + "/opt/models/checkpoints/" * 30 + " and so on. " * 60
)
TRACEBACK = [f'  File "/opt/ComfyUI/execution.py", line {n}, in execute\n' for n in range(40)]
#: The child whose picture lies on the shelf, by what it looks like.
CHILDREN = (
    "queued",
    "running",
    "running at 0",
    "done",
    "four pictures",
    "picture gone",
    "no picture",
    "a file",
    "long error",
    "tried thrice",
    "timed out",
    "cancelled",
    "being stopped",
    "warned and kept",
    "waits for a drained one",
    "tried again soon",
)


def fill(folder: Path) -> dict[str, str]:
    """Make the rows for a Director to be in this folder; return the groups' ids by name."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("DIRECTOR_")}
    environment |= {
        "DIRECTOR_DATA_DIR": str(folder / "data"),
        "DJANGO_SETTINGS_MODULE": os.environ.get("DJANGO_SETTINGS_MODULE", "director.settings"),
    }
    (folder / "data").mkdir(parents=True)
    done = subprocess.run(
        [sys.executable, "-m", "tests.browser.every_state"],
        check=False,
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return found


def _main() -> None:
    import django

    django.setup()
    from django.core.management import call_command
    from django.db import transaction

    call_command("migrate", verbosity=0)
    with transaction.atomic():
        _backends()
        made = _groups()
    print(json.dumps(made))


# --- backends -------------------------------------------------------------------------------------


def _backends() -> None:
    from jobgroups.domain.clock import now
    from jobgroups.models import Runner
    from tests.harness import factories

    moment = now()
    later = moment + dt.timedelta(hours=1)  # nobody looks at them again while pictures are taken
    seen = {
        "reachability": "online",
        "last_seen_at": later,
        "status_since": moment - dt.timedelta(minutes=5),
        "comfyui_version": "0.3.64",
        "devices": [
            {
                "name": "cuda:0 NVIDIA GeForce RTX 4090 : cudaMallocAsync",
                "vram_total": 24 * 2**30,
                "vram_free": 3 * 2**30,
            }
        ],
    }
    said = {"changed_by": "ann@studio", "changed_at": moment - dt.timedelta(hours=2)}
    factories.backend("gpu-online", **seen, tags=["flux", "big"])
    factories.backend("gpu-busy", **seen, queue_running=1, queue_pending=3, queue_foreign=2)
    factories.backend("gpu-paused", **seen, hold="pause", changed_reason="A driver is installed.", **said)
    factories.backend(
        "gpu-draining",
        **seen,
        hold="drain",
        changed_reason="Moves to Studio B on Monday, and nobody knows yet when it is back.",
        **said,
    )
    factories.backend(
        "gpu-offline",
        **{**seen, "reachability": "offline"},
        status_reason="It did not answer: Connection refused, and " + "so on " * 40,
        unreachable_since=moment - dt.timedelta(minutes=7),
    )
    factories.backend("gpu-unknown")
    factories.backend("gpu-disabled", enabled=False, **{**said, "changed_reason": "Sold."})
    factories.backend(
        "gpu-quarantined",
        **seen,
        name=LONG_NAME,
        quarantined_at=moment - dt.timedelta(minutes=3),
        quarantine_until=moment + dt.timedelta(minutes=12),
        quarantine_reason="3 failures in 10 minutes, the last: CUDA error: an illegal memory access",
        consecutive_quarantines=1,
    )
    Runner.objects.create(
        name="played", instance="x", host="here", pid=1, version="0", started_at=moment, heartbeat_at=later
    )


# --- groups ---------------------------------------------------------------------------------------


def _groups() -> dict[str, str]:
    return {
        "looks": _looks(),
        "pending": _plain("Waits for a runner", ["queued"] * 3, "pending"),
        "one": _plain("One", ["completed"], "completed"),
        "three": _plain("Three", ["completed", "running", "queued"], "running"),
        "failing": _plain("Runs on", ["completed", "failed", "running", "queued"], "partial_complete"),
        "failed": _plain("All failed", ["failed", "timeout", "failed"], "failed"),
        "partial": _plain("Half", ["completed", "failed"] * 3, "partial_complete"),
        "fifty": _plain(
            LONG_NAME,
            ["completed"] * 20 + ["failed"] * 4 + ["timeout"] + ["running"] * 9 + ["queued"] * 16,
            "partial_complete",
        ),
        "cancelled": _plain("Cancelled", ["completed"] * 5 + ["cancelled"] * 45, "cancelled"),
        "thousand": _plain(
            "A thousand", ["completed"] * 610 + ["failed"] * 17 + ["running"] * 8 + ["queued"] * 365, "partial_complete"
        ),
        "none": _plain("No job left", ["completed"], "completed", keep=0),
    }


def _plain(name: str, statuses: Sequence[str], status: str, *, keep: int = 1_000) -> str:
    from jobgroups.models import ChildJob

    group = _submit(name, len(statuses))
    for child, one in zip(ChildJob.objects.filter(group=group), statuses, strict=True):
        _become(child, one)
    ChildJob.objects.filter(group=group, position__gte=keep).delete()
    _count(group, status)
    return str(group.id)


def _submit(name: str, count: int, backend_id: str = "gpu-busy") -> Any:
    from tests.harness import factories

    return factories.submit(
        *[backend_id] * count,
        metadata={"name": name, "scene": "shot_001", "note": "x" * 300},
        submitter="ann@studio",
        seed_strategy="sequential",
        base_seed=9_007_199_254_000_000,
    )


def _count(group: Any, status: str) -> None:
    from jobgroups.domain.clock import now
    from jobgroups.models import ChildJob, JobGroup

    rows = list(ChildJob.objects.filter(group=group).values_list("status", flat=True))
    ended = not {"queued", "running"} & set(rows)
    JobGroup.objects.filter(pk=group.pk).update(
        status=status,
        total_count=len(rows),
        completed_count=rows.count("completed"),
        failed_count=rows.count("failed") + rows.count("timeout"),
        cancelled_count=rows.count("cancelled"),
        completed_at=now() if ended else None,
        cancelled_at=now() if status == "cancelled" else None,
    )


def _become(child: Any, status: str, **fields: Any) -> Any:
    """Have a child stand as said, with what its status calls for."""
    from jobgroups.domain.clock import now

    moment = now()
    if status != "queued":
        state = {"completed": "success", "failed": "error"}.get(status, status)
        child.current_attempt = None if status == "cancelled" else _attempt(child, state)
        child.started_at = moment - dt.timedelta(seconds=74)
    if status in ("completed", "failed", "timeout", "cancelled"):
        child.completed_at = moment
    if status == "completed":
        child.outputs_json = _outputs(child, images=[_file("picture.png")])
        child.progress = 100.0
    if status == "running":
        child.progress, child.current_step = 37.0, "KSampler"
    if status == "failed":
        child.error_message, child.error_type = "CUDA out of memory", "ComfyUIError"
        child.failure_class = "out_of_memory"
    if status == "timeout":
        child.error_message, child.error_type = "Timed out after 300 s", "TimeoutError"
        child.failure_class = "timeout"
    child.status = status
    for name, value in fields.items():
        setattr(child, name, value)
    child.save()
    return child


def _attempt(child: Any, state: str, number: int = 1, **fields: Any) -> Any:
    from jobgroups.domain.clock import now
    from jobgroups.models import Attempt

    moment = now()
    failure_class = {"error": "out_of_memory", "timeout": "timeout"}.get(state, "")
    return Attempt.objects.create(
        failure_class=failure_class,
        child=child,
        number=number,
        run=1,
        backend_id=child.backend_id,
        prompt_id=f"{child.id}-{number}",
        client_id="c",
        epoch=1,
        state=state,
        created_at=moment,
        ended_at=None if state == "running" else moment,
        **fields,
    )


def _outputs(child: Any, **files: Any) -> str:
    return json.dumps({**files, "prompt_id": f"{child.id}-1"})


def _file(name: str) -> dict[str, str]:
    return {"filename": name, "url": f"http://localhost:8188/view?filename={name}"}


def _looks() -> str:
    """A group in which every look of a child occurs once, in the order of ``CHILDREN``."""
    from jobgroups.domain.clock import now
    from jobgroups.models import ChildJob

    group = _submit(LONG_NAME, len(CHILDREN))
    rows = ChildJob.objects.filter(group=group).order_by("position")
    child = dict(zip(CHILDREN, rows, strict=True))
    _become(child["queued"], "queued")
    _become(child["running"], "running", current_step="KSamplerAdvanced (Efficient) with a long name")
    _become(child["running at 0"], "running", progress=0.0, current_step=None)
    _become(child["done"], "completed")
    names = [f"picture_{n}.png" for n in range(4)]
    four = _outputs(child["four pictures"], images=[_file(name) for name in names])
    _become(child["four pictures"], "completed", outputs_json=four)
    _become(child["picture gone"], "completed", backend_id="gone")
    nothing = _outputs(child["no picture"], images=[])
    _become(child["no picture"], "completed", outputs_json=nothing)
    gifs = [_file("a_video_with_quite_a_long_name_00001_.mp4")]
    video = _outputs(child["a file"], images=[], gifs=gifs)
    _become(child["a file"], "completed", outputs_json=video)
    details = {"node_id": "3", "node_type": "KSampler", "traceback": TRACEBACK}
    _become(child["long error"], "failed", error_message=LONG_ERROR, error_details_json=json.dumps(details))
    _become(child["tried thrice"], "failed", attempt_count=3)
    for number in (2, 3):
        _attempt(child["tried thrice"], "error", number, error_message=LONG_ERROR)
    _become(child["timed out"], "timeout")
    _become(child["cancelled"], "cancelled")
    _become(child["being stopped"], "cancelled")
    _attempt(child["being stopped"], "running", stop_requested_at=now(), stop_reason="cancel")
    warning = "The file of a cached node is gone: " + "very_long_file_name_" * 6 + ".png"
    _become(child["warned and kept"], "completed", starred=True, warnings_json=json.dumps([warning]))
    _become(child["waits for a drained one"], "queued", backend_id="gpu-draining")
    later = now() + dt.timedelta(hours=1)
    _become(child["tried again soon"], "queued", attempt_count=1, not_before=later)
    _attempt(child["tried again soon"], "error", error_message=LONG_ERROR)
    for one in ("done", "four pictures", "warned and kept"):
        _shelve(child[one], names if one == "four pictures" else ["picture.png"])
    _count(group, "partial_complete")
    return str(group.id)


def _shelve(child: Any, names: Sequence[str]) -> None:
    """Keep thumbnails, as if they had been asked for while the backend was there."""
    from django.conf import settings

    from backends.simulator.pictures import encode_png
    from backends.simulator.values import Picture
    from jobgroups.outputs.disk_cache import DiskCache
    from jobgroups.outputs.resize import thumbnail
    from jobgroups.queries.outputs import child_output

    shelf = DiskCache(settings.DIRECTOR_THUMBNAILS_DIR, 2**30)
    for number, _ in enumerate(names):
        output = child_output(child.group_id, child.id, number)
        painted = encode_png(Picture(seed=child.position * 10 + number, width=768, height=512), "")
        shelf.put(f"{output.identity}-320.webp", thumbnail(painted, 320))


if __name__ == "__main__":
    _main()
