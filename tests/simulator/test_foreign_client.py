"""A ComfyUI client that somebody else wrote drives the simulator without noticing."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from comfy_api_simplified import ComfyApiWrapper, ComfyWorkflowWrapper
from PIL import Image

from backends.simulator import SimulatorThread
from tests.simulator.graphs import text_to_image


@pytest.fixture
def server() -> Iterator[SimulatorThread]:
    with SimulatorThread(name="gpu", seconds=0.2) as running:
        yield running


def test_foreign_client_gets_its_image(server: SimulatorThread) -> None:
    api = ComfyApiWrapper(server.url)
    workflow = ComfyWorkflowWrapper(text_to_image())
    workflow.set_node_param("KSampler", "seed", 1234)
    workflow.set_node_param("Empty Latent Image", "width", 640)

    images = api.queue_and_wait_images(workflow, "Save Image")

    assert list(images) == ["house_00001_.png"]
    picture = Image.open(io.BytesIO(images["house_00001_.png"]))
    assert picture.size == (640, 512)
    assert '"seed": 1234' in picture.info["prompt"]


def test_foreign_client_sees_a_node_fail(server: SimulatorThread) -> None:
    # This client connects after it has queued: an error at once would come before its socket.
    server.fault("node_error", step=3, message="CUDA out of memory")
    api = ComfyApiWrapper(server.url)

    with pytest.raises(Exception, match="Execution error occurred"):
        api.queue_and_wait_images(ComfyWorkflowWrapper(text_to_image()), "Save Image")


def test_foreign_client_is_refused_as_by_comfyui(server: SimulatorThread) -> None:
    api = ComfyApiWrapper(server.url)
    workflow = text_to_image()
    workflow["4"]["inputs"]["ckpt_name"] = "missing.safetensors"

    with pytest.raises(Exception, match="400"):
        api.queue_prompt(workflow)


def test_foreign_client_reads_and_uploads(server: SimulatorThread, tmp_path: Path) -> None:
    api = ComfyApiWrapper(server.url)
    picture = tmp_path / "mask.png"
    Image.new("RGB", (8, 8), (1, 2, 3)).save(picture)

    assert api.upload_image(picture)["name"] == "mask.png"
    assert api.get_queue() == {"queue_running": [], "queue_pending": []}
    assert "KSampler" in api.get_object_info()
    assert api.get_system_stats()["system"]["comfyui_version"] == "0.3.64"
    assert api.get_embeddings() == []
    loaded = api.get_image("mask.png", "default_upload_folder", "input")
    assert loaded == picture.read_bytes()
