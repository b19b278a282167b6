"""Choice and claim of a job of the pool, and the estimates of the web, over the line of a large farm."""

import json
from pathlib import Path
from typing import Final

from tests.bench.figures import Figure, p50, percentile
from tests.bench.processes import subfolder
from tests.harness.processes import filled
from tests.harness.servers import is_there, postgres

#: Backends, open groups of the pool, and jobs of each.
_SIZE: Final = (1_000, 2_000, 50)


def measure(folder: Path, *, size: tuple[int, int, int] = _SIZE, with_postgres: bool = True) -> list[Figure]:
    rows = _figures("SQLite", subfolder(folder, "sqlite"), size)
    if with_postgres and is_there("initdb"):
        with postgres(durable=True) as server:
            url = server.create("bench")
            rows += _figures("PostgreSQL", subfolder(folder, "postgres"), size, DIRECTOR_DATABASE_URL=url)
    return rows


def _figures(where: str, folder: Path, size: tuple[int, int, int], **environment: str) -> list[Figure]:
    script = f"from tests.bench import line_rows; line_rows.fill(*{size}); line_rows.measure()"
    taken: dict[str, list[float]] = json.loads(filled(folder, script, **environment))

    def both(kind: str) -> list[float]:
        return [choice + claim for choice, claim in zip(taken[f"{kind}choice"], taken[f"{kind}claim"], strict=True)]

    name = f"line of {size[1] * size[2]:,} jobs, {where}"
    return [
        Figure(f"{name}: choice and claim, p50", p50(both("")), gate=5),
        Figure(f"{name}: choice and claim, p95", percentile(both(""), 95)),
        Figure(f"{name}: choice and claim, CPU, p50", p50(both("CPU of ")), gate=5),
        *(
            Figure(f"{name}: {one}, CPU, p50", p50(taken[f"CPU of {one}"]))
            for one in ("choice", "first choice", "reading", "estimates of the web")
        ),
    ]
