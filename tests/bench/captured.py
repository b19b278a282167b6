"""The copies of files that are all alike, as of masks or black pictures: their CPU and statements, and their growth."""

import json
from pathlib import Path
from statistics import mean
from typing import Final

from PIL import Image

from tests.bench.figures import Figure
from tests.bench.floors import running
from tests.bench.processes import databases
from tests.harness.processes import filled

_EACH: Final = 100  #: Captures that become due at once.


def measure(folder: Path, *, count: int = 10_000, with_postgres: bool = True) -> list[Figure]:
    path = folder / "black.png"
    Image.new("RGB", (512, 512)).save(path)
    with running("black_picture", str(path)) as url:
        found = databases(folder, with_postgres=with_postgres)
        return [figure for where, place, settings in found for figure in _figures(where, place, url, count, **settings)]


def _figures(where: str, folder: Path, url: str, count: int, **environment: str) -> list[Figure]:
    urls = [url, url.replace("127.0.0.1", "localhost")]
    script = f"from tests.bench import captured_rows as rows; rows.fill({count}, {urls}); rows.measure({_EACH})"
    parts: list[tuple[float, float]] = json.loads(filled(folder, script, **environment))
    # The first files of a process load what the copies need.
    first, last = parts[1][0], parts[-1][0]
    name = f"capture of {count:,} files of one content, {where}"
    return [
        Figure(f"{name}: CPU of each", mean(cpu for cpu, _ in parts[1:]) * 1000),
        Figure(f"{name}: statements of each", mean(statements for _, statements in parts[1:]), ""),
        Figure(f"{name}: CPU of the last {_EACH}", last * 1000, floor=first * 1000, of_floor=True, gate=1.2, goal=1.0),
    ]
