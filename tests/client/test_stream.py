"""The event stream, over connections that fail."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from director import client
from director.client import (
    ChildProgress,
    ChildStarted,
    Director,
    Event,
    GroupComplete,
    GroupReopened,
    InitialState,
    UnknownEvent,
)
from director.client.backoff import FIRST_DELAY_S, LONGEST_DELAY_S, Outage, ReconnectPolicy
from director.client.errors import Unreachable
from director.client.events import parse_event
from director.client.stream import Position, Stream
from tests.client.driver import Driven
from tests.client.server import FakeDirector, child


def numbers(events: list[Event]) -> list[int]:
    """The seq of every stored event, in the order of arrival."""
    return [e.seq for e in events if e.seq is not None and not isinstance(e, InitialState)]


def listen(server: FakeDirector, group_id: str, events: Iterator[Event]) -> InitialState:
    """Open the stream and wait until the server knows the listener."""
    state = next(events)
    assert isinstance(state, InitialState)
    server.wait_until(lambda: server.listeners(group_id) == 1)
    return state


def open_stream(director: Any, server: FakeDirector, **options: bool) -> tuple[str, Iterator[Event]]:
    """Return a new group and its open stream."""
    group_id = server.group()
    events = director.stream(group_id, **options)
    listen(server, group_id, events)
    return group_id, events


def test_stream_begins_with_the_state_and_ends_with_the_group(either: Driven, server: FakeDirector) -> None:
    group_id = server.group(2, metadata={"scene": "s"})
    events = either.stream(group_id)
    state = listen(server, group_id, events)
    assert (state.seq, state.run, state.group.metadata) == (1, 1, {"scene": "s"})
    assert [c.status for c in state.group.child_jobs] == ["queued", "queued"]
    server.start_child(group_id)
    server.progress(group_id, 65.0)
    server.finish(group_id)
    started, progress, complete = list(events)
    assert isinstance(started, ChildStarted)
    assert isinstance(progress, ChildProgress)
    assert (progress.progress, progress.steps_completed, progress.seq) == (65.0, 13, None)
    assert isinstance(complete, GroupComplete)
    assert (complete.total, complete.succeeded, complete.failed) == (2, 2, 0)
    assert [r.status for r in complete.results] == ["completed", "completed"]
    server.wait_until(lambda: server.listeners(group_id) == 0)


def test_stream_of_a_finished_group_has_its_state_and_end(director: Director, server: FakeDirector) -> None:
    group_id = server.group()
    server.finish(group_id)
    state, complete = list(director.stream(group_id))
    assert (state.seq, complete.seq) == (1, 2)


@pytest.mark.parametrize("code", [4012, 4008, 1011])
def test_stream_resumes_after_a_close(either: Driven, server: FakeDirector, code: int) -> None:
    group_id, events = open_stream(either, server)
    server.start_child(group_id)
    seen = [next(events)]
    server.close(group_id, code)
    server.wait_until(lambda: server.listeners(group_id) == 0)
    for _ in range(3):
        server.record(group_id, "child_blessed", job_id="j")
    server.finish(group_id)
    seen += list(events)
    assert numbers(seen) == [2, 3, 4, 5, 6]
    assert server.connects == [f"/ws/job-groups/{group_id}", f"/ws/job-groups/{group_id}?since=2"]


def test_stream_resumes_after_a_lost_connection(either: Driven, server: FakeDirector) -> None:
    group_id, events = open_stream(either, server)
    seen = []
    for _ in range(3):
        server.wait_until(lambda: server.listeners(group_id) == 1)
        server.tear(group_id)
        server.wait_until(lambda: server.listeners(group_id) == 0)
        server.start_child(group_id)
        seen.append(next(events))
    server.finish(group_id)
    assert numbers(seen + list(events)) == [2, 3, 4, 5]


def test_stream_resumes_after_a_restart(director: Director, server: FakeDirector) -> None:
    group_id, events = open_stream(director, server)
    server.stop()
    server.start_child(group_id)
    back = threading.Timer(0.1, server.restart)
    back.start()
    assert next(events).seq == 2
    back.join()
    server.finish(group_id)
    assert numbers(list(events)) == [3]


def test_stream_gives_up_an_absent_server(server: FakeDirector) -> None:
    group_id = server.group()
    with Director(server.url, give_up_seconds=0.1) as director:
        events = director.stream(group_id)
        listen(server, group_id, events)
        server.stop()
        with pytest.raises(client.Unreachable):
            list(events)
        server.restart()


def test_stream_without_reconnect_raises_after_a_close(director: Director, server: FakeDirector) -> None:
    group_id, events = open_stream(director, server, reconnect=False)
    server.close(group_id, 4012)
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


def test_state_is_sent_again_after_the_log_went_back(director: Director, server: FakeDirector) -> None:
    """A restored database does not have the number of the last event any more."""
    group_id, events = open_stream(director, server)
    for _ in range(3):
        server.start_child(group_id)
        next(events)
    group = server.groups[group_id]
    del group.log[2:]
    group.body["seq"] = 2
    server.close(group_id, 4012)
    resync = next(events)
    assert isinstance(resync, InitialState)
    assert resync.seq == 2
    server.wait_until(lambda: server.listeners(group_id) == 1)
    server.finish(group_id)
    assert numbers(list(events)) == [3]


def test_since_leaves_out_the_state(director: Director, server: FakeDirector) -> None:
    group_id = server.group()
    server.start_child(group_id)
    server.finish(group_id)
    assert numbers(list(director.stream(group_id, since=1))) == [2, 3]
    assert numbers(list(director.stream(group_id, since=0))) == [1, 2, 3]


def test_stream_since_the_end_is_empty(director: Director, server: FakeDirector) -> None:
    group_id = server.group()
    server.finish(group_id)
    assert list(director.stream(group_id, since=2)) == []


def test_end_of_an_earlier_run_does_not_end_the_stream(director: Director, server: FakeDirector) -> None:
    group_id = server.group()
    server.finish(group_id)
    server.reopen(group_id)
    server.finish(group_id)
    events = list(director.stream(group_id, since=0))
    assert numbers(events) == [1, 2, 3, 4]
    assert isinstance(events[2], GroupReopened)
    assert (events[2].run, events[2].job_ids) == (2, (child(1)["job_id"],))


def test_follow_continues_after_the_end(either: Driven, server: FakeDirector) -> None:
    group_id, events = open_stream(either, server, follow=True)
    server.finish(group_id)
    assert isinstance(next(events), GroupComplete)
    server.reopen(group_id)
    assert isinstance(next(events), GroupReopened)
    events.close()
    server.wait_until(lambda: server.listeners(group_id) == 0)


@pytest.mark.parametrize("since", [None, 3])
def test_stream_of_an_unknown_group_raises(director: Director, server: FakeDirector, since: int | None) -> None:
    with pytest.raises(client.GroupNotFound, match="Job group jg_none not found"):
        list(director.stream("jg_none", since=since))


def test_close_code_4404_means_not_found(director: Director, server: FakeDirector) -> None:
    group_id, events = open_stream(director, server)
    server.close(group_id, 4404)
    with pytest.raises(client.GroupNotFound, match=f"Job group {group_id} not found"):
        list(events)


def test_slow_reader_reconnects_at_once() -> None:
    stream = Stream("jg_1", Position(seq=1), Outage(ReconnectPolicy()), follow=False)
    assert stream.delay_after(client.StreamClosed(4008)) == 0.0
    assert stream.delay_after(client.StreamClosed(4012)) > 0.0


def test_error_frame_is_the_reason_of_the_close(director: Director, server: FakeDirector) -> None:
    group_id, events = open_stream(director, server)
    refusal = {"type": "error", "code": "token_expired", "detail": "Sign in again."}
    server.send(group_id, refusal)
    server.close(group_id, 4401)
    with pytest.raises(client.DirectorError, match="Sign in again") as caught:
        list(events)
    assert caught.value.code == "token_expired"


@pytest.mark.parametrize(("status", "kind"), [(403, client.NotAllowed), (404, client.NotFound)])
def test_refused_handshake_has_its_class(
    either: Driven, server: FakeDirector, status: int, kind: type[Exception]
) -> None:
    group_id = server.group()
    server.refuse_sockets = status
    with pytest.raises(kind):
        list(either.stream(group_id))
    assert len(server.connects) == 1


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
    assert isinstance(blessed, UnknownEvent)
    assert (blessed.type, blessed.seq, blessed.raw["blessing"]) == ("child_blessed", 2, "warm")


AT = "2026-02-01T07:01:45.000Z"
JOB = {"job_id": "j_001", "backend_id": "gpu-1"}
IMAGE = {"filename": "a.png", "url": "http://x/a.png", "type": "output"}
RETRY = {"seed": 42, "attempt": 1, "next_backend_id": "gpu-2", "not_before": AT}
RESULTS = [
    {"job_id": "j_001", "status": "completed", "outputs": {"images": []}},
    {"job_id": "j_002", "status": "failed", "error": "CUDA out of memory"},
]
#: Type, class and fields of events as the reference has them.
EVENTS: dict[str, tuple[type[Event], dict[str, Any]]] = {
    "child_completed": (client.ChildCompleted, {**JOB, "seed": 42, "outputs": {"images": [IMAGE]}, "completed_at": AT}),
    "child_failed": (client.ChildFailed, {**JOB, "error": "No memory", "error_type": "ComfyUIError", "failed_at": AT}),
    "child_timeout": (client.ChildTimeout, {**JOB, "timeout_seconds": 300, "timed_out_at": AT}),
    "child_cancelled": (client.ChildCancelled, {**JOB, "cancelled_at": AT}),
    "child_retrying": (client.ChildRetrying, {**JOB, **RETRY, "failure_class": "out_of_memory", "reason": "No memory"}),
    "child_requeued": (client.ChildRequeued, {**JOB, "attempt": 2, "reason": "r"}),
    "group_complete": (
        GroupComplete,
        {"job_group_id": "jg", "total": 2, "succeeded": 1, "failed": 1, "results": RESULTS},
    ),
}


@pytest.mark.parametrize("name", EVENTS)
def test_event_keeps_every_value(name: str) -> None:
    kind, fields = EVENTS[name]
    frame = {"type": name, "seq": 4, "run": 1, **fields}
    event = parse_event(frame)
    assert type(event) is kind
    assert event.raw == frame
    converted = {"outputs", "results", *(field for field in fields if fields[field] == AT)}
    plain = {field: value for field, value in frame.items() if field not in converted}
    assert {field: getattr(event, field) for field in plain} == plain
    for field in fields.keys() & converted - {"outputs", "results"}:
        assert getattr(event, field) == datetime(2026, 2, 1, 7, 1, 45, tzinfo=UTC)
    if isinstance(event, client.ChildCompleted):
        [image] = event.outputs.images
        assert (image.seed, image.backend_id, image.job_id) == (42, "gpu-1", "j_001")
    if isinstance(event, GroupComplete):
        assert [result.status for result in event.results] == ["completed", "failed"]


@pytest.mark.parametrize("frame", [{"type": "child_progress"}, {"type": "group_complete", "total": "3"}])
def test_malformed_event_is_unexpected(frame: dict[str, Any]) -> None:
    with pytest.raises(client.UnexpectedAnswer):
        parse_event(frame)


# ---- reconnection, with a clock of its own


class Clock:
    """Monotonic seconds that a test sets."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_delays_grow_to_a_limit_and_start_over_after_a_success(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("director.client.backoff.FIRST_DELAY_S", FIRST_DELAY_S)
    outage = Outage(ReconnectPolicy(None))
    delays = [outage.delay(Unreachable("away")) for _ in range(20)]
    assert FIRST_DELAY_S / 2 <= delays[0] <= FIRST_DELAY_S
    assert LONGEST_DELAY_S / 2 <= delays[-1] <= LONGEST_DELAY_S
    outage.reset()
    assert outage.delay(Unreachable("away")) <= FIRST_DELAY_S


def test_outage_is_measured_from_its_first_failure() -> None:
    clock = Clock()
    outage = Outage(ReconnectPolicy(10.0, clock))
    lost = Unreachable("away")
    outage.delay(lost)
    clock.now += 9.9
    outage.delay(lost)
    outage.reset()
    clock.now += 50
    outage.delay(lost)
    clock.now += 10
    with pytest.raises(Unreachable) as caught:
        outage.delay(lost)
    assert caught.value is lost


def test_job_of_the_fake_server_has_every_field_of_the_schema() -> None:
    """The fake server must not have fewer fields than the API."""
    schema = "job_id backend_id seed status progress current_step outputs error_message error_type"
    assert set(schema.split()) <= child(1).keys()
