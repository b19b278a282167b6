"""The copies of files of completed jobs: their CPU and statements, and their growth if all files
are alike.
"""

import json
from pathlib import Path
from statistics import mean, median
from typing import Final

from PIL import Image

from tests.bench.figures import Figure
from tests.bench.floors import running
from tests.bench.processes import databases, subfolder
from tests.harness.processes import filled

_EACH: Final = 100  #: Captures that become due at once.
#: So many times as many are compared, by their median: other work of the machine moves each one.
_COMPARED: Final = 10
_WITHIN: Final = 900.0  #: Seconds for the rows and the copies of one database, on a busy machine.


def measure(
    folder: Path, *, alike: int = 10_000, others: int = 2_000, with_postgres: bool = True
) -> list[Figure]:
    path = folder / "black.png"
    Image.new("RGB", (512, 512)).save(path)
    found: list[Figure] = []
    with running("pictures", str(path)) as url:
        for prefix, count, title in (
            ("mask", alike, "one content"),
            ("image", others, "contents of their own"),
        ):
            place = subfolder(folder, prefix)
            for where, data, settings in databases(place, with_postgres=with_postgres):
                name = f"capture of {count:,} files with {title}, {where}"
                found += _figures(name, data, url, count, prefix, **settings)
    return found


def _figures(
    name: str, folder: Path, url: str, count: int, prefix: str, **environment: str
) -> list[Figure]:
    urls = [url, url.replace("127.0.0.1", "localhost")]
    script = (
        f"from tests.bench import captured_rows as rows; rows.fill({count}, {urls}, {prefix!r}); "
    )
    parts: list[tuple[float, float]] = json.loads(
        filled(folder, f"{script}rows.measure({_EACH})", within=_WITHIN, **environment)
    )
    # The first files of a process load what the copies need.
    first, last = (
        median(cpu for cpu, _ in some) for some in (parts[1 : 1 + _COMPARED], parts[-_COMPARED:])
    )
    return [
        Figure(f"{name}: CPU of each", mean(cpu for cpu, _ in parts[1:]) * 1000),
        Figure(f"{name}: statements of each", mean(statements for _, statements in parts[1:]), ""),
        Figure(
            f"{name}: CPU of the last {_EACH * _COMPARED:,}",
            last * 1000,
            floor=first * 1000,
            of_floor=True,
            gate=1.2,
            goal=1.0,
        ),
    ]
