"""Choice and claim of a job of the pool, and the estimates of the web, over the line of a large
farm; also beside those of another commit.
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.bench.figures import Figure, p50, percentile
from tests.bench.processes import databases, subfolder
from tests.harness.processes import ROOT, python

#: Backends, open groups of the pool, jobs of each, and submitters.
_SIZE: Final = (1_000, 2_000, 50)
_TURNS: Final = (1_000, 5_000, 20, 200)
#: Processes in turn that measure each line, and the readings of each.
_RUNS, _READINGS = 5, 4
#: How much more CPU than the commit before a choice and its claim may take.
_MORE: Final = 1.10
_ROWS: Final = Path(__file__).with_name("line_rows.py")


@dataclass(frozen=True, slots=True)
class _Line:
    """A database that the code of a checkout fills and measures."""

    checkout: Path
    settings: Mapping[str, str]

    def run(self, code: str) -> str:
        """Run a function of ``line_rows``, which is this one's in each checkout."""
        setup = f"import django, runpy; django.setup(); rows = runpy.run_path({str(_ROWS)!r})"
        done = python(
            "-c", f"{setup}\nrows{code}", within=3_600.0, cwd=self.checkout, **self.settings
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


def turns(folder: Path, *, before: Path | None = None) -> list[Figure]:
    """Measure the same with 200 submitters, and the queue of 10,000 groups."""
    return measure(folder, size=_TURNS, before=before)


def measure(
    folder: Path,
    *,
    size: tuple[int, ...] = _SIZE,
    with_postgres: bool = True,
    before: Path | None = None,
) -> list[Figure]:
    """Measure the line of this checkout; ``before`` is one of another commit, whose figures of the
    same run are the floors.
    """
    checkouts = [ROOT, *([before] if before else [])]
    each = (
        _databases(subfolder(folder, str(at)), checkout, with_postgres)
        for at, checkout in enumerate(checkouts)
    )
    return [
        figure
        for same in zip(*each, strict=True)
        for figure in _figures(same[0][0], size, [line for _, line in same])
    ]


def _databases(folder: Path, checkout: Path, with_postgres: bool) -> Iterator[tuple[str, _Line]]:
    for where, place, settings in databases(folder, with_postgres=with_postgres):
        own = {"DJANGO_SETTINGS_MODULE": "director.settings", "DIRECTOR_DATA_DIR": str(place)}
        yield where, _Line(checkout, own | settings)


def _figures(where: str, size: tuple[int, ...], lines: list[_Line]) -> list[Figure]:
    for line in lines:
        line.run(f"['fill'](*{size})")
    taken = [defaultdict[str, list[float]](list) for _ in lines]
    # In turn, since the machine is not equally busy all the time.
    for _ in range(_RUNS):
        for line, of_line in zip(lines, taken, strict=True):
            for name, seconds in json.loads(line.run(f"['measure']({_READINGS})")).items():
                of_line[name] += seconds
    for name, seconds in json.loads(lines[0].run("['measure_queue']()")).items():
        taken[0][name] = seconds

    def both(kind: str, at: int = 0) -> list[float]:
        choices, claims = taken[at][f"{kind}choice"], taken[at][f"{kind}claim"]
        return [choice + claim for choice, claim in zip(choices, claims, strict=True)]

    def floor(name: str) -> float | None:
        return p50(taken[1][name]) if lines[1:] and name in taken[1] else None

    of = f" of {size[3]} submitters" if size[3:] else ""
    line_name = f"line of {size[1] * size[2]:,} jobs{of}, {where}"
    figures = [
        Figure(f"{line_name}: choice and claim, p50", p50(both("")), gate=5),
        Figure(f"{line_name}: choice and claim, p95", percentile(both(""), 95)),
        Figure(f"{line_name}: choice and claim, CPU, p50", p50(both("CPU of ")), gate=5),
    ]
    if lines[1:]:
        figures.append(
            Figure(
                f"{line_name}: choice and claim, CPU, beside the commit before",
                p50(both("CPU of ")),
                floor=p50(both("CPU of ", 1)),
                gate=_MORE,
                of_floor=True,
            )
        )
    figures += [
        Figure(f"{line_name}: {one}, CPU, p50", p50(taken[0][key]), floor=floor(key))
        for one in (
            *("choice", "claim", "choice beside bound jobs", "claim beside bound jobs"),
            "claim in a set",
            *("first choice", "reading", "estimates of the web", "the queue"),
        )
        if (key := f"CPU of {one}")
    ]
    return [
        *figures,
        Figure(
            f"{line_name}: a page of the queue, CPU, p50",
            p50(taken[0]["CPU of a page of the queue"]),
            gate=50,
        ),
    ]
