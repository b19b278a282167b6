"""Estimates from learned times, the plan of a queue, and the reasons for which jobs wait."""

import datetime as dt
import itertools
import random
import time
import tomllib
from collections.abc import Sequence
from itertools import chain
from operator import itemgetter
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any, Final

import pytest
from hypothesis import given, strategies as st

from backends.comfyui.protocol import Event, Executing, ExecutionStart, ExecutionSuccess
from backends.states import BackendState, BackendStatus
from jobgroups.domain.estimates import (
    UNKNOWN_LOAD_SECONDS,
    Estimates,
    TimingRow,
    TimingSample,
    moving_average,
)
from jobgroups.domain.plan import Plan, Plannable, Worker
from jobgroups.domain.waiting_reasons import QueueBackend, QueuedChild, waiting_reason
from jobgroups.runner.attempt.timer import PromptTimer
from tests.harness.graphs import text_to_image

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
    estimates = Estimates(
        [row("a", "gpu-1", 10), row("a", "gpu-2", 20), row("b", "gpu-2", None, 3), row("", "x", 5)]
    )
    assert estimates.seconds("a", "gpu-2") == 20
    # No speed of a backend without any row is known.
    assert estimates.seconds("a", "gpu-9") == pytest.approx(10 * 2**0.5)
    assert [estimates.seconds(digest, "gpu-2") for digest in ("b", "c", "")] == [None] * 3
    assert (
        Estimates([row("a", "gpu-1", 0.0), row("a", "gpu-2", 1)]).seconds("a", "gpu-1") or 0
    ) > 0


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
    assert min(seconds() for _ in range(5)) < 0.1


NOON: Final = dt.datetime(2026, 2, 1, 12, tzinfo=dt.UTC)
LOAD: Final = 15.0
#: Of a workflow: its jobs, and whether it uses the models that each backend has loaded, others, or
#: none.
works = st.tuples(st.integers(1, 60), st.sampled_from(["", "sdxl", "flux"]))
#: Of a backend: seconds until it is free, its models, and its seconds of each of three workflows.
machines = st.tuples(
    st.floats(0, 500),
    st.sampled_from(["", "sdxl", "flux"]),
    st.tuples(*[st.floats(0.01, 300) for _ in range(3)]),
)
Machine = tuple[float, str, tuple[float, float, float]]
lines = st.lists(works, min_size=1, max_size=3)
farms = st.lists(machines, min_size=1, max_size=6)


def planned(line: list[tuple[int, str]], farm: list[Machine]) -> Plan:
    rows = [
        TimingRow(f"w{at}", f"gpu-{name}", models, seconds[at], LOAD, NOON)
        for name, (_, _, seconds) in enumerate(farm)
        for at, (_, models) in enumerate(line)
    ]
    workers = [
        Worker(f"gpu-{name}", free_in, models) for name, (free_in, models, _) in enumerate(farm)
    ]
    plan = Plan(Estimates(rows), workers)
    for at, (jobs, models) in enumerate(line):
        plan.add(
            Plannable(variant_id=at, workflow_digest=f"w{at}", models_digest=models),
            jobs,
            frozenset(plan.workers),
        )
    return plan


def last_end(plan: Plan) -> float:
    return max(one.last for one in plan.ends.values() if one is not None)


@given(lines, farms)
def test_each_job_is_planned_once_and_ends_no_later_than_on_any_backend_alone(
    line: list[tuple[int, str]], farm: list[Machine]
) -> None:
    plan = planned(line, farm)
    for at, (jobs, _) in enumerate(line):
        assert sum(plan.allotted.get((at, f"gpu-{name}"), 0) for name in range(len(farm))) == jobs
        ends = plan.ends[at]
        assert ends is not None
        assert 0 < ends.first <= ends.last < float("inf")
        assert sorted(ends_of := [ends.of(rank) for rank in range(1, jobs + 1)]) == ends_of
    for one in farm:
        assert last_end(plan) <= last_end(planned(line, [one])) * (1 + 1e-9)


@given(works, farms)
def test_a_workflow_ends_as_soon_as_possible_and_no_later_with_another_backend(
    work: tuple[int, str], farm: list[Machine]
) -> None:
    jobs, models = work
    ends = sorted(
        chain.from_iterable(
            [
                free_in + (LOAD if models not in ("", loaded) else 0) + seconds[0] * n
                for n in range(1, jobs + 1)
            ]
            for free_in, loaded, seconds in farm
        )
    )
    plan = planned([work], farm)
    assert last_end(plan) == pytest.approx(ends[jobs - 1])
    assert last_end(plan) <= last_end(planned([work], farm[1:] or farm)) * (1 + 1e-9)


NOW = dt.datetime(2026, 2, 1, 21, 10, tzinfo=dt.UTC)
CASES = tomllib.loads(Path(__file__).with_name("waiting.toml").read_text())["cases"]


def gpu(
    state: str = "busy",
    reason: str = "",
    since: dt.datetime | None = None,
    by: str = "",
    **known: Any,
) -> QueueBackend:
    status = BackendStatus(BackendState(state), reason, since, by)
    return QueueBackend(backend_id="localhost_2", name="gpu-2", status=status, **known)


def said(child: QueuedChild, backend: QueueBackend | None) -> str:
    return waiting_reason(child, backend, now=NOW)


@pytest.mark.parametrize(
    ("queue_position", "begins"),
    [
        (1, "1st"),
        (2, "2nd"),
        (3, "3rd"),
        (4, "4th"),
        (11, "11th"),
        (12, "12th"),
        (13, "13th"),
        (21, "21st"),
        (112, "112th"),
        (1000, "1000th"),
    ],
)
def test_its_place_in_the_line_is_said(queue_position: int, begins: str) -> None:
    assert said(QueuedChild(queue_position=queue_position), gpu()) == f"{begins} in line for gpu-2."


@pytest.mark.parametrize("case", CASES, ids=itemgetter("sentence"))
def test_what_keeps_it_is_said(case: dict[str, Any]) -> None:
    backend = gpu(**case["backend"]) if "backend" in case else None
    assert said(QueuedChild(**case["job"]), backend) == case["sentence"]


def test_every_state_of_backend_and_attempt_has_one_whole_sentence() -> None:
    for state, attempt, place in itertools.product(
        BackendState, (None, "intent", "uncertain", "accepted"), (None, 1)
    ):
        sentence = said(QueuedChild(state=attempt, queue_position=place), gpu(state))
        assert sentence[-1] in ".?"
        assert "None" not in sentence
        assert ".." not in sentence


def test_seconds_of_a_prompt_are_those_between_its_start_and_its_end() -> None:
    context: Any = SimpleNamespace(backend_id="gpu-1", loaded_models=None)
    spec: Any = SimpleNamespace(workflow=text_to_image(), workflow_digest="digest")
    start, node, end = (
        ExecutionStart(prompt_id="p"),
        Executing(prompt_id="p", node="3"),
        ExecutionSuccess(prompt_id="p"),
    )

    def seen(events: Sequence[tuple[Event, float]]) -> float:
        return events[-1][1] - events[0][1]

    def sample(
        *events: tuple[Event, float], by_backend: float | None = None
    ) -> TimingSample | None:
        timer = PromptTimer(context, spec, 98.0)
        for event, moment in events:
            timer.on_event(event, moment)
        found = timer.sample(timer.seconds(by_backend))
        # Those of a node are not known if they came late.
        assert found is None or bool(timer.node_seconds) == (abs(found.seconds - seen(events)) <= 1)
        return found

    for was_loaded in (None, True):
        found = sample((start, 100.0), (node, 101.0), (end, 107.5))
        assert found is not None
        assert (found.seconds, found.was_loaded) == (7.5, was_loaded)
    # Its end was seen late, or its start; the backend's clock was changed meanwhile.
    for by_backend, seconds in ((2.5, 2.5), (9.0, 9.0), (-3600.0, 7.5), (3600.0, 7.5), (0.0, 7.5)):
        found = sample((start, 100.0), (node, 101.0), (end, 107.5), by_backend=by_backend)
        assert found is not None
        assert found.seconds == seconds
    # Every node was cached; the start or the end was not seen.
    assert sample((start, 100.0), (end, 107.5)) is None
    assert sample((node, 101.0), (end, 107.5)) is None
    assert sample((start, 100.0), (node, 101.0)) is None
