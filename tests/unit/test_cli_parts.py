import datetime as dt
import io
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import click
import pytest
from hypothesis import given, strategies as st
from rich.console import Console

from director.cli import option_types, selection, text
from director.cli.display import FINAL, GroupProgress, Row, drawn, line
from director.cli.exit_status import CommandError
from director.client import Backend, Group
from director.client.events import parse_event
from director.client.groups import parse_group


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
    ("text", "value"),
    [("n=3", 3), ("n=1.10", "1.10"), ("n=010", "010"), ("n=1e3", "1e3"), ("n=true", True)],
)
def test_metadata_keeps_its_text(text: str, value: Any) -> None:
    assert option_types.metadata([text]) == {"n": value}


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("1.5h", 5400), ("2D", 172_800)])
def test_age_is_a_number_with_a_unit(text: str, seconds: float) -> None:
    assert option_types.age(text) == dt.timedelta(seconds=seconds)
    gone = dt.datetime.now(dt.UTC) - option_types.moment(text)
    assert abs(gone.total_seconds() - seconds) < 5
    assert option_types.moment("2026-02-01").tzinfo is not None
    assert option_types.moment("2026-02-01T07:00:00Z") == dt.datetime(2026, 2, 1, 7, tzinfo=dt.UTC)


@pytest.fixture
def in_berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Europe/Berlin")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("in_berlin")
@pytest.mark.parametrize(
    ("now", "text", "moment"),
    [
        ("2026-10-24T23:00+02:00", "23:30", "2026-10-24T23:30+02:00"),
        ("2026-10-24T23:00+02:00", "08:00", "2026-10-25T08:00+01:00"),
        ("2027-03-27T23:00+01:00", "08:00", "2027-03-28T08:00+02:00"),
        ("2027-03-27T23:00+01:00", "02:30", "2027-03-28T03:30+02:00"),  # no clock shows 2:30
        ("2027-03-27T23:00+01:00", "2027-03-28T02:30", "2027-03-28T03:30+02:00"),
        ("2027-03-28T01:30+01:00", "02:30", "2027-03-28T03:30+02:00"),
        ("2027-03-28T03:10+02:00", "02:30", "2027-03-29T02:30+02:00"),
        ("2026-10-25T02:10+02:00", "02:30", "2026-10-25T02:30+02:00"),
        ("2026-10-25T02:10+01:00", "02:30", "2026-10-25T02:30+01:00"),  # the second one
        ("2026-10-25T02:40+01:00", "02:30", "2026-10-26T02:30+01:00"),
    ],
)
def test_later_time_is_that_of_the_clock_when_summer_time_begins_or_ends(
    now: str, text: str, moment: str
) -> None:
    today = dt.datetime.fromtimestamp(dt.datetime.fromisoformat(now).timestamp())  # noqa: DTZ006
    assert option_types.later(text, today) == dt.datetime.fromisoformat(moment)


@pytest.mark.parametrize("text", ["", "yesterday", "1y", "h", "-1h", "99999999999d"])
def test_other_text_is_no_moment(text: str) -> None:
    with pytest.raises(click.BadParameter):
        option_types.moment(text)


def _backend(
    backend_id: str, status: str = "online", tags: tuple[str, ...] = (), name: str = ""
) -> Backend:
    return Backend(
        backend_id=backend_id,
        name=name or backend_id,
        url=f"http://{backend_id}",
        enabled=True,
        status=status,
        tags=tags,
    )


def test_id_takes_precedence_over_a_tag() -> None:
    known = [_backend("a", tags=("b", "big, red")), _backend("b"), _backend("c", tags=("b",))]
    assert [one.backend_id for one in selection.by_name(["b"], known)] == ["b"]
    named = selection.by_name(["big, red", "c,a"], known)
    assert [one.backend_id for one in named] == ["a", "c", "a"]
    with pytest.raises(CommandError, match="'d'"):
        selection.by_name(["d"], known)


def test_each_backend_gets_one_job() -> None:
    known = [_backend("a"), _backend("b", "offline"), _backend("c", "busy")]
    assert selection.for_children([], known=known) == ["a", "b", "c"], (
        "the Director leaves out unavailable ones"
    )
    assert selection.for_children(["b", "a", "b"], known=known) == ["b", "a", "b"]


@pytest.mark.parametrize(
    ("names", "tags", "candidates"),
    [
        ([], [], ["*"]),
        (["b"], [], ["b"]),
        (["big"], [], ["tag:big"]),
        (["a,big"], ["small", "big"], ["a", "tag:big", "tag:small"]),
        (["a", "a"], [], ["a"]),
        (["Room 1,a"], [], ["b", "a"]),
    ],
)
def test_candidates_are_ids_and_tags_each_once(
    names: list[str], tags: list[str], candidates: list[str]
) -> None:
    known = [_backend("a", tags=("big",)), _backend("b", tags=("small",), name="Room 1")]
    assert selection.for_pool(names, tags, known=known) == candidates


@pytest.mark.parametrize(("names", "tags"), [(["c"], []), ([], ["c"]), ([], ["a"]), ([""], [])])
def test_unknown_candidate_is_refused(names: list[str], tags: list[str]) -> None:
    with pytest.raises(CommandError):
        selection.for_pool(names, tags, known=[_backend("a")])


def _state(**child: Any) -> Any:
    row = {"job_id": "j_1", "backend_id": "gpu-1", "seed": 42, "status": "queued", **child}
    head = {"type": "initial_state", "seq": 1, "job_group_id": "jg_1", "status": "running"}
    return parse_event({**head, "child_jobs": [row]})


def _event(kind: str, **fields: Any) -> Any:
    return parse_event({"type": kind, "seq": 2, "job_id": "j_1", "backend_id": "gpu-1", **fields})


def _shown(*events: Any, name_of: Callable[[str], str] = str) -> list[str]:
    followed = GroupProgress(name_of)
    return [click.unstyle(line(row)) for event in events for row in followed.on_event(event)]


def test_each_change_is_shown_once() -> None:
    progress = _event("child_progress", progress=10.0, current_step="KSampler")
    started, done = _event("child_started", attempt=1), _event("child_completed", outputs={})
    assert _shown(_state(), _state(), started, progress, progress, done) == [
        "gpu-1 seed 42: queued",
        "gpu-1 seed 42: running",
        "gpu-1 seed 42: completed",
    ]
    assert _shown(_state(), _state(status="failed"))[1:] == ["gpu-1 seed 42: failed"]


def test_retry_is_shown_with_both_backends() -> None:
    again = _event("child_retrying", reason="Out of memory.", next_backend_id="gpu-2", attempt=1)
    started = _event("child_started", attempt=2, backend_id="gpu-2")
    done = _event("child_completed", outputs={}, backend_id="gpu-2")
    assert _shown(_state(status="running"), again, started, done)[1:] == [
        "gpu-2 seed 42: queued: again, after gpu-1: Out of memory.",
        "gpu-2 seed 42: running",
        "gpu-2 seed 42: completed with attempt 2",
    ]


def test_backends_are_called_by_their_names() -> None:
    again = _event("child_retrying", reason="Out of memory.", next_backend_id="gpu-2", attempt=1)
    events = _state(), again, _state(backend_id=None)
    assert _shown(*events, name_of=str.upper) == [
        "GPU-1 seed 42: queued",
        "GPU-2 seed 42: queued: again, after GPU-1: Out of memory.",
    ]


def test_job_of_the_pool_is_shown_with_any_while_it_waits() -> None:
    started = _event("child_started", attempt=1)
    evicted = _event("child_requeued", backend_id=None, reason="Evicted.")
    again = _event("child_retrying", reason="Out of memory.", next_backend_id=None, attempt=1)
    cancelled = _event("child_cancelled", backend_id=None)
    waiting = _state(backend_id=None)
    assert _shown(waiting, started, evicted, started, again, cancelled) == [
        "any seed 42: queued",
        "gpu-1 seed 42: running",
        "any seed 42: queued: again, after gpu-1: Evicted.",
        "gpu-1 seed 42: running",
        "any seed 42: queued: again, after gpu-1: Out of memory.",
        "- seed 42: cancelled",
    ]
    assert _shown(waiting, evicted)[1] == "any seed 42: queued: again: Evicted."


def test_failure_is_shown_with_its_reason_on_one_line() -> None:
    failed = _event("child_failed", error="first\nsecond \x1b[31m")
    assert _shown(_state(), failed)[1] == "gpu-1 seed 42: failed: first second [31m"


def test_completed_child_is_shown_with_its_warnings() -> None:
    done = _event("child_completed", outputs={}, warnings=["one \x1b[31m", "two"])
    shown = "gpu-1 seed 42: completed: warning: one [31m; warning: two"
    assert _shown(_state(), done)[1] == shown
    assert done.warnings == ("one \x1b[31m", "two")
    assert _shown(_state(status="completed", warnings=["one \x1b[31m", "two"])) == [shown]


def test_new_run_queues_its_jobs_again() -> None:
    followed = GroupProgress()
    followed.on_event(_state(status="failed", error_message="broken"))
    reopened = {"type": "group_reopened", "seq": 5, "job_ids": ["j_1"], "backend_ids": [None]}
    moved = followed.on_event(parse_event(reopened))
    assert [(row.status, row.backend) for row in moved] == [("queued", None)]
    old = followed.on_event(parse_event({**reopened, "backend_ids": []}))
    assert [row.status for row in old] == ["queued"]


_ROWS = st.lists(
    st.builds(
        Row,
        job_id=st.uuids().map(str),
        backend=st.none()
        | st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=64),
        seed=st.integers(0, 2**53 - 1),
        status=st.sampled_from(["queued", "running", *sorted(FINAL)]),
        progress=st.floats(0, 100),
        note=st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=300),
    ),
    max_size=60,
)


@given(_ROWS, st.integers(30, 300), st.integers(5, 80))
def test_bars_fit_into_every_terminal(rows: list[Row], width: int, height: int) -> None:
    console = Console(file=io.StringIO(), width=width, height=height)
    with console.capture() as captured:
        console.print(drawn(rows, width, height))
    lines = captured.get().splitlines() if rows else []
    assert len(lines) <= max(3, height - 2)
    assert all(len(line) <= width for line in lines)
    if len(rows) <= max(3, height - 2):
        assert len(lines) == len(rows)


def test_columns_are_aligned_without_control_characters() -> None:
    found = text.columns(("A", "B"), [("long", "x\ny\x1b[2J"), ("s", "")])
    assert found == ["A     B", "long  x y [2J", "s"]


def test_json_for_a_terminal_has_no_control_characters() -> None:
    value = {"prompt": "café\x1b[2J\x9b31m\x7f\u202egnp\U000e0001", "n": 1}
    printed = text.json_text(value, 2)
    assert json.loads(printed) == value
    assert "café" in printed
    assert printed.replace("\n", "").isprintable()


def test_backends_that_made_the_jobs_are_counted() -> None:
    def group(*backend_ids: str | None) -> Group:
        jobs = [
            {"job_id": f"j_{at}", "backend_id": one, "seed": at, "status": "completed"}
            for at, one in enumerate(backend_ids)
        ]
        jobs.append({"job_id": "j", "backend_id": "gpu-9", "seed": 99, "status": "failed"})
        return parse_group({"job_group_id": "jg_1", "status": "failed", "child_jobs": jobs})

    assert text.made_by(group("gpu-2", "gpu-1", "gpu-1")) == "gpu-1 2, gpu-2 1"
    assert text.made_by(group()) == ""
    many = text.made_by(group(*(f"gpu-{at}" for at in range(300))))
    assert many.endswith("gpu-9 1, and 290 more")
