"""The workflows that a user tries first."""

import json
from pathlib import Path

import pytest
from PIL import Image

from backends.simulator import Simulator
from tests.simulator.artist import artist, the

FOLDER = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.json")), ids=lambda path: path.stem)
async def test_example_makes_a_picture_with_its_own_nodes_alone(path: Path, tmp_path: Path) -> None:
    graph = json.loads(path.read_text(encoding="utf-8"))
    (tmp_path / "input").mkdir()
    Image.new("RGB", (64, 64)).save(tmp_path / "input" / "example.png")
    checkpoint = "v1-5-pruned-emaonly-fp16.safetensors"
    async with (
        Simulator(output_dir=tmp_path, checkpoints=(checkpoint,), seconds=0.1) as simulator,
        artist(simulator) as me,
    ):
        prompt_id, frames = await me.run(graph)
        assert the("executed", frames)["output"]["images"], prompt_id
