import itertools
import json
import logging
from typing import Any
from urllib.parse import quote

import pytest
from django.db import InterfaceError, InternalError, OperationalError
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.test import RequestFactory
from django.urls import get_resolver
from pytest_django import Settings

from director.pages import group_list
from director.web.errors import JsonErrorMiddleware, exception_handler
from jobgroups.models import JobGroup
from jobgroups.queries import groups
from jobgroups.services import submission
from tests.api.conftest import GRAPH, Api, error_of

pytestmark = pytest.mark.django_db

#: Ids as they stand in a path, percent-encoded or not.
ODD = (
    "%00|a%00b|%0a|%ff%fe|%ed%a0%80|ü|🎬|a b|..|%2e%2e|'; DROP TABLE x; --|<script>|%25s%s%d|{id}|-"
)
IDS = [*ODD.split("|"), "x" * 5000, "jg_ABC", "null"]

PATHS = {
    path: (methods, code)
    for path, methods, code in [
        ["/api/job-group", ["POST"], None],
        ["/api/job-groups", ["GET"], None],
        ["/api/job-groups/{}", ["GET", "PATCH", "DELETE"], "group_not_found"],
        ["/api/job-groups/{}/workflow", ["GET"], "group_not_found"],
        ["/api/job-groups/{}/events", ["GET"], "group_not_found"],
        ["/api/job-groups/{}/jobs/j_1", ["GET", "DELETE"], "group_not_found"],
        ["/api/backends", ["GET", "POST"], None],
        ["/api/backends/{}", ["GET", "PATCH", "DELETE"], "backend_not_found"],
        ["/api/backends/{}/status", ["GET"], "backend_not_found"],
        ["/api/health", ["GET"], None],
    ]
}


def _encoded(text: str) -> str:
    return text if "%" in text else quote(text, safe="")


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("path", [path for path, (_, code) in PATHS.items() if code])
def test_odd_id_is_not_found(api: Api, path: str) -> None:
    methods, code = PATHS[path]
    for method, odd in itertools.product(methods, IDS):
        body = error_of(api.ask(method, path.format(_encoded(odd)), {"name": "x"}), 404, code or "")
        assert len(body["detail"]) < 120
        assert body["detail"].isprintable()


@pytest.mark.django_db(transaction=True)
def test_odd_id_of_a_job_is_not_found(api: Api, farm: list[str]) -> None:
    group = api.submit("gpu-1")["job_group_id"]
    for method, odd in itertools.product(("GET", "DELETE"), IDS):
        answer = api.ask(method, f"/api/job-groups/{group}/jobs/{_encoded(odd)}")
        error_of(answer, 404, "job_not_found")


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "NONSENSE"])
def test_unknown_path_is_not_found(api: Api, method: str) -> None:
    paths = "nothing|job-group/x|/job-groups|backends/x/nothing|health/x|%00|%0a|job-groups//"
    below = "job-groups/a%2Fb|job-groups/x/nothing|job-groups/x/retry/again"
    for path in ("/api", "/api/", *(f"/api/{one}" for one in f"{paths}|{below}".split("|"))):
        error_of(api.ask(method, path), 404, "not_found")


@pytest.mark.parametrize("path", PATHS)
def test_other_method_is_refused_with_those_of_the_path(api: Api, path: str) -> None:
    methods, _ = PATHS[path]
    for method in {"GET", "POST", "PUT", "PATCH", "DELETE", "TRACE", "NONSENSE"} - {*methods}:
        answer = api.ask(method, path.format("x"), {})
        body = error_of(answer, 405, "method_not_allowed")
        assert all(one in body["detail"] for one in methods)
        assert set(methods) <= set(answer.headers["Allow"].split(", "))
    answer = api.ask("OPTIONS", path.format("x"))
    assert answer.status_code == 204
    assert set(methods) <= set(answer.headers["Allow"].split(", "))


def test_every_path_is_served_with_a_slash_too(api: Api, farm: list[str]) -> None:
    patterns = [str(one.pattern) for one in get_resolver("jobgroups.api.urls").url_patterns]
    plain = {one for one in patterns if not one.endswith("/")}
    assert {f"{one}/" for one in plain} == set(patterns) - plain
    body = {"workflow_json": GRAPH, "backend_ids": ["gpu-1"]}
    made = api.post("/api/job-group/", body)
    assert made.status_code == 201
    path = f"/api/job-groups/{made.json()['job_group_id']}"
    assert api.get(f"{path}/").json() == api.get(path).json()


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "a b", "", "[::1"])
def test_unknown_host_is_refused(api: Api, host: str) -> None:
    body = error_of(api.get("/api/job-groups", host=host), 400, "bad_request")
    assert "DIRECTOR_ALLOWED_HOSTS" in body["detail"]


@pytest.mark.parametrize("host", ["localhost:9820", "127.0.0.1:9820", "[::1]:9820", "localhost"])
def test_every_loopback_host_gets_json_whatever_it_accepts(api: Api, host: str) -> None:
    for accept in ("text/html", "image/png", "nonsense"):
        answer = api.get("/api/backends", host=host, accept=accept)
        assert answer.status_code == 200
        assert answer.headers["Content-Type"] == "application/json"


def test_query_of_1001_fields_is_refused(api: Api) -> None:
    query = "&".join(f"a{number}=1" for number in range(1001))
    error_of(api.get(f"/api/job-groups?{query}"), 400, "bad_request")


def test_no_cookie_and_no_csrf_token_is_read(api: Api, farm: list[str]) -> None:
    body = {"workflow_json": GRAPH, "backend_ids": ["gpu-1"]}
    cookie = f"sessionid=nonsense; csrftoken={'x' * 32}"
    answer = api.post("/api/job-group", body, cookie=cookie)
    assert answer.status_code == 201
    assert not answer.cookies


def _breaking(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def broken(*_: Any, **_arguments: Any) -> None:
        raise error

    monkeypatch.setattr(groups, "group_list", broken)
    monkeypatch.setattr(group_list, "submitters", broken)


@pytest.mark.parametrize("debug", [False, True])
def test_unexpected_error_is_a_500_with_a_traceback_in_the_log_only(
    api: Api,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    settings: Settings,
    debug: bool,
) -> None:
    settings.DEBUG = debug
    # It warns in debug mode unless it is an app as well.
    settings.MIDDLEWARE = [one for one in settings.MIDDLEWARE if "StaticMiddleware" not in one]
    _breaking(monkeypatch, RuntimeError("the secret is 42"))
    with caplog.at_level(logging.ERROR, logger="django.request"):
        answer = api.get("/api/job-groups")
    error_of(answer, 500, "internal_error")
    assert "secret" not in answer.content.decode()
    assert "the secret is 42" in caplog.text
    assert "Traceback" in caplog.text
    error_of(api.get("/api/nothing"), 404, "not_found")
    error_of(api.get("/api/job-groups", host="evil.example"), 400, "bad_request")


#: PostgreSQL's code for who was idle in a transaction for too long is an internal error to the
#: driver.
@pytest.mark.parametrize("kind", [OperationalError, InterfaceError, InternalError])
@pytest.mark.parametrize("path", ["/api/job-groups", "/"])
def test_database_error_is_a_503_without_a_traceback(
    api: Api,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    kind: type[Exception],
    path: str,
) -> None:
    _breaking(monkeypatch, kind("could not connect to host db.internal"))
    answer = api.get(path)
    if path == "/":
        assert (answer.status_code, "The database does not answer." in answer.text) == (503, True)
    else:
        error_of(answer, 503, "database_unavailable")
    assert int(answer.headers["Retry-After"]) > 0
    assert "db.internal" not in answer.content.decode()
    assert "db.internal" in caplog.text
    assert "Traceback" not in caplog.text


def test_refused_write_stores_nothing(
    api: Api, farm: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_arguments: Any, **_named: Any) -> None:
        raise OperationalError("database or disk is full")

    monkeypatch.setattr(submission, "insert", full)
    body = {"workflow_json": GRAPH, "backend_ids": ["gpu-1"]}
    error_of(api.post("/api/job-group", body), 503, "database_unavailable")
    assert JobGroup.objects.count() == 0


async def test_html_error_of_the_api_becomes_json_in_the_loop() -> None:
    async def page(_request: HttpRequest) -> HttpResponseBase:
        return HttpResponse("<h1>secret</h1>", status=418, headers={"Retry-After": "7"})

    middleware = JsonErrorMiddleware(page)
    answer = await middleware(RequestFactory().get("/api/job-groups"))
    assert (answer.status_code, answer.headers["Retry-After"]) == (418, "7")
    assert json.loads(answer.content)["code"] == "bad_request"
    other = await middleware(RequestFactory().get("/admin/"))
    assert other.content == b"<h1>secret</h1>"


def test_database_error_names_what_a_user_can_mend() -> None:
    for error, detail in {
        "database or disk is full": "The disk with the data folder is full",
        "No space left on device": "The disk of the database server is full",
        "attempt to write a readonly database": "The data folder cannot be written",
        "cannot execute UPDATE in a read-only transaction": "The database refuses writes",
        "connection refused": "The database does not answer",
    }.items():
        answer = exception_handler(OperationalError(f"psycopg: {error}"), {})
        assert json.loads(answer.content)["detail"].startswith(f"{detail};")
