"""Every error below ``/api/v2/`` has the shape of the contract."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from django.db import OperationalError
from django.http import HttpResponse

from director.web.errors import exception_handler, in_its_shape
from jobgroups.errors import BackendAway, ComfyApiError
from tests.api.conftest import Api
from tests.harness.processes import Served

ASSET = "/api/v2/assets/9f8a1c0d-2b3e-4f56-8a7b-1c2d3e4f5a6b"


def error_of(status: int, content: bytes) -> tuple[int, str, Any]:
    body = json.loads(content)
    assert list(body) == ["error"]
    assert list(body["error"]) == ["code", "message", "details"]
    assert body["error"]["message"].isprintable()
    return status, body["error"]["code"], body["error"]["details"]


@pytest.mark.parametrize(
    ("method", "path", "headers", "status", "code", "own"),
    [
        ("GET", "/api/v2", {}, 404, "not_found", None),
        ("GET", "/api/v2/%0a", {}, 404, "not_found", None),
        ("GET", ASSET, {}, 404, "not_found", "asset_not_found"),
        ("DELETE", "/api/v2/assets/%00", {}, 404, "not_found", "asset_not_found"),
        ("PUT", "/api/v2/assets", {}, 405, "method_not_allowed", None),
        ("GET", ASSET, {"host": "evil.example"}, 400, "bad_request", None),
        ("GET", ASSET, {"origin": "https://evil.example"}, 403, "forbidden", "origin_not_allowed"),
        (
            "POST",
            "/api/v2/assets/from-hash",
            {"content-type": "text/plain"},
            415,
            "unsupported_media_type",
            None,
        ),
        ("POST", "/api/v2/assets/from-hash", {}, 422, "invalid_json", None),
    ],
)
@pytest.mark.django_db
def test_error_has_the_shape_of_the_contract(
    api: Api,
    method: str,
    path: str,
    headers: dict[str, str],
    status: int,
    code: str,
    own: str | None,
) -> None:
    answer = api.ask(method, path, **headers)
    assert int(answer.headers.get("Content-Length", len(answer.content))) == len(answer.content)
    assert error_of(answer.status_code, answer.content) == (status, code, own and {"code": own})
    assert status != 405 or answer.headers["Allow"].endswith("OPTIONS")


@pytest.mark.parametrize(
    ("error", "status", "own"),
    [
        (OperationalError("connection to db.studio refused"), 503, "database_unavailable"),
        (BackendAway("gpu-1", "10.0.0.7 refused the connection"), 502, "backend_unreachable"),
    ],
)
def test_failure_of_a_service_names_no_detail_of_it(
    error: Exception, status: int, own: str
) -> None:
    answer = exception_handler(error, {})
    assert isinstance(answer, HttpResponse)
    in_its_shape(answer, ASSET, at_listener=False)
    assert error_of(answer.status_code, answer.content) == (status, "upstream_error", {"code": own})
    assert ("Retry-After" in answer.headers) == (status == 503)
    assert not any(one in answer.content for one in (b"db.studio", b"gpu-1", b"10.0.0.7"))


def test_docs_list_every_code_of_the_contract() -> None:
    text = (Path(__file__).parents[3] / "docs" / "comfy-api-v2.md").read_text(encoding="utf-8")
    assert all(f"| `{kind.code}` |" in text for kind in ComfyApiError.__subclasses__())


def test_server_refuses_requests_before_their_body_in_the_same_shape(tmp_path: Path) -> None:
    environment = {"DIRECTOR_TOKEN": "correct-horse-battery", "DIRECTOR_MAX_ASSET_BYTES": "1024"}
    served = Served(tmp_path, environment=environment)
    form = "Content-Type: multipart/form-data; boundary=b"
    key = "X-API-Key: correct-horse-battery"

    def ask(*headers: str, body: bytes = b"x" * 9, length: int = 0) -> tuple[int, str]:
        lines = [
            "POST /api/v2/assets HTTP/1.1",
            "Host: localhost",
            f"Content-Length: {length or len(body)}",
        ]
        address = urlsplit(served.url)
        with socket.create_connection(
            (address.hostname or "", address.port or 0), timeout=10
        ) as connection:
            connection.sendall("\r\n".join([*lines, *headers, "", ""]).encode("latin-1") + body)
            answer = http.client.HTTPResponse(connection)
            answer.begin()
            return error_of(answer.status, answer.read())[:2]

    try:
        part = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nx\r\n'
        assert ask() == (401, "unauthorized")
        assert ask("X-API-Key: wrong", form) == (401, "unauthorized")
        assert ask(key, "Content-Type: text/plain") == (415, "unsupported_media_type")
        assert ask(key, form) == (422, "invalid_request")
        assert ask(key, form, body=part * 2) == (422, "invalid_request")
        assert ask(key, form, length=99_999) == (413, "payload_too_large")
        for _ in range(9):
            ask("Authorization: Bearer wrong")
        assert ask(key) == (429, "rate_limited")
    finally:
        served.close()
