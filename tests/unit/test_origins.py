import json
from typing import Any

import pytest
from django.http import HttpRequest, HttpResponse
from django.test import RequestFactory

from director.security.origins import OriginMiddleware, is_allowed

LOOPBACK = (
    "http://localhost http://localhost:5173 https://localhost:9820 http://LOCALHOST:3000"
    " http://127.0.0.1:9820 https://127.9.8.7 http://[::1]:9820"
)
OTHERS = (
    "null http://evil.example http://localhost.evil.example http://evil.example:9820"
    " http://localhost@evil.example http://evil.example/http://localhost http://localhost/"
    " http://localhost:99999999 http://128.0.0.1 http://127.1 http://2130706433 http://[::2]"
    " http://[::ffff:7f00:1] http://0.0.0.0 file://localhost chrome-extension://abcdef"
    " ftp://localhost //localhost localhost"
)


@pytest.fixture(autouse=True)
def farm(settings: Any) -> None:
    settings.ALLOWED_HOSTS = ["localhost", "127.0.0.1", "[::1]", "farm.example", ".studio.example"]
    settings.DIRECTOR_ALLOWED_ORIGINS = ["https://pipeline.example", "http://tools.example:8080"]


@pytest.mark.parametrize("origin", [None, *LOOPBACK.split()])
def test_pages_of_this_machine_and_programs_are_allowed(origin: str | None) -> None:
    assert is_allowed(origin, "localhost:9820")
    assert is_allowed(origin, None)


@pytest.mark.parametrize("origin", ["", "http://localhost, http://evil.example", *OTHERS.split()])
def test_strangers_are_refused(origin: str) -> None:
    assert not is_allowed(origin, "localhost:9820")


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("https://pipeline.example", True),
        ("https://pipeline.example:443", True),
        ("HTTPS://Pipeline.Example", True),
        ("http://pipeline.example", False),
        ("https://pipeline.example:8443", False),
        ("https://sub.pipeline.example", False),
        ("http://tools.example:8080", True),
        ("http://tools.example", False),
    ],
)
def test_listed_origins_are_allowed_with_scheme_and_port(origin: str, allowed: bool) -> None:
    assert is_allowed(origin, "localhost:9820") is allowed


@pytest.mark.parametrize(
    ("origin", "host", "allowed"),
    [
        ("http://farm.example:9820", "farm.example:9820", True),
        ("https://farm.example", "farm.example", True),
        ("https://farm.example", "farm.example:443", True),
        ("http://art.studio.example", "art.studio.example", True),
        ("http://farm.example:9821", "farm.example:9820", False),
        ("http://farm.example", None, False),
        ("http://farm.example", "localhost:9820", False),
        ("http://farm.example:9820", "not a host", False),
        ("http://evil.example:9820", "evil.example:9820", False),
    ],
)
def test_the_directors_own_pages_are_allowed_under_its_own_names(
    origin: str, host: str | None, allowed: bool
) -> None:
    assert is_allowed(origin, host) is allowed


def answer(method: str = "GET", **headers: str) -> HttpResponse:
    request: HttpRequest = getattr(RequestFactory(), method.lower())("/api/health", headers=headers)
    response = OriginMiddleware(lambda _request: HttpResponse("hello"))(request)
    assert isinstance(response, HttpResponse)
    return response


def test_a_strangers_request_is_answered_403_and_never_reaches_a_view() -> None:
    response = answer("POST", origin="http://evil.example")
    assert response.status_code == 403
    assert json.loads(response.content)["code"] == "origin_not_allowed"
    assert "evil" not in response.content.decode()
    assert "Access-Control-Allow-Origin" not in response.headers
    assert response.headers["Vary"] == "Origin"


def test_a_programs_request_reaches_the_view_and_gets_no_cors_headers() -> None:
    for method in ("GET", "OPTIONS"):
        response = answer(method)
        assert response.content == b"hello"
        assert "Access-Control-Allow-Origin" not in response.headers
        assert response.headers["Vary"] == "Origin"


def test_an_allowed_page_may_read_the_answer() -> None:
    response = answer(origin="http://localhost:5173")
    assert response.content == b"hello"
    assert response.headers["Access-Control-Allow-Origin"] == "http://localhost:5173"
    assert "Access-Control-Allow-Credentials" not in response.headers
    exposed = set(response.headers["Access-Control-Expose-Headers"].split(", "))
    # Those of docs/api.md that are not safelisted.
    assert exposed >= {"Idempotency-Replayed", "Content-Disposition", "Content-Range", "ETag"}
    assert exposed >= {"Link", "Retry-After", "X-Request-ID", "X-Sheet-Pages"}


def test_a_preflight_of_an_allowed_page_is_answered_without_a_view() -> None:
    preflight = {
        "access-control-request-method": "POST",
        "access-control-request-headers": "content-type,idempotency-key",
    }
    refused = answer("OPTIONS", origin="http://evil.example", **preflight)
    assert refused.status_code == 403
    response = answer("OPTIONS", origin="http://localhost:5173", **preflight)
    assert response.status_code == 204
    assert response.headers["Access-Control-Allow-Origin"] == "http://localhost:5173"
    assert "PATCH" in response.headers["Access-Control-Allow-Methods"]
    allowed = set(response.headers["Access-Control-Allow-Headers"].split(", "))
    assert allowed >= {"Idempotency-Key", "If-None-Match", "If-Range", "Range", "X-Request-ID"}
    assert response.content == b""


async def test_the_middleware_serves_async_views_too() -> None:
    async def view(_request: HttpRequest) -> HttpResponse:
        return HttpResponse("hello")

    middleware = OriginMiddleware(view)
    fine = await middleware(RequestFactory().get("/", headers={"origin": "http://localhost"}))
    refused = await middleware(RequestFactory().get("/", headers={"origin": "null"}))
    assert (fine.status_code, refused.status_code) == (200, 403)
    assert fine.headers["Access-Control-Allow-Origin"] == "http://localhost"
