"""Choice and claim of a job of the pool, and the estimates of the web, over the line of a large
farm.
"""

import json
from pathlib import Path
from typing import Final

from tests.bench.figures import Figure, p50, percentile
from tests.bench.processes import databases
from tests.harness.processes import filled

#: Backends, open groups of the pool, jobs of each, and submitters.
_SIZE: Final = (1_000, 2_000, 50)


_TURNS: Final = (1_000, 5_000, 20, 200)


def turns(folder: Path) -> list[Figure]:
    """Measure the same with 200 submitters, and the queue of 10,000 groups."""
    return measure(folder, size=_TURNS)


def measure(
    folder: Path, *, size: tuple[int, ...] = _SIZE, with_postgres: bool = True
) -> list[Figure]:
    found = databases(folder, with_postgres=with_postgres)
    return [
        figure
        for where, place, settings in found
        for figure in _figures(where, place, size, **settings)
    ]


def _figures(where: str, folder: Path, size: tuple[int, ...], **environment: str) -> list[Figure]:
    script = f"from tests.bench import line_rows; line_rows.fill(*{size}); line_rows.measure()"
    taken: dict[str, list[float]] = json.loads(
        filled(folder, script, within=1_800.0, **environment)
    )

    def both(kind: str) -> list[float]:
        return [
            choice + claim
            for choice, claim in zip(taken[f"{kind}choice"], taken[f"{kind}claim"], strict=True)
        ]

    of = f" of {size[3]} submitters" if size[3:] else ""
    name = f"line of {size[1] * size[2]:,} jobs{of}, {where}"
    return [
        Figure(f"{name}: choice and claim, p50", p50(both("")), gate=5),
        Figure(f"{name}: choice and claim, p95", percentile(both(""), 95)),
        Figure(f"{name}: choice and claim, CPU, p50", p50(both("CPU of ")), gate=5),
        *(
            Figure(f"{name}: {one}, CPU, p50", p50(taken[f"CPU of {one}"]))
            for one in ("choice", "first choice", "reading", "estimates of the web", "the queue")
        ),
        Figure(
            f"{name}: a page of the queue, CPU, p50",
            p50(taken["CPU of a page of the queue"]),
            gate=50,
        ),
    ]
