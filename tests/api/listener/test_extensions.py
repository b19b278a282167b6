"""Extensions of ComfyUI's editor and routes of custom nodes, from machines that may lie."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from aiohttp import web

from backends import descriptions, services
from backends.comfyui.exchange import Timeouts
from backends.models import Backend
from backends.node_paths import parse_routes
from director.accounts import principals
from jobgroups.api.listener import extensions, node_routes
from jobgroups.domain.access import Role
from jobgroups.domain.clock import now
from tests.api.conftest import LATER
from tests.api.listener.conftest import Program
from tests.api.test_accounts import bearer, token_of
from tests.harness.loop_thread import LoopThread

# The event loop reads in threads of its own.
pytestmark = pytest.mark.django_db(transaction=True)
SCRIPT = b"export const where = 1;"
LISTED = ["/extensions/pack/hello.js", "/extensions/pack%20two/js/a%20b.js"]


class Machine(LoopThread):
    """A server in the place of a ComfyUI; ``files`` are answers by path, and ``received``
    the requests.
    """

    def __init__(self) -> None:
        super().__init__()
        self.silence = 0.0
        self.files: dict[str, Any] = {"/extensions": LISTED, "/extensions/pack/hello.js": SCRIPT}
        self.received: list[tuple[str, str, dict[str, str], bytes]] = []

    async def _answer(self, request: web.Request) -> web.Response:
        await asyncio.sleep(self.silence)
        body = await request.read()
        self.received.append((request.method, request.raw_path, dict(request.headers), body))
        answer = self.files.get(request.raw_path.partition("?")[0])
        if isinstance(answer, web.Response):
            # A response can be sent once.
            return web.Response(status=answer.status, headers=answer.headers, body=answer.body)
        if isinstance(answer, bytes):
            return web.Response(body=answer, content_type="text/javascript")
        return web.Response(status=404) if answer is None else web.json_response(answer)

    async def open(self) -> None:
        self._runner = web.ServerRunner(web.Server(self._answer), shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def close(self) -> None:
        await self._runner.cleanup()

    def paths(self) -> list[str]:
        return [path for _, path, _, _ in self.received]


def register(machine: Machine, backend_id: str, version: str = "0.33.0", **fields: Any) -> Backend:
    row = services.backend_create(
        url=machine.url, backend_id=backend_id, **{"extensions_allowed": True, **fields}
    )
    services.backend_observed(
        backend_id=row.id, reachable=True, version=version, devices=[], seen_at=now() + LATER
    )
    return row


def scripts_of(program: Program) -> list[str]:
    """Return the scripts of machines that are listed, behind the Director's own."""
    own, *others = program.get("/api/extensions")
    assert own == f"/{extensions.OWN}"
    return others


@pytest.fixture
def machine() -> Iterator[Machine]:
    with Machine() as machine:
        yield machine


@pytest.fixture
def anna() -> Program:
    return Program("10.0.0.4")


def script_of(program: Program, path: str, **headers: str) -> Any:
    return program.ask("GET", f"/extensions/{path}", **headers)


def test_only_a_confirmed_machine_extends_the_editor(anna: Program, machine: Machine) -> None:
    row = register(machine, "gpu-1", extensions_allowed=False)
    assert scripts_of(anna) == []
    assert script_of(anna, "pack/hello.js").status_code == 404
    assert machine.received == []
    services.backend_update(backend_id=row.id, extensions_allowed=True)
    assert scripts_of(anna) == sorted(LISTED)
    script = script_of(anna, "pack/hello.js")
    assert (script.content, script["Content-Type"]) == (SCRIPT, "text/javascript")
    assert script["X-Content-Type-Options"] == "nosniff"
    assert script_of(anna, "pack/hello.js", if_none_match=script["ETag"]).status_code == 304
    assert machine.paths().count("/extensions/pack/hello.js") == 1
    # Neither a worker that would outlast the confirmation, nor a script of the editor's own.
    worker = script_of(anna, "pack/hello.js", service_worker="script")
    assert worker.status_code == 404
    services.backend_update(backend_id=row.id, extensions_allowed=False)
    assert scripts_of(anna) == []
    assert script_of(anna, "pack/hello.js").status_code == 404


def test_files_of_one_extension_come_from_the_newest_machine_alone(
    anna: Program, machine: Machine
) -> None:
    with Machine() as newer:
        newer.files |= {"/extensions": LISTED[:1], "/extensions/pack/hello.js": b"newer"}
        machine.files["/extensions/pack/only-old.css"] = b"a {}"
        machine.files["/extensions/pack%20two/a.css"] = b"a {}"
        register(machine, "gpu-1", "0.3.64")
        register(newer, "gpu-2", "0.33.0")
        assert scripts_of(anna) == sorted(LISTED)
        assert script_of(anna, "pack/hello.js").content == b"newer"
        assert script_of(anna, "pack/only-old.css").status_code == 404
        style = script_of(anna, "pack%20two/a.css")
        assert (style.content, style["Content-Type"]) == (b"a {}", "text/css")
        assert "sandbox" in style["Content-Security-Policy"]


LIES = [
    "https://evil.example/a.js",
    "//evil.example/extensions/a.js",
    "/extensions/../prompt.js",
    "/extensions/pack/../../a.js",
    "/extensions/pack/%2e%2e/%2e%2e/a.js",
    "/extensions/pack/%252e%252e/a.js",
    "/extensions/pack\\..\\a.js",
    "/extensions//evil.example/a.js",
    "/extensions/core/a.js",
    "/extensions/CORE/a.js",
    "/extensions/a.js",
    "/extensions/pack/a.js\n<script>",
    "/extensions/pack/a.html",
    "/extensions/" + "a" * 500 + "/a.js",
    "/prompt",
    "javascript:alert(1)//.js",
    7,
    None,
    {"path": "/extensions/pack/a.js"},
]


def test_a_list_that_lies_adds_nothing(anna: Program, machine: Machine) -> None:
    machine.files["/extensions"] = [*LIES, LISTED[0]]
    register(machine, "gpu-1")
    assert scripts_of(anna) == LISTED[:1]


@pytest.mark.parametrize(
    "listed",
    [
        [f"/extensions/pack/{number}.js" for number in range(3_000)],
        ["/extensions/pack/" + "a" * 2**20],
        {"extensions": LISTED},
        b"<html>",
        web.Response(status=302, headers={"Location": "/elsewhere"}),
        web.Response(headers={"Content-Encoding": "gzip"}, body=b"\x1f\x8b"),
    ],
    ids=["many", "long", "object", "page", "redirect", "compressed"],
)
def test_a_list_beyond_the_limits_counts_as_none(
    anna: Program, machine: Machine, listed: Any
) -> None:
    machine.files |= {"/extensions": listed, "/elsewhere": LISTED}
    register(machine, "gpu-1")
    assert scripts_of(anna) == []


@pytest.mark.parametrize(
    "answer",
    [
        b"a" * (descriptions.MAX_WEB_FILE_BYTES + 1),
        web.Response(body=b"<!doctype html>", content_type="text/html"),
        web.Response(body=b" <html>", content_type="text/javascript"),
        web.Response(status=302, headers={"Location": "/extensions/pack/other.js"}),
        web.Response(status=500, body=b"export"),
    ],
    ids=["huge", "page", "page-as-script", "redirect", "error"],
)
def test_a_file_that_lies_is_not_sent(anna: Program, machine: Machine, answer: Any) -> None:
    machine.files |= {"/extensions/pack/hello.js": answer, "/extensions/pack/other.js": SCRIPT}
    register(machine, "gpu-1")
    assert script_of(anna, "pack/hello.js").status_code == 404


@pytest.mark.parametrize(
    "path",
    [
        "pack/../../system_stats",
        "pack/%2e%2e/%2e%2e/system_stats",
        "pack/%252e%252e/a.js",
        "pack//hello.js",
        "pack/..%5chello.js",
        "other/hello.js",
        "core/hello.js",
        "Core/hello.js",
    ],
)
def test_a_path_out_of_the_extensions_is_sent_to_no_machine(
    anna: Program, machine: Machine, path: str
) -> None:
    machine.files["/extensions/other/hello.js"] = machine.files["/extensions/core/hello.js"] = b"1"
    register(machine, "gpu-1")
    assert script_of(anna, path).status_code == 404
    assert set(machine.paths()) <= {"/extensions"}


def test_scripts_outlast_a_machine_that_goes_away(anna: Program) -> None:
    with Machine() as lost:
        lost.files["/extensions/pack/late.js"] = b"late"
        register(lost, "gpu-1")
        assert script_of(anna, "pack/hello.js").content == SCRIPT
    assert scripts_of(anna) == sorted(LISTED)
    assert script_of(anna, "pack/hello.js").content == SCRIPT
    assert script_of(anna, "pack/late.js").status_code == 404


def test_kept_files_are_bounded(
    anna: Program, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.files |= {f"/extensions/pack/{name}.css": name.encode() * 500 for name in "ab"}
    register(machine, "gpu-1")
    for limit, times in ((2_000, 1), (1_000, 2)):
        monkeypatch.setattr(
            descriptions,
            "web_files",
            descriptions.Answers(descriptions._read_web_file, lambda answer: (answer,), limit),
        )
        machine.received.clear()
        for name in "aba":
            assert script_of(anna, f"pack/{name}.css").content == name.encode() * 500
        assert machine.paths().count("/extensions/pack/a.css") == times


# --- routes of custom nodes -----------------------------------------------------------------------


@pytest.fixture
def routed(machine: Machine, settings: Any) -> Machine:
    """A machine with the route ``impact`` of custom nodes."""
    settings.DIRECTOR_COMFYUI_ROUTES = parse_routes(["/impact/=gpu-1", "v2/manager=gpu-2"])
    machine.files["/impact/wildcards"] = {"data": ["cat"]}
    machine.files["/api/impact/wildcards"] = {"data": ["cat"]}
    register(machine, "gpu-1")
    return machine


def test_a_route_gets_nothing_of_the_user_and_leaves_nothing_in_the_browser(
    anna: Program, routed: Machine
) -> None:
    routed.files["/impact/set"] = web.Response(
        status=201,
        body=b'{"set": 1}',
        headers={
            "Content-Type": "application/json",
            "Set-Cookie": "sessionid=evil",
            "Access-Control-Allow-Origin": "*",
            "Clear-Site-Data": '"*"',
        },
    )
    assert anna.get("/impact/wildcards?a=1%202&b=%23") == {"data": ["cat"]}
    assert anna.get("/api/impact/wildcards") == {"data": ["cat"]}
    answer = anna.ask(
        "POST",
        "/impact/set",
        {"a": 1},
        cookie="other=mine",
        authorization="Bearer mine",
        x_api_key="mine",
        comfy_user="anna",
        referer="http://localhost:9821/?token=mine",
    )
    assert (answer.status_code, answer.json(), answer.cookies) == (201, {"set": 1}, {})
    assert not {"Set-Cookie", "Access-Control-Allow-Origin", "Clear-Site-Data"} & set(
        answer.headers
    )
    assert "sandbox" in answer["Content-Security-Policy"]
    method, path, headers, body = routed.received[-1]
    assert (method, path, json.loads(body)) == ("POST", "/impact/set", {"a": 1})
    assert "mine" not in str(headers)
    assert routed.paths()[:2] == ["/impact/wildcards?a=1%202&b=%23", "/api/impact/wildcards"]


@pytest.mark.parametrize(
    "path",
    [
        "/impact/../prompt",
        "/impact/%2e%2e/prompt",
        "/impact/%252e%252e/prompt",
        "/impact/..%2fprompt",
        "/impact//../prompt",
        "/impact\\..\\prompt",
        "//impact/wildcards",
        "/IMPACT/wildcards",
        "/api/api/impact/wildcards",
        "/impactful",
        "/other",
    ],
)
def test_no_other_path_reaches_the_machine_of_a_route(
    anna: Program, routed: Machine, path: str
) -> None:
    for method in ("GET", "POST", "DELETE"):
        assert anna.ask(method, path).status_code in (400, 404, 405)
    assert routed.received == []


def test_a_silent_machine_is_waited_for_briefly(
    anna: Program, routed: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert scripts_of(anna) == sorted(LISTED)
    routed.silence = 20.0
    monkeypatch.setattr(extensions, "_SECONDS", 0.2)
    monkeypatch.setattr(node_routes, "_TIMEOUTS", Timeouts(silence_s=0.2, total_s=0.2))
    began = time.monotonic()
    assert script_of(anna, "pack/hello.js").status_code == 404
    assert anna.ask("GET", "/impact/wildcards").status_code == 503
    assert time.monotonic() - began < 10


def test_routes_are_off_without_the_setting(anna: Program, routed: Machine, settings: Any) -> None:
    settings.DIRECTOR_COMFYUI_ROUTES = {}
    assert anna.ask("GET", "/impact/wildcards").status_code == 404
    assert routed.received == []


@pytest.mark.parametrize(
    "answer",
    [
        b"a" * (16 * 2**20 + 1),
        web.Response(status=302, headers={"Location": "/prompt"}),
        web.Response(headers={"Content-Encoding": "gzip"}, body=b"\x1f\x8b"),
    ],
    ids=["huge", "redirect", "compressed"],
)
def test_an_answer_beyond_the_limits_is_not_sent(
    anna: Program, routed: Machine, answer: Any
) -> None:
    routed.files["/impact/wildcards"] = answer
    refused = anna.ask("GET", "/impact/wildcards")
    assert (refused.status_code, refused.json()["error"]["type"]) == (503, "route_unavailable")
    assert "gpu-1" in refused.json()["error"]["message"]


def test_a_route_needs_a_confirmed_machine_a_free_place_and_the_right_to_submit(
    anna: Program, routed: Machine, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = anna.ask("GET", "/v2/manager/list")
    assert (missing.status_code, "gpu-2" in missing.json()["error"]["message"]) == (503, True)
    monkeypatch.setattr(node_routes.NodeRouteView, "_open", node_routes._AT_ONCE)
    assert "Too many" in anna.ask("GET", "/impact/wildcards").json()["error"]["message"]
    monkeypatch.undo()
    services.backend_update(backend_id="gpu-1", extensions_allowed=False)
    forbidden = anna.ask("GET", "/impact/wildcards")
    assert "is not confirmed" in forbidden.json()["error"]["message"]
    assert routed.received == []
    services.backend_update(backend_id="gpu-1", extensions_allowed=True)
    settings.DIRECTOR_ACCOUNTS = True
    principals.kept.clear()
    viewer = Program(**bearer(token_of("viewer", role=Role.VIEWER)))
    assert viewer.ask("GET", "/impact/wildcards").status_code == 403
    principals.kept.clear()
