import io
import json
from pathlib import Path

import pytest
from PIL import Image

from backends.simulator.pictures import encode_png, encode_preview, paint
from backends.simulator.values import MAX_SIDE, Latent, Picture


def test_seed_text_position_and_backend_decide_the_image() -> None:
    images = {encode_png(Picture(seed=seed), "gpu-1") for seed in range(20)}
    assert len(images) == 20
    assert encode_png(Picture(seed=7), "gpu-1") in images
    assert encode_png(Picture(theme=1), "gpu-1") != encode_png(Picture(theme=2), "gpu-1")
    batch = [encode_png(p, "") for p in Latent(batch_size=3, seed=1).pictures()]
    assert len(set(batch)) == 3
    first, second = paint(Picture(), "gpu-1"), paint(Picture(), "gpu-2")
    assert first.tobytes() != second.tobytes()
    assert first.crop((0, 0, 512, 400)).tobytes() == second.crop((0, 0, 512, 400)).tobytes()


def test_png_carries_comfyuis_chunks() -> None:
    prompt = {"1": {"class_type": "KSampler", "inputs": {"seed": 1}}}
    data = encode_png(Picture(), "gpu-1", prompt, {"workflow": {"x": 1}})
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == "PNG"
        assert json.loads(image.info["prompt"]) == prompt
        assert json.loads(image.info["workflow"]) == {"x": 1}


def test_size_and_pixels_are_the_workflows_within_reason(tmp_path: Path) -> None:
    assert paint(Picture().sized(640, 360), "").size == (640, 360)
    assert Picture().sized(100_000, 1).shape == (8, MAX_SIDE, 3)
    assert paint(Picture(color=0x102030), "").getpixel((0, 0)) == (0x10, 0x20, 0x30)
    Image.new("RGB", (8, 8), (9, 8, 7)).save(tmp_path / "in.png")
    loaded = Picture(width=8, height=8, file=tmp_path / "in.png")
    assert paint(loaded, "").getpixel((3, 3)) == (9, 8, 7)


@pytest.mark.parametrize(("size", "shown"), [((1024, 512), (512, 256)), ((64, 64), (512, 512))])
def test_preview_is_a_jpeg_of_512_pixels(size: tuple[int, int], shown: tuple[int, int]) -> None:
    with Image.open(io.BytesIO(encode_preview(Picture().sized(*size), "", 0.5))) as image:
        assert image.format == "JPEG"
        assert image.size == shown
