"""Plain calls of the client, blocking and asynchronous, against a real server."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from director import client
from director.client import AsyncDirector, Director
from director.client.transport import Address
from tests.unit.client_driver import Driven, client_kinds
from tests.unit.client_server import FakeDirector

WORKFLOW = {"3": {"class_type": "KSampler", "inputs": {"seed": 1, "steps": 20}}}


@pytest.fixture
def server() -> Iterator[FakeDirector]:
    with FakeDirector() as fake:
        yield fake


@pytest.fixture(params=client_kinds())
def director(request: pytest.FixtureRequest, server: FakeDirector) -> Iterator[Driven]:
    with request.param(server.url) as driven:
        yield driven


def test_importing_the_client_imports_no_server() -> None:
    code = (
        "import sys, director.client\n"
        "banned = ('django', 'rest_framework', 'channels', 'aiohttp', 'jobgroups', 'backends')\n"
        "found = sorted(m for m in sys.modules if m.split('.')[0] in banned)\n"
        "sys.exit(', '.join(found) or 0)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr


def test_both_clients_have_the_same_methods_with_the_same_arguments() -> None:
    def arguments(kind: type) -> dict[str, list[str]]:
        public = {n: m for n, m in inspect.getmembers(kind) if not n.startswith("_")}
        return {
            n: [str(p) for p in inspect.signature(m).parameters.values()] for n, m in public.items()
        }

    assert arguments(Director) == arguments(AsyncDirector)
    assert "stream" in arguments(Director)


def test_every_public_name_exists() -> None:
    assert all(hasattr(client, name) for name in client.__all__)


def test_submitting_sends_what_was_given_and_returns_the_children(
    director: Driven, server: FakeDirector
) -> None:
    group = director.submit(
        WORKFLOW,
        ["a_8188", "b_8188"],
        parameters={"steps": 30},
        seed_strategy="sequential",
        base_seed=42,
        metadata={"scene": "é"},
        timeout_seconds=60,
        required_capabilities=["24gb"],
        max_attempts=3,
        retry_elsewhere=True,
        retry_on=["out_of_memory"],
        partial_outputs="fail",
        submitter="ann",
    )
    [(headers, body)] = server.sent("POST", "/api/job-group")
    assert json.loads(body) == {
        "workflow_json": WORKFLOW,
        "backend_ids": ["a_8188", "b_8188"],
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
    assert headers["content-type"] == "application/json"
    assert headers["accept-encoding"] == "identity"
    assert [c.backend_id for c in group.child_jobs] == ["a_8188", "b_8188"]
    assert [c.seed for c in group.child_jobs] == [42, 43]
    assert group.created_at == datetime(2026, 2, 1, 7, tzinfo=UTC)
    assert group.total_count == 2
    assert not group.replayed


def test_what_is_left_out_is_not_sent(director: Driven, server: FakeDirector) -> None:
    director.submit(WORKFLOW, ["a_8188"])
    [(_, body)] = server.sent("POST", "/api/job-group")
    assert set(json.loads(body)) == {"workflow_json", "backend_ids"}


def test_a_lost_answer_to_a_submission_makes_no_second_group(
    director: Driven, server: FakeDirector
) -> None:
    server.lose["POST", "/api/job-group"] = 2
    group = director.submit(WORKFLOW, ["a_8188"])
    tries = server.sent("POST", "/api/job-group")
    assert len(tries) == 3
    assert len({headers["idempotency-key"] for headers, _ in tries}) == 1
    assert list(server.groups) == [group.job_group_id]
    assert group.replayed


def test_two_submissions_make_two_groups(director: Driven, server: FakeDirector) -> None:
    ids = {director.submit(WORKFLOW, ["a_8188"]).job_group_id for _ in range(2)}
    assert ids == set(server.groups)
    assert len(ids) == 2


def test_a_key_of_the_callers_own_is_used(director: Driven, server: FakeDirector) -> None:
    first = director.submit(WORKFLOW, ["a_8188"], idempotency_key="shot 1")
    again = director.submit(WORKFLOW, ["a_8188"], idempotency_key="shot 1")
    assert again.job_group_id == first.job_group_id
    assert again.replayed
    with pytest.raises(client.IdempotencyConflict):
        director.submit(WORKFLOW, ["b_8188"], idempotency_key="shot 1")


def test_one_string_as_backend_ids_is_refused_before_anything_is_sent(
    director: Driven, server: FakeDirector
) -> None:
    with pytest.raises(TypeError, match="backend_ids"):
        director.submit(WORKFLOW, "localhost_8188")
    assert server.requests == []


def test_a_lone_surrogate_reaches_the_server(director: Driven, server: FakeDirector) -> None:
    director.submit(WORKFLOW, ["a_8188"], metadata={"scene": "\ud800"})
    [(_, body)] = server.sent("POST", "/api/job-group")
    assert rb"\ud800" in body


def test_a_status_tells_all_of_its_children(director: Driven, server: FakeDirector) -> None:
    group_id = server.group(2, metadata={"big": 2**70, "z": 1, "a": 2}, added_later=[1])
    image = {"filename": "a.png", "url": "http://gpu/view?filename=a.png"}
    outputs = {"images": [image], "gifs": [{"filename": "b.gif", "url": "u"}], "text": ["hello"]}
    server.groups[group_id].body["child_jobs"][1].update(
        status="completed",
        outputs={**outputs, "prompt_id": "p"},
        completed_at="2026-02-01T07:01:30.500Z",
    )
    group = director.status(group_id)
    waiting, done = group.child_jobs
    assert (waiting.outputs, waiting.images, waiting.progress) == (None, (), 0.0)
    assert waiting.attempt_count == 1
    assert [(f.kind, f.filename) for f in done.files] == [("images", "a.png"), ("gifs", "b.gif")]
    assert [(i.seed, i.backend_id, i.job_id) for i in group.images] == [
        (43, "gpu2_8188", done.job_id)
    ]
    assert done.outputs is not None
    assert done.outputs.prompt_id == "p"
    assert done.outputs.raw["text"] == ["hello"]
    assert done.completed_at == datetime(2026, 2, 1, 7, 1, 30, 500_000, tzinfo=UTC)
    assert group.metadata == {"big": 2**70, "z": 1, "a": 2}
    assert list(group.metadata) == ["big", "z", "a"]
    assert group.raw["added_later"] == [1]
    assert not group.finished


def test_the_answers_of_the_reference_are_understood(
    director: Driven, server: FakeDirector
) -> None:
    """Its examples leave out most of what the contract adds."""
    server.answers["GET", "/api/job-groups/jg_abc123def456"] = (
        200,
        {
            "job_group_id": "jg_abc123def456",
            "status": "partial_complete",
            "child_jobs": [
                {
                    "job_id": "j_002",
                    "backend_id": "b",
                    "seed": 8,
                    "status": "running",
                    "progress": 65,
                },
                {
                    "job_id": "j_003",
                    "backend_id": "c",
                    "seed": 9,
                    "status": "failed",
                    "error_message": "CUDA out of memory",
                    "error_type": "ComfyUIError",
                },
            ],
            "completed_count": 1,
            "failed_count": 1,
            "total_count": 3,
            "created_at": "2026-02-01T07:00:00.000Z",
            "completed_at": None,
        },
    )
    group = director.status("jg_abc123def456")
    assert [c.progress for c in group.child_jobs] == [65.0, 0.0]
    assert group.child_jobs[1].error_message == "CUDA out of memory"
    assert group.total_count == 3


def test_a_job_comes_with_its_attempts(director: Driven, server: FakeDirector) -> None:
    group_id = server.group()
    child = director.job(group_id, "j_000000000001")
    [attempt] = child.attempts
    assert (attempt.number, attempt.prompt_id, attempt.outcome) == (1, "p1", "success")
    assert child.attempt_count == 1
    with pytest.raises(client.JobNotFound):
        director.job(group_id, "j_0000000000ff")


def test_the_workflow_comes_back_equal_and_in_order(director: Driven) -> None:
    graph = {
        "9": {"class_type": "B", "inputs": {}},
        "1": {"class_type": "A", "inputs": {"z": 1, "a": 2}},
    }
    group = director.submit(graph, ["a_8188"])
    assert json.dumps(director.workflow(group.job_group_id)) == json.dumps(graph)


def test_events_since_a_number_are_listed(director: Driven, server: FakeDirector) -> None:
    group_id = server.group()
    server.start_child(group_id)
    server.finish(group_id)
    assert [e.seq for e in director.events(group_id)] == [1, 2, 3]
    started, complete = director.events(group_id, since=1)
    assert isinstance(started, client.ChildStarted)
    assert isinstance(complete, client.GroupComplete)


def test_listing_reads_one_page_after_the_other(director: Driven, server: FakeDirector) -> None:
    ids = [server.group() for _ in range(5)]
    groups = director.list(status="running", metadata={"scene": "a b", "panel": 3}, limit=2)
    assert next(groups).job_group_id == ids[-1]
    assert len(server.requests) == 1
    assert [g.job_group_id for g in groups] == ids[-2::-1]
    queries = [path.partition("?")[2] for _, path, _, _ in server.requests]
    first = "status=running&metadata.scene=a%20b&metadata.panel=3&limit=2"
    assert [q.replace("+", "%20") for q in queries] == [
        first,
        f"{first}&cursor=2",
        f"{first}&cursor=4",
    ]


def test_listing_by_time_speaks_utc(director: Driven, server: FakeDirector) -> None:
    assert list(director.list(created_after=datetime(2026, 2, 1, 7, tzinfo=UTC))) == []
    assert "created_after=2026-02-01T07%3A00%3A00.000Z" in server.requests[0][1].replace(":", "%3A")
    with pytest.raises(ValueError, match="time zone"):
        list(director.list(created_before=datetime(2026, 2, 1)))  # noqa: DTZ001 what it refuses


def test_cancelling_counts_what_it_cancelled(director: Driven, server: FakeDirector) -> None:
    group_id = server.group(3)
    first = director.cancel(group_id)
    again = director.cancel(group_id)
    assert (first.cancelled, first.interrupted) == (True, 3)
    assert (again.cancelled, again.interrupted) == (True, 0)


def test_a_cancellation_without_an_answer_is_not_repeated(
    director: Driven, server: FakeDirector
) -> None:
    group_id = server.group(3)
    server.lose["DELETE", f"/api/job-groups/{group_id}"] = 1
    with pytest.raises(client.Unreachable) as caught:
        director.cancel(group_id)
    assert caught.value.maybe_received
    assert len(server.sent("DELETE", f"/api/job-groups/{group_id}")) == 1


def test_a_retry_says_what_waits_again(director: Driven, server: FakeDirector) -> None:
    group_id = server.group(2)
    with pytest.raises(client.GroupNotFinished):
        director.retry(group_id)
    server.finish(group_id)
    done = director.retry(group_id, ["j_1"], retry_elsewhere="any", run=1)
    assert (done.run, done.status, done.job_ids) == (2, "running", ("j_1",))
    assert done.moved == {"j_1": "gpu-2"}
    server.finish(group_id)
    assert director.retry_job(group_id, "j_2", retry_elsewhere=False).run == 3
    bodies = [json.loads(b) for _, b in server.sent("POST", f"/api/job-groups/{group_id}/retry")]
    assert bodies == [{}, {"retry_elsewhere": "any", "run": 1, "job_ids": ["j_1"]}]
    path = f"/api/job-groups/{group_id}/jobs/j_2/retry"
    assert json.loads(server.sent("POST", path)[0][1]) == {"retry_elsewhere": False}
    with pytest.raises(TypeError, match="job_ids"):
        director.retry(group_id, "j_1")


def test_a_retry_names_the_place_and_the_person(director: Driven, server: FakeDirector) -> None:
    group_id = server.group(2)
    server.finish(group_id)
    director.retry(group_id, ["j_1"], where="auto", by="anna")
    server.finish(group_id)
    director.retry_job(group_id, "j_2", backend_id="gpu-3")
    [(_, body)] = server.sent("POST", f"/api/job-groups/{group_id}/retry")
    assert json.loads(body) == {"where": "auto", "by": "anna", "job_ids": ["j_1"]}
    [(_, body)] = server.sent("POST", f"/api/job-groups/{group_id}/jobs/j_2/retry")
    assert json.loads(body) == {"backend_id": "gpu-3"}


def test_a_move_says_where_the_job_waits_and_may_be_repeated(
    director: Driven, server: FakeDirector
) -> None:
    group_id = server.group(2)
    path = f"/api/job-groups/{group_id}/jobs/j_2/move"
    server.lose["POST", path] = 1
    done = director.move(group_id, "j_2", "gpu-3", by="anna")
    assert (done.job_id, done.backend_id, done.moved) == ("j_2", "gpu-3", True)
    assert done.removing_from == "gpu-2"
    bodies = [json.loads(body) for _, body in server.sent("POST", path)]
    assert bodies == [{"backend_id": "gpu-3", "by": "anna"}] * 2


def test_a_retry_without_an_answer_is_not_repeated(director: Driven, server: FakeDirector) -> None:
    group_id = server.group(1)
    server.finish(group_id)
    path = f"/api/job-groups/{group_id}/retry"
    server.lose["POST", path] = 1
    with pytest.raises(client.Unreachable) as caught:
        director.retry(group_id, ["j_1"])
    assert caught.value.maybe_received
    assert len(server.sent("POST", path)) == 1


def test_a_server_that_is_not_there_is_unreachable(director: Driven, server: FakeDirector) -> None:
    server.stop()
    with pytest.raises(client.Unreachable) as caught:
        director.cancel("jg_000000000001")
    assert not caught.value.maybe_received
    assert server.url in str(caught.value)
    server.restart()


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
def test_each_error_has_its_class(
    director: Driven, server: FakeDirector, status: int, code: str, kind: type[Exception]
) -> None:
    server.answers["GET", "/api/backends"] = (status, {"detail": "A sentence.", "code": code})
    with pytest.raises(client.DirectorError) as caught:
        director.backends()
    assert type(caught.value) is kind
    assert (caught.value.status, caught.value.code) == (status, code)
    assert caught.value.detail == "A sentence."


def test_field_errors_and_skipped_backends_are_kept(director: Driven, server: FakeDirector) -> None:
    body = {
        "detail": "No valid online backends available",
        "code": "no_online_backends",
        "errors": [{"field": "base_seed", "message": "Too big."}],
        "skipped_backends": [{"backend_id": "a", "reason": "offline"}],
    }
    server.answers["POST", "/api/job-group"] = (400, body)
    with pytest.raises(client.NoOnlineBackends) as caught:
        director.submit(WORKFLOW, ["a"])
    assert caught.value.errors == (client.FieldError("base_seed", "Too big."),)
    assert caught.value.skipped_backends == (("a", "offline"),)
    assert str(caught.value) == (
        "No valid online backends available. base_seed: Too big. a: offline."
    )


def test_a_refusal_names_each_backend_with_its_reason(
    director: Driven, server: FakeDirector
) -> None:
    reason = "Unknown: no backend has this id."
    skipped = [{"backend_id": name, "reason": reason} for name in ("a", "b", "a")]
    body = {
        "detail": "No valid online backends available",
        "code": "no_online_backends",
        "skipped_backends": [*skipped, "nonsense"],
    }
    server.answers["POST", "/api/job-group"] = (400, body)
    with pytest.raises(client.NoOnlineBackends) as caught:
        director.submit(WORKFLOW, ["a", "b", "a"])
    assert str(caught.value) == f"No valid online backends available. a: {reason} b: {reason}"


def test_a_bad_request_says_each_sentence_once(director: Driven, server: FakeDirector) -> None:
    first = {"field": "timeout_seconds", "message": "Must be an integer from 30 to 3600."}
    second = {"field": "backend_ids", "message": "Must have at least one entry."}
    both = "timeout_seconds: Must be an integer from 30 to 3600."
    for errors, detail, said in (
        ([first], both, both),
        (
            [first, second],
            f"{both} (1 more in errors.)",
            f"{both} backend_ids: Must have at least one entry.",
        ),
        ([], "The body is not JSON: it is empty.", "The body is not JSON: it is empty."),
    ):
        body = {"detail": detail, "code": "invalid_request", "errors": errors}
        server.answers["POST", "/api/job-group"] = (400, body)
        with pytest.raises(client.BadRequest) as caught:
            director.submit(WORKFLOW, ["a"])
        assert str(caught.value) == said
        assert caught.value.detail == detail


def test_a_page_instead_of_an_error_body_is_told_by_its_status(
    director: Driven, server: FakeDirector
) -> None:
    server.answers["GET", "/api/backends"] = (502, "<html>nginx</html>")
    with pytest.raises(client.ServerFault) as caught:
        director.backends()
    assert caught.value.code is None


@pytest.mark.parametrize("answer", ["<html>hello</html>", [], {}, {"backends": [{"name": 1}]}])
def test_an_answer_that_is_no_directors_is_unexpected(
    director: Driven, server: FakeDirector, answer: object
) -> None:
    server.answers["GET", "/api/backends"] = (200, answer)
    with pytest.raises(client.UnexpectedAnswer):
        director.backends()


def test_a_redirect_is_not_followed(director: Driven, server: FakeDirector) -> None:
    server.answers["GET", "/api/backends"] = (302, {})
    with pytest.raises(client.UnexpectedAnswer):
        director.backends()


BACKEND = {
    "backend_id": "a_8188",
    "name": "a",
    "url": "http://a:8188",
    "enabled": True,
    "status": "busy",
    "status_reason": None,
    "status_since": "2026-02-01T07:00:00.000Z",
    "queue_ours": 1,
    "queue_foreign": 2,
    "running": 1,
    "tags": ["24gb"],
    "devices": [{"name": "cuda:0", "vram_total": 2**34, "vram_free": 2**33, "index": 0}],
    "comfyui_version": "0.3.60",
    "last_seen_at": None,
}


def test_backends_are_listed_added_changed_and_removed(
    director: Driven, server: FakeDirector
) -> None:
    server.answers.update(
        {
            ("GET", "/api/backends"): (200, {"backends": [BACKEND]}),
            ("GET", "/api/backends/a_8188"): (200, BACKEND),
            ("POST", "/api/backends"): (201, BACKEND),
            ("PATCH", "/api/backends/a_8188"): (200, {**BACKEND, "enabled": False}),
            ("DELETE", "/api/backends/a_8188"): (204, ""),
        }
    )
    [listed] = director.backends()
    assert listed == director.backend("a_8188")
    assert listed == director.add_backend("http://a:8188", tags=["24gb"], headers={"X": "y"})
    assert listed.devices == (client.Device(name="cuda:0", vram_total=2**34, vram_free=2**33),)
    assert not director.update_backend("a_8188", enabled=False, tags=[]).enabled
    assert director.delete_backend("a_8188") is None
    [(_, added)] = server.sent("POST", "/api/backends")
    [(_, changed)] = server.sent("PATCH", "/api/backends/a_8188")
    assert json.loads(added) == {"url": "http://a:8188", "tags": ["24gb"], "headers": {"X": "y"}}
    assert json.loads(changed) == {"enabled": False, "tags": []}


def test_addresses_are_looked_at_and_nothing_is_registered(
    director: Driven, server: FakeDirector
) -> None:
    there = {"url": "http://a:8188", "backend_id": None, "comfyui_version": "0.3.60", "devices": []}
    away = {**there, "ok": False, "comfyui_version": None, "reason": "No connection."}
    server.answers["POST", "/api/backends/find"] = (200, {"found": [{**there, "reason": None}]})
    server.answers["POST", "/api/backends/test"] = (200, away)
    [found] = director.find_backends()
    assert (found.ok, found.url, found.comfyui_version) == (True, "http://a:8188", "0.3.60")
    tested = director.test_backend("a:8188", headers={"X": "y"})
    assert (tested.ok, tested.reason) == (False, "No connection.")
    [(_, sent)] = server.sent("POST", "/api/backends/test")
    assert json.loads(sent) == {"url": "a:8188", "headers": {"X": "y"}}


def test_found_comfyuis_are_read_added_and_ignored(director: Driven, server: FakeDirector) -> None:
    at = "2026-02-02T03:12:41.250Z"
    new = {"url": "http://localhost:8198", "comfyui_version": "0.3.60", "devices": []}
    new |= {"first_seen_at": at, "last_seen_at": at, "ignored": False, "ignored_at": None}
    ignored = {**new, "ignored": True, "ignored_at": at}
    server.answers["GET", "/api/backends/found"] = (200, {"found": [new, ignored]})
    server.answers["POST", "/api/backends/found/add"] = (201, BACKEND)
    server.answers["POST", "/api/backends/found/ignore"] = (200, ignored)
    server.answers["POST", "/api/backends/found/unignore"] = (200, new)
    first, second = director.found_backends()
    assert (first.ignored, second.ignored) == (False, True)
    assert first.last_seen_at == datetime(2026, 2, 2, 3, 12, 41, 250_000, UTC)
    assert director.add_found_backend("localhost:8198").backend_id == "a_8188"
    assert director.ignore_backend("localhost:8198").ignored
    assert not director.unignore_backend("localhost:8198").ignored
    for decision in ("add", "ignore", "unignore"):
        [(_, sent)] = server.sent("POST", f"/api/backends/found/{decision}")
        assert json.loads(sent) == {"url": "localhost:8198"}


def test_failures_are_read_with_their_rows(director: Driven, server: FakeDirector) -> None:
    at = "2026-02-02T03:12:41.250Z"
    row = {
        "failure_class": "timeout",
        "backend_id": "gpu-2",
        "workflow": "5f1c0b9a77e3f2d4",
        "workflow_name": "shot_001",
        "groups": 2,
        "failures": 4,
        "failed_jobs": 3,
        "retrying": 1,
        "first_at": at,
        "last_at": at,
        "example": None,
    }
    body = {"window": "7d", "since": at, "failed_jobs": 3, "results": [row], "recovered": []}
    server.answers["GET", "/api/failures"] = (200, body)
    found = director.failures("7d")
    assert (found.failed_jobs, found.recovered, found.raw) == (3, (), body)
    [only] = found.results
    assert (only.failures, only.failed_jobs, only.retrying, only.groups) == (4, 3, 1, 2)
    assert only.last_at == datetime(2026, 2, 2, 3, 12, 41, 250_000, UTC)


def test_a_picture_is_sent_as_one_and_gives_its_workflow(
    director: Driven, server: FakeDirector
) -> None:
    server.answers["POST", "/api/workflow-from-png"] = (200, {"workflow_json": WORKFLOW})
    assert director.workflow_from_png(b"\x89PNG\r\n") == WORKFLOW
    [(headers, sent)] = server.sent("POST", "/api/workflow-from-png")
    assert (headers["content-type"], sent) == ("image/png", b"\x89PNG\r\n")


@pytest.mark.parametrize(("status", "word"), [(200, "ok"), (503, "down")])
def test_health_is_an_answer_also_when_it_is_bad(
    director: Driven, server: FakeDirector, status: int, word: str
) -> None:
    body = {"status": word, "version": "0.1.0", "checks": {"runner": {"status": word}}}
    server.answers["GET", "/api/health"] = (status, body)
    health = director.health()
    assert (health.status, health.checks["runner"]["status"]) == (word, word)


def test_a_503_of_a_proxy_is_no_health(director: Driven, server: FakeDirector) -> None:
    server.answers["GET", "/api/health"] = (503, "<html>nginx</html>")
    with pytest.raises(client.Unavailable):
        director.health()


@pytest.mark.parametrize("group_id", ["..", ".", "a/b", "a?b#c", "ü %2F", "\ud800"])
def test_an_odd_id_stays_one_segment_of_the_path(
    director: Driven, server: FakeDirector, group_id: str
) -> None:
    with pytest.raises(client.NotFound):
        director.status(group_id)
    [(_, path, _, _)] = server.requests
    assert path.startswith("/api/job-groups/")


def test_an_empty_id_is_refused(director: Driven, server: FakeDirector) -> None:
    with pytest.raises(ValueError, match="empty"):
        director.status("")
    assert server.requests == []


def test_the_environments_proxy_is_not_used(
    server: FakeDirector, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    group_id = server.group()
    server.finish(group_id)
    for kind in client_kinds():
        with kind.values[0](server.url) as driven:
            assert driven.status(group_id).finished
            assert len(list(driven.stream(group_id))) == 2


def test_the_token_goes_to_the_director_alone() -> None:
    address = Address.parse("https://farm.example/director/", "secret")
    sent = address.headers_for("https://farm.example:443/director/api/health")
    assert sent["Authorization"] == "Bearer secret"
    for elsewhere in ("http://farm.example/", "https://farm.example:8188/view", "https://gpu/"):
        assert "Authorization" not in address.headers_for(elsewhere)


def test_a_password_in_the_address_is_not_shown(server: FakeDirector) -> None:
    server.stop()
    url = server.url.replace("://", "://me:secret@")
    for kind in client_kinds():
        with kind.values[0](url) as driven, pytest.raises(client.Unreachable) as caught:
            driven.cancel("jg_1")
        assert server.url in str(caught.value)
        assert "secret" not in str(caught.value)
    server.restart()


@pytest.mark.parametrize(
    "url", ["localhost:9820", "ftp://x", "http://", "http://x?y=1", "http://x:y", ""]
)
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="address"):
        Director(url)
