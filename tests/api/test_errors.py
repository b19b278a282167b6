"""Every error under /api/ is JSON in one shape, whatever its cause."""

from __future__ import annotations

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
from director.web.errors import JsonErrorMiddleware
from jobgroups.models import JobGroup
from jobgroups.queries import groups as selectors
from jobgroups.services import submission
from tests.api.conftest import GRAPH, Api, error_of

pytestmark = pytest.mark.django_db

ODD = [
    "%00",
    "a%00b",
    "%0a",
    "%ff%fe",
    "%ed%a0%80",
    "ü",
    "🎬",
    "a b",
    "..",
    "%2e%2e",
    "'; DROP TABLE jobgroups_jobgroup; --",
    "<script>",
    "%25s%s%d",
    "{id}",
    "-",
    "x" * 5000,
    "jg_ABC",
    "null",
]


def _encoded(text: str) -> str:
    return text if "%" in text else quote(text, safe="")


PLACES = [
    ("GET", "/api/job-groups/{}", "group_not_found"),
    ("DELETE", "/api/job-groups/{}", "group_not_found"),
    ("GET", "/api/job-groups/{}/workflow", "group_not_found"),
    ("GET", "/api/job-groups/{}/events", "group_not_found"),
    ("GET", "/api/job-groups/{}/jobs/j_000000000000", "group_not_found"),
    ("DELETE", "/api/job-groups/{}/jobs/j_000000000000", "group_not_found"),
    ("GET", "/api/backends/{}", "backend_not_found"),
    ("PATCH", "/api/backends/{}", "backend_not_found"),
    ("DELETE", "/api/backends/{}", "backend_not_found"),
    ("GET", "/api/backends/{}/status", "backend_not_found"),
]


@pytest.mark.parametrize(("method", "path", "code"), PLACES)
@pytest.mark.parametrize("odd", ODD, ids=lambda odd: repr(odd[:12]))
def test_an_odd_id_is_not_found_wherever_it_stands(
    api: Api, odd: str, method: str, path: str, code: str
) -> None:
    body = error_of(api.ask(method, path.format(_encoded(odd)), {}), 404, code)
    assert len(body["detail"]) < 120
    assert body["detail"].isprintable()


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: repr(odd[:12]))
def test_an_odd_id_of_a_child_is_not_found(api: Api, farm: list[str], odd: str) -> None:
    group = api.submit("gpu-1")["job_group_id"]
    for method in ("GET", "DELETE"):
        answer = api.ask(method, f"/api/job-groups/{group}/jobs/{_encoded(odd)}")
        error_of(answer, 404, "job_not_found")


@pytest.mark.parametrize(
    "path",
    [
        "/api",
        "/api/",
        "/api/nothing",
        "/api/job-group/x",
        "/api//job-groups",
        "/api/job-groups//",
        "/api/job-groups/a%2Fb",
        "/api/job-groups/x/nothing",
        "/api/job-groups/x/retry/again",
        "/api/backends/x/nothing",
        "/api/health/x",
        "/api/%00",
        "/api/%0a",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "NONSENSE"])
def test_a_path_that_is_none_is_not_found(api: Api, path: str, method: str) -> None:
    error_of(api.ask(method, path), 404, "not_found")


METHODS = {
    "/api/job-group": ["POST"],
    "/api/job-groups": ["GET"],
    "/api/job-groups/x": ["GET", "DELETE"],
    "/api/job-groups/x/workflow": ["GET"],
    "/api/job-groups/x/events": ["GET"],
    "/api/job-groups/x/jobs/y": ["GET", "DELETE"],
    "/api/backends": ["GET", "POST"],
    "/api/backends/x": ["GET", "PATCH", "DELETE"],
    "/api/backends/x/status": ["GET"],
    "/api/health": ["GET"],
}


@pytest.mark.parametrize("path", METHODS)
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "TRACE", "NONSENSE"])
def test_a_method_that_a_path_does_not_take_is_refused_with_those_it_does(
    api: Api, path: str, method: str
) -> None:
    if method in METHODS[path]:
        return
    answer = api.ask(method, path, {})
    body = error_of(answer, 405, "method_not_allowed")
    assert all(one in body["detail"] for one in METHODS[path])
    assert set(METHODS[path]) <= set(answer.headers["Allow"].split(", "))


@pytest.mark.parametrize("path", METHODS)
def test_options_names_the_methods(api: Api, path: str) -> None:
    answer = api.ask("OPTIONS", path)
    assert answer.status_code == 204
    assert set(METHODS[path]) <= set(answer.headers["Allow"].split(", "))


def test_every_path_is_served_with_a_slash_too_without_a_redirect(
    api: Api, farm: list[str]
) -> None:
    body = {"workflow_json": GRAPH, "backend_ids": ["gpu-1"]}
    made = api.post("/api/job-group/", body)
    assert made.status_code == 201
    group = made.json()["job_group_id"]
    job = made.json()["child_jobs"][0]["job_id"]
    for path in (
        "/api/job-groups",
        f"/api/job-groups/{group}",
        f"/api/job-groups/{group}/workflow",
        f"/api/job-groups/{group}/events",
        f"/api/job-groups/{group}/jobs/{job}",
        "/api/backends",
        "/api/backends/gpu-1",
        "/api/backends/gpu-1/status",
    ):
        assert api.get(path).status_code == 200
        assert api.get(f"{path}/").json() == api.get(path).json()


def test_no_path_is_left_without_its_slashed_twin() -> None:
    patterns = [str(one.pattern) for one in get_resolver("jobgroups.api.urls").url_patterns]
    assert patterns
    assert {f"{one}/" for one in patterns if not one.endswith("/")} == {
        one for one in patterns if one.endswith("/")
    }


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "a b", "", "[::1"])
def test_a_host_that_is_not_ours_is_a_400(api: Api, host: str) -> None:
    body = error_of(api.get("/api/job-groups", host=host), 400, "bad_request")
    assert "DIRECTOR_ALLOWED_HOSTS" in body["detail"]


@pytest.mark.parametrize("host", ["localhost:9820", "127.0.0.1:9820", "[::1]:9820", "localhost"])
def test_every_loopback_name_is_ours(api: Api, host: str) -> None:
    assert api.get("/api/job-groups", host=host).status_code == 200


@pytest.mark.parametrize("accept", ["text/html", "image/png", "nonsense", "application/xml"])
def test_answers_are_json_whatever_is_asked_for(api: Api, accept: str) -> None:
    answer = api.get("/api/backends", accept=accept)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "application/json"


def test_a_query_of_a_thousand_and_one_fields_is_a_400(api: Api) -> None:
    query = "&".join(f"a{number}=1" for number in range(1001))
    error_of(api.get(f"/api/job-groups?{query}"), 400, "bad_request")


def test_no_cookie_is_read_and_no_csrf_token_asked(api: Api, farm: list[str]) -> None:
    body = {"workflow_json": GRAPH, "backend_ids": ["gpu-1"]}
    cookie = f"sessionid=nonsense; csrftoken={'x' * 32}"
    answer = api.post("/api/job-group", body, cookie=cookie)
    assert answer.status_code == 201
    assert not answer.cookies


# --- defects and a database that is away ----------------------------------------------------------


def _breaking(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def broken(**_arguments: Any) -> None:
        raise error

    monkeypatch.setattr(selectors, "group_list", broken)
    monkeypatch.setattr(group_list, "submitters", broken)


def test_a_defect_is_a_500_that_tells_the_log_everything_and_the_client_nothing(
    api: Api, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _breaking(monkeypatch, RuntimeError("the secret is 42"))
    with caplog.at_level(logging.ERROR, logger="django.request"):
        answer = api.get("/api/job-groups")
    error_of(answer, 500, "internal_error")
    assert "secret" not in answer.content.decode()
    assert "the secret is 42" in caplog.text
    assert "Traceback" in caplog.text


def test_a_defect_is_json_with_debug_on_too(
    api: Api, monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    settings.DEBUG = True
    # It warns in debug mode unless it is an app as well.
    settings.MIDDLEWARE = [one for one in settings.MIDDLEWARE if "servestatic" not in one]
    _breaking(monkeypatch, RuntimeError("the secret is 42"))
    answer = api.get("/api/job-groups")
    error_of(answer, 500, "internal_error")
    assert "secret" not in answer.content.decode()
    error_of(api.get("/api/nothing"), 404, "not_found")
    error_of(api.get("/api/job-groups", host="evil.example"), 400, "bad_request")


#: PostgreSQL's code for who was idle in a transaction for too long is an internal error to the driver.
AWAY = [OperationalError, InterfaceError, InternalError]


@pytest.mark.parametrize("kind", AWAY)
def test_a_database_that_is_away_is_a_503_that_says_when_to_come_again(
    api: Api,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    kind: type[Exception],
) -> None:
    _breaking(monkeypatch, kind("could not connect to host db.internal"))
    answer = api.get("/api/job-groups")
    error_of(answer, 503, "database_unavailable")
    assert int(answer.headers["Retry-After"]) > 0
    assert "db.internal" not in answer.content.decode()
    assert "db.internal" in caplog.text


@pytest.mark.parametrize("kind", AWAY)
def test_a_page_whose_database_is_away_says_so_and_is_no_defect(
    api: Api,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    kind: type[Exception],
) -> None:
    _breaking(monkeypatch, kind("could not connect to host db.internal"))
    answer = api.get("/")
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) > 0
    assert "The database does not answer." in answer.content.decode()
    assert "db.internal" not in answer.content.decode()
    assert "db.internal" in caplog.text
    assert "Traceback" not in caplog.text


def test_a_write_that_the_database_refused_promises_nothing(
    api: Api, farm: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_arguments: Any, **_named: Any) -> None:
        raise OperationalError("database or disk is full")

    monkeypatch.setattr(submission, "insert", full)
    body = {"workflow_json": GRAPH, "backend_ids": ["gpu-1"]}
    error_of(api.post("/api/job-group", body), 503, "database_unavailable")
    assert JobGroup.objects.count() == 0


async def test_a_page_about_an_error_becomes_json_in_the_loop_too() -> None:
    async def page(_request: HttpRequest) -> HttpResponseBase:
        return HttpResponse("<h1>secret</h1>", status=418, headers={"Retry-After": "7"})

    middleware = JsonErrorMiddleware(page)
    answer = await middleware(RequestFactory().get("/api/job-groups"))  # type: ignore[misc]
    assert (answer.status_code, answer.headers["Retry-After"]) == (418, "7")
    assert json.loads(answer.content)["code"] == "bad_request"
    other = await middleware(RequestFactory().get("/admin/"))  # type: ignore[misc]
    assert other.content == b"<h1>secret</h1>"


def test_errors_of_other_pages_are_pages(api: Api) -> None:
    answer = api.get("/nothing")
    assert answer.status_code == 404
    assert answer.headers["Content-Type"].startswith("text/html")
