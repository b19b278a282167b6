import http.client
import json
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import pytest

from tests.harness.processes import Served

if sys.platform == "linux":
    import resource

TOKEN: Final = "correct-horse-battery"
LIMIT: Final = 2**20
PATH: Final = "/api/job-group"
BEARER: Final = f"Authorization: Bearer {TOKEN}"
WRONG_BEARER: Final = "Authorization: Bearer wrong"
JSON: Final = "Content-Type: application/json"
FOREIGN: Final = "Origin: https://evil.example"
CHUNKED: Final = "Transfer-Encoding: chunked"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    environment = {"DIRECTOR_TOKEN": TOKEN, "DIRECTOR_MAX_BODY_BYTES": str(LIMIT)}
    director = Served(tmp_path_factory.mktemp("admission"), environment=environment)
    yield director
    director.close()


@contextmanager
def _connected(served: Served) -> Iterator[socket.socket]:
    address = urlsplit(served.url)
    with socket.create_connection((address.hostname or "", address.port or 0), timeout=10) as one:
        yield one


def _head(*headers: str, path: str = PATH) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: localhost:9820", JSON, *headers]
    return "\r\n".join([*lines, "", ""]).encode()


def _answer(connection: socket.socket) -> tuple[int, dict[str, str], Any]:
    answer = http.client.HTTPResponse(connection)
    answer.begin()
    body = answer.read()
    headers = {name.lower(): value for name, value in answer.getheaders()}
    return answer.status, headers, json.loads(body)


def _stored_bytes(served: Served) -> int:
    """Return how many bytes the process holds in files without a name."""
    total = 0
    for link in Path(f"/proc/{served.process.pid}/fd").iterdir():
        with suppress(OSError):
            if str(link.readlink()).endswith("(deleted)"):
                total += link.stat().st_size
    return total


@pytest.mark.parametrize("expects", [(), ("Expect: 100-continue",)], ids=["sends", "asks"])
@pytest.mark.parametrize(
    ("headers", "path", "refused"),
    [
        ([], "/api/job-group", [401, "sign_in_required"]),
        ([], "/admin/login/", [401, "sign_in_required"]),
        (["Authorization: Bearer wrong"], "/api/job-group", [401, "sign_in_required"]),
        (
            ["Authorization: Bearer correct-horse-battery", "Origin: https://evil.example"],
            "/api/job-group",
            [403, "origin_not_allowed"],
        ),
        (["Origin: https://evil.example"], "/sign-in", [403, "origin_not_allowed"]),
        (
            ["Authorization: Bearer correct-horse-battery"],
            "/api/job-group",
            [413, "payload_too_large"],
        ),
        ([], "/sign-in", [413, "payload_too_large"]),
        (
            ["Authorization: Bearer correct-horse-battery"],
            "/api/workflow-from-png",
            [413, "payload_too_large"],
        ),
    ],
)
def test_body_is_refused_before_any_of_it_is_sent(
    served: Served, headers: Sequence[str], path: str, refused: list[Any], expects: Sequence[str]
) -> None:
    with _connected(served) as connection:
        connection.sendall(_head(*headers, "Content-Length: 838860800", *expects, path=path))
        assert not connection.recv(12, socket.MSG_PEEK).endswith(b"100")  # it would send the body
        found, answered, body = _answer(connection)
    assert [found, body["code"]] == refused
    assert set(body) == {"detail", "code"}
    assert answered["content-type"].startswith("application/json")
    assert answered["connection"] == "close"


def test_refusal_is_what_the_application_answers_to_a_short_body(served: Served) -> None:
    for headers in [(), (BEARER, FOREIGN), ("Host: evil.example",)]:
        answers = []
        for length in (2, 100_000):
            with _connected(served) as connection:
                connection.sendall(_head(*headers, f"Content-Length: {length}") + b"{}")
                status, answered, body = _answer(connection)
            for name in ("connection", "content-length", "transfer-encoding", "x-request-id"):
                answered.pop(name, None)
            answers.append((status, answered, body))
        assert answers[0] == answers[1]
        assert answers[0][0] >= 400


@pytest.mark.parametrize("length", [2, 100_000])
def test_content_type_that_cannot_be_read_is_answered(served: Served, length: int) -> None:
    headers = {
        "content-type": "text/plain; charset*=foo'en'bar",
        "authorization": f"Bearer {TOKEN}",
    }
    for path, status in ((PATH, 415), ("/admin/login/", 403)):
        answer = served.ask("POST", path, content=b" " * length, headers=headers)
        assert answer.status_code == status
    assert "Traceback" not in served.printed()


def test_chunked_body_is_refused_by_its_headers(served: Served) -> None:
    with _connected(served) as connection:
        connection.sendall(_head(CHUNKED))
        assert _answer(connection)[0] == 401


def test_chunked_body_is_cut_at_the_limit(served: Served) -> None:
    chunk = b"%x\r\n%s\r\n" % (2**16, b" " * 2**16)
    with _connected(served) as connection:
        connection.sendall(_head(BEARER, CHUNKED))
        for _ in range(LIMIT // 2**16):
            connection.sendall(chunk)
        connection.setblocking(False)
        with pytest.raises(BlockingIOError):
            connection.recv(1)  # the body may still end here
        connection.settimeout(10)
        for _ in range(8):
            connection.sendall(chunk)
        status, _, body = _answer(connection)
        assert (status, body["code"]) == (413, "payload_too_large")
        for _ in range(64):
            connection.sendall(chunk)
        assert _stored_bytes(served) <= LIMIT


def test_client_that_sends_its_whole_body_first_reads_the_answer(served: Served) -> None:
    for headers, status in (({}, 401), ({"authorization": f"Bearer {TOKEN}"}, 413)):
        answer = served.ask("POST", PATH, content=b" " * (24 * LIMIT), headers=headers)
        assert (answer.status_code, answer.json()["detail"] != "") == (status, True)


def test_refused_body_of_which_there_is_no_end_is_cut_off(served: Served) -> None:
    piece = b" " * 2**20
    with _connected(served) as connection:
        connection.sendall(_head("Content-Length: 838860800"))
        with pytest.raises(OSError):  # noqa: PT011 a reset or a broken pipe
            for _ in range(200):
                connection.sendall(piece)
    assert _stored_bytes(served) <= LIMIT


def test_admitted_body_is_answered_and_its_connection_stays(served: Served) -> None:
    body = json.dumps({"metadata": "x" * (LIMIT - 100)}).encode()
    given = {"authorization": f"Bearer {TOKEN}", "content-type": "application/json"}
    with httpx.Client(base_url=served.url, headers=given, trust_env=False, timeout=20) as client:
        whole = client.post(PATH, content=body)
        chunked = client.post(PATH, content=iter([body[:1000], body[1000:]]))
        again = client.get("/api/backends")
    for answer in (whole, chunked):
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")
        assert answer.headers.get("connection") != "close"
    assert again.status_code == 200


def test_admitted_client_is_told_to_continue(served: Served) -> None:
    body = b'{"a": "%s"}' % (b"x" * 100_000)
    with _connected(served) as connection:
        length = f"Content-Length: {len(body)}"
        connection.sendall(_head(BEARER, length, "Expect: 100-continue"))
        assert connection.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(body)
        assert _answer(connection)[0] == 400


@pytest.mark.parametrize(
    ("path", "header", "status", "code"),
    [
        ("/api/LONG", "", 414, "uri_too_long"),
        ("/api/job-groups?metadata.scene=LONG", "", 414, "uri_too_long"),
        ("/api/v2/jobs?LONG", "", 414, "uri_too_long"),
        ("/api/backends", "x", 431, "headers_too_large"),
    ],
)
def test_request_with_long_headers_is_refused(
    served: Served, path: str, header: str, status: int, code: str
) -> None:
    answer = served.ask(
        "GET", path.replace("LONG", "x" * 60_000), headers={"X-Long": header * 20_000}
    )
    body = answer.json()
    assert (answer.status_code, body.get("code") or body["error"]["code"]) == (status, code)
    assert answer.headers["connection"] == "close"
    assert answer.headers["x-request-id"]
    assert served.ask("GET", f"/healthz?{'x' * 15_000}").status_code == 200


@pytest.mark.skipif(sys.platform != "linux", reason="sets the limit of another process")
def test_connections_without_a_request_do_not_stop_the_service(served: Served) -> None:
    limits = resource.prlimit(served.process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(served.process.pid, resource.RLIMIT_NOFILE, (256, limits[1]))
    try:
        with ExitStack() as stack:
            for _ in range(300):
                connection = stack.enter_context(_connected(served))
                connection.sendall(b"GET /api/backends HTTP/1.1\r\nHost: localhost\r\n")
            answer = served.ask(
                "GET", "/api/backends", headers={"authorization": f"Bearer {TOKEN}"}
            )
            assert answer.status_code == 200
            assert len(list(Path(f"/proc/{served.process.pid}/fd").iterdir())) < 0.85 * 256
            connection.sendall(BEARER.encode() + b"\r\n\r\n")
            assert _answer(connection)[0] == 200  # the newest ones stay
    finally:
        resource.prlimit(served.process.pid, resource.RLIMIT_NOFILE, limits)


def test_wrong_tokens_of_refused_bodies_are_counted(served: Served) -> None:
    """The last test: afterwards this machine must wait."""
    statuses = []
    for _ in range(11):
        with _connected(served) as connection:
            connection.sendall(_head(WRONG_BEARER, "Content-Length: 838860800"))
            statuses.append(_answer(connection)[0])
    assert statuses[-1] == 429
    assert set(statuses) == {401, 429}
