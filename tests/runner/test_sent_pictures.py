"""SaveImageWebsocket sends its pictures as frames: they are outputs, which only the Director has."""

import io
import os
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from django.test import AsyncClient, Client
from PIL import Image
from pytest_django import Settings

from backends.comfyui import protocol
from backends.simulator import pictures
from jobgroups.database.pools import close_threads
from jobgroups.models import Capture, JobGroup, StoredFile
from jobgroups.runner.attempt.pictures import SentPictures
from jobgroups.runner.intervals import Intervals
from jobgroups.services import stored_files
from tests.harness.farm import SCALE, Farm, both_versions, in_thread, session_of, until
from tests.harness.graphs import sampler
from tests.outputs.conftest import body

pytestmark = pytest.mark.usefixtures("files_folder")

#: What does not come or cannot be stored is given up after 2 s.
BRIEF_GRACE = replace(Intervals.scaled(SCALE), frames_grace=2.0)
NODE = "Node 7 (SaveImageWebsocket): "
NOT_CONNECTED = (
    "its pictures are lost: the Director was not connected all the time while it sent them. "
    "ComfyUI has no file of them."
)


@pytest.fixture(scope="session", autouse=True)
def reading_threads(django_db_setup: None) -> Iterator[None]:
    """Close the views' connections before the test database goes."""
    yield
    close_threads()


def sending(
    *, count: int = 3, saves: bool = False, delay: float = 0.0, **inputs: Any
) -> dict[str, Any]:
    """Return a workflow whose node "7" sends pictures as frames; ``saves``: node "2" writes one as
    a file too.
    """
    graph = sampler(delay=delay, **inputs)
    graph["6"] = {"class_type": "RepeatImageBatch", "inputs": {"image": ["1", 0], "amount": count}}
    graph["7"] = {"class_type": "SaveImageWebsocket", "inputs": {"images": ["6", 0]}}
    if not saves:
        del graph["2"]
    return graph


async def shown(group: JobGroup) -> dict[str, Any]:
    """Return the only job of a group, as a client sees it."""
    client = Client(headers={"host": "localhost"})
    answer = await in_thread(client.get)(f"/api/job-groups/{group.pk}")
    (child,) = answer.json()["child_jobs"]
    return dict(child)


async def content_of(url: str) -> bytes:
    response = await AsyncClient(headers={"host": "localhost"}).get(url)
    assert response.status_code == 200
    return await body(response)


def received(folder: Path) -> list[Path]:
    """Return the files that wait for the end of their prompt."""
    return [one for one in folder.glob("incoming/*/*") if one.suffix != ".mark"]


@both_versions
async def test_pictures_of_frames_are_outputs_of_their_node(farm: Farm, version: str) -> None:
    await farm.start(version=version)
    group = await farm.completes(workflow=sending(count=6, saves=True))
    child = await shown(group)
    assert child["warnings"] == []
    file, *sent = child["outputs"]["images"]
    assert (file["node_id"], file["url"].startswith("http")) == ("2", True)
    base = f"/api/job-groups/{group.pk}/jobs/{child['job_id']}/outputs"
    assert (
        [one["url"] for one in sent]
        == [one["file_url"] for one in sent]
        == [f"{base}/{n}" for n in range(1, 7)]
    )
    assert {(one["node_id"], one["type"], one["captured"], one["width"]) for one in sent} == {
        ("7", "websocket", True, 512)
    }
    for one in sent:
        content = await content_of(one["url"])
        assert len(content) == one["size_bytes"]
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            assert image.format == "PNG"
    with zipfile.ZipFile(
        io.BytesIO(await content_of(f"/api/job-groups/{group.pk}/outputs.zip"))
    ) as archive:
        assert len(archive.namelist()) == 7


async def test_pictures_of_a_second_node_have_names_of_their_own(farm: Farm) -> None:
    graph = sending(count=1)
    graph["8"] = {"class_type": "SaveImageWebsocket", "inputs": {"images": ["1", 0]}}
    await farm.start()
    (first, second) = (await shown(await farm.completes(workflow=graph)))["outputs"]["images"]
    assert (first["node_id"], second["node_id"]) == ("7", "8")
    assert first["filename"].replace("_00001_", "_00002_") == second["filename"]


async def test_pictures_of_equal_content_share_a_file(farm: Farm, files_folder: Path) -> None:
    await farm.start()
    first, second = [await farm.completes(workflow=sending(count=1), base_seed=7) for _ in range(2)]
    assert await in_thread(Capture.objects.filter(file__isnull=False).count)() == 2
    assert await in_thread(StoredFile.objects.count)() == 1
    await until(lambda: len(list(files_folder.glob("incoming/*.mark"))) == 2)
    await in_thread(stored_files.clean)()
    assert len(list(files_folder.glob("results/*"))) == 1
    for group in (first, second):
        (picture,) = (await shown(group))["outputs"]["images"]
        assert len(await content_of(picture["url"])) == picture["size_bytes"]


async def test_large_picture_is_whole(farm: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    content = os.urandom(2**20) * 66
    monkeypatch.setattr(pictures, "encode_png", lambda *_: content)
    await farm.backend()
    await farm.runner(intervals=replace(Intervals.scaled(SCALE), frames_grace=60.0))
    (picture,) = (await shown(await farm.completes(workflow=sending(count=1))))["outputs"]["images"]
    assert (picture["size_bytes"], picture["blake3"]) == (len(content), blake3(content).hexdigest())


async def test_pictures_are_kept_without_captures(farm: Farm, settings: Settings) -> None:
    settings.DIRECTOR_CAPTURE = False
    await farm.start()
    group = await farm.completes(workflow=sending(count=1, saves=True))
    file, picture = (await shown(group))["outputs"]["images"]
    assert (file["captured"], picture["captured"]) == (False, True)


@both_versions
async def test_silent_socket_ends_with_a_warning_that_names_the_node(
    farm: Farm, version: str
) -> None:
    sim = await farm.backend(version=version)
    sim.fault("deaf", at="step", step=2)
    await farm.runner(intervals=BRIEF_GRACE)
    group = await farm.completes(workflow=sending())
    child = await shown(group)
    assert (child["warnings"], child["outputs"]["images"]) == ([NODE + NOT_CONNECTED], [])


async def test_socket_that_is_lost_before_the_node_executes_loses_no_picture(farm: Farm) -> None:
    sim = await farm.backend()
    sim.fault("stuck", step=2)
    session = await session_of(await farm.runner())
    before = session.sockets.client_id
    group = await farm.running(workflow=sending(steps=4))
    sim.fault("drop_sockets", at="now")
    await until(lambda: session.sockets.client_id not in (None, before))
    sim.clear_faults()
    assert (await farm.finished(group)).status == "completed"
    child = await shown(group)
    assert (child["warnings"], len(child["outputs"]["images"])) == ([], 3)


async def test_kill_between_frames_and_end_ends_with_a_warning(
    farm: Farm, files_folder: Path
) -> None:
    sim = await farm.backend()
    sim.fault("late_history", seconds=60)
    service = await farm.runner()
    group = await farm.submit(workflow=sending())
    await until(lambda: len(received(files_folder)) == 3)
    await farm.kill(service)
    await until(lambda: not received(files_folder))
    await farm.runner()
    sim.clear_faults()
    assert (await farm.finished(group)).status == "completed"
    child = await shown(group)
    assert (child["warnings"], child["outputs"]["images"]) == ([NODE + NOT_CONNECTED], [])
    assert not await in_thread(StoredFile.objects.exists)()


async def test_full_disk_ends_with_a_warning_that_names_the_cause(
    farm: Farm, settings: Settings
) -> None:
    settings.DIRECTOR_MIN_FREE_BYTES = 2**60
    await farm.start()
    (warning,) = (await shown(await farm.completes(workflow=sending())))["warnings"]
    assert warning.startswith(
        NODE + "3 of its 3 pictures are lost: The file cannot be stored: less than "
    )


async def test_storage_that_does_not_answer_ends_with_a_warning(
    farm: Farm, files_folder: Path
) -> None:
    files_folder.mkdir()
    (files_folder / "results").touch()
    await farm.backend()
    await farm.runner(intervals=BRIEF_GRACE)
    (warning,) = (await shown(await farm.completes(workflow=sending(count=2))))["warnings"]
    assert warning.startswith(NODE + "2 of its 2 pictures are lost: ")
    assert f"{files_folder}/results" in warning


async def test_failed_prompt_leaves_no_file(farm: Farm, files_folder: Path) -> None:
    sim = await farm.backend()
    sim.fault("node_error", node="8")
    await farm.runner()
    graph = sending()
    # After node 7, since it is further from the sampler.
    graph["8"] = {
        "class_type": "TestSlow",
        "inputs": {"image": ["6", 0], "seconds": 0.5, "interruptible": True},
    }
    graph["9"] = {"class_type": "PreviewImage", "inputs": {"images": ["8", 0]}}
    group = await farm.submit(workflow=graph)
    await farm.failed(group)
    await until(lambda: not received(files_folder))
    assert not list(files_folder.glob("results/*"))


async def test_frame_without_metadata_is_of_the_node_that_executes() -> None:
    sent = SentPictures(
        {"1": {"class_type": "KSampler"}, "7": {"class_type": "SaveImageWebsocket"}}
    )
    frame = protocol.Preview(image_type="jpeg", image=b"\xff\xd8")
    for node in ("1", "7", None):
        sent.on_event(protocol.Executing(node=node, prompt_id="p"))
        sent.receive(frame)
    outputs, rows, warnings = await sent.collect("name", ["7"], (), within=30)
    assert outputs == {
        "7": {"images": [{"filename": "name_00001_.jpg", "subfolder": "", "type": "websocket"}]}
    }
    assert ([one.size_bytes for one in rows.values()], warnings) == ([2], [])


async def test_frame_that_was_announced_and_did_not_come_is_a_warning() -> None:
    sent = SentPictures({"7": {"class_type": "SaveImageWebsocket"}})
    sent.on_event(protocol.Executing(node="7", prompt_id="p"))
    for step in range(3):
        sent.on_event(protocol.Progress(value=step, max=3, prompt_id="p", node="7"))
    sent.receive(protocol.Preview(image_type="png", image=b"png", prompt_id="p", node_id="7"))
    _, rows, warnings = await sent.collect("name", ["7"], (), within=30)
    assert len(rows) == 1
    assert warnings == [
        NODE + "2 of its 3 pictures are lost: they were not received. ComfyUI has no file of them."
    ]


async def test_storage_that_hangs_ends_with_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()
    monkeypatch.setattr(stored_files, "move_into_storage", lambda *_: released.wait(30))
    sent = SentPictures({"7": {"class_type": "SaveImageWebsocket"}})
    sent.receive(protocol.Preview(image_type="png", image=b"png", prompt_id="p", node_id="7"))
    try:
        _, rows, (warning,) = await sent.collect("name", ["7"], (), within=0.5)
    finally:
        released.set()
    assert not rows
    assert warning.startswith(
        NODE + "1 of its 1 pictures are lost: the storage did not answer within 0.5 s."
    )


async def test_socket_that_is_lost_while_the_node_executes_is_a_warning() -> None:
    sent = SentPictures({"7": {"class_type": "SaveImageWebsocket"}})
    sent.on_event(protocol.Executing(node="7", prompt_id="p"))
    sent.receive(protocol.Preview(image_type="png", image=b"png", prompt_id="p", node_id="7"))
    sent.socket_lost()
    # Another client's, whose prompt has no id of a client: ComfyUI sends it to all sockets.
    sent.receive(protocol.Preview(image_type="png", image=b"other"))
    _, rows, (warning,) = await sent.collect("name", ["7"], (), within=30)
    assert len(rows) == 1
    assert warning.startswith(
        NODE + "pictures beside the 1 that were received may be lost: the Director was not"
    )
