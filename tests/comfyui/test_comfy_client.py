"""The client against real servers: one that behaves, and every way to misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gzip
import json
import logging
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import WSMsgType, web

from backends.comfyui.client import ComfyClient
from backends.comfyui.errors import (
    AccessDenied,
    AnswerTooLarge,
    BackendError,
    BackendUnreachable,
    NotComfyUI,
    PromptRefused,
    PromptUnconfirmed,
    ResponseLost,
    SendAborted,
    SocketLost,
)
from backends.comfyui.events import Executing, FeatureFlags, Preview, Status
from backends.comfyui.exchange import Timeouts
from backends.comfyui.probe import probe

MS = 0.001
QUICK = Timeouts(
    connect_s=500 * MS,
    silence_s=300 * MS,
    total_s=600 * MS,
    submit_s=600 * MS,
    open_s=500 * MS,
    close_s=500 * MS,
)
#: A deadline for what must come at once; reached only by a failing test.
SOON = 10.0

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
#: Set when the server is to end; handlers that never answer wait for it.
STOP = web.AppKey("stop", asyncio.Event)
STATUS = '{"type":"status","data":{"status":{"exec_info":{"queue_remaining":0}},"sid":"me"}}'


@dataclass
class Server:
    """A real aiohttp server and what it has seen."""

    url: str = ""
    port: int = 0
    requests: list[dict[str, Any]] = field(default_factory=list)


@contextlib.asynccontextmanager
async def serving(handler: Handler, *, host: str = "127.0.0.1") -> AsyncIterator[Server]:
    """Serve every route with ``handler`` on a free port; 10 KB of request body at most."""
    server = Server()
    stop = asyncio.Event()

    async def seen(request: web.Request) -> web.StreamResponse:
        server.requests.append(
            {
                "method": request.method,
                "path": request.raw_path,
                "headers": request.headers.copy(),
                "peer": request.transport and request.transport.get_extra_info("peername"),
                "body": await request.read() if request.method == "POST" else b"",
            }
        )
        return await handler(request)

    app = web.Application(client_max_size=10_000)
    app[STOP] = stop
    app.router.add_route("*", "/{path:.*}", seen)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, host, 0)
    await site.start()
    server.port = runner.addresses[0][1]
    shown = f"[{host}]" if ":" in host else host
    server.url = f"http://{shown}:{server.port}"
    try:
        yield server
    finally:
        stop.set()
        await runner.cleanup()


@contextlib.asynccontextmanager
async def raw_serving(answer: bytes, *, reset: bool = False) -> AsyncIterator[str]:
    """A TCP server that reads a request's head, writes ``answer`` and ends, with a reset if asked."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await writer.drain()
        if reset:
            writer.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
            writer.transport.abort()
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def answering(body: Any, status: int = 200, **headers: str) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        if isinstance(body, bytes):
            return web.Response(body=body, status=status, headers=headers)
        return web.json_response(body, status=status, headers=headers)

    return handler


async def endless(request: web.Request) -> web.StreamResponse:
    """A body that grows for ever."""
    response = web.StreamResponse()
    await response.prepare(request)
    with contextlib.suppress(ConnectionError):
        while not request.app[STOP].is_set():
            await response.write(b" " * 65536)
            await asyncio.sleep(0)
    return response


async def dripping(request: web.Request) -> web.StreamResponse:
    """A body that grows for ever and so slowly that no pause is too long."""
    response = web.StreamResponse()
    await response.prepare(request)
    with contextlib.suppress(ConnectionError):
        while not request.app[STOP].is_set():
            await response.write(b" ")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(50 * MS):
                    await request.app[STOP].wait()
    return response


async def hanging(request: web.Request) -> web.StreamResponse:
    """No answer at all."""
    await request.app[STOP].wait()
    return web.Response()


def free_port() -> int:
    """A port on which nothing listens."""
    with socket.socket() as probe_socket:
        probe_socket.bind(("127.0.0.1", 0))
        port: int = probe_socket.getsockname()[1]
        return port


def has_ipv6_loopback() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe_socket:
            probe_socket.bind(("::1", 0))
    except OSError:
        return False
    return True


async def submitted(url: str, prompt: dict[str, Any] | None = None) -> Any:
    async with ComfyClient(url, timeouts=QUICK, max_answer_bytes=100_000) as comfy:
        return await comfy.submit(
            prompt or {"1": {"class_type": "X", "inputs": {}}},
            prompt_id="p-1",
            client_id="c-1",
            extra_data={"director": {"child": "j_1"}},
        )


# Submitting


async def test_an_accepted_prompt_carries_our_id_client_and_marks() -> None:
    async with serving(answering({"prompt_id": "p-1", "number": 3, "node_errors": {}})) as server:
        accepted = await submitted(server.url)
    assert (accepted.prompt_id, accepted.number) == ("p-1", 3)
    (request,) = server.requests
    assert (request["method"], request["path"]) == ("POST", "/prompt")
    assert request["headers"]["Content-Type"] == "application/json"
    assert json.loads(request["body"]) == {
        "prompt": {"1": {"class_type": "X", "inputs": {}, "_meta": {}}},
        "prompt_id": "p-1",
        "client_id": "c-1",
        "extra_data": {"director": {"child": "j_1"}},
    }


async def test_a_refused_connection_is_not_sent() -> None:
    with pytest.raises(BackendUnreachable) as caught:
        await submitted(f"http://127.0.0.1:{free_port()}")
    assert caught.value.not_sent
    assert caught.value.__cause__ is not None
    assert "No connection: the connection was refused." in str(caught.value)


async def test_an_unknown_host_is_not_sent() -> None:
    with pytest.raises(BackendUnreachable, match="no machine of this name is known"):
        await submitted("http://no-such-host.invalid:8188")


async def test_a_connection_that_never_stands_is_not_sent() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        with contextlib.ExitStack() as stack:
            # A full backlog drops further connection attempts.
            for _ in range(8):
                filler = stack.enter_context(socket.socket())
                filler.setblocking(False)
                filler.connect_ex(address)
            with pytest.raises((BackendUnreachable, ResponseLost)) as caught:
                await submitted(f"http://127.0.0.1:{address[1]}")
    # Where the system accepts on the program's behalf, the same server is a silent one.
    assert caught.value.not_sent == isinstance(caught.value, BackendUnreachable)


async def test_a_400_is_a_refusal_with_its_reasons() -> None:
    fault = {"type": "value_not_in_list", "message": "Value not in list", "details": "kind: 'nope'"}
    refusal = {
        "error": {"type": "prompt_outputs_failed_validation", "message": "Failed", "details": ""},
        "node_errors": {"1": {"errors": [fault], "dependent_outputs": ["1"], "class_type": "X"}},
    }
    async with serving(answering(refusal, 400)) as server:
        with pytest.raises(PromptRefused) as caught:
            await submitted(server.url)
    assert caught.value.detail == "Failed: node 1 (X): Value not in list: kind: 'nope'"
    assert caught.value.error_type == "prompt_outputs_failed_validation"
    assert caught.value.node_errors == refusal["node_errors"]


async def test_a_413_is_a_refusal_though_the_body_was_still_being_sent() -> None:
    async with serving(answering({"prompt_id": "p", "number": 0})) as server:
        with pytest.raises(PromptRefused) as caught:
            await submitted(
                server.url, {"1": {"class_type": "X", "inputs": {"text": "x" * 2_000_000}}}
            )
    assert caught.value.status == 413
    assert "10000" in caught.value.detail


UNCERTAIN: dict[str, Handler] = {
    "500 that may have queued it": answering(b"500 Internal Server Error", 500),
    "502 of a proxy": answering(b"<html>bad gateway", 502),
    "403": answering(b"", 403),
    "404": answering(b"", 404),
    "redirect": answering(b"", 302, Location="http://127.0.0.1:1/"),
    "HTML with 200": answering(b"<html><body>welcome", 200),
    "nonsense JSON": answering({"hello": []}),
    "no body": answering(b""),
    "201": answering({"prompt_id": "p", "number": 0}, 201),
    "endless": endless,
    "dripping": dripping,
    "silent": hanging,
}


@pytest.mark.parametrize("handler", UNCERTAIN.values(), ids=UNCERTAIN)
async def test_anything_else_after_sending_is_uncertain(handler: Handler) -> None:
    async with serving(handler) as server, asyncio.timeout(SOON):
        with pytest.raises(ResponseLost) as caught:
            await submitted(server.url)
    assert not caught.value.not_sent
    assert len(server.requests) == 1, "it was sent again"


EXCEPTION = b"500 Internal Server Error\n\nServer got itself in trouble"


@pytest.mark.parametrize(
    ("handler", "detail", "raised"),
    [
        (
            answering(EXCEPTION, 500),
            'with 500: "500 Internal Server Error Server got itself in trouble".',
            True,
        ),
        (
            answering(b"", 307, Location="https://me:pw@sso.test/in%0A?token=x"),
            "with a redirect (307) to https://sso.test/in%0A.",
            False,
        ),
        (answering(b"<html><body>hi", 200), "with 200 without a prompt_id: a web page.", False),
        (answering(b"no\x1b[31m\r\nroute", 404), 'with 404: "no [31m route".', False),
        (answering(b"", 405), "with 405.", False),
    ],
)
async def test_an_answer_that_comes_again_says_what_it_was(
    handler: Handler, detail: str, raised: bool
) -> None:
    async with serving(handler) as server:
        with pytest.raises(PromptUnconfirmed) as caught:
            await submitted(server.url)
    assert caught.value.detail == f"POST /prompt was answered {detail}"
    assert caught.value.raised is raised
    assert not caught.value.not_sent


@pytest.mark.parametrize(
    "handler",
    [
        answering(b"500 Internal Server Error", 500),
        answering(EXCEPTION, 502),
        answering(b"", 503),
        answering(b"", 408),
        answering(b"", 425),
        answering(b"", 429),
    ],
)
async def test_an_answer_of_a_proxy_alone_confirms_nothing(handler: Handler) -> None:
    async with serving(handler) as server:
        with pytest.raises(ResponseLost) as caught:
            await submitted(server.url)
    assert not isinstance(caught.value, PromptUnconfirmed)


@pytest.mark.parametrize("reset", [False, True], ids=["end", "reset"])
@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b'HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"prompt_id":"p","number":0}',
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{",
        b"SSH-2.0-OpenSSH_9.9\r\n",
    ],
)
async def test_a_connection_that_breaks_after_sending_is_uncertain(
    answer: bytes, reset: bool
) -> None:
    async with raw_serving(answer, reset=reset) as url:
        with pytest.raises(ResponseLost):
            await submitted(url)


async def test_a_validation_that_thinks_longer_than_other_answers_may_pause_is_waited_for() -> None:
    async def thinking(request: web.Request) -> web.StreamResponse:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2 * QUICK.silence_s):
                await request.app[STOP].wait()
        return web.json_response({"prompt_id": "p-1", "number": 0})

    patient = dataclasses.replace(QUICK, submit_s=SOON)
    async with serving(thinking) as server, ComfyClient(server.url, timeouts=patient) as comfy:
        accepted = await comfy.submit({}, prompt_id="p-1", client_id="c")
    assert accepted.prompt_id == "p-1"


async def test_a_prompt_never_goes_over_a_connection_that_stood_before() -> None:
    async with (
        serving(
            answering({"prompt_id": "p-1", "number": 0, "exec_info": {"queue_remaining": 0}})
        ) as server,
        ComfyClient(server.url, timeouts=QUICK) as comfy,
    ):
        await comfy.queue_remaining()
        await comfy.queue_remaining()
        for _ in range(2):
            await comfy.submit({}, prompt_id="p-1", client_id="c")
        await comfy.queue_remaining(new_connection=True)
    peers = [request["peer"] for request in server.requests]
    assert peers[0] == peers[1], "what is asked often keeps its connection"
    assert len(set(peers[1:])) == 4


@pytest.mark.parametrize("identifier", ["", None, 5, {}])
async def test_an_id_that_would_harm_a_comfyui_is_never_sent(identifier: Any) -> None:
    async with serving(answering(b"")) as server, ComfyClient(server.url) as comfy:
        with pytest.raises(ValueError, match="identifier"):
            await comfy.interrupt(identifier)
        with pytest.raises(ValueError, match="identifier"):
            await comfy.submit({}, prompt_id="p", client_id=identifier)
        with pytest.raises(ValueError, match="identifier"):
            await comfy.delete_pending([identifier])
    assert server.requests == []


# Asking

BAD_ANSWERS: dict[str, tuple[Handler, type[BackendError]]] = {
    "HTML": (answering(b"<html><body>router", 200, **{"Content-Type": "text/html"}), NotComfyUI),
    "nonsense JSON": (answering([1, 2]), NotComfyUI),
    "not JSON": (answering(b"hello"), NotComfyUI),
    "empty": (answering(b""), NotComfyUI),
    "redirect": (answering(b"", 301, Location="/queue/"), NotComfyUI),
    "redirect to no host": (answering(b"", 301, Location="http://xn--8hb/"), NotComfyUI),
    "404": (answering(b"", 404), NotComfyUI),
    "204": (answering(b"", 204), NotComfyUI),
    "compressed": (
        answering(gzip.compress(b" " * 10**6), 200, **{"Content-Encoding": "gzip"}),
        NotComfyUI,
    ),
    "login": (answering(b"", 401), AccessDenied),
    "forbidden": (answering(b"", 403), AccessDenied),
    "500": (answering(b"boom", 500), ResponseLost),
    "503": (answering(b"", 503), ResponseLost),
    "endless": (endless, AnswerTooLarge),
    "too long": (answering(b" " * 200_000), AnswerTooLarge),
    "dripping": (dripping, ResponseLost),
    "silent": (hanging, ResponseLost),
}
QUESTIONS: dict[str, Callable[[ComfyClient], Awaitable[Any]]] = {
    "history": lambda comfy: comfy.history("p"),
    "queue": lambda comfy: comfy.queue(new_connection=True),
    "system_stats": lambda comfy: comfy.system_stats(),
}


@pytest.mark.parametrize("question", QUESTIONS.values(), ids=QUESTIONS)
@pytest.mark.parametrize(("handler", "error"), BAD_ANSWERS.values(), ids=BAD_ANSWERS)
async def test_a_bad_answer_has_its_own_error(
    handler: Handler, error: type[BackendError], question: Callable[[ComfyClient], Awaitable[Any]]
) -> None:
    async with (
        serving(handler) as server,
        asyncio.timeout(SOON),
        ComfyClient(server.url, timeouts=QUICK, max_answer_bytes=100_000) as comfy,
    ):
        with pytest.raises(BackendError) as caught:
            await question(comfy)
    assert type(caught.value) is error
    assert caught.value.url == f"http://localhost:{server.port}"
    assert len(server.requests) == 1, "a redirect was followed, or a question repeated"


async def test_small_answers_have_a_limit_of_their_own() -> None:
    async with serving(endless) as server, ComfyClient(server.url) as comfy:
        for question in (comfy.system_stats, comfy.queue_remaining):
            with pytest.raises(AnswerTooLarge, match="answered with more than 1048576 bytes"):
                await question()


async def test_a_reset_in_the_middle_of_an_answer_is_a_lost_answer() -> None:
    async with (
        raw_serving(b'HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{"queue', reset=True) as url,
        ComfyClient(url, timeouts=QUICK) as comfy,
    ):
        with pytest.raises(ResponseLost):
            await comfy.queue()


async def test_answers_are_not_compressed_by_a_server_that_could() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.json_response({"exec_info": {"queue_remaining": 7}})
        response.enable_compression()
        return response

    async with serving(handler) as server, ComfyClient(server.url) as comfy:
        assert await comfy.queue_remaining() == 7


async def test_a_slow_answer_within_the_limits_is_an_answer() -> None:
    async def slow(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for piece in (b'{"queue_running":[],', b'"queue_pending":[]}'):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(100 * MS):
                    await request.app[STOP].wait()
            await response.write(piece)
        return response

    async with serving(slow) as server, ComfyClient(server.url, timeouts=QUICK) as comfy:
        assert (await comfy.queue()).pending == ()


async def test_nobody_listening_is_unreachable_for_every_call() -> None:
    async with ComfyClient(f"http://localhost:{free_port()}", timeouts=QUICK) as comfy:
        for question in QUESTIONS.values():
            with pytest.raises(BackendUnreachable):
                await question(comfy)
        with pytest.raises(BackendUnreachable):
            await comfy.interrupt("p")
        with pytest.raises(BackendUnreachable):
            async with comfy.view("a.png"):
                raise AssertionError("opened")
        with pytest.raises(BackendUnreachable):
            async with comfy.events("c"):
                raise AssertionError("opened")


async def test_the_client_still_works_after_a_bad_answer() -> None:
    bad = [endless, hanging, answering(b"", 500)]

    async def handler(request: web.Request) -> web.StreamResponse:
        chosen = bad.pop(0) if bad else answering({"exec_info": {"queue_remaining": 2}})
        return await chosen(request)

    async with (
        serving(handler) as server,
        ComfyClient(server.url, timeouts=QUICK, max_answer_bytes=100_000) as comfy,
    ):
        for error in (AnswerTooLarge, ResponseLost, ResponseLost):
            with pytest.raises(error):
                await comfy.queue_remaining()
        assert await comfy.queue_remaining() == 2


async def test_changes_are_told_as_comfyui_reads_them() -> None:
    async with (
        serving(answering(b"")) as server,
        ComfyClient(f"{server.url}/gpu 1".replace(" ", "%20")) as comfy,
    ):
        await comfy.delete_pending(["a", "b"])
        await comfy.interrupt("p")
        await comfy.free(unload_models=True, free_memory=False)
    told = [(request["path"], json.loads(request["body"])) for request in server.requests]
    assert told == [
        ("/gpu%201/queue", {"delete": ["a", "b"]}),
        ("/gpu%201/interrupt", {"prompt_id": "p"}),
        ("/gpu%201/free", {"unload_models": True, "free_memory": False}),
    ]


async def test_odd_ids_stay_inside_their_path_segment() -> None:
    async with serving(answering({})) as server, ComfyClient(server.url) as comfy:
        assert await comfy.history("../queue?x#y/ü") is None
        assert await comfy.object_info("A/B C") is None
    assert [request["path"] for request in server.requests] == [
        "/history/..%2Fqueue%3Fx%23y%2F%C3%BC",
        "/object_info/A%2FB%20C",
    ]


# Files


async def test_a_file_is_read_in_pieces_with_its_type_and_length() -> None:
    content = bytes(range(256)) * 1000

    async with (
        serving(answering(content, 200, **{"Content-Type": "image/png"})) as server,
        ComfyClient(server.url) as comfy,
        comfy.view("ü &.png", subfolder="a/b", type="temp", headers={"Range": "bytes=0-"}) as file,
    ):
        assert (file.status, file.content_type, file.length) == (
            200,
            "image/png",
            len(content),
        )
        assert b"".join([chunk async for chunk in file.chunks()]) == content
    (request,) = server.requests
    assert request["path"] == "/view?filename=%C3%BC%20%26.png&subfolder=a%2Fb&type=temp"
    assert request["headers"]["Range"] == "bytes=0-"


async def test_a_file_that_is_gone_is_a_status() -> None:
    async with serving(answering(b"", 404)) as server, ComfyClient(server.url) as comfy:
        async with comfy.view("gone.png") as file:
            assert (file.status, file.length) == (404, 0)
        assert not await comfy.has_file("gone.png")


async def test_a_file_that_is_there_is_known_without_reading_it() -> None:
    async with serving(answering(b"x" * 9000)) as server, ComfyClient(server.url) as comfy:
        assert await comfy.has_file("a.png")
    assert server.requests[0]["method"] == "HEAD"


async def read_to_the_end(comfy: ComfyClient, **options: Any) -> bytes:
    async with comfy.view("a.png", **options) as file:
        return b"".join([chunk async for chunk in file.chunks()])


@pytest.mark.parametrize(
    "handler", [endless, answering(b"x" * 200_000)], ids=["endless", "too long"]
)
async def test_a_file_above_its_limit_is_cut_off(handler: Handler) -> None:
    async with serving(handler) as server, ComfyClient(server.url, timeouts=QUICK) as comfy:
        with pytest.raises(AnswerTooLarge):
            await read_to_the_end(comfy, max_bytes=100_000)


async def test_a_compressed_file_is_not_handed_on_as_the_file() -> None:
    compressed = answering(gzip.compress(b"x"), 200, **{"Content-Encoding": "gzip"})
    async with serving(compressed) as server, ComfyClient(server.url) as comfy:
        with pytest.raises(NotComfyUI):
            await read_to_the_end(comfy)


async def test_the_readers_own_errors_are_not_taken_for_the_backends() -> None:
    async with serving(answering(b"x")) as server, ComfyClient(server.url) as comfy:
        with pytest.raises(OSError, match="disk full"):
            async with comfy.view("a.png"):
                raise OSError("disk full")


async def test_a_file_that_breaks_off_is_a_lost_answer() -> None:
    async with (
        raw_serving(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhalf") as url,
        ComfyClient(url, timeouts=QUICK) as comfy,
        comfy.view("a.png") as file,
    ):
        with pytest.raises(ResponseLost):
            _ = [chunk async for chunk in file.chunks()]


# Addresses and headers


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        pytest.param(
            "::1", marks=pytest.mark.skipif(not has_ipv6_loopback(), reason="no ::1 here")
        ),
    ],
)
async def test_localhost_is_reached_on_both_of_its_addresses(host: str) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        if request.path == "/ws":
            ws = web.WebSocketResponse()
            await ws.prepare(request)
            await ws.send_str(STATUS)
            await ws.receive()
            await ws.close()
            return ws
        return await answering({"prompt_id": "p-1", "number": 0})(request)

    async with serving(handler, host=host) as server, asyncio.timeout(SOON):
        accepted = await submitted(f"http://localhost:{server.port}")
        async with ComfyClient(f"localhost:{server.port}") as comfy, comfy.events("c") as events:
            assert await anext(events) == Status(queue_remaining=0, sid="me")
    assert accepted.prompt_id == "p-1"
    assert {request["headers"]["Host"] for request in server.requests} == {
        f"localhost:{server.port}"
    }


async def test_headers_and_login_go_with_requests_and_sockets_and_no_origin_does() -> None:
    async with serving(answering(b"", 401)) as server:
        url = server.url.replace("http://", "http://user:secret@")
        async with ComfyClient(url, headers={"X-Token": "t"}) as comfy:
            with pytest.raises(AccessDenied):
                await comfy.queue()
            with pytest.raises(AccessDenied):
                async with comfy.events("c"):
                    raise AssertionError("opened")
    assert len(server.requests) == 2
    for request in server.requests:
        assert request["headers"]["Authorization"] == "Basic dXNlcjpzZWNyZXQ="
        assert request["headers"]["X-Token"] == "t"
        assert "Origin" not in request["headers"]
    assert "secret" not in comfy.url


async def test_an_own_authorization_header_wins_over_the_urls_login() -> None:
    async with serving(answering({"exec_info": {"queue_remaining": 0}})) as server:
        url = server.url.replace("http://", "http://user:secret@")
        async with ComfyClient(url, headers={"authorization": "Bearer t"}) as comfy:
            await comfy.queue_remaining()
    assert server.requests[0]["headers"].getall("Authorization") == ["Bearer t"]


async def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy", "ws_proxy", "no_proxy"):
        monkeypatch.setenv(name, "" if name == "no_proxy" else f"http://127.0.0.1:{free_port()}")
    answer, events = answering({"exec_info": {"queue_remaining": 1}}), scripted(STATUS)

    async def handler(request: web.Request) -> web.StreamResponse:
        return await (events if request.path == "/ws" else answer)(request)

    async with serving(handler) as server, ComfyClient(server.url) as comfy:
        assert await comfy.queue_remaining() == 1
        async with comfy.events("c") as socket_, asyncio.timeout(SOON):
            assert await anext(socket_) == Status(queue_remaining=0, sid="me")


async def test_a_failed_tls_handshake_sends_nothing() -> None:
    async with serving(answering({"prompt_id": "p", "number": 0})) as server:
        url = server.url.replace("http:", "https:")
        with pytest.raises(BackendUnreachable):
            await submitted(url)
        async with ComfyClient(url, timeouts=QUICK) as comfy:
            with pytest.raises(BackendUnreachable):
                async with comfy.events("c"):
                    raise AssertionError("opened")
    assert server.requests == []


# Events


def scripted(*frames: str | bytes, then: str = "listen") -> Handler:
    """A socket that sends ``frames``, then echoes, or hears one message and closes or aborts."""

    async def handler(request: web.Request) -> web.StreamResponse:
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        for frame in frames:
            await (ws.send_str(frame) if isinstance(frame, str) else ws.send_bytes(frame))
        if then != "listen":
            await ws.receive()
        if then == "close":
            await ws.close(code=1001, message=b"going")
        elif then == "abort":
            assert request.transport is not None
            request.transport.abort()
        else:
            async for message in ws:
                if message.type == WSMsgType.TEXT:
                    await ws.send_str(message.data)
        return ws

    return handler


async def test_the_first_message_is_the_feature_flags() -> None:
    for previews in (True, False):
        async with (
            serving(scripted()) as server,
            ComfyClient(server.url) as comfy,
            comfy.events("c", previews=previews) as events,
            asyncio.timeout(SOON),
        ):
            # The server sends back what it got.
            assert await anext(events) == FeatureFlags(supports_preview_metadata=previews)


async def test_the_client_id_is_sent_and_nothing_is_compressed() -> None:
    async with (
        serving(scripted(STATUS)) as server,
        ComfyClient(server.url) as comfy,
        comfy.events("a b/ü") as events,
    ):
        assert await anext(events) == Status(queue_remaining=0, sid="me")
        assert events.client_id == "a b/ü"
    assert server.requests[0]["path"] == "/ws?clientId=a%20b%2F%C3%BC"
    assert "Sec-WebSocket-Extensions" not in server.requests[0]["headers"]


async def test_unknown_and_broken_frames_are_counted_and_passed_over() -> None:
    frames = [
        "nonsense",
        '{"type":"executing"}',
        '{"type":"from a custom node"}',
        b"\0",
        struct.pack(">I", 99),
        '{"type":"executing","data":{"node":null,"prompt_id":"p"}}',
    ]
    async with (
        serving(scripted(*frames)) as server,
        ComfyClient(server.url) as comfy,
        comfy.events("c") as events,
        asyncio.timeout(SOON),
    ):
        assert await anext(events) == Executing(node=None, prompt_id="p")
        assert (events.frames, events.broken_frames, events.unknown_frames) == (6, 3, 2)


@pytest.mark.parametrize("previews", [True, False])
async def test_previews_come_only_where_they_are_wanted(previews: bool) -> None:
    frames = [struct.pack(">II", 1, 1) + b"image", STATUS]
    async with (
        serving(scripted(*frames)) as server,
        ComfyClient(server.url) as comfy,
        comfy.events("c", previews=previews) as events,
        asyncio.timeout(SOON),
    ):
        first = await anext(events)
        assert isinstance(first, Preview if previews else Status)


async def test_a_large_frame_does_not_end_the_socket() -> None:
    image = struct.pack(">II", 1, 2) + b"x" * 5_000_000
    async with (
        serving(scripted(image)) as server,
        ComfyClient(server.url) as comfy,
        comfy.events("c", previews=True) as events,
        asyncio.timeout(SOON),
    ):
        assert await anext(events) == Preview(image_type="png", image=image[8:])


@pytest.mark.parametrize(("then", "code"), [("close", 1001), ("abort", 1006)])
async def test_a_socket_that_ends_says_how(then: str, code: int) -> None:
    async with (
        serving(scripted(STATUS, then=then)) as server,
        ComfyClient(server.url) as comfy,
        asyncio.timeout(SOON),
        comfy.events("c") as events,
    ):
        assert await anext(events) == Status(queue_remaining=0, sid="me")
        with pytest.raises(SocketLost) as caught:
            await anext(events)
    assert caught.value.close_code == code


async def test_close_reason_of_a_backend_stays_one_printable_line() -> None:
    reason = "full\r\n2026-02-01 ERROR forged\x1b[2J\u2028\u202etxet\x9b31m" + "x" * 40

    async def handler(request: web.Request) -> web.StreamResponse:
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        await ws.receive()
        await ws.close(code=1011, message=reason.encode())
        return ws

    async with (
        serving(handler) as server,
        ComfyClient(server.url) as comfy,
        asyncio.timeout(SOON),
        comfy.events("c") as events,
    ):
        with pytest.raises(SocketLost) as caught:
            await anext(events)
    for text in (caught.value.detail, str(caught.value)):
        assert text.isprintable()
        assert "(1011 full 2026-02-01 ERROR forged [2J txet 31mxxx" in text


async def test_our_own_close_ends_the_iteration_after_the_server_has_closed() -> None:
    closed = asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        async for _ in ws:
            pass
        closed.set()
        return ws

    async with (
        serving(handler) as server,
        ComfyClient(server.url) as comfy,
        comfy.events("c") as events,
        asyncio.timeout(SOON),
    ):
        await events.close()
        assert [event async for event in events] == []
        assert closed.is_set()


async def test_a_server_that_does_not_close_is_left_after_a_while() -> None:
    async def deaf(request: web.Request) -> web.StreamResponse:
        ws = web.WebSocketResponse(autoclose=False)
        await ws.prepare(request)
        await request.app[STOP].wait()
        return ws

    async with (
        serving(deaf) as server,
        asyncio.timeout(SOON),
        ComfyClient(server.url, timeouts=QUICK) as comfy,
        comfy.events("c"),
    ):
        pass


SOCKET_ANSWERS: dict[str, tuple[Handler, type[BackendError]]] = {
    "page": (answering(b"<html>", 200), NotComfyUI),
    "404": (answering(b"", 404), NotComfyUI),
    "redirect": (answering(b"", 307, Location="/other"), NotComfyUI),
    "origin": (answering(b"", 403), AccessDenied),
    "500": (answering(b"", 500), ResponseLost),
    "silent": (hanging, ResponseLost),
}


@pytest.mark.parametrize(("handler", "error"), SOCKET_ANSWERS.values(), ids=SOCKET_ANSWERS)
async def test_a_socket_that_does_not_open_says_why(
    handler: Handler, error: type[BackendError]
) -> None:
    async with (
        serving(handler) as server,
        asyncio.timeout(SOON),
        ComfyClient(server.url, timeouts=QUICK) as comfy,
    ):
        with pytest.raises(BackendError) as caught:
            async with comfy.events("c"):
                raise AssertionError("opened")
    assert type(caught.value) is error
    assert len(server.requests) == 1, "a redirect was followed"


@pytest.mark.parametrize(
    ("answer", "error"), [(b"", ResponseLost), (b"SSH-2.0-OpenSSH_9.9\r\n\r\n", NotComfyUI)]
)
async def test_a_handshake_without_http_says_why(answer: bytes, error: type[BackendError]) -> None:
    async with raw_serving(answer) as url, ComfyClient(url, timeouts=QUICK) as comfy:
        with pytest.raises(BackendError) as caught:
            async with comfy.events("c"):
                raise AssertionError("opened")
    assert type(caught.value) is error


# Probing

STATS = {
    "system": {"os": "posix", "comfyui_version": "0.3.64", "python_version": "3.11"},
    "devices": [
        {"name": "cuda:0 RTX", "type": "cuda", "index": 0, "vram_total": 24, "vram_free": 20}
    ],
}


async def test_a_probe_reports_version_and_devices() -> None:
    async with serving(answering(STATS)) as server:
        report = await probe(server.url)
    assert report.version == "0.3.64"
    assert report.url == f"http://localhost:{server.port}"
    assert [(device.name, device.vram_free) for device in report.devices] == [("cuda:0 RTX", 20)]


@pytest.mark.parametrize(
    ("handler", "error"),
    [
        (hanging, ResponseLost),
        (endless, AnswerTooLarge),
        (dripping, ResponseLost),
        (answering({}), NotComfyUI),
    ],
    ids=["silent", "endless", "dripping", "other"],
)
async def test_a_probe_ends_in_time_whatever_answers(
    handler: Handler, error: type[BackendError]
) -> None:
    loop = asyncio.get_running_loop()
    async with serving(handler) as server:
        before = loop.time()
        with pytest.raises(error):
            await probe(server.url, timeout=400 * MS)
        assert loop.time() - before < 400 * MS + 1


async def test_a_probe_of_nothing_is_unreachable() -> None:
    with pytest.raises(BackendUnreachable):
        await probe(f"http://127.0.0.1:{free_port()}", timeout=400 * MS)


async def test_no_secret_reaches_the_logs(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with serving(scripted("nonsense", STATUS)) as server:
        url = server.url.replace("http://", "http://user:secret@")
        async with (
            ComfyClient(url, headers={"X-Token": "token"}) as comfy,
            comfy.events("c") as events,
        ):
            await anext(events)
            with pytest.raises(BackendError):
                await comfy.queue()
    assert "secret" not in caplog.text
    assert "token" not in caplog.text


# --- taken back at the last moment ----------------------------------------------------------------


async def test_a_prompt_that_is_taken_back_while_it_connects_is_not_sent() -> None:
    """A process that stood still while it connected may have lost its right to send."""
    received = bytearray()
    over = asyncio.Event()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.extend(await reader.read())
        writer.close()
        over.set()

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, ComfyClient(f"http://127.0.0.1:{port}", timeouts=QUICK) as comfy:
        with pytest.raises(SendAborted) as taken_back:
            await comfy.submit({"1": {}}, prompt_id="p", client_id="c", may_send=lambda: False)
        assert taken_back.value.not_sent
        async with asyncio.timeout(SOON):
            await over.wait()
    head, _, body = bytes(received).partition(b"\r\n\r\n")
    assert head.startswith(b"POST /prompt HTTP/1.1")
    assert body == b""
