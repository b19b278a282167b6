import datetime as dt
import itertools
import tomllib
from operator import itemgetter
from pathlib import Path
from typing import Any

import pytest

from backends.states import BackendState, BackendStatus
from jobgroups.domain.waiting_reasons import QueueBackend, QueuedChild, waiting_reason

NOW = dt.datetime(2026, 2, 1, 21, 10, tzinfo=dt.UTC)
CASES = tomllib.loads(Path(__file__).with_name("waiting.toml").read_text())["cases"]


def gpu(
    state: str = "busy", reason: str = "", since: dt.datetime | None = None, by: str = "", **known: Any
) -> QueueBackend:
    status = BackendStatus(BackendState(state), reason, since, by)
    return QueueBackend(backend_id="gpu-2", status=status, **known)


def said(child: QueuedChild, backend: QueueBackend | None, *, alive: bool = True) -> str:
    return waiting_reason(child, backend, now=NOW, runner_alive=alive)


@pytest.mark.parametrize(
    ("queue_position", "begins"),
    [
        *((1, "1st"), (2, "2nd"), (3, "3rd"), (4, "4th"), (11, "11th"), (12, "12th")),
        *((13, "13th"), (21, "21st"), (112, "112th"), (1000, "1000th")),
    ],
)
def test_its_place_in_the_line_is_said(queue_position: int, begins: str) -> None:
    assert said(QueuedChild(queue_position=queue_position), gpu()) == f"{begins} in line for gpu-2."


@pytest.mark.parametrize("case", CASES, ids=itemgetter("sentence"))
def test_what_keeps_it_is_said(case: dict[str, Any]) -> None:
    backend = gpu(**case["backend"]) if "backend" in case else None
    assert said(QueuedChild(**case["job"]), backend) == case["sentence"]


def test_without_a_runner_nothing_else_matters() -> None:
    for backend in (gpu("paused", "x", NOW, "anna"), None):
        assert said(QueuedChild(queue_position=1), backend, alive=False) == "No runner is alive to send it."


def test_every_state_of_backend_and_attempt_has_one_whole_sentence() -> None:
    for state, attempt, place in itertools.product(BackendState, (None, "intent", "uncertain", "accepted"), (None, 1)):
        sentence = said(QueuedChild(state=attempt, queue_position=place), gpu(state))
        assert sentence[-1] in ".?"
        assert "None" not in sentence
        assert ".." not in sentence
