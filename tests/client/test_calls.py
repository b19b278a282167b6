import asyncio
import inspect
import json
import socket
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest

from director import client
from director.client import AsyncDirector, Director
from director.client.assets import Assets, AsyncAssets
from director.client.errors import error_from_answer
from director.client.groups import outputs_fields
from director.client.transport import Address
from tests.client.conftest import Driven
from tests.client.server import FakeDirector

WORKFLOW = {"3": {"class_type": "KSampler", "inputs": {"seed": 1, "steps": 20}}}
MOMENT = "2026-02-02T03:12:41.250Z"
AT = datetime(2026, 2, 2, 3, 12, 41, 250_000, tzinfo=UTC)


def bodies(server: FakeDirector, method: str, path: str) -> list[Any]:
    return [json.loads(body) for _, body in server.sent(method, path)]


def test_methods_have_one_signature_and_docstring_in_both_clients() -> None:
    names = [(one, name) for one in (Director, Assets) for name in dir(one) if name[0] != "_"]
    assert {(Director, "submit"), (Director, "stream"), (Assets, "upload")} <= set(names)
    for kind, name in names:
        other: type = AsyncDirector if kind is Director else AsyncAssets
        blocking, awaited = getattr(kind, name), getattr(other, name)
        if isinstance(blocking, property):
            continue
        assert inspect.signature(blocking) == inspect.signature(awaited)
        assert blocking.__doc__ == awaited.__doc__ != ""
        assert not inspect.iscoroutinefunction(blocking)
    assert inspect.iscoroutinefunction(AsyncDirector.submit)


def test_blocking_client_works_inside_an_event_loop(server: FakeDirector) -> None:
    async def use() -> list[tuple[str, int | None]]:
        with Director(server.url) as director:
            return [(event.type, event.seq) for event in director.stream(group_id)]

    group_id = server.group()
    server.finish(group_id)
    assert asyncio.run(use()) == [("initial_state", 1), ("group_complete", 2)]


def test_submit_sends_every_option(either: Driven, server: FakeDirector) -> None:
    options = {
        "parameters": {"steps": 30},
        "seed_strategy": "sequential",
        "base_seed": 42,
        "metadata": {"scene": "é"},
        "timeout_seconds": 60,
        "stall_seconds": 60,
        "retention_days": 30,
        "required_capabilities": ["24gb"],
        "max_attempts": 3,
        "retry_elsewhere": True,
        "retry_on": ["out_of_memory"],
        "partial_outputs": "fail",
        "stop_when": {"completed": 4},
        "webhook": {"url": "https://a.example"},
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


def test_group_of_many_pages_has_all_jobs(either: Driven, server: FakeDirector) -> None:
    made = either.submit(WORKFLOW, count=1_001)
    server.lose[("GET", f"/api/job-groups/{made.job_group_id}")] = 2
    read = either.status(made.job_group_id)
    assert not either.status(made.job_group_id, jobs=False).child_jobs
    state = next(either.stream(made.job_group_id)).group
    server.finish(made.job_group_id)
    ended = either.wait(made.job_group_id, timeout=60)
    for group in (made, read, state, ended):
        assert (
            len({job.job_id for job in group.child_jobs}) == len(group.raw["child_jobs"]) == 1_001
        )
        assert (group.total_count, group.raw["children_next"]) == (1_001, None)


def test_submit_sends_only_given_options(director: Director, server: FakeDirector) -> None:
    first = director.submit(WORKFLOW, ["a_8188"])
    second = director.submit(WORKFLOW, ["a_8188"], metadata={"scene": "\ud800"})
    assert first.job_group_id != second.job_group_id
    (_, plain), (_, surrogate) = server.sent("POST", "/api/job-group")
    assert set(json.loads(plain)) == {"workflow_json", "backend_ids"}
    assert rb"\ud800" in surrogate


@pytest.mark.parametrize(
    ("arguments", "count", "sent"),
    [
        ([], None, {"backend_ids": ["*"], "count": 1}),
        ([], 3, {"backend_ids": ["*"], "count": 3}),
        ([["tag:4090", "gpu-7"]], 3, {"backend_ids": ["tag:4090", "gpu-7"], "count": 3}),
        ([["gpu-7"]], None, {"backend_ids": ["gpu-7"]}),
    ],
)
def test_submit_names_backends_candidates_or_none(
    director: Director, server: FakeDirector, arguments: Any, count: int | None, sent: Any
) -> None:
    group = director.submit(WORKFLOW, *arguments, count=count)
    assert bodies(server, "POST", "/api/job-group") == [{"workflow_json": WORKFLOW, **sent}]
    shown = [job.backend_id for job in group.child_jobs]
    assert shown == ([None] * sent["count"] if "count" in sent else ["gpu-7"])


def test_submit_repeats_a_lost_answer_with_its_key(either: Driven, server: FakeDirector) -> None:
    server.lose["POST", "/api/job-group"] = 2
    group = either.submit(WORKFLOW, ["a_8188"])
    requests = server.sent("POST", "/api/job-group")
    assert len(requests) == 3
    assert len({headers["idempotency-key"] for headers, _ in requests}) == 1
    assert list(server.groups) == [group.job_group_id]
    assert group.replayed


@pytest.mark.parametrize("code", ["overloaded", "database_unavailable"])
def test_submit_is_repeated_with_its_key_when_the_director_says_so(
    either: Driven, server: FakeDirector, code: str
) -> None:
    server.unavailable["POST", "/api/job-group"] = (3, code)
    group = either.submit(WORKFLOW, ["a_8188"])
    requests = server.sent("POST", "/api/job-group")
    assert len(requests) == 4
    assert len({headers["idempotency-key"] for headers, _ in requests}) == 1
    assert list(server.groups) == [group.job_group_id]
    server.unavailable["POST", "/api/job-group"] = (99, code)
    with pytest.raises(client.Unavailable) as caught:
        either.submit(WORKFLOW, ["a_8188"])
    assert caught.value.code == code
    assert len(server.sent("POST", "/api/job-group")) == 8


def test_retry_is_repeated_only_if_it_was_not_begun(
    director: Director, server: FakeDirector
) -> None:
    path = "/api/job-groups/jg_1/retry"
    for code, sent in (("overloaded", 4), ("database_unavailable", 5), ("too_many_requests", 9)):
        server.unavailable["POST", path] = (99, code)
        with pytest.raises((client.Unavailable, client.TooManyRequests)) as caught:
            director.retry("jg_1")
        assert caught.value.retry_after == 0
        assert len(server.sent("POST", path)) == sent


def test_submit_uses_the_key_of_the_caller(director: Director, server: FakeDirector) -> None:
    first, again = (director.submit(WORKFLOW, ["a"], idempotency_key="shot 1") for _ in range(2))
    assert (again.job_group_id, again.replayed) == (first.job_group_id, True)
    with pytest.raises(client.Conflict) as caught:
        director.submit(WORKFLOW, ["b"], idempotency_key="shot 1")
    assert caught.value.code == "idempotency_conflict"


def test_wrong_arguments_send_nothing(director: Any, server: FakeDirector) -> None:
    with pytest.raises(TypeError, match="backend_ids"):
        director.submit(WORKFLOW, "localhost_8188")
    with pytest.raises(TypeError, match="job_ids"):
        director.retry("jg_1", "j_1")
    with pytest.raises(TypeError, match="prio"):
        director.submit(WORKFLOW, ["a"], prio=3)
    with pytest.raises(ValueError, match="empty"):
        director.status("")
    with pytest.raises(ValueError, match="time zone"):
        list(director.list(created_before=datetime(2026, 2, 1)))  # noqa: DTZ001 as tested
    assert server.requests == []


def test_status_has_the_files_and_every_other_field(either: Driven, server: FakeDirector) -> None:
    group_id = server.group(2, metadata={"big": 2**70, "z": 1, "a": 2}, added_later=[1])
    images, gifs = [{"filename": "a.png", "url": "u"}], [{"filename": "b.gif", "url": "u"}]
    outputs = {"images": images, "gifs": gifs, "text": ["hello"], "prompt_id": "p"}
    ended = {"status": "completed", "outputs": outputs, "completed_at": MOMENT}
    server.groups[group_id].body["child_jobs"][1].update(ended)
    group = either.status(group_id)
    waiting, done = group.child_jobs
    assert (waiting.outputs, waiting.images, waiting.progress) == (None, (), 0.0)
    assert [(file.kind, file.filename) for file in done.files] == [
        ("images", "a.png"),
        ("gifs", "b.gif"),
    ]
    [image] = group.images
    assert (image.seed, image.backend_id, image.job_id) == (43, "gpu2_8188", done.job_id)
    assert (done.outputs.prompt_id, done.outputs.raw["text"]) == ("p", ["hello"])
    assert (done.completed_at, waiting.attempt_count) == (AT, 1)
    assert json.dumps(group.metadata) == json.dumps({"big": 2**70, "z": 1, "a": 2})
    assert (group.raw["added_later"], group.finished) == ([1], False)


def test_list_reads_the_next_page_when_needed(either: Driven, server: FakeDirector) -> None:
    ids = [server.group() for _ in range(5)]
    after = datetime(2026, 2, 1, 7, tzinfo=UTC)
    filters = {
        "status": "running",
        "text": "red fox",
        "archived": "any",
        "metadata": {"scene": "a b", "panel": 3},
        "created_after": after,
    }
    groups = either.list(**filters, limit=2)
    assert next(groups).job_group_id == ids[-1]
    assert len(server.requests) == 1
    assert [group.job_group_id for group in groups] == ids[-2::-1]
    queries = [dict(parse_qsl(urlsplit(path).query)) for _, path, _, _ in server.requests]
    first = {
        "status": "running",
        "text": "red fox",
        "archived": "any",
        "metadata.scene": "a b",
        "metadata.panel": "3",
        "limit": "2",
    }
    first["created_after"] = "2026-02-01T07:00:00.000Z"
    assert queries == [first, {**first, "cursor": "2"}, {**first, "cursor": "4"}]


COUNTS = {"interrupted": 3, "already_complete": 0, "already_failed": 0}
RETRIED = {"job_group_id": "jg_1", "run": 2, "status": "running", "job_ids": ("j_1",)}
HEAD = {"job_group_id": "jg_1", "status": "running", "name": "owl"}
DELETION = {"jobs": 3, "starred": 1, "files": 2, "bytes": 9, "kept_at_backends": True}
MOVED = {"job_group_id": "jg_1", "job_id": "j_2", "backend_id": "gpu-3", "moved": True}


def test_call_is_repeated_after_a_lost_answer_where_that_changes_nothing(
    either: Driven, server: FakeDirector
) -> None:
    for name, arguments, method, path, answer, repeated in (
        ("cancel", ["jg_1"], "DELETE", "", {"cancelled": True, **COUNTS}, False),
        ("retry", ["jg_1"], "POST", "/retry", RETRIED, False),
        ("move", ["jg_1", "j_2", "gpu-3"], "POST", "/jobs/j_2/move", MOVED, True),
        ("rename", ["jg_1", "owl"], "PATCH", "", HEAD, True),
        ("archive", ["jg_2", False], "PATCH", "", HEAD, True),
        ("prioritize", ["jg_3", 60], "PATCH", "", HEAD, True),
        ("bring_forward", ["jg_3"], "POST", "/next", HEAD, True),
        ("pause", ["jg_3"], "POST", "/pause", HEAD, True),
        ("resume", ["jg_3"], "POST", "/resume", HEAD, True),
        ("limit", ["jg_4", None], "PATCH", "", HEAD, True),
        ("delay", ["jg_5", None], "PATCH", "", HEAD, True),
        ("deletion", ["jg_1"], "GET", "/delete", DELETION, True),
        ("delete", ["jg_1"], "POST", "/delete", DELETION, False),
    ):
        request = (method, f"/api/job-groups/{arguments[0]}{path}")
        server.answers[request] = (200, answer)
        server.lose[request] = 1
        if not repeated:
            with pytest.raises(client.Unreachable) as caught:
                getattr(either, name)(*arguments)
            assert caught.value.maybe_received
            assert len(server.sent(*request)) == 1
        done = getattr(either, name)(*arguments)
        assert {field: getattr(done, field) for field in answer} == answer
        assert len(server.sent(*request)) == 2


def test_address_and_token_come_from_the_environment_together(
    server: FakeDirector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIRECTOR_URL", server.url.removeprefix("http://"))
    monkeypatch.setenv("DIRECTOR_TOKEN", "of-that-address-alone")
    sent: list[Any] = []
    for arguments in ((), (server.url,)):
        with Director(*arguments) as director:
            sent.append(director._address.headers_for(server.url).get("Authorization"))
            assert director.status(server.group()).status == "running"
    assert sent == ["Bearer of-that-address-alone", None]


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
    with Director() as director:
        assert director._wire._http.timeout == httpx.Timeout(30.0, connect=5.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        for kind in (Director, Driven):
            with kind(url, timeout=0.1) as director, pytest.raises(client.Unreachable) as caught:
                director.cancel("jg_1")
            assert caught.value.maybe_received


def test_error_has_the_class_of_its_status_and_the_code_of_its_body() -> None:
    kinds = {
        400: client.BadRequest,
        401: client.NotAllowed,
        403: client.NotAllowed,
        404: client.NotFound,
        405: client.DirectorError,
        409: client.Conflict,
        413: client.PayloadTooLarge,
        429: client.TooManyRequests,
        500: client.ServerFault,
        502: client.ServerFault,
        503: client.Unavailable,
    }
    for body, code in (
        (b'{"detail": "A.", "code": "added_later"}', "added_later"),
        (b"<html>nginx</html>", None),
    ):
        errors = {status: error_from_answer(status, body) for status in kinds}
        assert {status: type(error) for status, error in errors.items()} == kinds
        assert {error.code for error in errors.values()} == {code}


def test_answer_of_another_server_is_unexpected(either: Driven, server: FakeDirector) -> None:
    for answer in ((302, {}), (200, "<html>"), (200, []), (200, {}), (200, {"backends": [{}]})):
        server.answers["GET", "/api/backends"] = answer
        with pytest.raises(client.UnexpectedAnswer) as caught:
            either.backends()
        assert caught.value.code is None


def test_text_of_a_bad_request_has_each_sentence_once() -> None:
    one, two = {"field": "seed", "message": "Too big."}, {"field": "name", "message": "Empty."}
    unknown = "Unknown: no backend has this id."
    skipped = [*({"backend_id": name, "reason": unknown} for name in "aba"), "nonsense"]
    refused = {"code": "no_online_backends", "errors": [one], "skipped_backends": skipped}
    for detail, fields, text in (
        ("seed: Too big.", {"errors": [one]}, "seed: Too big."),
        ("seed: Too big. (1 more.)", {"errors": [one, two]}, "seed: Too big. name: Empty."),
        ("The body is empty.", {}, "The body is empty."),
        ("No backends", refused, f"No backends. seed: Too big. a: {unknown} b: {unknown}"),
    ):
        error = error_from_answer(400, json.dumps({"detail": detail, **fields}).encode())
        assert (str(error), error.detail) == (text, detail)
        found = [(wrong.field, wrong.message) for wrong in error.errors]
        assert found == [tuple(wrong.values()) for wrong in fields.get("errors", [])]


def test_found_comfyuis_are_added_or_ignored(director: Director, server: FakeDirector) -> None:
    new = {"url": "http://a:8188", "comfyui_version": "0.3.60", "last_seen_at": MOMENT}
    added = {
        "backend_id": "a",
        "name": "a",
        "url": "http://a:8188",
        "enabled": True,
        "status": "online",
    }
    for path, answer in (("add", added), ("ignore", {**new, "ignored": True}), ("unignore", new)):
        server.answers["POST", f"/api/backends/found/{path}"] = (200, answer)
    assert director.add_found_backend("b").backend_id == "a"
    ignored, offered = director.ignore_backend("b"), director.unignore_backend("b")
    assert (ignored.ignored, offered.ignored, offered.last_seen_at) == (True, False, AT)
    for decision in ("add", "ignore", "unignore"):
        assert bodies(server, "POST", f"/api/backends/found/{decision}") == [{"url": "b"}]


def test_health_is_returned_also_if_it_is_bad(director: Director, server: FakeDirector) -> None:
    for status, word in ((200, "ok"), (503, "down")):
        body = {"status": word, "version": "0.1.0", "checks": {"runner": {"status": word}}}
        server.answers["GET", "/api/health"] = (status, body)
        health = director.health()
        assert (health.status, health.checks["runner"]["status"]) == (word, word)
    server.answers["GET", "/api/health"] = (503, "<html>nginx</html>")
    with pytest.raises(client.Unavailable):
        director.health()


def test_odd_id_is_one_segment_of_the_path(director: Director, server: FakeDirector) -> None:
    for group_id in ("..", ".", "a/b", "a?b#c", "ü %2F", "\ud800"):
        with pytest.raises(client.NotFound):
            director.status(group_id)
        assert server.requests[-1][1].startswith("/api/job-groups/")


def test_proxy_of_the_environment_is_not_used(
    server: FakeDirector, monkeypatch: pytest.MonkeyPatch
) -> None:
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


def test_wrong_address_is_refused() -> None:
    for url in ("localhost:9820", "ftp://x", "http://", "http://x?y=1", "http://x:y", ""):
        with pytest.raises(ValueError, match="address"):
            Director(url)


def test_only_what_names_a_file_is_a_file_of_a_job() -> None:
    reported = [{"filename": "b", "subfolder": 5}, {"filename": "c", "type": None}, {}, "d", 5]
    outputs = {"images": [{"filename": "a.png", "url": "/a"}], "images_other": reported}
    fields = outputs_fields(outputs, {})
    assert fields is not None
    assert [file["filename"] for file in fields["files"]] == ["a.png"]
    assert fields["raw"] is outputs
