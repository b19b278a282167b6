"""Rows in which every state occurs that a page can show, with names and errors that strain it."""

import datetime as dt
import functools
import json
import uuid
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from django.conf import settings
from django.db import transaction

from backends.simulator.pictures import encode_png
from backends.simulator.values import Picture
from director.demo.workflow import text_to_image
from jobgroups.domain.clock import now
from jobgroups.models import Asset, Attempt, ChildJob, JobGroup, Runner
from jobgroups.outputs.resize import thumbnail
from jobgroups.outputs.thumbnails import DiskCache
from jobgroups.queries.outputs import child_output
from tests.harness import factories

LONG_NAME = "shot_0410_castle_at_dawn_" + "and_no_blank_" * 9
LONG_ERROR = (
    "Allocation on device 0 would exceed allowed memory. (out of memory) Currently allocated: "
    "21.63 "
    "GiB Requested: 2.25 GiB Device limit: 23.64 GiB "
    + "/opt/models/checkpoints/" * 30
    + " and so on. " * 60
)
#: Texts of files, nodes, errors, metadata and people. A script that runs sets ``window.taken``.
HOSTILE = (
    "<img src=x onerror=taken=1>",
    "</script><script>taken=1</script>",
    "'\"><svg onload=taken=1>`${taken=1}`{{ taken }}{% now %}",
    "javascript:taken=1//\r\nSet-Cookie: taken=1",
    "safe\u202egnp.exe",
    "\u2066isolated\u200b\ufeff\u2028line\x1b[31m\x07\x9b\x7f",
    "../../../etc/passwd",
    "C:\\Windows\\system32\\con",
    "__proto__",
    "constructor",
    "\U0001f469\u200d\U0001f680 a\u0301" + "\u0301" * 60,
    "x" * 4_000,
)
TRACEBACK = [f'  File "/opt/ComfyUI/execution.py", line {n}, in execute\n' for n in range(40)]


@transaction.atomic
def fill() -> dict[str, str]:
    """Store the rows; return the groups' ids by name."""
    _backends()
    file = {"name": f"{LONG_NAME}.mov", "content_type": "video/quicktime", "size_bytes": 3 * 2**40}
    Asset.objects.create(id=uuid.uuid4(), hash="0" * 64, created_at=now(), used_at=now(), **file)
    return _groups()


def _backends() -> None:
    moment = now()
    later = moment + dt.timedelta(hours=1)  # nobody looks at them again while pictures are taken
    memory = {"vram_total": 24 * 2**30, "vram_free": 3 * 2**30}
    seen = {
        "reachability": "online",
        "last_seen_at": later,
        "status_since": moment - dt.timedelta(minutes=5),
        "comfyui_version": "0.3.64",
        "devices": [{"name": "cuda:0 NVIDIA GeForce RTX 4090 : cudaMallocAsync", **memory}],
    }
    said = {"changed_by": "ann@studio", "changed_at": moment - dt.timedelta(hours=2)}
    factories.backend("gpu-online", **seen, tags=["flux", "big"])
    factories.backend("gpu-busy", **seen, queue_running=1, queue_pending=3, queue_foreign=2)
    factories.backend(
        "gpu-paused", **seen, hold="pause", changed_reason="A driver is installed.", **said
    )
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
        name="played",
        instance="x",
        host="here",
        pid=1,
        version="0",
        started_at=moment,
        heartbeat_at=later,
    )


def _groups() -> dict[str, str]:
    return {
        "looks": _looks(),
        "pending": _plain("Waits for a runner", ["queued"] * 3, "pending"),
        "one": _plain("One", ["completed"], "completed"),
        "three": _plain("Three", ["completed", "running", "queued"], "running"),
        "failing": _plain(
            "Runs on", ["completed", "failed", "running", "queued"], "partial_complete"
        ),
        "failed": _plain("All failed", ["failed", "timeout", "failed"], "failed"),
        "partial": _plain("Half", ["completed", "failed"] * 3, "partial_complete"),
        "fifty": _plain(
            LONG_NAME,
            ["completed"] * 20 + ["failed"] * 4 + ["timeout"] + ["running"] * 9 + ["queued"] * 16,
            "partial_complete",
        ),
        "cancelled": _plain("Cancelled", ["completed"] * 5 + ["cancelled"] * 45, "cancelled"),
        "thousand": _plain(
            "A thousand",
            ["completed"] * 610 + ["failed"] * 17 + ["running"] * 8 + ["queued"] * 365,
            "partial_complete",
        ),
        "none": _plain("No job left", ["completed"], "completed", keep=0),
        "sweep": _sweep(["completed"] * 4 + ["failed"] * 2 + ["running"] + ["queued"] * 2),
        "pool": _in_pool(["completed", "running", "queued", "queued"]),
        "hostile": _hostile(),
    }


def _hostile() -> str:
    """A group whose every text was written by an enemy: the files, the errors, the metadata and the
    values.
    """
    values = dict(zip(HOSTILE, reversed(HOSTILE), strict=True))
    group = _submit(HOSTILE[0], len(HOSTILE) + 1)
    rows = list(ChildJob.objects.filter(group=group).order_by("position"))
    deep = json.loads('{"a":' * 60 + "1" + "}" * 60)
    metadata = {
        "name": " ".join(HOSTILE)[:150],
        "deep": deep,
        "large": 2**64,
        "constructor": "x",
        **values,
    }
    for child, text in zip(rows, HOSTILE, strict=False):
        kinds = {
            "images": [_file(f"{text}.png"), _file(f"{text}.mp4")],
            "audio": [_file(f"{text}.flac")],
        }
        shown = _outputs(
            child,
            **kinds,
            **{"3d": [_file(f"{text}.obj")], "__proto__": [_file("x.png")]},
            text=[text],
        )
        fields = {
            "variation_json": json.dumps({f"3.{text[:50]}": text}),
            "warnings_json": json.dumps([text]),
        }
        _become(
            child,
            "completed",
            outputs_json=shown,
            metadata_json=json.dumps({"__proto__": text}),
            **fields,
        )
        _shelve(child, 1)
    details = {
        "node_id": HOSTILE[0],
        "node_type": HOSTILE[1],
        "traceback": [f"{text}\n" for text in HOSTILE],
    }
    error = {
        "error_message": "\n".join(HOSTILE) + "x" * 100_000,
        "error_details_json": json.dumps(details),
    }
    _become(rows[-1], "failed", **error, error_type="<i>Error\u202e", current_step=HOSTILE[0])
    _attempt(rows[-1], "error", 2, error_message=HOSTILE[0])
    summary = dict.fromkeys(("prompt", "negative", "model", "file", "sampler"), " ".join(HOSTILE))
    JobGroup.objects.filter(pk=group.pk).update(
        summary_json=json.dumps(summary),
        metadata_json=json.dumps(metadata),
        submitter=" ".join(HOSTILE)[:64],
    )
    _count(group, "partial_complete")
    return str(group.id)


def _plain(name: str, statuses: Sequence[str], status: str, *, keep: int = 1_000) -> str:
    group = _submit(name, len(statuses))
    for child, one in zip(ChildJob.objects.filter(group=group), statuses, strict=True):
        _become(child, one)
    ChildJob.objects.filter(group=group, position__gte=keep).delete()
    _count(group, status)
    return str(group.id)


def _in_pool(statuses: Sequence[str]) -> str:
    group = factories.submit_to_pool(len(statuses), metadata={"name": "In the pool"})
    for child, one in zip(ChildJob.objects.filter(group=group), statuses, strict=True):
        if one != "queued":
            child.backend_id = "gpu-busy"
        _become(child, one)
    _count(group, "running")
    return str(group.id)


def _sweep(statuses: Sequence[str]) -> str:
    """A sweep of three by three jobs, of one of two seeds."""
    axes = [
        ("3.cfg", [5, 7.5, 9]),
        ("4.ckpt_name", [f"{LONG_NAME}.safetensors", "b.safetensors", "c.safetensors"]),
    ]
    group = _submit("Sweep", 18)
    sweep = [{"input": name, "values": values} for name, values in [*axes, ("seed", [1, 2])]]
    JobGroup.objects.filter(pk=group.pk).update(
        sweep_json=json.dumps({"mode": "product", "axes": sweep})
    )
    for child in ChildJob.objects.filter(group=group):
        place = child.position // 2
        values = {axes[0][0]: axes[0][1][place // 3], axes[1][0]: axes[1][1][place % 3]}
        _become(
            child, statuses[place], variation_json=json.dumps(values), seed=child.position % 2 + 1
        )
        if statuses[place] == "completed" and place:
            _shelve(child, 1)
    _count(group, "partial_complete")
    return str(group.id)


def _submit(name: str, count: int, **fields: Any) -> Any:
    return factories.submit(
        *["gpu-busy"] * count,
        **fields,
        metadata={"name": name, "scene": "shot_001", "note": "x" * 300},
        submitter="ann@studio",
        seed_strategy="sequential",
        base_seed=9_007_199_254_000_000,
    )


def _count(group: Any, status: str) -> None:
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
        started_at=None if state == "running" else moment - dt.timedelta(seconds=100 * number),
        ended_at=None if state == "running" else moment,
        **fields,
    )


def _outputs(child: Any, **files: Any) -> str:
    return json.dumps({**files, "prompt_id": f"{child.id}-1"})


def _file(name: str) -> dict[str, str]:
    return {"filename": name, "url": f"http://localhost:8188/view?filename={name}"}


def _looks() -> str:
    """A group in which every look of a child occurs once."""
    group = _submit(LONG_NAME, 20, workflow=text_to_image())
    rows = iter(ChildJob.objects.filter(group=group).order_by("position"))
    child: dict[str, Any] = defaultdict(lambda: next(rows))  # in the order in which they are named
    _become(child["queued"], "queued")
    _become(
        child["running"], "running", current_step="KSamplerAdvanced (Efficient) with a long name"
    )
    _become(child["running at 0"], "running", progress=0.0, current_step=None)
    _become(child["done"], "completed")
    names = [f"picture_{n}.png" for n in range(4)]
    four = _outputs(child["four pictures"], images=[_file(name) for name in names])
    _become(child["four pictures"], "completed", outputs_json=four)
    _become(child["picture gone"], "completed", backend_id="gone")
    nothing = _outputs(child["no picture"], images=[])
    _become(child["no picture"], "completed", outputs_json=nothing)
    mesh = {"3d": [_file("a_mesh_with_quite_a_long_name_that_has_no_blank_00001_.glb")]}
    _become(child["a file"], "completed", outputs_json=_outputs(child["a file"], images=[], **mesh))
    videos = ["a_video_with_quite_a_long_name_00001_.mp4"]
    for one in ("a video", "a video gone"):
        shown = _outputs(child[one], images=[_file(name) for name in videos], animated=[True])
        _become(child[one], "completed", outputs_json=shown)
    kinds = [
        videos[0],
        "picture.png",
        "a_sound_with_quite_a_long_name_00001_.flac",
        "text.txt",
        "mesh.obj",
    ]
    every = _outputs(
        child["every kind"],
        images=[_file(name) for name in kinds],
        text=["A caption.", "word " * 500],
    )
    _become(child["every kind"], "completed", outputs_json=every)
    _become(
        child["a text"],
        "completed",
        outputs_json=_outputs(child["a text"], text=["<b>a poem</b>\n" * 300]),
    )
    details = {"node_id": "3", "node_type": "KSampler", "traceback": TRACEBACK}
    _become(
        child["long error"],
        "failed",
        error_message=LONG_ERROR,
        error_details_json=json.dumps(details),
    )
    _become(child["tried thrice"], "failed", attempt_count=3)
    for number in (2, 3):
        _attempt(child["tried thrice"], "error", number, error_message=LONG_ERROR)
    _become(child["timed out"], "timeout")
    _become(child["cancelled"], "cancelled")
    _become(child["being stopped"], "cancelled")
    _attempt(child["being stopped"], "running", stop_requested_at=now(), stop_reason="cancel")
    warning = "The file of a cached node is gone: " + "very_long_file_name_" * 6 + ".png"
    _become(
        child["warned and kept"], "completed", starred=True, warnings_json=json.dumps([warning])
    )
    _become(child["waits for a drained one"], "queued", backend_id="gpu-draining")
    later = now() + dt.timedelta(hours=1)
    _become(child["tried again soon"], "queued", attempt_count=1, not_before=later)
    _attempt(child["tried again soon"], "error", error_message=LONG_ERROR)
    for one in ("done", "four pictures", "warned and kept", "a video", "every kind"):
        _shelve(child[one], {"four pictures": 4, "every kind": 2}.get(one, 1))
    assert next(rows, None) is None
    summary = {"prompt": "a castle at dawn, " * 40, "negative": "blurry", "model": LONG_NAME}
    JobGroup.objects.filter(pk=group.pk).update(
        summary_json=json.dumps({**summary, "steps": 20, "cfg": 7.5})
    )
    _count(group, "partial_complete")
    return str(group.id)


def _shelve(child: Any, count: int) -> None:
    """Keep thumbnails, as if they had been asked for while the backend was there."""
    shelf = DiskCache(settings.DIRECTOR_THUMBNAILS_DIR, 2**30)
    for number in range(count):
        output = child_output(child.group_id, child.id, number)
        for width, content in _thumbnails((child.position + number) % 4).items():
            shelf.put(f"{output.identity}-{width}.webp", content)


@functools.cache
def _thumbnails(seed: int) -> dict[int, bytes]:
    painted = encode_png(Picture(seed=seed, width=768, height=512), "")
    return {width: thumbnail(painted, width) for width in (160, 320, 640)}
