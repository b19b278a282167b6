import re
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from director import client
from director.client import Director, Event
from director.client.calls import FIRST_DELAY_S, LONGEST_DELAY_S, Outage
from director.client.errors import Unreachable
from director.client.events import InitialState, parse_event
from director.client.stream import Stream
from jobgroups.domain.shapes.events import GroupReopened
from tests.client.conftest import Driven
from tests.client.server import FakeDirector, child


def numbers(events: list[Event]) -> list[int]:
    return [e.seq for e in events if e.seq is not None and not isinstance(e, client.InitialState)]


def listen(server: FakeDirector, group_id: str, events: Iterator[Event]) -> client.InitialState:
    state = next(events)
    assert isinstance(state, client.InitialState)
    server.wait_until(lambda: server.listeners(group_id) == 1)
    return state


def open_stream(
    director: Any, server: FakeDirector, **options: bool
) -> tuple[str, Iterator[Event]]:
    group_id = server.group()
    events = director.stream(group_id, **options)
    listen(server, group_id, events)
    return group_id, events


def test_stream_begins_with_the_state_and_ends_with_the_group(
    either: Driven, server: FakeDirector
) -> None:
    group_id = server.group(2, metadata={"scene": "s"})
    events = either.stream(group_id)
    state = listen(server, group_id, events)
    assert (state.seq, state.run, state.group.metadata) == (1, 1, {"scene": "s"})
    assert [c.status for c in state.group.child_jobs] == ["queued", "queued"]
    server.start_child(group_id)
    server.progress(group_id, 65.0)
    server.finish(group_id)
    started, progress, complete = list(events)
    assert isinstance(started, client.ChildStarted)
    assert isinstance(progress, client.ChildProgress)
    assert (progress.progress, progress.steps_completed, progress.seq) == (65.0, 13, None)
    assert isinstance(complete, client.GroupComplete)
    assert (complete.total, complete.succeeded, complete.failed) == (2, 2, 0)
    assert [r.status for r in complete.results] == ["completed", "completed"]
    server.wait_until(lambda: server.listeners(group_id) == 0)


@pytest.mark.parametrize("code", [4012, 4008, 1011, None], ids=str)
def test_stream_resumes_after_its_connection_is_closed_or_lost(
    either: Driven, server: FakeDirector, code: int | None
) -> None:
    group_id, events = open_stream(either, server)
    server.start_child(group_id)
    seen = [next(events)]
    for _ in range(2):
        server.wait_until(lambda: server.listeners(group_id) == 1)
        if code is None:
            server.tear(group_id)
        else:
            server.close_sockets(group_id, code)
        server.wait_until(lambda: server.listeners(group_id) == 0)
        for _ in range(2):
            server.record(group_id, "child_blessed", job_id="j")
        seen += [next(events), next(events)]
    server.finish(group_id)
    assert numbers([*seen, *events]) == [2, 3, 4, 5, 6, 7]
    since = ["", "?since=2", "?since=4"]
    assert server.connects == [f"/ws/job-groups/{group_id}{query}" for query in since]


def test_stream_gives_up_an_absent_server(server: FakeDirector) -> None:
    group_id = server.group()
    with Director(server.url, give_up_seconds=0.1) as director:
        events = director.stream(group_id)
        listen(server, group_id, events)
        server.stop()
        with pytest.raises(client.Unreachable):
            list(events)
        server.restart()


def test_stream_without_reconnect_raises_after_a_close(
    director: Director, server: FakeDirector
) -> None:
    group_id, events = open_stream(director, server, reconnect=False)
    server.close_sockets(group_id, 4012)
    with pytest.raises(client.StreamClosed) as caught:
        list(events)
    assert caught.value.close_code == 4012


def test_repeated_events_are_dropped(director: Director, server: FakeDirector) -> None:
    group_id, events = open_stream(director, server)
    server.start_child(group_id)
    server.send(group_id, server.groups[group_id].log[0])
    server.send(group_id, server.groups[group_id].log[1])
    server.finish(group_id)
    assert numbers(list(events)) == [2, 3]


def test_gap_is_filled_by_resuming(director: Director, server: FakeDirector) -> None:
    group_id, events = open_stream(director, server, reconnect=False)
    server.skip = {2, 3}
    server.start_child(group_id)
    server.start_child(group_id)
    server.skip = set()
    server.finish(group_id)
    assert numbers(list(events)) == [2, 3, 4]
    assert server.connects[-1].endswith("?since=1")


def test_gap_in_the_log_of_the_server_is_an_error(director: Director, server: FakeDirector) -> None:
    group_id, events = open_stream(director, server)
    server.skip = {2}
    server.start_child(group_id)
    server.finish(group_id)
    with pytest.raises(client.UnexpectedAnswer, match="Event 3 came after event 1"):
        list(events)
    assert len(server.connects) == 2


def test_state_is_sent_again_after_the_log_went_back(
    director: Director, server: FakeDirector
) -> None:
    """A restored database does not have the number of the last event any more."""
    group_id, events = open_stream(director, server)
    for _ in range(3):
        server.start_child(group_id)
        next(events)
    group = server.groups[group_id]
    del group.log[2:]
    group.body["seq"] = 2
    server.close_sockets(group_id, 4012)
    resync = next(events)
    assert isinstance(resync, client.InitialState)
    assert resync.seq == 2
    server.wait_until(lambda: server.listeners(group_id) == 1)
    server.finish(group_id)
    assert numbers(list(events)) == [3]


def test_since_leaves_out_the_state(director: Director, server: FakeDirector) -> None:
    group_id = server.group()
    server.start_child(group_id)
    server.finish(group_id)
    for since in (0, 1, 3):
        events = list(director.stream(group_id, since=since))
        assert [event.seq for event in events] == [1, 2, 3][since:]


def test_end_of_an_earlier_run_does_not_end_the_stream(
    director: Director, server: FakeDirector
) -> None:
    group_id = server.group()
    server.finish(group_id)
    server.reopen(group_id)
    server.finish(group_id)
    events = list(director.stream(group_id, since=0))
    assert numbers(events) == [1, 2, 3, 4]
    assert isinstance(events[2], client.GroupReopened)
    assert (events[2].run, events[2].job_ids) == (2, (child(1)["job_id"],))


def test_follow_continues_after_the_end(either: Driven, server: FakeDirector) -> None:
    group_id, events = open_stream(either, server, follow=True)
    server.finish(group_id)
    assert isinstance(next(events), client.GroupComplete)
    server.reopen(group_id)
    assert isinstance(next(events), client.GroupReopened)
    events.close()
    server.wait_until(lambda: server.listeners(group_id) == 0)


def test_stream_of_an_unknown_group_raises(director: Director) -> None:
    for since in (None, 3):
        with pytest.raises(client.NotFound, match="Job group jg_none not found"):
            list(director.stream("jg_none", since=since))


def test_final_close_has_its_error(director: Director, server: FakeDirector) -> None:
    group_id, events = open_stream(director, server)
    server.close_sockets(group_id, 4404)
    with pytest.raises(client.NotFound, match=f"Job group {group_id} not found"):
        list(events)
    group_id, events = open_stream(director, server)
    server.send(group_id, {"type": "error", "code": "token_expired", "detail": "Sign in again."})
    server.close_sockets(group_id, 4401)
    with pytest.raises(client.DirectorError, match="Sign in again") as caught:
        list(events)
    assert caught.value.code == "token_expired"


def test_slow_reader_reconnects_at_once() -> None:
    stream = Stream("jg_1", 1, Outage(), follow=False)
    assert stream.delay_after(client.StreamClosed(4008)) == 0.0
    assert stream.delay_after(client.StreamClosed(4012)) > 0.0


def test_refused_handshake_has_its_class(either: Driven, server: FakeDirector) -> None:
    group_id = server.group()
    for number, kind in ((403, client.NotAllowed), (404, client.NotFound)):
        server.refuse_sockets = number
        with pytest.raises(kind):
            list(either.stream(group_id))
    assert len(server.connects) == 2


def test_unavailable_handshake_is_repeated(director: Director, server: FakeDirector) -> None:
    group_id = server.group()
    server.finish(group_id)
    server.refuse_sockets = 503
    threading.Timer(0.1, lambda: setattr(server, "refuse_sockets", None)).start()
    assert numbers(list(director.stream(group_id))) == [2]
    assert len(server.connects) > 1


def test_unknown_event_is_yielded(director: Director, server: FakeDirector) -> None:
    group_id, events = open_stream(director, server)
    server.record(group_id, "child_blessed", blessing="warm")
    server.finish(group_id)
    blessed, _ = list(events)
    assert isinstance(blessed, client.UnknownEvent)
    assert (blessed.type, blessed.seq, blessed.raw["blessing"]) == ("child_blessed", 2, "warm")


AT = "2026-02-01T07:01:45.000Z"


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (
            "ChildCompleted",
            {
                "job_id": "j_001",
                "backend_id": "gpu-1",
                "seed": 42,
                "outputs": {
                    "images": [{"filename": "a.png", "url": "http://x/a.png", "type": "output"}]
                },
                "completed_at": "2026-02-01T07:01:45.000Z",
            },
        ),
        (
            "ChildFailed",
            {
                "job_id": "j_001",
                "backend_id": "gpu-1",
                "error": "e",
                "error_type": "ComfyUIError",
                "failed_at": "2026-02-01T07:01:45.000Z",
            },
        ),
        (
            "ChildTimeout",
            {
                "job_id": "j_001",
                "backend_id": "gpu-1",
                "timeout_seconds": 300,
                "timed_out_at": "2026-02-01T07:01:45.000Z",
            },
        ),
        (
            "ChildCancelled",
            {"job_id": "j_001", "backend_id": "gpu-1", "cancelled_at": "2026-02-01T07:01:45.000Z"},
        ),
        (
            "ChildRetrying",
            {
                "job_id": "j_001",
                "backend_id": "gpu-1",
                "seed": 42,
                "attempt": 1,
                "next_backend_id": "gpu-2",
                "failure_class": "timeout",
                "reason": "r",
                "not_before": "2026-02-01T07:01:45.000Z",
            },
        ),
        ("ChildRequeued", {"job_id": "j_001", "backend_id": "gpu-1", "attempt": 2, "reason": "r"}),
        (
            "GroupComplete",
            {
                "total": 2,
                "succeeded": 1,
                "failed": 1,
                "results": [{"job_id": "j_002", "status": "failed", "error": "CUDA out of memory"}],
            },
        ),
    ],
)
def test_event_keeps_every_value(kind: str, fields: dict[str, Any]) -> None:
    name = re.sub("(?<!^)(?=[A-Z])", "_", kind).lower()
    frame = {"type": name, "seq": 4, "run": 1, **fields}
    event: Any = parse_event(frame)
    assert (type(event), event.raw) == (getattr(client, kind), frame)
    moment = datetime(2026, 2, 1, 7, 1, 45, tzinfo=UTC)
    plain = {key: moment if value == AT else value for key, value in frame.items()}
    outputs, results = plain.pop("outputs", None), plain.pop("results", None)
    assert {key: getattr(event, key) for key in plain} == plain
    if outputs:
        [image] = event.outputs.images
        assert (image.seed, image.backend_id, image.job_id) == (42, "gpu-1", "j_001")
    if results:
        assert [result.status for result in event.results] == ["failed"]


def test_malformed_event_is_unexpected() -> None:
    for frame in ({"type": "child_progress"}, {"type": "group_complete", "total": "3"}):
        with pytest.raises(client.UnexpectedAnswer):
            parse_event(frame)


def test_delays_grow_to_a_limit_and_start_over_after_a_success(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("director.client.calls.FIRST_DELAY_S", FIRST_DELAY_S)
    outage = Outage(None)
    delays = [outage.delay(Unreachable("away")) for _ in range(20)]
    assert FIRST_DELAY_S / 2 <= delays[0] <= FIRST_DELAY_S
    assert LONGEST_DELAY_S / 2 <= delays[-1] <= LONGEST_DELAY_S
    outage.reset()
    assert outage.delay(Unreachable("away")) <= FIRST_DELAY_S


def test_outage_is_measured_from_its_first_failure() -> None:
    times = iter([100.0, 109.9, 160.0, 170.0])
    outage = Outage(10.0, lambda: next(times))
    lost = Unreachable("away")
    outage.delay(lost)
    outage.delay(lost)
    outage.reset()
    outage.delay(lost)
    with pytest.raises(Unreachable) as caught:
        outage.delay(lost)
    assert caught.value is lost


def test_job_of_the_pool_has_a_backend_from_its_start_to_its_retry() -> None:
    job = {"seq": 2, "run": 1, "job_id": "j_1"}
    frames: list[dict[str, Any]] = [
        {**job, "type": "child_started", "backend_id": "gpu-1"},
        {**job, "type": "child_requeued", "backend_id": None, "reason": "Evicted."},
        {**job, "type": "child_retrying", "backend_id": "gpu-1", "next_backend_id": None},
        {**job, "type": "child_cancelled", "backend_id": None},
        {**job, "type": "child_failed", "backend_id": None, "error": "No candidate."},
    ]
    events = [parse_event(frame) for frame in frames]
    assert [e.backend_id for e in events if isinstance(e, client.ChildEvent)] == [
        *("gpu-1", None, "gpu-1", None, None)
    ]
    assert isinstance(events[2], client.ChildRetrying)
    assert events[2].next_backend_id is None
    reopened = {"type": "group_reopened", "job_ids": ["j_1", "j_2"], "backend_ids": [None, "gpu-2"]}
    again = parse_event({**reopened, "seq": 9, "run": 2})
    assert isinstance(again, GroupReopened)
    assert again.backend_ids == (None, "gpu-2")
    with pytest.raises(client.UnexpectedAnswer):
        parse_event({**job, "type": "child_completed", "backend_id": None, "outputs": {}})


def test_frame_that_was_too_long_is_read_without_its_omitted_values() -> None:
    omitted = {"outputs": None, "warnings": None, "error_details": None}
    frame = {"type": "initial_state", "seq": 1, "job_group_id": "jg_1", "status": "running"}
    state = parse_event({**frame, "child_jobs": [child(1, **omitted)], "truncated": [*omitted]})
    assert isinstance(state, InitialState)
    assert state.group.child_jobs[0].warnings == ()
    done = {"type": "child_completed", "seq": 2, "job_id": "j_1", "backend_id": "gpu-1", **omitted}
    completed = parse_event({**done, "truncated": [*omitted]})
    assert isinstance(completed, client.ChildCompleted)
    assert (completed.outputs.files, completed.warnings) == ((), ())
    reopened = {"type": "group_reopened", "seq": 3, "job_ids": None, "backend_ids": None}
    again = parse_event({**reopened, "truncated": ["backend_ids", "job_ids"]})
    assert isinstance(again, GroupReopened)
    assert again.job_ids == ()
