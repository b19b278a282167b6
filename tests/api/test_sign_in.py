import asyncio
import itertools
import json
from typing import Any

import pytest
from django.core import signing
from django.core.management import CommandError, call_command
from django.test import Client
from django.utils.crypto import salted_hmac

from director.security import sign_in
from director.security.sign_in import COOKIE, guard_sockets
from tests.api.conftest import Api, error_of, served_paths

TOKEN = "correct-horse-battery"
PHONE = "http://192.168.1.5:9820"

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def token(settings: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    settings.DIRECTOR_TOKEN = TOKEN
    settings.ALLOWED_HOSTS = ["localhost", "192.168.1.5"]
    monkeypatch.setattr(sign_in, "throttle", sign_in.Throttle())
    return TOKEN


@pytest.fixture
def phone() -> Client:
    """A browser on another machine."""
    return Client(
        raise_request_exception=False,
        enforce_csrf_checks=True,
        headers={"host": "192.168.1.5:9820"},
        REMOTE_ADDR="192.168.1.77",
    )


def _signed_in(browser: Client, **fields: str) -> Any:
    return browser.post("/sign-in", {"token": TOKEN, **fields}, headers={"origin": PHONE})


def test_no_sign_in_is_required_without_a_token(api: Api, settings: Any) -> None:
    settings.DIRECTOR_TOKEN = ""
    assert api.get("/api/backends").status_code == 200
    assert api.get("/sign-in").headers["Location"] == "/"


def test_program_sends_the_token(api: Api) -> None:
    refused = api.get("/api/backends")
    error_of(refused, 401, "sign_in_required")
    assert refused.headers["WWW-Authenticate"].startswith("Bearer")
    for scheme in ("Bearer", "bearer"):
        assert api.get("/api/backends", authorization=f"{scheme} {TOKEN}").status_code == 200
    assert api.get("/api/backends", x_api_key=TOKEN).status_code == 200
    for given in ({"x_api_key": ""}, {"x_api_key": TOKEN, "authorization": f"Basic {TOKEN}"}):
        error_of(api.get("/api/backends", **given), 401, "sign_in_required")


def test_wrong_token_is_refused(api: Api) -> None:
    wrong = (f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", "Bearer", f"Basic {TOKEN}", TOKEN)
    for given in (*wrong, "Bearer é", ""):
        error_of(api.get("/api/backends", authorization=given), 401, "sign_in_required")


SERVED = set(served_paths())
#: A path with a slash at its end has the view of the path without it.
PATHS = sorted(
    path
    for path in SERVED
    if not path.startswith("/sign-in") and (path == "/" or path.rstrip("/") not in SERVED - {path})
)
METHODS = ("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE")
CREDENTIALS: list[tuple[bool, dict[str, str]]] = [
    (True, {"authorization": f"Bearer {TOKEN}"}),
    (True, {"x_api_key": TOKEN}),
    (True, {"cookie": COOKIE}),
    (False, {}),
    (False, {"authorization": "Bearer wrong"}),
    (False, {"x_api_key": "wrong"}),
    (False, {"cookie": "wrong"}),
    (False, {"authorization": "Bearer wrong", "x_api_key": TOKEN}),
]


def test_paths_are_those_of_the_url_table() -> None:
    assert {
        "/",
        "/failures",
        "/api/failures/jobs",
        "/api/backends/x/drain",
        "/admin",
        "/api/v2/assets",
    } <= {*PATHS}


def _is_refused(api: Api, method: str, path: str, **headers: str) -> bool:
    answer = api.ask(method, path, b"{}", origin="http://localhost:9820", **headers)
    return answer.status_code == 401 or answer.headers.get("Location", "").startswith(
        "/sign-in?next="
    )


def test_every_method_of_a_path_requires_credentials(api: Api, reading_threads: None) -> None:
    open_ = [
        (method, path)
        for method, path in itertools.product(METHODS, PATHS)
        if not _is_refused(api, method, path)
    ]
    assert open_ == []
    closed = [
        path for path in PATHS if _is_refused(api, "GET", path, authorization=f"Bearer {TOKEN}")
    ]
    assert closed == []


@pytest.mark.parametrize("path", ["/", "/admin/", "/api/backends", "/api/v2/jobs", "/docs/x"])
def test_wrong_credentials_are_refused_and_right_ones_are_not(
    api: Api, path: str, monkeypatch: pytest.MonkeyPatch, reading_threads: None
) -> None:
    for method, (is_right, given) in itertools.product(("GET", "DELETE"), CREDENTIALS):
        monkeypatch.setattr(sign_in, "throttle", sign_in.Throttle())
        headers = {**given}
        if cookie := headers.pop("cookie", ""):
            headers["cookie"] = f"{COOKIE}={sign_in.new_session() if cookie == COOKIE else cookie}"
        assert _is_refused(api, method, path, **headers) is not is_right, (method, given)


def test_ten_wrong_tokens_block_that_address_only(
    api: Api, phone: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = f"Bearer {TOKEN}"
    for _ in range(sign_in.ALLOWED):
        error_of(api.get("/api/backends", authorization="Bearer wrong"), 401, "sign_in_required")
    closed = api.get("/api/backends", authorization=right)
    error_of(closed, 429, "too_many_requests")
    assert 1 <= int(closed.headers["Retry-After"]) <= 60
    assert api.ask("POST", "/sign-in", b"").status_code == 429
    assert phone.get("/api/backends", headers={"authorization": right}).status_code == 200
    monkeypatch.setattr(sign_in, "WINDOW", 0.0)
    assert api.get("/api/backends", authorization=right).status_code == 200


def test_wrong_tokens_behind_a_trusted_proxy_block_one_client_only(settings: Any) -> None:
    settings.DIRECTOR_TRUSTED_PROXIES = ["10.0.0.1"]

    def ask(token: str, named: str, peer: str = "10.0.0.1") -> int:
        headers = {
            "host": "localhost",
            "authorization": f"Bearer {token}",
            "x-forwarded-for": named,
        }
        return Client(REMOTE_ADDR=peer).get("/api/backends", headers=headers).status_code

    for _ in range(sign_in.ALLOWED):
        # What it claimed before the proxy saw it does not count.
        assert ask("wrong", "192.168.1.9, 192.168.1.77") == 401
        assert ask("wrong", "192.168.1.9", peer="10.0.0.2") == 401
    assert ask(TOKEN, "192.168.1.77") == 429
    assert ask(TOKEN, "192.168.1.9") == 200
    assert ask(TOKEN, "192.168.1.9", peer="10.0.0.2") == 429


def test_wrong_tokens_are_counted_by_network_and_bounded() -> None:
    counted = sign_in.Throttle()
    for number in range(sign_in.ALLOWED):
        counted.record_failure(f"2001:db8::{number}")
    assert counted.retry_after("2001:db8::ffff")
    assert not counted.retry_after("2001:db8:0:1::1")
    counted.record_failure("::ffff:10.0.0.1")
    assert not counted.retry_after("10.0.0.1")
    for number in range(10_001):
        counted.record_failure(f"name-{number}")
    assert len(counted._wrong) == 10_000


def test_page_redirects_to_the_form_and_back(phone: Client) -> None:
    asked = phone.get("/groups/jg_1?x=1&y=2")
    assert asked.status_code == 302
    assert asked.headers["Location"] == "/sign-in?next=/groups/jg_1%3Fx%3D1%26y%3D2"
    form = phone.get(asked.headers["Location"])
    assert form.status_code == 200
    assert 'value="/groups/jg_1?x=1&amp;y=2"' in form.text
    assert "no-store" in form.headers["Cache-Control"]
    fragment = phone.get("/parts/groups", headers={"hx-request": "true"})
    assert (fragment.status_code, fragment.headers["HX-Redirect"]) == (401, "/sign-in")
    done = _signed_in(phone, next="/groups/jg_1?x=1&y=2")
    assert (done.status_code, done.headers["Location"]) == (302, "/groups/jg_1?x=1&y=2")
    cookie = done.cookies[COOKIE]
    assert (cookie["httponly"], cookie["samesite"], TOKEN in cookie.value) == (True, "Lax", False)
    assert phone.get("/api/backends").status_code == 200
    assert phone.post("/sign-out", headers={"origin": PHONE}).headers["Location"] == "/sign-in"
    error_of(phone.get("/api/backends"), 401, "sign_in_required")


def test_form_redirects_to_no_other_site(phone: Client) -> None:
    for wanted in ("https://evil.example/", "//evil.example", "javascript:x", "\\\\e"):
        assert _signed_in(phone, next=wanted).headers["Location"] == "/"


def test_wrong_tokens_in_the_form_are_counted(phone: Client) -> None:
    for _ in range(sign_in.ALLOWED):
        answer = phone.post("/sign-in", {"token": "wrong"}, headers={"origin": PHONE})
        assert (answer.status_code, "This is not the token." in answer.text) == (403, True)
        assert COOKIE not in answer.cookies
    assert _signed_in(phone).status_code == 429
    answer = phone.get("/api/backends", headers={"authorization": f"Bearer {TOKEN}"})
    error_of(answer, 429, "too_many_requests")


def test_session_ends_with_a_new_token_or_after_its_time(
    phone: Client, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _signed_in(phone)
    settings.DIRECTOR_TOKEN = f"{TOKEN}-new"
    error_of(phone.get("/api/backends"), 401, "sign_in_required")
    settings.DIRECTOR_TOKEN = TOKEN
    assert phone.get("/api/backends").status_code == 200
    monkeypatch.setattr(sign_in, "SESSION_SECONDS", -1)
    error_of(phone.get("/api/backends"), 401, "sign_in_required")


def test_forged_session_is_refused(phone: Client) -> None:
    for value in ("", "x", signing.dumps("x"), signing.dumps(None, salt="x")):
        phone.cookies[COOKIE] = value
        error_of(phone.get("/api/backends"), 401, "sign_in_required")


def test_changes_with_a_cookie_must_come_from_own_pages(phone: Client, settings: Any) -> None:
    _signed_in(phone)
    body = {"url": "http://localhost:1"}

    def add(**headers: str) -> Any:
        return phone.post("/api/backends", body, content_type="application/json", headers=headers)

    error_of(add(), 403, "origin_not_allowed")
    error_of(add(origin="http://localhost:8188"), 403, "origin_not_allowed")
    error_of(add(origin="http://192.168.1.5:8188"), 403, "origin_not_allowed")
    assert add(origin=PHONE).status_code == 201
    assert phone.delete("/api/backends/localhost_1", headers={"origin": PHONE}).status_code == 204


async def _connected(**headers: str) -> list[dict[str, Any]]:
    sent: list[dict[str, Any]] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send(ADMITTED)

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    given = {"host": "192.168.1.5:9820", **headers}
    raw = [(name.encode(), value.encode()) for name, value in given.items()]
    scope = {"type": "websocket", "headers": raw, "client": ["192.168.1.77", 5]}
    await guard_sockets(application)(scope, receive, send)
    return sent


ADMITTED = {"type": "websocket.accept", "application": True}


def test_socket_requires_the_token_or_a_session_of_an_own_page(settings: Any) -> None:
    def connected(**headers: str) -> list[dict[str, Any]]:
        return asyncio.run(_connected(**headers))

    session = f"a=b; {COOKIE}={sign_in.new_session()}"
    assert connected(authorization=f"Bearer {TOKEN}") == [ADMITTED]
    assert connected(cookie=session, origin=PHONE) == [ADMITTED]
    for refused in (
        connected(),
        connected(authorization="Bearer wrong"),
        connected(cookie=session),
        connected(cookie=session, origin="http://localhost:8188"),
        connected(cookie=f"{COOKIE}=x", origin=PHONE),
    ):
        kinds = [message["type"].split(".")[1] for message in refused]
        assert kinds == ["accept", "send", "close"]
        assert json.loads(refused[1]["text"])["code"] == "sign_in_required"
        assert refused[2]["code"] == 4401
    settings.DIRECTOR_TOKEN = ""
    assert connected() == [ADMITTED]


def test_serve_requires_a_token_for_other_hosts(settings: Any) -> None:
    settings.DIRECTOR_TOKEN = ""
    with pytest.raises(CommandError, match="DIRECTOR_TOKEN"):
        call_command("serve", host="0.0.0.0", port=0)


def test_session_of_the_release_before_accounts_is_accepted(phone: Client) -> None:
    digest = salted_hmac("director.sign_in", TOKEN, algorithm="sha256").hexdigest()
    phone.cookies[COOKIE] = signing.dumps(digest, salt="director.sign_in")
    assert phone.get("/api/backends").status_code == 200
