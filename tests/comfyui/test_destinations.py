import asyncio
import contextlib
import ipaddress
import socket
import struct
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest

from backends.comfyui import destinations
from backends.comfyui.client import ComfyClient
from backends.comfyui.destinations import (
    NotConnected,
    allow_link_local,
    check_url,
    is_not_public,
    is_refused,
)
from backends.comfyui.errors import BackendUnreachable
from tests.harness.simulator_thread import SimulatorThread


@pytest.fixture(autouse=True)
def refused() -> Iterator[None]:
    allow_link_local(False)
    yield
    allow_link_local(False)


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254",
        "169.254.0.0",
        "::ffff:169.254.169.254",
        "::ffff:a9fe:a9fe",
        "fe80::1",
        "fe80::1%eth0",
        "febf::1",
        "fd00:ec2::254",
        "64:ff9b::169.254.169.254",
        "64:ff9b:1::169.254.169.254",
        "64:ff9b:1:7:a9:fea9:fe00:0",
        "64:ff9b:1:a9:fe:a9fe::",
        "64:ff9b:1:a9fe:a9:fe00::",
    ],
)
def test_link_local_address_is_refused_unless_allowed(address: str) -> None:
    assert is_refused(address)
    allow_link_local(True)
    assert not is_refused(address)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.0.0.1",
        "169.253.1.1",
        "::1",
        "fec0::1",
        "2001:db8::1",
        "fd00:ec1::1",
        "64:ff9b::8.8.8.8",
        "64:ff9b:1::10.0.0.1",
        "gpu-1",
        "",
    ],
)
def test_other_address_is_not_refused(address: str) -> None:
    assert not is_refused(address)


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2606:4700::1111", True),
        ("64:ff9b::8.8.8.8", True),
        ("127.0.0.1", False),
        ("10.0.0.1", False),
        ("172.16.0.1", False),
        ("192.168.1.7", False),
        ("100.64.0.1", False),
        ("169.254.169.254", False),
        ("0.0.0.0", False),
        ("224.0.1.1", False),
        ("255.255.255.255", False),
        ("::1", False),
        ("::", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("fec0::1", False),
        ("ff02::1", False),
        ("::ffff:10.0.0.1", False),
        ("64:ff9b::10.0.0.1", False),
        ("fd00:ec2::254", False),
        ("64:ff9b:1::1", False),
        ("2002:a00:1::1", False),
        ("::10.0.0.1", False),
    ],
)
def test_webhook_needs_a_public_address(address: str, public: bool) -> None:
    assert is_not_public(address) is not public


NAMES = {
    "metadata.test": ["10.0.0.1", "169.254.169.254"],
    "odd.local": ["fe80::1%eth0"],
    "gpu.test": ["10.0.0.1"],
    "box.local": ["fe80::1%eth0", "192.168.1.7"],
}


def test_url_with_a_link_local_address_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name may have an fe80 address beside a usable one, but no other link-local address."""

    def resolve(host: str, *_args: Any, **_options: Any) -> list[Any]:
        if host not in NAMES:
            raise socket.gaierror
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, 0)) for one in NAMES[host]]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    refused = ("169.254.169.254", "[fe80::1]", "metadata.test", "odd.local")
    for host in refused:
        with pytest.raises(ValueError, match=r"link-local.*DIRECTOR_ALLOW_LINK_LOCAL"):
            check_url(f"http://{host}:8188")
    for host in ("gpu.test", "box.local", "unknown.test"):
        check_url(f"http://{host}:8188")
    allow_link_local(True)
    for host in refused:
        check_url(f"http://{host}:8188")


def test_resolver_that_hangs_delays_no_registration(monkeypatch: pytest.MonkeyPatch) -> None:
    answered = threading.Event()

    def hang(*_args: Any, **_options: Any) -> list[Any]:
        answered.wait(60)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    monkeypatch.setattr(destinations, "_RESOLVE_WITHIN", 0.05)
    began = time.monotonic()
    for _ in range(20):
        check_url("http://slow.test")
    assert time.monotonic() - began < 20
    answered.set()


async def test_names_of_webhooks_that_hang_keep_no_thread_from_backends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    resolve, answered, full = socket.getaddrinfo, threading.Event(), threading.Barrier(33)
    webhooks = destinations.webhook_destinations(private=True)

    def resolve_or_hang(host: Any, *rest: Any, **more: Any) -> list[Any]:
        if host == "hangs.test":
            with contextlib.suppress(threading.BrokenBarrierError):
                full.wait(60)
            answered.wait(60)
        return resolve("127.0.0.1", *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", resolve_or_hang)
    try:
        async with asyncio.TaskGroup() as tasks, listening("127.0.0.1") as port:
            hanging = [
                tasks.create_task(destinations.connect("hangs.test", port, webhooks))
                for _ in range(32)
            ]
            await asyncio.to_thread(full.wait, 60)
            async with asyncio.timeout(20):
                (await destinations.connect("gpu.test", port)).close()
            answered.set()
            for task in hanging:
                (await task).close()
    finally:
        answered.set()


@asynccontextmanager
async def listening(host: str, port: int = 0) -> AsyncIterator[int]:
    received = bytearray()

    async def note(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.extend(await reader.read(1000))
        writer.close()

    async with await asyncio.start_server(note, host, port) as server:
        yield server.sockets[0].getsockname()[1]
        await asyncio.sleep(0.05)
    assert bytes(received) == b""


@pytest.mark.parametrize("name", ["localhost", "rebound.localhost"])
async def test_nothing_is_sent_when_a_name_resolves_to_a_refused_address(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The networks are this machine's here: link-local ones are not everywhere."""
    loopback = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128"))
    resolve = socket.getaddrinfo
    monkeypatch.setattr(destinations, "_NETWORKS", loopback)
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda _host, *rest, **more: resolve("127.0.0.1", *rest, **more)
    )
    async with listening("127.0.0.1") as port, ComfyClient(f"http://{name}:{port}") as comfy:
        with pytest.raises(BackendUnreachable, match="link-local"):
            await comfy.system_stats()
        with pytest.raises(BackendUnreachable, match="link-local"):
            await comfy.submit({}, prompt_id="p", client_id="c")
        with pytest.raises(BackendUnreachable, match="link-local"):
            async with comfy.events("c"):
                raise AssertionError("opened")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has 127.0.0.2 without more")
async def test_name_with_a_refused_and_a_usable_address_is_connected_to_the_usable_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A machine's own name often has an fe80 address too, and it may come first."""
    resolve = socket.getaddrinfo
    addresses = ("127.0.0.2", "127.0.0.1")
    monkeypatch.setattr(destinations, "_NETWORKS", (ipaddress.ip_network("127.0.0.2/32"),))

    def both(host: Any, *rest: Any, **more: Any) -> list[Any]:
        hosts = addresses if host in ("gpu.test", b"gpu.test") else (host,)
        return [entry for one in hosts for entry in resolve(one, *rest, **more)]

    with SimulatorThread() as simulators:
        port = urlsplit(simulators.urls[0]).port
        async with listening("127.0.0.2", port or 0):
            monkeypatch.setattr(socket, "getaddrinfo", both)
            async with ComfyClient(f"http://gpu.test:{port}") as comfy:
                assert (await comfy.system_stats()).version
                async with comfy.events("c"):
                    pass


async def _connect(port: int) -> None:
    with contextlib.suppress(NotConnected):
        (await destinations.connect("127.0.0.1", port)).close()


@pytest.mark.skipif(sys.platform == "win32", reason="uvloop is not for Windows")
def test_connection_that_is_reset_at_once_is_not_connected() -> None:
    """Some in a hundred attempts find the socket without a peer."""
    import uvloop

    def reset_all(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                linger = struct.pack("ii", 1, 0)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                connection.close()

    async def connect_often(port: int) -> None:
        for _ in range(50):
            async with asyncio.TaskGroup() as group:
                for _ in range(20):
                    group.create_task(_connect(port))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=reset_all, args=[listener], daemon=True).start()
        uvloop.run(connect_often(listener.getsockname()[1]))
        listener.shutdown(socket.SHUT_RDWR)
