"""Addresses to which nothing is sent: link-local ones unless an operator allows it; of webhooks, all that are not public.

A cloud machine's metadata service, which gives out its credentials, has a link-local address, or one of its cloud's
own: a backend registered there would have the Director fetch them. A name is checked when it is registered and again
with each connection, since it may resolve to another address by then.
"""

import asyncio
import contextlib
import ipaddress
import queue
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final
from urllib.parse import urlsplit

import httpcore
from websockets.asyncio.client import ClientConnection

#: A ComfyUI listens on one of these, ComfyUI's default first, and a machine's resolver may know only one of them as
#: ``localhost``, the name that ``normalise_url`` gives to every loopback address. Both are tried, in this order.
LOOPBACK_HOSTS: Final = ("127.0.0.1", "::1")
#: The last one has the services of Amazon's machines, of which ``fd00:ec2::254`` gives out credentials.
_NETWORKS: Final = tuple(map(ipaddress.ip_network, ("169.254.0.0/16", "fe80::/10", "fd00:ec2::/32")))
#: Seconds for the resolver: what it does not answer by then is left to the check of each connection.
_RESOLVE_WITHIN: Final = 1.5
#: A resolver that hangs keeps a thread for half a minute: at most so many.
_lookups: Final = threading.BoundedSemaphore(8)
#: Resolves the names of connections: one whose servers do not answer must not keep a thread that others need.
_resolvers: Final = ThreadPoolExecutor(max_workers=8, thread_name_prefix="resolver")
_IPV6_UNICAST: Final = ipaddress.ip_network("2000::/3")
_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")  #: Has IPv4 addresses in its last 4 bytes.
_LOCAL_NAT64: Final = ipaddress.ip_network("64:ff9b:1::/48")  #: Has them where the prefix of the local network ends.


class _Policy:
    allows_link_local = False


def allow_link_local(allowed: bool) -> None:
    _Policy.allows_link_local = allowed


def is_refused(address: str) -> bool:
    """Whether nothing may be sent to an IP address. A name is none."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    return not _Policy.allows_link_local and any(one in network for one in _contained(ip) for network in _NETWORKS)


def _contained(
    ip: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    """Return an address and the IPv4 addresses that it may stand for."""
    if isinstance(ip, ipaddress.IPv4Address):
        return [ip]
    if ip in _LOCAL_NAT64:
        # RFC 6052: behind a prefix of 48, 56, 64 or 96 bits, and without the byte at bit 64.
        packed = ip.packed[6:8] + ip.packed[9:]
        return [ip, *(ipaddress.IPv4Address(packed[first : first + 4]) for first in (0, 1, 2, 5))]
    inner = _inner(ip)
    return [ip] if inner is None else [ip, inner]


def _inner(ip: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    return ip.ipv4_mapped or (ipaddress.IPv4Address(ip.packed[-4:]) if ip in _NAT64 else None)


def is_not_public(address: str) -> bool:
    """Whether an IP address is private, loopback, link-local or of another network that is not the internet."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        inner = _inner(ip)
        if inner is None:
            return ip not in _IPV6_UNICAST or not ip.is_global or ip.sixtofour is not None
        ip = inner
    return not ip.is_global or ip.is_multicast


def check_url(url: str) -> None:
    """Check the host of a backend that is to be registered or probed; a name is resolved for that.

    ``url`` is canonical. Raises ``ValueError``, with a sentence for the person, if it is link-local.
    """
    host = urlsplit(url).hostname or ""
    found = _resolved(host)
    refused = [one for one in (host, *found) if is_refused(one)]
    # The name of a machine in a local network often has an fe80 address beside a usable one.
    if any("." in one for one in refused) or (refused and all(map(is_refused, found))):
        raise ValueError(
            "The address is link-local or of a cloud's services (169.254.0.0/16, fe80::/10, fd00:ec2::/32), which is"
            " refused unless DIRECTOR_ALLOW_LINK_LOCAL is 1."
        )


def _resolved(host: str) -> list[str]:
    """Return the addresses of a host; none where the resolver does not know it, or not in time."""
    if _Policy.allows_link_local or not _lookups.acquire(blocking=False):
        return []
    found: queue.SimpleQueue[list[str]] = queue.SimpleQueue()

    def look_up() -> None:
        try:
            entries = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
            found.put([str(entry[4][0]) for entry in entries])
        except (OSError, UnicodeError):
            found.put([])
        finally:
            _lookups.release()

    threading.Thread(target=look_up, name="resolve a backend", daemon=True).start()
    try:
        return found.get(timeout=_RESOLVE_WITHIN)
    except queue.Empty:
        return []


_REFUSED: Final = "its address is link-local, which is refused unless DIRECTOR_ALLOW_LINK_LOCAL is 1"


class PeerRefused(ConnectionError):
    """A connection whose peer has a refused address; nothing was sent."""


async def permitted_addresses(host: str, port: int, refuses: Callable[[str], bool] = is_refused) -> list[str]:
    """Return the addresses of a host to which requests may be sent; none where the resolver does not know it."""
    loop = asyncio.get_running_loop()
    try:
        entries = await loop.run_in_executor(
            _resolvers, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        )
    except (OSError, UnicodeError):
        return []
    found = dict.fromkeys(str(entry[4][0]) for entry in entries)
    return [address for address in found if not refuses(address)]


class CheckedNetwork(httpcore.AnyIOBackend):
    """Connections for HTTP: closed before a byte is sent where the peer's address is refused.

    ``refuses`` decides that of an address, and ``reason`` is the end of the sentence with which it does.
    """

    def __init__(self, refuses: Callable[[str], bool] = is_refused, reason: str = _REFUSED) -> None:
        self._refuses = refuses
        self._reason = reason

    async def connect_tcp(self, host: str, port: int, *args: Any, **options: Any) -> httpcore.AsyncNetworkStream:
        """Connect, to another address of the host if the peer of the first connection is refused.

        ``localhost`` is reached without the resolver. Raises ``httpcore.ConnectError`` if every address is refused, or
        there is no connection.
        """
        try:
            if host == "localhost":
                first, host = LOOPBACK_HOSTS
                with contextlib.suppress(httpcore.ConnectError):
                    return await self._checked(first, port, *args, **options)
            return await self._checked(host, port, *args, **options)
        except PeerRefused:
            for address in await permitted_addresses(host, port, self._refuses):
                with contextlib.suppress(httpcore.ConnectError, httpcore.ConnectTimeout):
                    return await self._checked(address, port, *args, **options)
            raise httpcore.ConnectError(self._reason) from None

    async def _checked(self, host: str, port: int, *args: Any, **options: Any) -> httpcore.AsyncNetworkStream:
        if self._refuses(host):
            raise PeerRefused(self._reason)
        stream = await super().connect_tcp(host, port, *args, **options)
        try:
            peer = stream.get_extra_info("server_addr")
        except (AttributeError, OSError) as error:
            # anyio reads the peer of a socket that asyncio has dropped: it was reset at once.
            raise httpcore.ConnectError("the connection was reset at once") from error
        if self._refuses(_host_of(peer)):
            await stream.aclose()
            raise PeerRefused(self._reason)
        return stream


class WebhookNetwork(CheckedNetwork):
    """Connections to webhooks, whose addresses any user of the API names.

    A name is resolved first, and only a permitted address is connected to: whether a port of a private address is open
    cannot be found out.
    """

    def __init__(self, *, private: bool) -> None:
        if private:
            super().__init__(is_refused, "its name is not known, or its address is link-local, which is refused")
            return
        reason = "its name is not known, or no address of it is public, and DIRECTOR_WEBHOOK_PRIVATE_ADDRESSES is not 1"
        super().__init__(is_not_public, reason)

    async def connect_tcp(self, host: str, port: int, *args: Any, **options: Any) -> httpcore.AsyncNetworkStream:
        """Connect to the first permitted address that accepts; raise ``httpcore.ConnectError`` if there is none."""
        failure: Exception = httpcore.ConnectError(self._reason)
        for address in await permitted_addresses(host, port, self._refuses):
            try:
                return await self._checked(address, port, *args, **options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure


class CheckedConnection(ClientConnection):
    """Connections for event sockets: closed before their request is sent where the peer is refused."""

    async def handshake(self, *args: Any, **options: Any) -> None:
        if is_refused(_host_of(self.remote_address)):
            raise PeerRefused(_REFUSED)
        await super().handshake(*args, **options)


def _host_of(address: Any) -> str:
    return str(address[0]) if isinstance(address, tuple) else ""
