"""Plain calls of the client against a real server."""

from __future__ import annotations

import asyncio
import inspect
import json
import socket
import subprocess
import sys
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from director import client
from director.client import AsyncDirector, Director
from director.client.errors import error_from_answer
from director.client.transport import Address, client_options
from tests.client.driver import Driven
from tests.client.server import FakeDirector, child

WORKFLOW = {"3": {"class_type": "KSampler", "inputs": {"seed": 1, "steps": 20}}}
MOMENT = "2026-02-02T03:12:41.250Z"


def bodies(server: FakeDirector, method: str, path: str) -> list[Any]:
    return [json.loads(body) for _, body in server.sent(method, path)]


def test_importing_the_client_imports_no_server() -> None:
    code = (
        "import sys, director.client\n"
        "banned = ('django', 'rest_framework', 'channels', 'aiohttp', 'jobgroups', 'backends')\n"
        "found = sorted(m for m in sys.modules if m.split('.')[0] in banned)\n"
        "sys.exit(', '.join(found) or 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_methods_have_signatures_and_docstrings_in_both_clients() -> None:
    def methods(kind: type) -> dict[str, Any]:
        return {n: m for n, m in inspect.getmembers(kind) if not n.startswith("_")}

    blocking, awaited = methods(Director), methods(AsyncDirector)
    assert {"submit", "stream", "close"} <= blocking.keys()
    assert blocking.keys() == awaited.keys()
    for name, method in blocking.items():
        assert inspect.signature(method) == inspect.signature(awaited[name])
        assert "self" in inspect.signature(method).parameters
        assert method.__doc__ == awaited[name].__doc__ != ""
        assert not inspect.iscoroutinefunction(method)
    assert inspect.iscoroutinefunction(awaited["submit"])
    with Director() as director:
        assert list(inspect.signature(director.status).parameters) == ["group_id"]


def test_blocking_client_works_inside_an_event_loop(server: FakeDirector) -> None:
    async def use() -> list[str]:
        with Director(server.url) as director:
            return [event.type for event in director.stream(group_id)]

    group_id = server.group()
    server.finish(group_id)
    assert asyncio.run(use()) == ["initial_state", "group_complete"]


def test_every_public_name_exists() -> None:
    assert all(hasattr(client, name) for name in client.__all__)


def test_submit_sends_every_option(either: Driven, server: FakeDirector) -> None:
    options = {
        "parameters": {"steps": 30},
        "seed_strategy": "sequential",
        "base_seed": 42,
        "metadata": {"scene": "é"},
        "timeout_seconds": 60,
        "required_capabilities": ["24gb"],
        "max_attempts": 3,
        "retry_elsewhere": True,
        "retry_on": ["out_of_memory"],
        "partial_outputs": "fail",
        "submitter": "ann",
    }
    group = either.submit(WORKFLOW, ["a_8188", "b_8188"], **options)
    [(headers, body)] = server.sent("POST", "/api/job-group")
    sent = {"workflow_json": WORKFLOW, "backend_ids": ["a_8188", "b_8188"]}
    assert json.loads(body) == {**sent, **options}
    assert headers["content-type"] == "application/json"
    assert headers["accept-encoding"] == "identity"
    assert [c.backend_id for c in group.child_jobs] == ["a_8188", "b_8188"]
    assert [c.seed for c in group.child_jobs] == [42, 43]
    assert group.created_at == datetime(2026, 2, 1, 7, tzinfo=UTC)
    assert group.total_count == 2
    assert not group.replayed


def test_submit_sends_only_given_options(director: Director, server: FakeDirector) -> None:
    first = director.submit(WORKFLOW, ["a_8188"])
    second = director.submit(WORKFLOW, ["a_8188"], metadata={"scene": "\ud800"})
    assert first.job_group_id != second.job_group_id
    (_, plain), (_, surrogate) = server.sent("POST", "/api/job-group")
    assert set(json.loads(plain)) == {"workflow_json", "backend_ids"}
    assert rb"\ud800" in surrogate


def test_submit_repeats_a_lost_answer_with_its_key(either: Driven, server: FakeDirector) -> None:
    server.lose["POST", "/api/job-group"] = 2
    group = either.submit(WORKFLOW, ["a_8188"])
    requests = server.sent("POST", "/api/job-group")
    assert len(requests) == 3
    assert len({headers["idempotency-key"] for headers, _ in requests}) == 1
    assert list(server.groups) == [group.job_group_id]
    assert group.replayed


def test_submit_uses_the_key_of_the_caller(director: Director, server: FakeDirector) -> None:
    first = director.submit(WORKFLOW, ["a_8188"], idempotency_key="shot 1")
    again = director.submit(WORKFLOW, ["a_8188"], idempotency_key="shot 1")
    assert again.job_group_id == first.job_group_id
    assert again.replayed
    with pytest.raises(client.IdempotencyConflict):
        director.submit(WORKFLOW, ["b_8188"], idempotency_key="shot 1")


def test_wrong_arguments_send_nothing(director: Any, server: FakeDirector) -> None:
    with pytest.raises(TypeError, match="backend_ids"):
        director.submit(WORKFLOW, "localhost_8188")
    with pytest.raises(TypeError, match="job_ids"):
        director.retry("jg_1", "j_1")
    with pytest.raises(TypeError, match="priority"):
        director.submit(WORKFLOW, ["a"], priority=3)
    with pytest.raises(ValueError, match="empty"):
        director.status("")
    with pytest.raises(ValueError, match="time zone"):
        list(director.list(created_before=datetime(2026, 2, 1)))  # noqa: DTZ001 as tested
    assert server.requests == []


def test_status_has_all_fields_of_its_jobs(either: Driven, server: FakeDirector) -> None:
    group_id = server.group(2, metadata={"big": 2**70, "z": 1, "a": 2}, added_later=[1])
    image = {"filename": "a.png", "url": "http://gpu/view?filename=a.png"}
    outputs = {"images": [image], "gifs": [{"filename": "b.gif", "url": "u"}], "text": ["hello"]}
    server.groups[group_id].body["child_jobs"][1].update(
        status="completed", outputs={**outputs, "prompt_id": "p"}, completed_at="2026-02-01T07:01:30.500Z"
    )
    group = either.status(group_id)
    waiting, done = group.child_jobs
    assert (waiting.outputs, waiting.images, waiting.progress) == (None, (), 0.0)
    assert waiting.attempt_count == 1
    assert [(f.kind, f.filename) for f in done.files] == [("images", "a.png"), ("gifs", "b.gif")]
    assert [(i.seed, i.backend_id, i.job_id) for i in group.images] == [(43, "gpu2_8188", done.job_id)]
    assert done.outputs is not None
    assert done.outputs.prompt_id == "p"
    assert done.outputs.raw["text"] == ["hello"]
    assert done.completed_at == datetime(2026, 2, 1, 7, 1, 30, 500_000, tzinfo=UTC)
    assert group.metadata == {"big": 2**70, "z": 1, "a": 2}
    assert list(group.metadata) == ["big", "z", "a"]
    assert group.raw["added_later"] == [1]
    assert not group.finished


def test_status_of_the_reference_is_parsed(director: Director, server: FakeDirector) -> None:
    """The examples of the reference have few fields."""
    running = {"job_id": "j_002", "backend_id": "b", "seed": 8, "status": "running", "progress": 65}
    failed = {"job_id": "j_003", "backend_id": "c", "seed": 9, "status": "failed"}
    failed |= {"error_message": "CUDA out of memory", "error_type": "ComfyUIError"}
    body = {
        "job_group_id": "jg_abc123def456",
        "status": "partial_complete",
        "child_jobs": [running, failed],
        "completed_count": 1,
        "failed_count": 1,
        "total_count": 3,
        "created_at": "2026-02-01T07:00:00.000Z",
        "completed_at": None,
    }
    server.answers["GET", "/api/job-groups/jg_abc123def456"] = (200, body)
    group = director.status("jg_abc123def456")
    assert [c.progress for c in group.child_jobs] == [65.0, 0.0]
    assert group.child_jobs[1].error_message == "CUDA out of memory"
    assert group.total_count == 3


def test_job_and_workflow_are_read(director: Director, server: FakeDirector) -> None:
    attempt = {"number": 1, "run": 1, "prompt_id": "p1", "outcome": "success"}
    path = "/api/job-groups/jg_1"
    server.answers["GET", f"{path}/jobs/j_1"] = (200, {**child(1), "attempts": [attempt]})
    missing = {"detail": "Job j_2 not found", "code": "job_not_found"}
    server.answers["GET", f"{path}/jobs/j_2"] = (404, missing)
    graph = {"9": {"class_type": "B", "inputs": {}}, "1": {"class_type": "A", "inputs": {"z": 1, "a": 2}}}
    server.answers["GET", f"{path}/workflow"] = (200, graph)
    job = director.job("jg_1", "j_1")
    assert [(a.number, a.prompt_id, a.outcome) for a in job.attempts] == [(1, "p1", "success")]
    assert job.attempt_count == 1
    with pytest.raises(client.JobNotFound):
        director.job("jg_1", "j_2")
    assert json.dumps(director.workflow("jg_1")) == json.dumps(graph)


def test_events_are_read_since_a_number(director: Director, server: FakeDirector) -> None:
    group_id = server.group()
    server.start_child(group_id)
    server.finish(group_id)
    assert [e.seq for e in director.events(group_id)] == [1, 2, 3]
    started, complete = director.events(group_id, since=1)
    assert isinstance(started, client.ChildStarted)
    assert isinstance(complete, client.GroupComplete)


def test_list_reads_the_next_page_when_needed(either: Driven, server: FakeDirector) -> None:
    ids = [server.group() for _ in range(5)]
    groups = either.list(status="running", metadata={"scene": "a b", "panel": 3}, limit=2)
    assert next(groups).job_group_id == ids[-1]
    assert len(server.requests) == 1
    assert [g.job_group_id for g in groups] == ids[-2::-1]
    queries = [path.partition("?")[2] for _, path, _, _ in server.requests]
    first = "status=running&metadata.scene=a%20b&metadata.panel=3&limit=2"
    assert [q.replace("+", "%20") for q in queries] == [first, f"{first}&cursor=2", f"{first}&cursor=4"]
    assert list(either.list(created_after=datetime(2027, 2, 1, 7, tzinfo=UTC), limit=1)) != []
    assert "created_after=2027-02-01T07:00:00.000Z" in server.requests[3][1].replace("%3A", ":")


def test_cancellation_is_not_repeated_after_a_lost_answer(either: Driven, server: FakeDirector) -> None:
    path = "/api/job-groups/jg_1"
    counts = {"interrupted": 3, "already_complete": 0, "already_failed": 0}
    server.answers["DELETE", path] = (200, {"cancelled": True, **counts})
    server.lose["DELETE", path] = 1
    with pytest.raises(client.Unreachable) as caught:
        either.cancel("jg_1")
    assert caught.value.maybe_received
    assert len(server.sent("DELETE", path)) == 1
    done = either.cancel("jg_1")
    assert (done.cancelled, done.interrupted) == (True, 3)


def test_retry_sends_its_options_once(director: Director, server: FakeDirector) -> None:
    path = "/api/job-groups/jg_1"
    result = {"job_group_id": "jg_1", "run": 2, "status": "running", "job_ids": ["j_1"]}
    answer = {**result, "adopted_job_ids": [], "moved": {"j_1": "gpu-2"}}
    server.answers["POST", f"{path}/retry"] = (200, answer)
    server.answers["POST", f"{path}/jobs/j_2/retry"] = (200, answer)
    done = director.retry("jg_1", ["j_1"], retry_elsewhere="any", run=1)
    assert (done.run, done.status, done.job_ids) == (2, "running", ("j_1",))
    assert done.moved == {"j_1": "gpu-2"}
    director.retry("jg_1", where="auto", by="anna")
    director.retry_job("jg_1", "j_2", retry_elsewhere=False)
    director.retry_job("jg_1", "j_2", backend_id="gpu-3")
    server.lose["POST", f"{path}/retry"] = 1
    with pytest.raises(client.Unreachable):
        director.retry("jg_1")
    assert bodies(server, "POST", f"{path}/retry") == [
        {"retry_elsewhere": "any", "run": 1, "job_ids": ["j_1"]},
        {"where": "auto", "by": "anna"},
        {},
    ]
    assert bodies(server, "POST", f"{path}/jobs/j_2/retry") == [{"retry_elsewhere": False}, {"backend_id": "gpu-3"}]


def test_move_is_repeated_after_a_lost_answer(director: Director, server: FakeDirector) -> None:
    path = "/api/job-groups/jg_1/jobs/j_2/move"
    answer = {"job_group_id": "jg_1", "job_id": "j_2", "backend_id": "gpu-3", "moved": True}
    server.answers["POST", path] = (200, {**answer, "removing_from": "gpu-2"})
    server.lose["POST", path] = 1
    done = director.move("jg_1", "j_2", "gpu-3", by="anna")
    assert (done.job_id, done.backend_id, done.moved) == ("j_2", "gpu-3", True)
    assert done.removing_from == "gpu-2"
    assert bodies(server, "POST", path) == [{"backend_id": "gpu-3", "by": "anna"}] * 2


def test_absent_server_is_unreachable(server: FakeDirector) -> None:
    server.stop()
    url = server.url.replace("://", "://me:secret@")
    for kind in (Director, Driven):
        with kind(url) as director, pytest.raises(client.Unreachable) as caught:
            director.cancel("jg_000000000001")
        assert not caught.value.maybe_received
        assert server.url in str(caught.value)
        assert "secret" not in str(caught.value)
    server.restart()


def test_silent_server_is_unreachable_after_the_timeout() -> None:
    assert client_options(30.0)["timeout"] == httpx.Timeout(30.0, connect=5.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        for kind in (Director, Driven):
            with kind(url, timeout=0.1) as director, pytest.raises(client.Unreachable) as caught:
                director.cancel("jg_1")
            assert caught.value.maybe_received


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "invalid_request", client.BadRequest),
        (400, "no_online_backends", client.NoOnlineBackends),
        (400, "too_many_children", client.TooManyChildren),
        (401, "not_signed_in", client.NotAllowed),
        (403, "forbidden", client.NotAllowed),
        (404, "group_not_found", client.GroupNotFound),
        (409, "group_not_finished", client.GroupNotFinished),
        (409, "run_passed", client.RunPassed),
        (409, "nothing_to_retry", client.NothingToRetry),
        (409, "job_completed", client.JobCompleted),
        (409, "backend_unavailable", client.BackendUnavailable),
        (409, "job_not_failed", client.JobNotFailed),
        (409, "job_not_waiting", client.JobNotWaiting),
        (409, "no_other_backend", client.NoOtherBackend),
        (404, "backend_not_found", client.BackendNotFound),
        (404, "not_found", client.NotFound),
        (405, "method_not_allowed", client.DirectorError),
        (409, "backend_in_use", client.BackendInUse),
        (409, "added_later", client.Conflict),
        (413, "too_large", client.PayloadTooLarge),
        (429, "throttled", client.TooManyRequests),
        (500, "internal_error", client.ServerFault),
        (502, "bad_gateway", client.ServerFault),
        (503, "runner_absent", client.RunnerAbsent),
        (503, "added_later", client.Unavailable),
    ],
)
def test_each_error_has_its_class(status: int, code: str, kind: type[Exception]) -> None:
    body = json.dumps({"detail": "A sentence.", "code": code}).encode()
    error = error_from_answer(status, body)
    assert type(error) is kind
    assert (error.status, error.code, error.detail) == (status, code, "A sentence.")


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ((502, "<html>nginx</html>"), client.ServerFault),
        ((302, {}), client.UnexpectedAnswer),
        ((200, "<html>hello</html>"), client.UnexpectedAnswer),
        ((200, []), client.UnexpectedAnswer),
        ((200, {}), client.UnexpectedAnswer),
        ((200, {"backends": [{"name": 1}]}), client.UnexpectedAnswer),
    ],
)
def test_other_answers_are_errors(
    either: Driven, server: FakeDirector, answer: tuple[int, object], kind: type[Exception]
) -> None:
    server.answers["GET", "/api/backends"] = answer
    with pytest.raises(client.DirectorError) as caught:
        either.backends()
    assert type(caught.value) is kind
    assert caught.value.code is None


FIRST = {"field": "timeout_seconds", "message": "Must be an integer from 30 to 3600."}
SECOND = {"field": "backend_ids", "message": "Must have at least one entry."}
FIRST_TEXT = "timeout_seconds: Must be an integer from 30 to 3600."
UNKNOWN = "Unknown: no backend has this id."


@pytest.mark.parametrize(
    ("detail", "fields", "text"),
    [
        (FIRST_TEXT, {"errors": [FIRST]}, FIRST_TEXT),
        (
            f"{FIRST_TEXT} (1 more in errors.)",
            {"errors": [FIRST, SECOND]},
            f"{FIRST_TEXT} backend_ids: Must have at least one entry.",
        ),
        ("The body is empty.", {"errors": []}, "The body is empty."),
        (
            "No valid online backends available",
            {
                "code": "no_online_backends",
                "errors": [{"field": "base_seed", "message": "Too big."}],
                "skipped_backends": [
                    *({"backend_id": name, "reason": UNKNOWN} for name in ("a", "b", "a")),
                    "nonsense",
                ],
            },
            f"No valid online backends available. base_seed: Too big. a: {UNKNOWN} b: {UNKNOWN}",
        ),
    ],
)
def test_text_of_a_bad_request_has_each_sentence_once(detail: str, fields: dict[str, Any], text: str) -> None:
    error = error_from_answer(400, json.dumps({"detail": detail, **fields}).encode())
    assert isinstance(error, client.BadRequest)
    assert (str(error), error.detail) == (text, detail)
    assert [(e.field, e.message) for e in error.errors] == [(e["field"], e["message"]) for e in fields["errors"]]
    if isinstance(error, client.NoOnlineBackends):
        assert error.skipped_backends == (("a", UNKNOWN), ("b", UNKNOWN), ("a", UNKNOWN))


BACKEND = {
    "backend_id": "a_8188",
    "name": "a",
    "url": "http://a:8188",
    "enabled": True,
    "status": "quarantined",
    "status_reason": "it smokes",
    "status_since": MOMENT,
    "status_by": "anna",
    "queue_ours": 1,
    "queue_foreign": 2,
    "running": 1,
    "hold": "pause",
    "evict": True,
    "changed_by": "ben",
    "changed_reason": None,
    "changed_at": MOMENT,
    "quarantine": {"since": MOMENT, "until": None, "reason": "it smokes", "by": "anna"},
    "on_probation": False,
    "tags": ["24gb"],
    "devices": [{"name": "cuda:0", "vram_total": 2**34, "vram_free": 2**33, "index": 0}],
    "comfyui_version": "0.3.60",
    "last_seen_at": None,
}
AT = datetime(2026, 2, 2, 3, 12, 41, 250_000, tzinfo=UTC)


def test_backends_are_listed_added_changed_and_removed(either: Driven, server: FakeDirector) -> None:
    server.answers.update(
        {
            ("GET", "/api/backends"): (200, {"backends": [BACKEND]}),
            ("GET", "/api/backends/a_8188"): (200, BACKEND),
            ("POST", "/api/backends"): (201, BACKEND),
            ("PATCH", "/api/backends/a_8188"): (200, {**BACKEND, "enabled": False}),
            ("DELETE", "/api/backends/a_8188"): (204, ""),
        }
    )
    [listed] = either.backends()
    assert listed == either.backend("a_8188")
    assert listed == either.add_backend("http://a:8188", tags=["24gb"], headers={"X": "y"})
    assert listed.devices == (client.Device(name="cuda:0", vram_total=2**34, vram_free=2**33),)
    assert listed.quarantine == client.Quarantine(since=AT, reason="it smokes", by="anna")
    assert (listed.hold, listed.evict, listed.changed_by) == ("pause", True, "ben")
    assert not either.update_backend("a_8188", enabled=False, tags=[]).enabled
    assert either.delete_backend("a_8188") is None
    added = {"url": "http://a:8188", "tags": ["24gb"], "headers": {"X": "y"}}
    assert bodies(server, "POST", "/api/backends") == [added]
    changed = {"enabled": False, "tags": []}
    assert bodies(server, "PATCH", "/api/backends/a_8188") == [changed]
    old = {name: BACKEND[name] for name in ("backend_id", "name", "url", "enabled", "status")}
    server.answers["GET", "/api/backends/a_8188"] = (200, old)
    older = either.backend("a_8188")
    assert (older.hold, older.quarantine, older.changed_at) == (None, None, None)


@pytest.mark.parametrize(
    ("action", "options", "sent"),
    [
        ("pause", {}, {"now": False}),
        ("pause", {"now": True, "reason": "lunch", "by": "anna"}, None),
        ("drain", {"now": True}, None),
        ("resume", {"by": "anna"}, None),
        ("quarantine", {"minutes": 5, "reason": "x"}, None),
        ("quarantine", {}, None),
        ("release", {"by": "anna"}, None),
    ],
)
def test_hold_of_a_backend_is_changed(
    director: Director, server: FakeDirector, action: str, options: dict[str, Any], sent: dict[str, Any] | None
) -> None:
    path = f"/api/backends/a_8188/{action}"
    server.answers["POST", path] = (200, BACKEND)
    assert getattr(director, f"{action}_backend")("a_8188", **options).status == "quarantined"
    assert bodies(server, "POST", path) == [options if sent is None else sent]


def test_addresses_are_probed_and_found_comfyuis_are_added_or_ignored(director: Director, server: FakeDirector) -> None:
    new = {"url": "http://a:8188", "backend_id": None, "comfyui_version": "0.3.60", "devices": []}
    new |= {"first_seen_at": MOMENT, "last_seen_at": MOMENT, "ignored": False, "ignored_at": None}
    ignored = {**new, "ignored": True, "ignored_at": MOMENT}
    away = {**new, "ok": False, "comfyui_version": None, "reason": "No connection."}
    server.answers["POST", "/api/backends/find"] = (200, {"found": [{**new, "reason": None}]})
    server.answers["POST", "/api/backends/test"] = (200, away)
    server.answers["GET", "/api/backends/found"] = (200, {"found": [new, ignored]})
    server.answers["POST", "/api/backends/found/add"] = (201, BACKEND)
    server.answers["POST", "/api/backends/found/ignore"] = (200, ignored)
    server.answers["POST", "/api/backends/found/unignore"] = (200, new)
    [found] = director.find_backends()
    assert (found.ok, found.url, found.comfyui_version) == (True, "http://a:8188", "0.3.60")
    tested = director.test_backend("a:8188", headers={"X": "y"})
    assert (tested.ok, tested.reason) == (False, "No connection.")
    sent = {"url": "a:8188", "headers": {"X": "y"}}
    assert bodies(server, "POST", "/api/backends/test") == [sent]
    first, second = director.found_backends()
    assert (first.ignored, second.ignored, first.last_seen_at) == (False, True, AT)
    assert director.add_found_backend("localhost:8198").backend_id == "a_8188"
    assert director.ignore_backend("localhost:8198").ignored
    assert not director.unignore_backend("localhost:8198").ignored
    for decision in ("add", "ignore", "unignore"):
        sent = {"url": "localhost:8198"}
        assert bodies(server, "POST", f"/api/backends/found/{decision}") == [sent]


def test_failures_are_read_with_their_rows(director: Director, server: FakeDirector) -> None:
    counts = {"groups": 2, "failures": 4, "failed_jobs": 3, "retrying": 1}
    row = {
        "failure_class": "timeout",
        "backend_id": "gpu-2",
        "workflow": "5f1c0b9a77e3f2d4",
        "workflow_name": "shot_001",
        **counts,
        "first_at": MOMENT,
        "last_at": MOMENT,
        "example": None,
    }
    body = {"window": "7d", "since": MOMENT, "failed_jobs": 3, "results": [row], "recovered": []}
    server.answers["GET", "/api/failures"] = (200, body)
    found = director.failures("7d")
    assert (found.failed_jobs, found.recovered, found.raw) == (3, (), body)
    [only] = found.results
    assert {name: getattr(only, name) for name in counts} == counts
    assert only.last_at == AT


def test_workflow_of_a_png_is_read(director: Director, server: FakeDirector) -> None:
    server.answers["POST", "/api/workflow-from-png"] = (200, {"workflow_json": WORKFLOW})
    assert director.workflow_from_png(b"\x89PNG\r\n") == WORKFLOW
    [(headers, sent)] = server.sent("POST", "/api/workflow-from-png")
    assert (headers["content-type"], sent) == ("image/png", b"\x89PNG\r\n")


def test_health_is_returned_also_if_it_is_bad(director: Director, server: FakeDirector) -> None:
    for status, word in ((200, "ok"), (503, "down")):
        body = {"status": word, "version": "0.1.0", "checks": {"runner": {"status": word}}}
        server.answers["GET", "/api/health"] = (status, body)
        health = director.health()
        assert (health.status, health.checks["runner"]["status"]) == (word, word)
    server.answers["GET", "/api/health"] = (503, "<html>nginx</html>")
    with pytest.raises(client.Unavailable):
        director.health()


@pytest.mark.parametrize("group_id", ["..", ".", "a/b", "a?b#c", "ü %2F", "\ud800"])
def test_odd_id_is_one_segment_of_the_path(director: Director, server: FakeDirector, group_id: str) -> None:
    with pytest.raises(client.NotFound):
        director.status(group_id)
    [(_, path, _, _)] = server.requests
    assert path.startswith("/api/job-groups/")


def test_proxy_of_the_environment_is_not_used(server: FakeDirector, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    group_id = server.group()
    server.finish(group_id)
    for kind in (Director, Driven):
        with kind(server.url) as director:
            assert director.status(group_id).finished
            assert len(list(director.stream(group_id))) == 2


def test_token_is_sent_to_the_director_only() -> None:
    address = Address.parse("https://farm.example/director/", "secret")
    sent = address.headers_for("https://farm.example:443/director/api/health")
    assert sent["Authorization"] == "Bearer secret"
    for elsewhere in ("http://farm.example/", "https://farm.example:8188/view", "https://gpu/"):
        assert "Authorization" not in address.headers_for(elsewhere)


@pytest.mark.parametrize("url", ["localhost:9820", "ftp://x", "http://", "http://x?y=1", "http://x:y", ""])
def test_wrong_address_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="address"):
        Director(url)
