"""Images: real, different per seed, labelled, and cheap."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path

import pytest
from PIL import Image

from backends.simulator.pictures import encode_png, encode_preview, paint
from backends.simulator.values import MAX_SIDE, Batch, Latent, Picture


def test_seed_and_text_of_the_workflow_decide_the_image() -> None:
    images = {encode_png(Picture(seed=seed), "gpu-1") for seed in range(100)}
    assert len(images) == 100
    assert encode_png(Picture(seed=7), "gpu-1") in images
    assert encode_png(Picture(theme=1), "gpu-1") != encode_png(Picture(theme=2), "gpu-1")


def test_backend_name_is_drawn_in() -> None:
    first, second = paint(Picture(), "gpu-1"), paint(Picture(), "gpu-2")
    assert first.tobytes() != second.tobytes()
    assert first.crop((0, 0, 512, 400)).tobytes() == second.crop((0, 0, 512, 400)).tobytes()


def test_images_of_a_batch_differ_from_each_other_and_from_other_seeds() -> None:
    first = [encode_png(p, "") for p in Latent(batch_size=3, seed=1).pictures()]
    second = [encode_png(p, "") for p in Latent(batch_size=3, seed=2).pictures()]
    assert len(set(first + second)) == 6


def test_png_carries_comfyuis_chunks() -> None:
    prompt = {"1": {"class_type": "KSampler", "inputs": {"seed": 1}}}
    data = encode_png(Picture(), "gpu-1", prompt, {"workflow": {"x": 1}})
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == "PNG"
        assert json.loads(image.info["prompt"]) == prompt
        assert json.loads(image.info["workflow"]) == {"x": 1}


def test_sizes_are_respected_within_reason() -> None:
    assert paint(Picture().sized(640, 360), "").size == (640, 360)
    assert Picture().sized(100_000, 1).shape == (8, MAX_SIDE, 3)
    assert paint(Picture().sized(1, 1), "gpu-1").size == (8, 8)


def test_plain_image_has_its_color() -> None:
    assert paint(Picture(color=0x102030), "").getpixel((0, 0)) == (0x10, 0x20, 0x30)


def test_loaded_file_keeps_its_pixels(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), (9, 8, 7)).save(tmp_path / "in.png")
    picture = Picture(width=8, height=8, file=tmp_path / "in.png")
    assert paint(picture, "").getpixel((3, 3)) == (9, 8, 7)


@pytest.mark.parametrize(("size", "shown"), [((1024, 512), (512, 256)), ((64, 64), (512, 512))])
def test_preview_is_a_jpeg_of_512_pixels(size: tuple[int, int], shown: tuple[int, int]) -> None:
    with Image.open(io.BytesIO(encode_preview(Picture().sized(*size), "", 0.5))) as image:
        assert image.format == "JPEG"
        assert image.size == shown


def test_image_of_512_pixels_costs_less_than_60_ms() -> None:
    encode_png(Picture(seed=0), "gpu-1")
    costs = []
    for seed in range(10):
        start = time.process_time()
        encode_png(Picture(seed=seed), "gpu-1")
        costs.append(time.process_time() - start)
    assert sorted(costs)[5] < 0.06


def test_tensor_is_shown_with_its_size() -> None:
    assert str(Batch([Picture(), Picture()])) == "tensor(..., size=(2, 512, 512, 3))"
