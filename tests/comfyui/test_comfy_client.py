import asyncio
import contextlib
import dataclasses
import gzip
import json
import logging
import socket
import ssl
import struct
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import WSMsgType, web

from backends.comfyui import errors, exchange
from backends.comfyui.answers import SystemStats
from backends.comfyui.client import ComfyClient
from backends.comfyui.event_socket import Tap
from backends.comfyui.exchange import Timeouts
from backends.comfyui.probe import attempt
from backends.comfyui.protocol import ExecInfo, Executing, Preview, QueueLength, Status
from tests.harness.servers import free_port

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
ACCEPTED = {"prompt_id": "p-1", "number": 3, "node_errors": {}}
STATUS = '{"type":"status","data":{"status":{"exec_info":{"queue_remaining":0}},"sid":"me"}}'
EMPTY = Status(status=QueueLength(exec_info=ExecInfo(queue_remaining=0)))


@dataclass
class Server:
    url: str = ""
    port: int = 0
    requests: list[dict[str, Any]] = field(default_factory=list)


@contextlib.asynccontextmanager
async def serving(handler: Handler, *, host: str = "127.0.0.1") -> AsyncIterator[Server]:
    """Serve every route with ``handler`` on a free port; a request body is at most 10 KB."""
    server = Server()

    async def record(request: web.Request) -> web.StreamResponse:
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
    app[STOP] = asyncio.Event()
    app.router.add_route("*", "/{path:.*}", record)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, host, 0).start()
    server.port = runner.addresses[0][1]
    server.url = f"http://{host}:{server.port}"
    try:
        yield server
    finally:
        app[STOP].set()
        await runner.cleanup()


@contextlib.asynccontextmanager
async def client_of(
    handler: Handler, *, path: str = "", login: str = "", **options: Any
) -> AsyncIterator[tuple[Server, ComfyClient]]:
    async with serving(handler) as server, asyncio.timeout(SOON):
        url = server.url.replace("://", f"://{login}") + path
        async with ComfyClient(url, **options) as comfy:
            yield server, comfy


@contextlib.asynccontextmanager
async def events_of(
    handler: Handler, client_id: str = "c", **options: Any
) -> AsyncIterator[tuple[Server, Any]]:
    async with client_of(handler) as (server, comfy), comfy.events(client_id, **options) as events:
        yield server, events


@contextlib.asynccontextmanager
async def raw_serving(answer: bytes, *, reset: bool = False) -> AsyncIterator[str]:
    """A TCP server that reads a request's head, writes ``answer`` and closes or resets."""

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
        if isinstance(body, bytes | str):
            return web.Response(body=body, status=status, headers=headers)
        return web.json_response(body, status=status, headers=headers)

    return handler


async def stopped(request: web.Request, seconds: float) -> None:
    """Wait for the end of the server, at most ``seconds``."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await request.app[STOP].wait()


def streaming(chunk: bytes, pause: float) -> Handler:

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            while not request.app[STOP].is_set():
                await response.write(chunk)
                await stopped(request, pause)
        return response

    return handler


endless = streaming(b" " * 65536, 0)
dripping = streaming(b" ", 50 * MS)
stalling = streaming(b"{", 2 * SOON)


async def hanging(request: web.Request) -> web.StreamResponse:
    await request.app[STOP].wait()
    return web.Response()


def has_ipv6_loopback() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe_socket:
            probe_socket.bind(("::1", 0))
    except OSError:
        return False
    return True


async def open_events(comfy: ComfyClient) -> None:
    async with comfy.events("c"):
        raise AssertionError("opened")


async def read_file(comfy: ComfyClient, **options: Any) -> bytes:
    async with comfy.view("a.png", **options) as file:
        return b"".join([chunk async for chunk in file.chunks()])


async def submitted(url: str, prompt: dict[str, Any] | None = None) -> Any:
    async with ComfyClient(url, timeouts=QUICK, max_answer_bytes=100_000) as comfy:
        return await comfy.submit(
            prompt or {"1": {"class_type": "X", "inputs": {}}},
            prompt_id="p-1",
            client_id="c-1",
            extra_data={"director": {"child": "j_1"}},
        )


async def test_accepted_prompt_carries_the_id_the_client_and_the_mark() -> None:
    async with serving(answering(ACCEPTED)) as server:
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


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://127.0.0.1:{}", "No connection: the connection was refused"),
        ("http://no-such-host.invalid:{}", "no machine of this name is known"),
    ],
)
async def test_prompt_without_a_connection_is_not_sent(url: str, reason: str) -> None:
    with pytest.raises(errors.BackendUnreachable, match=reason) as caught:
        await submitted(url.format(free_port()))
    assert caught.value.__cause__ is not None


async def test_connection_that_is_never_established_is_not_sent() -> None:
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
            # Some systems accept the connection; the server is then a silent one.
            with pytest.raises((errors.BackendUnreachable, errors.ResponseLost)):
                await submitted(f"http://127.0.0.1:{address[1]}")


async def test_status_400_is_a_refusal_with_its_reasons() -> None:
    refusal = {"error": {"type": "a", "message": "b"}, "node_errors": {"1": {"class_type": "X"}}}
    async with serving(answering(refusal, 400)) as server:
        with pytest.raises(errors.PromptRefused, match="b") as caught:
            await submitted(server.url)
    found = caught.value.refusal
    assert (caught.value.status, found.error_type, found.node_errors) == (
        400,
        "a",
        refusal["node_errors"],
    )


async def test_status_413_is_a_refusal_while_the_body_is_still_being_sent() -> None:
    large = {"1": {"class_type": "X", "inputs": {"text": "x" * 2_000_000}}}
    async with serving(answering(ACCEPTED)) as server:
        with pytest.raises(errors.PromptRefused, match="10000") as caught:
            await submitted(server.url, large)
    assert caught.value.status == 413


EXCEPTION = b"500 Internal Server Error\n\nServer got itself in trouble"


@pytest.mark.parametrize("handler", [endless, dripping, hanging])
async def test_prompt_without_a_whole_answer_is_uncertain(handler: Handler) -> None:
    async with serving(handler) as server, asyncio.timeout(SOON):
        with pytest.raises(errors.ResponseLost):
            await submitted(server.url)
    assert len(server.requests) == 1, "it was sent again"


@pytest.mark.parametrize(
    ("answer", "detail"),
    [
        ((EXCEPTION, 500), 'with 500: "500 Internal Server Error Server got itself in trouble".'),
        ((b"500 Internal Server Error", 500), 'with 500: "500 Internal Server Error".'),
        ((b"<html>broken", 500), "with 500: a web page."),
        ((ACCEPTED, 201), "with 201"),
        *[
            [
                ["", 307, {"Location": "https://me:pw@sso.test/in%0A?token=x"}],
                "with a redirect (307) to https://sso.test/in%0A.",
            ],
            [["<html><body>hi", 200], "with 200 without a prompt_id: a web page."],
            [["no\x1b[31m\r\nroute", 404], 'with 404: "no [31m route".'],
            [["", 405], "with 405."],
            [["", 403], "with 403."],
            [[{"hello": []}, 200], "with 200 without a prompt_id"],
            [["", 200], "with 200 without a prompt_id"],
        ],
    ],
)
async def test_deterministic_answer_is_unconfirmed_and_described(answer: Any, detail: str) -> None:
    body, status, *headers = answer
    async with serving(answering(body, status, **headers[0] if headers else {})) as server:
        with pytest.raises(errors.PromptUnconfirmed) as caught:
            await submitted(server.url)
    assert caught.value.detail.startswith(f"POST /prompt was answered {detail}")
    assert caught.value.raised is (body == EXCEPTION)
    assert len(server.requests) == 1, "it was sent again"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (EXCEPTION, 502),
        (b"<html>bad gateway", 502),
        *((b"", status) for status in (503, 504, 408, 425, 429)),
    ],
)
async def test_answer_of_a_proxy_confirms_nothing(body: bytes, status: int) -> None:
    async with serving(answering(body, status)) as server:
        with pytest.raises(errors.ResponseLost) as caught:
            await submitted(server.url)
    assert not isinstance(caught.value, errors.PromptUnconfirmed)
    assert len(server.requests) == 1, "it was sent again"


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
async def test_connection_that_breaks_after_sending_is_uncertain(
    answer: bytes, reset: bool
) -> None:
    async with raw_serving(answer, reset=reset) as url:
        with pytest.raises(errors.ResponseLost):
            await submitted(url)


async def test_validation_may_take_longer_than_other_answers() -> None:
    async def slow(request: web.Request) -> web.StreamResponse:
        await stopped(request, 2 * QUICK.silence_s)
        return web.json_response(ACCEPTED)

    async with client_of(slow, timeouts=dataclasses.replace(QUICK, submit_s=SOON)) as (_, comfy):
        assert (await comfy.submit({}, prompt_id="p-1", client_id="c")).prompt_id == "p-1"


@pytest.mark.parametrize(("recent_s", "connections"), [(60.0, 1), (0.0, 2)])
async def test_prompt_is_sent_over_a_connection_that_has_just_answered(
    recent_s: float, connections: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frequent requests keep their own connection: a prompt after a long silence must have a new
    one.
    """
    monkeypatch.setattr(exchange, "_RECENT_S", recent_s)
    answer = answering(ACCEPTED | {"exec_info": {"queue_remaining": 0}})
    async with client_of(answer, timeouts=QUICK) as (server, comfy):
        await comfy.queue_remaining()
        await comfy.queue_remaining()
        for _ in range(2):
            await comfy.submit({}, prompt_id="p-1", client_id="c")
        await comfy.queue_remaining(new_connection=True)
    first, second, *prompts, last = [request["peer"] for request in server.requests]
    assert first == second
    assert len(set(prompts)) == connections
    assert len({first, *prompts, last}) == connections + 2


async def test_prompt_to_a_backend_that_ended_after_an_answer_was_not_sent() -> None:
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(serving(answering(ACCEPTED)))
        comfy = ComfyClient(server.url, timeouts=QUICK)
        await comfy.submit({}, prompt_id="p-1", client_id="c")
    async with comfy:
        with pytest.raises(errors.BackendUnreachable):
            await comfy.submit({}, prompt_id="p-2", client_id="c")


@pytest.mark.parametrize("identifier", ["", None, 5, {}])
async def test_identifier_that_would_harm_comfyui_is_never_sent(identifier: Any) -> None:
    async with client_of(answering(b"")) as (server, comfy):
        for send in (
            lambda: comfy.interrupt(identifier),
            lambda: comfy.submit({}, prompt_id="p", client_id=identifier),
            lambda: comfy.delete_pending([identifier]),
        ):
            with pytest.raises(ValueError, match="identifier"):
                await send()
    assert server.requests == []


async def test_prompt_is_not_sent_when_its_lease_is_lost_while_it_connects() -> None:
    received = bytearray()
    over = asyncio.Event()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.extend(await reader.read())
        writer.close()
        over.set()

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, ComfyClient(f"http://127.0.0.1:{port}", timeouts=QUICK) as comfy:
        with pytest.raises(errors.SendAborted):
            await comfy.submit({"1": {}}, prompt_id="p", client_id="c", may_send=lambda: False)
        async with asyncio.timeout(SOON):
            await over.wait()
    assert bytes(received) == b""


BAD_ANSWERS: list[tuple[Handler, type[errors.BackendError]]] = [
    *(
        (answering(body, status, **headers), getattr(errors, error))
        for body, status, headers, error in [
            ["<html><body>router", 200, {"Content-Type": "text/html"}, "NotComfyUI"],
            [[1, 2], 200, {}, "NotComfyUI"],
            ["hello", 200, {}, "NotComfyUI"],
            ["", 200, {}, "NotComfyUI"],
            ["", 301, {"Location": "/queue/"}, "NotComfyUI"],
            ["", 301, {"Location": "http://xn--8hb/"}, "NotComfyUI"],
            ["", 404, {}, "NotComfyUI"],
            ["", 204, {}, "NotComfyUI"],
            ["", 401, {}, "AccessDenied"],
            ["", 403, {}, "AccessDenied"],
            ["boom", 500, {}, "ResponseLost"],
            ["", 503, {}, "ResponseLost"],
            [" " * 200000, 200, {}, "AnswerTooLarge"],
        ]
    ),
    (
        answering(gzip.compress(b" " * 10**6), 200, **{"Content-Encoding": "gzip"}),
        errors.NotComfyUI,
    ),
    (endless, errors.AnswerTooLarge),
    (dripping, errors.ResponseLost),
    (hanging, errors.ResponseLost),
]
READS: dict[str, Callable[[ComfyClient], Awaitable[Any]]] = {
    "history": lambda comfy: comfy.history("p"),
    "queue": lambda comfy: comfy.queue(new_connection=True),
    "system_stats": lambda comfy: comfy.system_stats(),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
@pytest.mark.parametrize(("handler", "error"), BAD_ANSWERS)
async def test_bad_answer_has_its_own_error_and_is_not_requested_again(
    handler: Handler,
    error: type[errors.BackendError],
    read: Callable[[ComfyClient], Awaitable[Any]],
) -> None:
    async with client_of(handler, timeouts=QUICK, max_answer_bytes=100_000) as (server, comfy):
        with pytest.raises(errors.BackendError) as caught:
            await read(comfy)
    assert type(caught.value) is error
    assert len(server.requests) == 1


def test_slow_body_ends_and_a_large_one_over_a_slow_link_does_not() -> None:
    def seconds_until_too_slow(size: int, rate: float, *, pace: exchange.Pace) -> float | None:
        part, elapsed = min(65_536.0, rate), 0.0
        for _ in range(int(size / part)):
            elapsed += part / rate
            if pace.is_too_slow(part / rate, int(part)):
                return elapsed
        return None

    pace = exchange.Pace(Timeouts().slow_s)
    assert seconds_until_too_slow(2**32, 1_000_000, pace=pace) is None
    # Also behind gigabytes that came quickly, and faster than a byte a second.
    for rate in (1, 1_000):
        assert 60 <= (seconds_until_too_slow(2**20, rate, pace=exchange.Pace(60.0)) or 0) <= 70
    assert 60 <= (seconds_until_too_slow(2**20, 1, pace=pace) or 0) <= 70


@pytest.mark.parametrize(
    ("handler", "times", "detail"),
    [
        (hanging, Timeouts(silence_s=0.3), "No whole answer came: 0.3 s passed without a byte."),
        (stalling, Timeouts(silence_s=0.3), "No whole answer came: 0.3 s passed without a byte."),
        (dripping, Timeouts(total_s=0.4), "No whole answer came within 0.4 s."),
    ],
)
async def test_missing_answer_is_reported_with_the_time_that_elapsed(
    handler: Handler, times: Timeouts, detail: str
) -> None:
    async with client_of(handler, timeouts=times) as (_, comfy):
        with pytest.raises(errors.ResponseLost) as caught:
            await comfy.system_stats()
    assert caught.value.detail == detail


async def test_other_tasks_run_while_a_body_has_tiny_chunks() -> None:
    """One backend that sends its answers in chunks of one byte left the good ones of a check
    unread.
    """

    async def write(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\n \r\n" * 400_000
        )
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        writer.close()

    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    chunks: Counter[int] = Counter()
    async with await asyncio.start_server(write, "127.0.0.1", 0) as server:
        counting = asyncio.create_task(count())
        address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with ComfyClient(address) as comfy, comfy.view("a.png") as answer:
            async for piece in answer.chunks():
                chunks[turns] += len(piece)
        counting.cancel()
    assert sum(chunks.values()) == 400_000
    assert max(chunks.values()) <= 4 * 4100


async def test_small_answers_have_a_limit_of_their_own() -> None:
    async with client_of(endless) as (_, comfy):
        for read in (comfy.system_stats, comfy.queue_remaining):
            with pytest.raises(
                errors.AnswerTooLarge, match="answered with more than 1048576 bytes"
            ):
                await read()


@pytest.mark.parametrize(
    ("read", "reset"), [(lambda comfy: comfy.queue(), True), (read_file, False)]
)
async def test_answer_that_breaks_off_is_lost(
    read: Callable[[ComfyClient], Awaitable[Any]], reset: bool
) -> None:
    answer = b'HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{"queue'
    async with raw_serving(answer, reset=reset) as url, ComfyClient(url, timeouts=QUICK) as comfy:
        with pytest.raises(errors.ResponseLost):
            await read(comfy)


@pytest.mark.parametrize(
    "handler",
    [
        answering(b"", 404),
        answering({"detail": "Not Found"}, 404),
        answering(b"405: Method Not Allowed", 405),
        answering(b"500 Internal Server Error", 500),
        answering(b"<html>"),
        answering({"id": "another", "status": "pending"}),
        endless,
    ],
)
async def test_server_without_jobs_says_nothing_of_them(handler: Handler) -> None:
    async with client_of(handler, max_answer_bytes=10_000) as (_, comfy):
        for request in (comfy.job_status("p"), comfy.active_jobs(), comfy.cancel_job("p")):
            assert await request is None


async def test_slow_answer_within_the_limits_is_read() -> None:
    async def slow(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for piece in (b'{"queue_running":[],', b'"queue_pending":[]}'):
            await stopped(request, 100 * MS)
            await response.write(piece)
        return response

    async with client_of(slow, timeouts=QUICK) as (_, comfy):
        assert (await comfy.queue()).pending == []


async def test_every_call_is_unreachable_when_no_server_listens() -> None:
    async with ComfyClient(f"http://localhost:{free_port()}", timeouts=QUICK) as comfy:
        for call in (*READS.values(), lambda comfy: comfy.interrupt("p"), read_file, open_events):
            with pytest.raises(errors.BackendUnreachable):
                await call(comfy)


async def test_client_works_after_a_bad_answer() -> None:
    bad = [endless, hanging, answering(b"", 500)]

    async def handler(request: web.Request) -> web.StreamResponse:
        chosen = bad.pop(0) if bad else answering({"exec_info": {"queue_remaining": 2}})
        return await chosen(request)

    async with client_of(handler, timeouts=QUICK, max_answer_bytes=100_000) as (_, comfy):
        for error in (errors.AnswerTooLarge, errors.ResponseLost, errors.ResponseLost):
            with pytest.raises(error):
                await comfy.queue_remaining()
        assert await comfy.queue_remaining() == 2


async def test_changes_have_the_bodies_that_comfyui_reads_and_ids_stay_in_their_segment() -> None:
    async with client_of(answering(b""), path="/gpu%201") as (server, comfy):
        await comfy.delete_pending(["a", "b"])
        await comfy.interrupt("p")
        await comfy.free()
        for odd in (comfy.history("../queue?x#y/ü"), comfy.object_info("A/B C")):
            with pytest.raises(errors.NotComfyUI):
                await odd
    sent = [(request["path"], json.loads(request["body"] or "0")) for request in server.requests]
    assert sent == [
        ("/gpu%201/queue", {"delete": ["a", "b"]}),
        ("/gpu%201/interrupt", {"prompt_id": "p"}),
        ("/gpu%201/free", {"unload_models": True, "free_memory": True}),
        ("/gpu%201/history/..%2Fqueue%3Fx%23y%2F%C3%BC", 0),
        ("/gpu%201/object_info/A%2FB%20C", 0),
    ]


async def test_file_is_read_in_pieces_with_its_type_and_length() -> None:
    content = bytes(range(256)) * 1000
    async with (
        client_of(answering(content, 200, **{"Content-Type": "image/png"})) as (server, comfy),
        comfy.view("ü &.png", subfolder="a/b", type="temp", headers={"Range": "bytes=0-"}) as file,
    ):
        assert (file.status, file.length) == (200, len(content))
        assert file.headers["content-type"] == "image/png"
        assert b"".join([chunk async for chunk in file.chunks()]) == content
    (request,) = server.requests
    assert request["path"] == "/view?filename=%C3%BC%20%26.png&subfolder=a%2Fb&type=temp"
    assert request["headers"]["Range"] == "bytes=0-"


async def test_missing_file_is_a_status_and_an_existing_one_is_found_without_reading_it() -> None:
    async with client_of(answering(b"", 404)) as (_, comfy):
        async with comfy.view("gone.png") as file:
            assert (file.status, file.length) == (404, 0)
        assert await comfy.file_head("gone.png") is None
    async with client_of(answering(b"x" * 9000)) as (server, comfy):
        assert await comfy.file_head("a.png") is not None
    assert server.requests[0]["method"] == "HEAD"


@pytest.mark.parametrize(
    ("handler", "error"),
    [
        (endless, errors.AnswerTooLarge),
        (answering(b"x" * 200_000), errors.AnswerTooLarge),
        (answering(gzip.compress(b"x"), 200, **{"Content-Encoding": "gzip"}), errors.NotComfyUI),
    ],
    ids=["endless", "too long", "compressed"],
)
async def test_file_above_its_limit_or_compressed_is_refused(
    handler: Handler, error: type[errors.BackendError]
) -> None:
    async with client_of(handler, timeouts=QUICK) as (_, comfy):
        with pytest.raises(error):
            await read_file(comfy, max_bytes=100_000)


async def test_error_of_the_reader_is_not_an_error_of_the_backend() -> None:
    async with client_of(answering(b"x")) as (_, comfy):
        with pytest.raises(OSError, match="disk full"):
            async with comfy.view("a.png"):
                raise OSError("disk full")


def both(answer: Any) -> Handler:

    async def handler(request: web.Request) -> web.StreamResponse:
        return await (scripted(STATUS) if request.path == "/ws" else answering(answer))(request)

    return handler


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
    async with serving(both(ACCEPTED), host=host) as server, asyncio.timeout(SOON):
        accepted = await submitted(f"http://localhost:{server.port}")
        async with ComfyClient(f"localhost:{server.port}") as comfy, comfy.events("c") as events_:
            assert await anext(events_) == EMPTY
    assert accepted.prompt_id == "p-1"
    hosts = {request["headers"]["Host"] for request in server.requests}
    assert hosts == {f"localhost:{server.port}"}


async def test_requests_and_sockets_carry_headers_and_login_and_no_origin() -> None:
    refused = client_of(answering(b"", 401), login="user:secret@", headers={"X-Token": "t"})
    async with refused as (server, comfy):
        for call in (comfy.queue(), open_events(comfy)):
            with pytest.raises(errors.AccessDenied):
                await call
    assert len(server.requests) == 2
    for request in server.requests:
        assert request["headers"]["Authorization"] == "Basic dXNlcjpzZWNyZXQ="
        assert request["headers"]["X-Token"] == "t"
        assert "Origin" not in request["headers"]
    assert server.requests[0]["headers"]["Accept-Encoding"] == "identity"
    assert "secret" not in comfy.url
    own = client_of(
        answering(b"", 401), login="user:secret@", headers={"authorization": "Bearer t"}
    )
    async with own as (server, comfy):
        with pytest.raises(errors.AccessDenied):
            await comfy.queue()
    assert server.requests[0]["headers"].getall("Authorization") == ["Bearer t"]


async def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy", "ws_proxy", "no_proxy"):
        monkeypatch.setenv(name, "" if name == "no_proxy" else f"http://127.0.0.1:{free_port()}")
    async with client_of(both({"exec_info": {"queue_remaining": 1}})) as (_, comfy):
        assert await comfy.queue_remaining() == 1
        async with comfy.events("c") as socket_:
            assert await anext(socket_) == EMPTY


async def test_failed_tls_handshake_sends_nothing() -> None:
    async with serving(answering(ACCEPTED)) as server:
        url = server.url.replace("http:", "https:")
        with pytest.raises(errors.BackendUnreachable):
            await submitted(url)
        async with ComfyClient(url, timeouts=QUICK) as comfy:
            with pytest.raises(errors.BackendUnreachable):
                await open_events(comfy)
    assert server.requests == []


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "localhost",
            r"\(self-signed certificate\): renew it, or name the file of its authority in SSL_CERT_FILE",
        ),
        ("elsewhere", r"\(Hostname mismatch, .*\): use an address that it names"),
    ],
)
async def test_certificate_that_is_not_trusted_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, said: str
) -> None:
    key, own = tmp_path / "key.pem", tmp_path / "own.pem"
    made = f"openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN={name}".split()
    subprocess.run([*made, "-keyout", key, "-out", own], check=True, capture_output=True)
    if name == "elsewhere":
        monkeypatch.setenv("SSL_CERT_FILE", str(own))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(own, key)
    said = rf"^No connection: its certificate is not trusted {said}\.$"
    async with await asyncio.start_server(lambda *_: None, "127.0.0.1", 0, ssl=context) as server:
        url = f"https://localhost:{server.sockets[0].getsockname()[1]}"
        async with ComfyClient(url, timeouts=QUICK) as comfy:
            with pytest.raises(errors.BackendUnreachable, match=said):
                await comfy.queue()
            with pytest.raises(errors.BackendUnreachable, match=said):
                await open_events(comfy)


def scripted(*frames: str | bytes, then: str = "listen", reason: bytes = b"going") -> Handler:
    """A socket that sends ``frames``, then each message as a node's name, or reads one message and
    closes or aborts.
    """

    async def handler(request: web.Request) -> web.StreamResponse:
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        for frame in frames:
            await (ws.send_str(frame) if isinstance(frame, str) else ws.send_bytes(frame))
        if then != "listen":
            await ws.receive()
        if then == "close":
            await ws.close(code=1001, message=reason)
        elif then == "abort":
            assert request.transport is not None
            request.transport.abort()
        else:
            async for message in ws:
                if message.type == WSMsgType.TEXT:
                    await ws.send_json({"type": "executing", "data": {"node": message.data}})
        return ws

    return handler


async def test_client_id_is_sent_and_nothing_is_compressed() -> None:
    async with events_of(scripted(STATUS), "a b/ü") as (server, events):
        assert await anext(events) == EMPTY
        assert events.client_id == "a b/ü"
    assert server.requests[0]["path"] == "/ws?clientId=a%20b%2F%C3%BC"
    assert "Sec-WebSocket-Extensions" not in server.requests[0]["headers"]


async def test_unknown_and_broken_frames_are_skipped() -> None:
    frames = [
        "nonsense",
        '{"type":"executing"}',
        '{"type":"from a custom node"}',
        b"\0",
        struct.pack(">I", 99),
        '{"type":"executing","data":{"node":null,"prompt_id":"p"}}',
    ]
    async with events_of(scripted(*frames)) as (_, events):
        assert await anext(events) == Executing(node=None, prompt_id="p")


@pytest.mark.parametrize("wanted", [True, False])
async def test_previews_are_decoded_only_on_request_and_may_be_large(wanted: bool) -> None:
    image = b"x" * 5_000_000
    sent = (struct.pack(">II", 1, 2) + image, STATUS)
    async with events_of(scripted(*sent), wants_previews=lambda: wanted) as (_, events):
        if wanted:
            assert await anext(events) == Preview(image_type="png", image=image)
        assert await anext(events) == EMPTY
        flags = {"type": "feature_flags", "data": {"supports_preview_metadata": True}}
        assert json.loads((await anext(events)).node) == flags


class Kept(Tap):
    def __init__(self) -> None:
        self.frames: list[str | bytes] = []

    def receive(self, frame: str | bytes) -> None:
        self.frames.append(frame)


@pytest.mark.parametrize("is_open", [True, False])
async def test_tap_gets_every_frame_as_it_came_while_it_is_open(is_open: bool) -> None:
    tap = Kept()
    tap.is_open = is_open
    sent = ['{"type":"from a custom node"}', struct.pack(">I", 3), struct.pack(">II", 1, 2), STATUS]
    async with events_of(scripted(*sent), wants_previews=lambda: False, tap=tap) as (_, events):
        assert await anext(events) == EMPTY
    assert tap.frames == (sent if is_open else [])


@pytest.mark.parametrize(
    ("then", "how"), [("close", r"was closed \(1001"), ("abort", "without a close frame")]
)
async def test_end_of_a_socket_says_how_it_ended(then: str, how: str) -> None:
    async with events_of(scripted(STATUS, then=then)) as (_, events):
        assert await anext(events) == EMPTY
        with pytest.raises(errors.SocketLost, match=how):
            await anext(events)


async def test_close_reason_of_a_backend_is_one_printable_line() -> None:
    reason = "full\r\n2026-02-01 ERROR forged\x1b[2J\u2028\u202etxet\x9b31m" + "x" * 40
    async with events_of(scripted(then="close", reason=reason.encode())) as (_, events):
        with pytest.raises(errors.SocketLost) as caught:
            await anext(events)
    for text in (caught.value.detail, str(caught.value)):
        assert text.isprintable()
        assert "(1001 full 2026-02-01 ERROR forged [2J txet 31mxxx" in text


async def test_own_close_ends_the_iteration_after_the_server_has_closed() -> None:
    closed = asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        response = await scripted()(request)
        closed.set()
        return response

    async with events_of(handler) as (_, events):
        await events.close()
        async for _event in events:
            pass
        assert closed.is_set()


async def test_server_that_does_not_close_delays_the_close_for_a_bounded_time() -> None:
    async def silent(request: web.Request) -> web.StreamResponse:
        ws = web.WebSocketResponse(autoclose=False)
        await ws.prepare(request)
        await request.app[STOP].wait()
        return ws

    async with client_of(silent, timeouts=QUICK) as (_, comfy), comfy.events("c"):
        pass


SOCKET_ANSWERS: dict[str, tuple[Handler, type[errors.BackendError]]] = {
    "page": (answering(b"<html>", 200), errors.NotComfyUI),
    "404": (answering(b"", 404), errors.NotComfyUI),
    "redirect": (answering(b"", 307, Location="/other"), errors.NotComfyUI),
    "origin": (answering(b"", 403), errors.AccessDenied),
    "500": (answering(b"", 500), errors.ResponseLost),
    "silent": (hanging, errors.ResponseLost),
}


@pytest.mark.parametrize(("handler", "error"), SOCKET_ANSWERS.values(), ids=SOCKET_ANSWERS)
async def test_event_socket_that_does_not_open_has_its_own_error(
    handler: Handler, error: type[errors.BackendError]
) -> None:
    async with client_of(handler, timeouts=QUICK) as (server, comfy):
        with pytest.raises(errors.BackendError) as caught:
            await open_events(comfy)
    assert type(caught.value) is error
    assert len(server.requests) == 1, "a redirect was followed"


@pytest.mark.parametrize(
    ("answer", "error"),
    [(b"", errors.ResponseLost), (b"SSH-2.0-OpenSSH_9.9\r\n\r\n", errors.NotComfyUI)],
)
async def test_handshake_without_http_has_its_own_error(
    answer: bytes, error: type[errors.BackendError]
) -> None:
    async with raw_serving(answer) as url, ComfyClient(url, timeouts=QUICK) as comfy:
        with pytest.raises(errors.BackendError) as caught:
            await open_events(comfy)
    assert type(caught.value) is error


async def test_probe_reports_version_and_devices_or_that_no_server_listens() -> None:
    nothing = await attempt(f"http://127.0.0.1:{free_port()}", timeout=400 * MS)
    assert nothing == "No connection: the connection was refused."
    stats = {"system": {"comfyui_version": "0.3.64"}, "devices": [{"name": "cuda:0 RTX"}]}
    async with serving(answering(stats)) as server:
        report = await attempt(server.url, timeout=1.5)
    assert isinstance(report, SystemStats)
    assert report.version == "0.3.64"
    assert [device.name for device in report.devices] == ["cuda:0 RTX"]


@pytest.mark.parametrize(
    ("handler", "wrong"),
    [
        (hanging, "No whole answer came"),
        (endless, "more than"),
        (dripping, "No whole answer came"),
        (answering({}), "not ComfyUI's"),
    ],
    ids=["silent", "endless", "dripping", "other"],
)
async def test_probe_ends_in_time(handler: Handler, wrong: str) -> None:
    loop = asyncio.get_running_loop()
    async with serving(handler) as server:
        before = loop.time()
        assert wrong in str(await attempt(server.url, timeout=400 * MS))
        assert loop.time() - before < 400 * MS + 1


async def test_no_secret_reaches_the_logs(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with (
        client_of(
            scripted("nonsense", STATUS), login="user:secret@", headers={"X-Token": "token"}
        ) as (_, comfy),
        comfy.events("c") as events,
    ):
        await anext(events)
        with pytest.raises(errors.BackendError):
            await comfy.queue()
    assert "secret" not in caplog.text
    assert "token" not in caplog.text
