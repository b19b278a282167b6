"""Pure parts of the command line: option values, selection, progress, bars, tables."""

from __future__ import annotations

import datetime as dt
from typing import Any

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from director.cli import option_types, selection, text
from director.cli.display import drawn, line
from director.cli.exit_status import CommandError
from director.cli.progress import FINAL, GroupProgress, Row
from director.client import Backend, SkippedBackend
from director.client.events import parse_event


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("cfg=7", 7),
        ("cfg=7.50", 7.5),
        ("on=true", True),
        ('text="7"', "7"),
        ("text=a = b", "a = b"),
        ("text=", ""),
        ("text=NaN", "NaN"),
        ("text=Infinity", "Infinity"),
        ("text=@@home", "@home"),
        ('3={"steps": 20}', {"steps": 20}),
    ],
)
def test_parameter_is_parsed_as_json_if_it_is_json(text: str, value: Any) -> None:
    assert list(option_types.parameters([text]).values()) == [value]


@pytest.mark.parametrize(
    ("text", "value"), [("n=3", 3), ("n=1.10", "1.10"), ("n=010", "010"), ("n=1e3", "1e3"), ("n=true", True)]
)
def test_metadata_keeps_its_text(text: str, value: Any) -> None:
    assert option_types.metadata([text]) == {"n": value}


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("1.5h", 5400), ("2D", 172_800)])
def test_age_is_a_number_with_a_unit(text: str, seconds: float) -> None:
    assert option_types.age(text) == dt.timedelta(seconds=seconds)
    gone = dt.datetime.now(dt.UTC) - option_types.moment(text)
    assert abs(gone.total_seconds() - seconds) < 5


@pytest.mark.parametrize("text", ["", "yesterday", "1y", "h", "-1h", "99999999999d"])
def test_other_text_is_no_moment(text: str) -> None:
    with pytest.raises(click.BadParameter):
        option_types.moment(text)


def test_moment_without_a_time_zone_is_local() -> None:
    assert option_types.moment("2026-02-01").tzinfo is not None
    assert option_types.moment("2026-02-01T07:00:00Z") == dt.datetime(2026, 2, 1, 7, tzinfo=dt.UTC)


# --- which backends -------------------------------------------------------------------------------


def _backend(name: str, status: str = "online", tags: tuple[str, ...] = ()) -> Backend:
    return Backend(backend_id=name, name=name, url=f"http://{name}", enabled=True, status=status, tags=tags)


def test_id_takes_precedence_over_a_tag() -> None:
    known = [_backend("a", tags=("b", "big, red")), _backend("b"), _backend("c", tags=("b",))]
    assert [one.backend_id for one in selection.by_name(["b"], known)] == ["b"]
    assert [one.backend_id for one in selection.by_name(["big, red", "c,a"], known)] == ["a", "c", "a"]
    with pytest.raises(CommandError, match="'d'"):
        selection.by_name(["d"], known)


def test_jobs_are_distributed_to_available_backends() -> None:
    known = [_backend("a"), _backend("b", "offline"), _backend("c", "busy")]
    selected = selection.for_children([], every=True, count=5, known=known)
    assert selected.backend_ids == ["a", "c", "a", "c", "a"]
    assert selected.left_out == [SkippedBackend(backend_id="b", reason="offline")]
    named = selection.for_children(["b", "a"], every=False, count=None, known=known)
    assert named.backend_ids == ["b", "a"], "the Director returns the reasons"


def test_all_backends_are_sent_if_none_is_available() -> None:
    known = [_backend("a", "offline"), _backend("b", "offline")]
    assert selection.for_children([], every=True, count=None, known=known).backend_ids == ["a", "b"]


# --- a group that is watched ----------------------------------------------------------------------


def _state(**child: Any) -> Any:
    row = {"job_id": "j_1", "backend_id": "gpu-1", "seed": 42, "status": "queued", **child}
    head = {"type": "initial_state", "seq": 1, "job_group_id": "jg_1", "status": "running"}
    return parse_event({**head, "child_jobs": [row]})


def _event(kind: str, **fields: Any) -> Any:
    return parse_event({"type": kind, "seq": 2, "job_id": "j_1", "backend_id": "gpu-1", **fields})


def _shown(*events: Any) -> list[str]:
    followed = GroupProgress()
    return [click.unstyle(line(row)) for event in events for row in followed.on_event(event)]


def test_each_change_is_shown_once() -> None:
    progress = _event("child_progress", progress=10.0, current_step="KSampler")
    started, done = _event("child_started", attempt=1), _event("child_completed", outputs={})
    assert _shown(_state(), started, progress, progress, done) == [
        "gpu-1 seed 42: queued",
        "gpu-1 seed 42: running",
        "gpu-1 seed 42: completed",
    ]


def test_retry_is_shown_with_both_backends() -> None:
    again = _event("child_retrying", reason="Out of memory.", next_backend_id="gpu-2", attempt=1)
    started = _event("child_started", attempt=2, backend_id="gpu-2")
    done = _event("child_completed", outputs={}, backend_id="gpu-2")
    assert _shown(_state(status="running"), again, started, done)[1:] == [
        "gpu-2 seed 42: queued: again, after gpu-1: Out of memory.",
        "gpu-2 seed 42: running",
        "gpu-2 seed 42: completed with attempt 2",
    ]


def test_failure_is_shown_with_its_reason_on_one_line() -> None:
    failed = _event("child_failed", error="first\nsecond \x1b[31m")
    assert _shown(_state(), failed)[1] == "gpu-1 seed 42: failed: first second [31m"


def test_completed_child_is_shown_with_its_warnings() -> None:
    done = _event("child_completed", outputs={}, warnings=["one \x1b[31m", "two"])
    shown = "gpu-1 seed 42: completed: warning: one [31m; warning: two"
    assert _shown(_state(), done)[1] == shown
    assert done.warnings == ("one \x1b[31m", "two")
    assert _shown(_state(status="completed", warnings=["one \x1b[31m", "two"])) == [shown]


def test_repeated_state_shows_only_changes() -> None:
    assert _shown(_state(status="running"), _state(status="running"), _state(status="failed")) == [
        "gpu-1 seed 42: running",
        "gpu-1 seed 42: failed",
    ]


def test_new_run_queues_its_jobs_again() -> None:
    followed = GroupProgress()
    followed.on_event(_state(status="failed", error_message="broken"))
    moved = followed.on_event(parse_event({"type": "group_reopened", "seq": 5, "job_ids": ["j_1"]}))
    assert [row.status for row in moved] == ["queued"]


_ROWS = st.lists(
    st.builds(
        Row,
        job_id=st.uuids().map(str),
        backend_id=st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=64),
        seed=st.integers(0, 2**53 - 1),
        status=st.sampled_from(["queued", "running", *sorted(FINAL)]),
        progress=st.floats(0, 100),
        note=st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=300),
    ),
    max_size=60,
)


@given(_ROWS, st.integers(30, 300), st.integers(5, 80))
def test_bars_fit_into_every_terminal(rows: list[Row], width: int, height: int) -> None:
    lines = drawn(rows, width, height)
    assert len(lines) <= max(3, height - 2)
    for parts in lines:
        assert sum(len(text) for text, _ in parts) <= width
    if len(rows) <= max(3, height - 2):
        assert len(lines) == len(rows)


# --- texts ----------------------------------------------------------------------------------------


def test_columns_are_aligned_without_control_characters() -> None:
    assert text.columns(("A", "B"), [("long", "x\ny\x1b[2J"), ("s", "")]) == ["A     B", "long  x y [2J", "s"]
