import datetime as dt
import itertools
from typing import Any

import pytest

from backends.states import BackendState, BackendStatus
from jobgroups.domain.waiting_reasons import QueueBackend, QueuedChild, waiting_reason

NOW = dt.datetime(2026, 2, 1, 21, 10, tzinfo=dt.UTC)
EARLIER = dt.datetime(2026, 2, 1, 21, 4, 10, tzinfo=dt.UTC)
LATER = dt.datetime(2026, 2, 1, 21, 30, tzinfo=dt.UTC)
TOMORROW = dt.datetime(2026, 2, 2, 21, 0, tzinfo=dt.UTC)
YESTERDAY = dt.datetime(2026, 1, 31, 23, 59, tzinfo=dt.UTC)


def gpu(
    state: BackendState = BackendState.BUSY,
    reason: str = "",
    since: dt.datetime | None = None,
    by: str = "",
    **known: Any,
) -> QueueBackend:
    return QueueBackend(backend_id="gpu-2", status=BackendStatus(state, reason, since, by), **known)


def said(child: QueuedChild, backend: QueueBackend | None, *, alive: bool = True) -> str:
    return waiting_reason(child, backend, now=NOW, runner_alive=alive)


FIRST = QueuedChild(queue_position=1)
ENDING = QueuedChild(queue_position=1, ends_at=TOMORROW)
AT_MOST = "The job waits at most until 2026-02-02 21:00:00 UTC."
SENT = QueuedChild(state="accepted")
DRAINING, PAUSED, OFFLINE = BackendState.DRAINING, BackendState.PAUSED, BackendState.OFFLINE
QUARANTINED = BackendState.QUARANTINED


@pytest.mark.parametrize(
    ("queue_position", "begins"),
    [
        *((1, "1st"), (2, "2nd"), (3, "3rd"), (4, "4th"), (11, "11th"), (12, "12th")),
        *((13, "13th"), (21, "21st"), (112, "112th"), (1000, "1000th")),
    ],
)
def test_its_place_in_the_line_is_said(queue_position: int, begins: str) -> None:
    assert said(QueuedChild(queue_position=queue_position), gpu()) == f"{begins} in line for gpu-2."


@pytest.mark.parametrize(
    ("child", "backend", "sentence"),
    [
        (SENT, gpu(), "In the queue of gpu-2."),
        (SENT, gpu(foreign=1), "In the queue of gpu-2, behind 1 that is not ours."),
        (SENT, gpu(PAUSED, foreign=2), "In the queue of gpu-2, behind 2 that are not ours."),
        (QueuedChild(queue_position=2), gpu(foreign=4), "2nd in line for gpu-2, behind 4 that are not ours."),
        (FIRST, None, "Its backend is no longer registered."),
        (QueuedChild(state="intent"), gpu(), "Being sent to gpu-2."),
        (
            QueuedChild(state="intent", input_files=["cat.png"]),
            gpu(),
            "Being sent to gpu-2. Its input file is copied there first: cat.png.",
        ),
        (
            QueuedChild(state="intent", input_files=["a.wav", "b.mp4", "c.png", "d.png", "e.png"]),
            gpu(),
            "Being sent to gpu-2. Its input files are copied there first: a.wav, b.mp4, c.png and 2 more.",
        ),
        (QueuedChild(state="accepted", input_files=["cat.png"]), gpu(), "In the queue of gpu-2."),
        (
            QueuedChild(state="accepted", partly_refused=True),
            gpu(),
            "gpu-2 refused a part of the workflow; the rest is being stopped.",
        ),
        (
            QueuedChild(state="uncertain"),
            gpu(),
            "gpu-2 has not confirmed that it took this job; looking whether it has it.",
        ),
        (QueuedChild(queue_position=1, stopping_at="gpu-1"), gpu(), "Its attempt at gpu-1 is still being stopped."),
        (
            QueuedChild(queue_position=1, stopping_at="gpu-1", is_removed=True),
            gpu(),
            "Its prompt is being removed from the queue of gpu-1.",
        ),
        (QueuedChild(queue_position=1, not_before=LATER), gpu(), "Tried again on gpu-2 at 21:30:00 UTC."),
        (QueuedChild(queue_position=1, not_before=EARLIER), gpu(), "1st in line for gpu-2."),
        (
            FIRST,
            gpu(PAUSED, "the fan is loud", EARLIER, "anna"),
            "gpu-2 is paused by anna since 21:04:10 UTC: the fan is loud.",
        ),
        # What a user decided comes before what a probe found.
        (FIRST, gpu(PAUSED, away_since=EARLIER, away_reason="refused"), "gpu-2 is paused."),
        (
            FIRST,
            gpu(DRAINING, "", EARLIER, "anna"),
            "gpu-2 is being drained by anna since 21:04:10 UTC. It may go nowhere else.",
        ),
        (
            QueuedChild(queue_position=1, goes_elsewhere=True),
            gpu(DRAINING),
            "gpu-2 is being drained. It goes elsewhere once another backend works.",
        ),
        (
            FIRST,
            gpu(QUARANTINED, "3 failures within 10 min; last: stalled.", EARLIER),
            "gpu-2 is quarantined until a user releases it: 3 failures within 10 min; last: stalled.",
        ),
        (
            FIRST,
            gpu(QUARANTINED, "it smokes", quarantine_until=LATER),
            "gpu-2 is quarantined until 21:30:00 UTC: it smokes.",
        ),
        (ENDING, gpu(PAUSED, by="anna"), f"gpu-2 is paused by anna. {AT_MOST}"),
        (ENDING, gpu(DRAINING), f"gpu-2 is being drained. It may go nowhere else. {AT_MOST}"),
        (
            ENDING,
            gpu(QUARANTINED, "it smokes", EARLIER, "anna", quarantine_until=LATER),
            f"gpu-2 is quarantined by anna until 21:30:00 UTC: it smokes. {AT_MOST}",
        ),
        (
            ENDING,
            gpu(QUARANTINED, "3 failures", EARLIER, quarantine_until=LATER),
            "gpu-2 is quarantined until 21:30:00 UTC: 3 failures. Given up at 21:14:10 UTC.",
        ),
        (
            FIRST,
            gpu(BackendState.DISABLED, "drained", EARLIER, "anna"),
            "gpu-2 is disabled by anna since 21:04:10 UTC: drained.",
        ),
        (
            FIRST,
            gpu(OFFLINE, away_since=EARLIER, away_reason="connection refused"),
            "gpu-2 has not been reachable since 21:04:10 UTC: connection refused. Given up at 21:14:10 UTC.",
        ),
        (
            FIRST,
            gpu(OFFLINE, away_since=YESTERDAY),
            "gpu-2 has not been reachable since 2026-01-31 23:59:00 UTC: no answer.",
        ),
        (FIRST, gpu(BackendState.UNKNOWN), "gpu-2 has not been heard from yet."),
        (
            FIRST,
            gpu(OFFLINE, "Not probed since then; is a runner alive?"),
            "gpu-2: Not probed since then; is a runner alive?",
        ),
    ],
)
def test_what_keeps_it_is_said(child: QueuedChild, backend: QueueBackend | None, sentence: str) -> None:
    assert said(child, backend) == sentence


def test_without_a_runner_nothing_else_matters() -> None:
    for backend in (gpu(PAUSED, "x", EARLIER, "anna"), None):
        assert said(FIRST, backend, alive=False) == "No runner is alive to send it."


def test_every_state_of_backend_and_attempt_has_one_whole_sentence() -> None:
    for state, attempt, place in itertools.product(BackendState, (None, "intent", "uncertain", "accepted"), (None, 1)):
        sentence = said(QueuedChild(state=attempt, queue_position=place), gpu(state))
        assert sentence[-1] in ".?"
        assert "None" not in sentence
        assert ".." not in sentence
