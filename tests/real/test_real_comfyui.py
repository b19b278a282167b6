"""The Director in front of a real ComfyUI, as a user drives it: through ``director.client``.

Run by ``make test-real COMFYUI=http://127.0.0.1:8188``; skipped without ``COMFYUI``.
"""

import hashlib
import json
import os
import random
import re
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from backends.comfyui.versions import Feature, has
from director.client import Director, OutputFile
from tests.harness.graphs import node, png, text_to_image
from tests.harness.processes import Served
from tests.harness.waits import until
from tests.real import groups
from tests.real.comfyui import ComfyUI
from tests.real.conftest import served

expect = pytest.importorskip("playwright.sync_api", reason="no playwright").expect

CHILDREN = 12
#: Longer than a test waits for anything: what took this long was not stopped.
LONG_SECONDS = 20.0


def test_twelve_children_make_twelve_pictures_each_of_its_own_seed(
    director: Director, backend_id: str, prefix: str, tmp_path: Path
) -> None:
    workflow = groups.sampled(prefix, steps=4, seconds=0.8)
    group = director.submit(workflow, [backend_id] * CHILDREN, base_seed=42)
    assert [child.status for child in group.child_jobs] == ["queued"] * CHILDREN
    events = groups.watch(director, group)
    ended = director.status(group.job_group_id)

    assert (ended.status, ended.completed_count, ended.failed_count) == ("completed", CHILDREN, 0)
    assert ended.child_jobs[0].seed == 42
    digests = set()
    for child in ended.child_jobs:
        groups.assert_ran_whole(events, child)
        (picture,) = director.download(child, tmp_path)
        assert groups.graph_in(picture)["1"]["inputs"]["seed"] == child.seed
        digests.add(hashlib.sha256(picture.read_bytes()).digest())
    assert len(digests) == CHILDREN
    assert len({child.seed for child in ended.child_jobs}) == CHILDREN


def test_a_checkpoint_samples_and_every_step_is_told(
    director: Director, backend_id: str, prefix: str, tmp_path: Path
) -> None:
    checkpoint = os.environ.get("COMFYUI_CHECKPOINT", "").strip()
    if not checkpoint:
        pytest.skip("COMFYUI_CHECKPOINT names no checkpoint of that ComfyUI")
    workflow = text_to_image(0, prefix=prefix, side=64, checkpoint=checkpoint)
    group = director.submit(workflow, [backend_id, backend_id])
    events = groups.watch(director, group)
    ended = director.status(group.job_group_id)

    assert ended.status == "completed"
    for child in ended.child_jobs:
        groups.assert_ran_whole(events, child, node="KSampler")
    pictures = director.download(ended, tmp_path)
    assert [groups.graph_in(picture)["3"]["inputs"]["seed"] for picture in pictures] == [
        child.seed for child in ended.child_jobs
    ]
    assert len({picture.read_bytes() for picture in pictures}) == 2


def test_a_cancel_stops_a_running_prompt_within_half_a_second(
    director: Director, comfyui: ComfyUI, backend_id: str, prefix: str
) -> None:
    took = []
    for _ in range(50):
        group = director.submit(
            groups.sampled(prefix, steps=400, seconds=LONG_SECONDS), [backend_id]
        )
        groups.until_progress(director, group)
        prompt_id = groups.sent(director, group)
        start = time.monotonic()
        answer = director.cancel(group.job_group_id)
        while prompt_id in comfyui.running():
            time.sleep(0.005)
        took.append(time.monotonic() - start)
        assert (answer.cancelled, answer.interrupted) == (True, 1)
        assert comfyui.wait_outcome(prompt_id) == "execution_interrupted"
    took.sort()
    print(
        f"stopped after {took[25]:.3f} s (p50), {took[47]:.3f} s (p95), {took[-1]:.3f} s (longest)"
    )
    assert took[47] <= 0.5
    groups.assert_cancelled(director, group)
    again = director.cancel(group.job_group_id)
    assert (again.cancelled, again.interrupted) == (True, 0)


def test_cancels_at_random_moments_stop_no_prompt_of_another_client(
    director: Director, comfyui: ComfyUI, backend_id: str, prefix: str
) -> None:
    ours, others = Counter[str](), Counter[str]()
    for number in range(200):
        ahead, behind = (groups.sampled(f"{prefix}-foreign", seconds=0.1) for _ in range(2))
        ahead["1"]["inputs"]["seed"], behind["1"]["inputs"]["seed"] = 2 * number, 2 * number + 1
        foreign = [comfyui.post_prompt(ahead)] if number % 2 else []
        group = director.submit(groups.sampled(prefix, seconds=0.2), [backend_id])
        foreign.append(comfyui.post_prompt(behind))
        time.sleep(random.uniform(0.0, 0.5))
        director.cancel(group.job_group_id)
        others.update(comfyui.wait_outcome(one) for one in foreign)
        comfyui.wait_idle()
        ours[director.wait(group.job_group_id).status] += 1
    print(f"jobs: {dict(ours)}; prompts of other clients: {dict(others)}")
    assert ours.keys() <= {"cancelled", "completed"}
    assert ours["cancelled"] >= 20
    if has(comfyui.version, Feature.CANCEL):
        assert others == {"execution_success": 300}


def test_an_asset_is_loaded_from_its_own_file_on_each_of_two_backends(
    comfyui: ComfyUI, second: ComfyUI, prefix: str, tmp_path: Path
) -> None:
    picture = Image.effect_noise((96, 64), 80.0).convert("RGB")
    picture.save(tmp_path / "noise.png")
    with served(tmp_path, comfyui.url, second.url) as (_, director):
        asset = director.assets.upload(tmp_path / "noise.png")
        group = director.submit(groups.loading(prefix, asset, seconds=1.0), count=6)
        groups.watch(director, group)
        ended = director.status(group.job_group_id)

        assert (ended.status, ended.completed_count) == ("completed", 6)
        for child in ended.child_jobs:
            (saved,) = (image for image in child.images if image.type == "output")
            (path,) = director.download(saved, tmp_path / child.job_id)
            with Image.open(path) as rendered:
                assert rendered.convert("RGB").tobytes() == picture.tobytes()
    for one in (comfyui, second):
        prompts = one.sent_for(group.job_group_id).values()
        (file,) = {entry["prompt"][2]["3"]["inputs"]["image"] for entry in prompts}
        assert file == f"director/{asset.hash.removeprefix('blake3:')}.png"
        subfolder, _, name = file.rpartition("/")
        assert one.view(name, subfolder, "input") == (tmp_path / "noise.png").read_bytes()


def test_pictures_that_come_as_frames_are_those_of_the_file(
    director: Director, backend_id: str, prefix: str, tmp_path: Path
) -> None:
    group = director.submit(groups.frames(prefix), [backend_id] * 3)
    groups.watch(director, group)
    ended = director.status(group.job_group_id)
    assert ended.status == "completed"
    for child in ended.child_jobs:
        assert child.warnings == ()
        pictures = {
            file.type: director.download(file, tmp_path / child.job_id)[0] for file in child.images
        }
        assert sorted(pictures) == ["output", "websocket"]
        with Image.open(pictures["output"]) as saved, Image.open(pictures["websocket"]) as sent:
            assert saved.convert("RGB").tobytes() == sent.convert("RGB").tobytes()


def test_picture_has_the_editors_workflow_with_the_values_of_its_job(
    director: Director, comfyui: ComfyUI, backend_id: str, prefix: str, tmp_path: Path
) -> None:
    group = director.submit(groups.drawn(prefix), [backend_id], parameters={"1.width": 96})
    groups.watch(director, group)
    (picture,) = director.download(director.status(group.job_group_id), tmp_path)
    with Image.open(picture) as image:
        nodes = json.loads(image.info["workflow"])["nodes"]
        assert image.size == (96, 32)
    assert [node["widgets_values"] for node in nodes] == [[96, 32, 1, 0], [prefix]]
    if has(comfyui.version, Feature.JOBS):
        assert comfyui.get("/api/jobs")["jobs"]


@pytest.mark.ffmpeg
def test_videos_sounds_and_texts_are_captured_and_play_on_the_page(
    running: tuple[Served, Director], backend_id: str, prefix: str, browser: Any
) -> None:
    served, director = running
    group = director.submit(groups.media(prefix), [backend_id])
    groups.watch(director, group)

    def captured() -> list[OutputFile]:
        files = groups.only_child(director, group).files
        return files if len(files) == 5 and all(one.captured for one in files) else []

    files = {Path(one.filename).suffix: one for one in until(captured)}
    known = {kind: (one.width, one.height, one.duration) for kind, one in files.items()}
    assert known == {
        ".mp4": (128, 64, 2.0),
        ".webm": (128, 64, 2.0),
        ".webp": (128, 64, None),
        ".flac": (None, None, 3.0),
        ".mp3": (None, None, 3.03),
    }
    page = browser.new_page()
    page.goto(f"{served.url}/groups/{group.job_group_id}")
    expect(page.locator(".output-text")).to_have_text("<b>a caption</b>")
    # The card shows the first file, the viewer all of them.
    page.locator(".card .picture").click()
    title, left = page.locator("#viewer-title"), list(files.items())
    while left:
        expect(title).to_contain_text(
            re.compile("|".join(re.escape(one.filename) for _, one in left))
        )
        suffix, file = next(pair for pair in left if pair[1].filename in title.inner_text())
        left.remove((suffix, file))
        # A browser divides naturalWidth by the density that it chose from srcset, so only the
        # proportion is fixed.
        shown, condition = "image", "Math.round(it.naturalWidth / it.naturalHeight) === 2"
        if file.duration is not None:
            shown = "video" if file.width else "audio"
            condition = f"Math.abs(it.duration - {file.duration}) < 0.1 && it.readyState >= 2"
        page.wait_for_function(
            f"() => {{ const it = document.getElementById('viewer-{shown}'); return {condition}; }}"
        )
        page.keyboard.press("ArrowRight")
    page.close()


def test_comfyuis_sdk_runs_on_the_farm(
    running: tuple[Served, Director], prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    comfy_sdk = pytest.importorskip("comfy_sdk")
    monkeypatch.setenv("COMFY_BASE_URL", running[0].url)
    failing, slow = (
        groups.sampled(prefix, steps=1),
        groups.sampled(prefix, steps=400, seconds=LONG_SECONDS),
    )
    failing["2"] = node("TestFail", image=["1", 0], kind="oom", after=0.0)
    failing["3"] = node("PreviewImage", images=["2", 0])
    invert = {
        "1": node("LoadImage"),
        "2": node("ImageInvert", image=["1", 0]),
        "3": node("SaveImage", images=["2", 0], filename_prefix=prefix),
    }
    with comfy_sdk.Comfy() as comfy:
        inverted, failing, slow = map(comfy.workflows.from_json, (invert, failing, slow))
        inverted.set_input("1", "image", comfy.assets.from_bytes(png(), filename="black.png"))
        [output] = comfy.run(inverted).outputs
        with Image.open(output.to_file(tmp_path / "white.png")) as picture:
            assert picture.convert("RGB").getpixel((0, 0)) == (255, 255, 255)
        with pytest.raises(comfy_sdk.JobFailed) as failed:
            comfy.run(failing)
        assert (failed.value.error.node_id, failed.value.error.class_type) == ("2", "TestFail")
        job = comfy.submit(slow)
        assert job.cancel().wait(LONG_SECONDS / 2).status == "canceled"
