"""The Director in front of a real ComfyUI, as a user drives it: through ``director.client``.

Run by ``make test-real COMFYUI=http://127.0.0.1:8188``; skipped without ``COMFYUI``. The order of
the tests is the order of the report's rows; none depends on another.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path

import pytest

from director.client import ChildFailed, ChildProgress, ChildStarted, Director, GroupComplete
from tests.real.comfyui import ComfyUI
from tests.real.following import (
    assert_cancelled,
    assert_ran_whole,
    graph_in,
    of_kind,
    only_child,
    sent,
    timed_run,
    until_progress,
    watch,
)
from tests.real.graphs import REFERENCE_EXAMPLE, deaf, failing, sampled, text_to_image
from tests.real.report import Report
from tests.real.waiting import eventually

CHILDREN = 12
LONG_SECONDS = 20.0
"""Longer than a test waits for anything: what took this long was not stopped."""


def test_twelve_children_make_twelve_pictures_each_of_its_own_seed(
    director: Director, backend_id: str, prefix: str, report: Report, tmp_path: Path
) -> None:
    workflow = sampled(prefix, steps=4, seconds=0.8)
    group = director.submit(workflow, [backend_id] * CHILDREN, base_seed=42)
    assert [child.status for child in group.child_jobs] == ["queued"] * CHILDREN
    events = watch(director, group)
    ended = director.status(group.job_group_id)

    assert (ended.status, ended.completed_count, ended.failed_count) == ("completed", CHILDREN, 0)
    assert ended.child_jobs[0].seed == 42
    digests = set()
    for child in ended.child_jobs:
        assert_ran_whole(events, child)
        (picture,) = director.download(child, tmp_path)
        assert graph_in(picture)["1"]["inputs"]["seed"] == child.seed
        digests.add(hashlib.sha256(picture.read_bytes()).digest())
    assert len(digests) == CHILDREN
    assert len({child.seed for child in ended.child_jobs}) == CHILDREN
    steps = sum(isinstance(event, ChildProgress) for event in events)
    report.add(
        f"{CHILDREN} children on one backend",
        f"`completed`, {CHILDREN} PNGs with {len(digests)} hashes, the seed in each file is its "
        f"child's; {steps} progress events, the stream without a gap",
    )


def test_a_checkpoint_samples_and_every_step_is_told(
    director: Director, backend_id: str, prefix: str, report: Report, tmp_path: Path
) -> None:
    checkpoint = os.environ.get("COMFYUI_CHECKPOINT", "").strip()
    if not checkpoint:
        pytest.skip("COMFYUI_CHECKPOINT names no checkpoint of that ComfyUI")
    workflow = text_to_image(prefix, checkpoint)
    group = director.submit(workflow, [backend_id, backend_id])
    events = watch(director, group)
    ended = director.status(group.job_group_id)

    assert ended.status == "completed"
    for child in ended.child_jobs:
        assert_ran_whole(events, child, node="KSampler")
    pictures = director.download(ended, tmp_path)
    assert [graph_in(picture)["3"]["inputs"]["seed"] for picture in pictures] == [
        child.seed for child in ended.child_jobs
    ]
    assert len({picture.read_bytes() for picture in pictures}) == 2
    report.add(
        f"text to image with a checkpoint (`{checkpoint}`), two children",
        "`completed`, two different PNGs with their seeds; steps told as those of `KSampler`, 4 in all",
    )


def test_a_cached_repeat_completes_with_the_first_ones_file(
    director: Director, backend_id: str, prefix: str, report: Report, tmp_path: Path
) -> None:
    workflow = sampled(prefix, steps=4, seconds=2.0)
    first, first_seconds = timed_run(director, director.submit(workflow, [backend_id]))
    again = director.submit(workflow, [backend_id], base_seed=first.base_seed)
    second, second_seconds = timed_run(director, again)

    (old,), (new,) = first.images, second.images
    assert (new.filename, new.subfolder, new.missing) == (old.filename, old.subfolder, False)
    assert first.child_jobs[0].job_id != second.child_jobs[0].job_id
    (one,) = director.download(old, tmp_path / "one")
    (two,) = director.download(new, tmp_path / "two")
    assert one.read_bytes() == two.read_bytes()
    assert second_seconds < first_seconds / 2
    report.add(
        "cached repeat",
        "`completed` with the file name of the first run, downloadable; took "
        f"{second_seconds / first_seconds:.0%} of the first run's time",
    )


@pytest.mark.parametrize(
    ("why", "message"),
    [
        ("no output node", "Prompt has no outputs"),
        ("steps below the minimum", "Prompt outputs failed validation"),
        ("unknown node class", "node NoSuchNode does not exist"),
    ],
)
def test_a_workflow_that_comfyui_refuses_fails_its_child_with_comfyuis_reason(
    director: Director, backend_id: str, prefix: str, report: Report, why: str, message: str
) -> None:
    below, unknown = sampled(prefix), sampled(prefix)
    below["1"]["inputs"]["steps"] = 0
    unknown["1"]["class_type"] = "NoSuchNode"
    workflow = {"no output node": REFERENCE_EXAMPLE, "steps below the minimum": below, "unknown node class": unknown}[
        why
    ]
    group = director.submit(workflow, [backend_id])
    events = watch(director, group)
    child = only_child(director, group)

    assert (child.status, child.error_type) == ("failed", "ValidationError")
    assert message in (child.error_message or "")
    assert [attempt.outcome for attempt in child.attempts] == ["refused"]
    assert not of_kind(events, ChildStarted, child.job_id)
    (failed,) = of_kind(events, ChildFailed, child.job_id)
    assert (failed.error, failed.error_type) == (child.error_message, "ValidationError")
    if why == "steps below the minimum":
        assert "smaller than min" in json.dumps(child.error_details)
    assert director.status(group.job_group_id).status == "failed"
    report.add(f"refused workflow: {why}", f"`failed`, `ValidationError`: {child.error_message}")


@pytest.mark.parametrize(
    ("exception", "named"), [("OutOfMemoryError", "torch.OutOfMemoryError"), ("ValueError", "ValueError")]
)
def test_a_node_that_raises_fails_its_child_with_the_message_alone(
    director: Director, backend_id: str, prefix: str, report: Report, exception: str, named: str
) -> None:
    message = "CUDA out of memory" if exception == "OutOfMemoryError" else "no such thing"
    workflow = failing(prefix, message=message, exception=exception)
    group = director.submit(workflow, [backend_id])
    events = watch(director, group)
    child = only_child(director, group)

    assert (child.status, child.error_type) == ("failed", "ComfyUIError")
    assert child.error_message == message
    assert [attempt.outcome for attempt in child.attempts] == ["error"]
    (failed,) = of_kind(events, ChildFailed, child.job_id)
    assert (failed.error, failed.error_type) == (message, "ComfyUIError")
    details = json.dumps(child.error_details)
    assert all(part in details for part in ("DirectorTestFail", "The culprit", named, "in fail"))
    report.add(f"node raises {named}", f"`failed`, `ComfyUIError`: {message}")


def test_cancelling_a_running_child_interrupts_its_prompt(
    director: Director, comfyui: ComfyUI, backend_id: str, prefix: str, report: Report
) -> None:
    group = director.submit(sampled(prefix, steps=400, seconds=LONG_SECONDS), [backend_id])
    until_progress(director, group)
    prompt_id = sent(director, group)
    start = time.monotonic()
    answer = director.cancel(group.job_group_id)
    answered = time.monotonic() - start
    outcome = comfyui.wait_outcome(prompt_id)
    stopped = time.monotonic() - start

    assert (answer.cancelled, answer.interrupted) == (True, 1)
    assert outcome == "execution_interrupted"
    assert stopped < LONG_SECONDS / 2
    assert_cancelled(director, group)
    again = director.cancel(group.job_group_id)
    assert (again.cancelled, again.interrupted) == (True, 0)
    report.add(
        "cancel while running",
        f"answered at once (in {answered / stopped:.0%} of the time until ComfyUI had stopped), "
        "`cancelled`; in ComfyUI's history `execution_interrupted`",
    )


def test_cancelling_a_pending_child_deletes_its_prompt_and_spares_the_running_one(
    director: Director, comfyui: ComfyUI, backend_id: str, prefix: str, report: Report
) -> None:
    ahead = director.submit(sampled(prefix, steps=40, seconds=4.0), [backend_id])
    until_progress(director, ahead)
    group = director.submit(sampled(prefix), [backend_id])
    prompt_id = sent(director, group)
    comfyui.wait_pending(prompt_id)
    assert only_child(director, group).status == "queued"
    answer = director.cancel(group.job_group_id)
    eventually("the prompt left the queue", lambda: prompt_id not in comfyui.pending())
    still_ahead = comfyui.running() == [sent(director, ahead)]

    assert (answer.cancelled, answer.interrupted) == (True, 1)
    assert still_ahead
    assert isinstance(watch(director, ahead)[-1], GroupComplete)
    assert director.status(ahead.job_group_id).status == "completed"
    assert comfyui.history(prompt_id) is None
    assert_cancelled(director, group)
    report.add(
        "cancel while pending",
        "`cancelled`; gone from ComfyUI's queue while the one before it still ran, never in its "
        "history; that one `completed`",
    )


def test_a_cancel_takes_ours_alone_from_between_somebody_elses_prompts(
    director: Director, comfyui: ComfyUI, backend_id: str, prefix: str, report: Report
) -> None:
    running = comfyui.post_prompt(sampled(f"{prefix}-foreign", steps=40, seconds=4.0))
    comfyui.wait_running(running)
    group = director.submit(sampled(prefix), [backend_id])
    prompt_id = sent(director, group)
    comfyui.wait_pending(prompt_id)
    waiting = comfyui.post_prompt(sampled(f"{prefix}-foreign", steps=5))
    director.cancel(group.job_group_id)
    eventually("ours left the queue", lambda: prompt_id not in comfyui.pending())

    assert (comfyui.running(), comfyui.pending()) == ([running], [waiting])
    assert comfyui.wait_outcome(running) == "execution_success"
    assert comfyui.wait_outcome(waiting) == "execution_success"
    assert comfyui.history(prompt_id) is None
    assert_cancelled(director, group)
    report.add(
        "cancel between a foreign prompt that runs and one that waits", "ours deleted, both foreign ones succeeded"
    )


def test_a_cancel_deletes_nothing_of_somebody_elses_waiting_prompts(
    director: Director, comfyui: ComfyUI, backend_id: str, prefix: str, report: Report
) -> None:
    group = director.submit(sampled(prefix, steps=400, seconds=LONG_SECONDS), [backend_id])
    until_progress(director, group)
    foreign = comfyui.post_prompt(sampled(f"{prefix}-foreign"))
    comfyui.wait_pending(foreign)
    director.cancel(group.job_group_id)

    assert comfyui.wait_outcome(sent(director, group)) == "execution_interrupted"
    assert comfyui.wait_outcome(foreign) == "execution_success"
    (image,) = (comfyui.history(foreign) or {})["outputs"]["9"]["images"]
    assert comfyui.view(image["filename"], image["subfolder"]).startswith(b"\x89PNG")
    assert_cancelled(director, group)
    report.add("cancel before a foreign prompt that waits", "ours interrupted, the foreign one succeeded")


def test_a_cancelled_child_whose_node_hears_nothing_keeps_its_place_until_it_ends(
    director: Director, comfyui: ComfyUI, backend_id: str, prefix: str, report: Report
) -> None:
    group = director.submit(deaf(prefix, seconds=4.0), [backend_id])
    prompt_id = sent(director, group)
    comfyui.wait_running(prompt_id)
    answer = director.cancel(group.job_group_id)
    assert (answer.cancelled, comfyui.running()) == (True, [prompt_id])
    next_one = director.submit(sampled(prefix), [backend_id])
    watch(director, next_one)

    assert director.status(next_one.job_group_id).status == "completed"
    assert comfyui.outcome(prompt_id) == "execution_interrupted"
    assert_cancelled(director, group)
    report.add(
        "cancel while a node runs that hears no interrupt",
        "`cancelled` at once; ComfyUI stopped it after that node; the next group `completed`",
    )
