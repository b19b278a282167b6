"""Estimates from learned times: pairs that never ran, loads, and the time of a reading."""

import datetime as dt
import random
import time
from statistics import median
from typing import Final

import pytest

from jobgroups.domain.estimates import UNKNOWN_LOAD_SECONDS, Estimates, TimingRow, moving_average

_MOMENT: Final = dt.datetime(2026, 2, 1, 7, tzinfo=dt.UTC)


def row(
    digest: str,
    backend_id: str,
    seconds: float | None,
    load: float | None = None,
    *,
    models: str = "sdxl",
    minute: int = 0,
) -> TimingRow:
    moment = _MOMENT + dt.timedelta(minutes=minute)
    return TimingRow(digest, backend_id, models, seconds, load, moment)


@pytest.mark.parametrize("seed", range(8))
def test_pairs_that_never_ran_are_estimated_from_noisy_times_of_others(seed: int) -> None:
    chance = random.Random(seed)
    speeds = {f"gpu-{number}": 1 + 3 * number / 8 for number in range(9)}
    work = {f"digest {number}": chance.uniform(2, 60) for number in range(8)}
    rows = []
    for digest, seconds in work.items():
        for backend_id in chance.sample(sorted(speeds), 6):
            learned = None
            for _ in range(12):
                noisy = seconds / speeds[backend_id] * chance.gauss(1, 0.2)
                learned = moving_average(learned, noisy)
            rows.append(row(digest, backend_id, learned))
    estimates = Estimates(rows)
    seen = {(one.workflow_digest, one.backend_id) for one in rows}
    errors = [
        abs((estimates.seconds(digest, backend_id) or 0) * speeds[backend_id] / work[digest] - 1)
        for digest in work
        for backend_id in speeds
        if (digest, backend_id) not in seen
    ]
    assert len(errors) == 24
    assert median(errors) < 0.1


def test_seconds_of_a_pair_are_its_own_or_typical_or_none() -> None:
    estimates = Estimates([row("a", "gpu-1", 10), row("a", "gpu-2", 20), row("b", "gpu-2", None, 3), row("", "x", 5)])
    assert estimates.seconds("a", "gpu-2") == 20
    # No speed of a backend without any row is known.
    assert estimates.seconds("a", "gpu-9") == pytest.approx(10 * 2**0.5)
    assert [estimates.seconds(digest, "gpu-2") for digest in ("b", "c", "")] == [None] * 3
    assert (Estimates([row("a", "gpu-1", 0.0), row("a", "gpu-2", 1)]).seconds("a", "gpu-1") or 0) > 0


def test_load_is_that_of_the_pair_or_of_its_models_or_unknown() -> None:
    estimates = Estimates(
        [
            row("a", "gpu-1", 10, 30),
            row("a", "gpu-2", 10, 50),
            row("b", "gpu-1", 10),
            row("c", "gpu-1", 10, models="flux"),
            row("d", "gpu-1", 10, models=""),
        ]
    )
    assert estimates.load_seconds("a", "gpu-1") == 30
    assert estimates.load_seconds("a", "gpu-9") == estimates.load_seconds("b", "gpu-1") == 40
    assert estimates.load_seconds("c", "gpu-1") == UNKNOWN_LOAD_SECONDS
    assert estimates.load_seconds("d", "gpu-1") == estimates.load_seconds("e", "gpu-1") == 0
    assert [estimates.models(digest) for digest in "acde"] == ["sdxl", "flux", "", ""]


def test_warm_models_are_those_of_the_last_job_that_has_models() -> None:
    estimates = Estimates(
        [
            row("c", "gpu-1", 10, models="", minute=3),
            row("b", "gpu-1", 10, models="flux", minute=2),
            row("a", "gpu-1", 10, minute=1),
        ]
    )
    assert estimates.warm_models("gpu-1") == "flux"
    assert estimates.warm_models("gpu-2") == ""


@pytest.mark.parametrize("backends", [2, 1000])
def test_a_reading_of_4000_rows_takes_milliseconds(backends: int) -> None:
    rows = [row(f"digest {n // backends}", f"gpu-{n % backends}", 1 + n, n) for n in range(4000)]

    def seconds() -> float:
        begun = time.thread_time()
        Estimates(rows)
        return time.thread_time() - begun

    # 0.01 s on an idle machine.
    assert min(seconds() for _ in range(5)) < 0.04
