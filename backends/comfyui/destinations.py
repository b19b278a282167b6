"""Addresses to which nothing is sent: link-local ones unless an operator allows it; of webhooks,
all that are not public.

A cloud machine's metadata service, which gives out its credentials, has a link-local address, or
one of its cloud's own: a backend registered there would have the Director fetch them. A name is
checked when it is registered and again before each connection, since it may resolve to another
address by then. Every connection is made by :func:`connect`.
"""

import asyncio
import functools
import ipaddress
import queue
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from aiohappyeyeballs import AddrInfoType, start_connection

#: A ComfyUI listens on one of these, ComfyUI's default first, and a machine's resolver may know
#: only one of them as ``localhost``, the name that ``normalise_url`` gives to every loopback
#: address. Both are tried, in this order.
LOOPBACK_HOSTS: Final = ("127.0.0.1", "::1")
#: The last one has the services of Amazon's machines, of which ``fd00:ec2::254`` gives out
#: credentials.
_NETWORKS: Final = tuple(
    map(ipaddress.ip_network, ("169.254.0.0/16", "fe80::/10", "fd00:ec2::/32"))
)
#: Seconds for the resolver: what it does not answer by then is left to the check of each
#: connection.
_RESOLVE_WITHIN: Final = 1.5
#: A resolver that hangs keeps a thread for half a minute: at most so many.
_lookups: Final = threading.BoundedSemaphore(8)
#: Resolves the names of connections: one whose servers do not answer must not keep a thread that
#: others need.
_resolvers: Final = ThreadPoolExecutor(max_workers=32, thread_name_prefix="resolver")
#: Those of webhooks, which any user of the API names. 24 deliveries at once may be to names without
#: an answer, and each thread lasts as long as two of them.
_webhook_resolvers: Final = ThreadPoolExecutor(64, thread_name_prefix="webhook-resolver")
_IPV6_UNICAST: Final = ipaddress.ip_network("2000::/3")
_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")  #: Has IPv4 addresses in its last 4 bytes.
#: Has them where the prefix of the local network ends.
_LOCAL_NAT64: Final = ipaddress.ip_network("64:ff9b:1::/48")


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
    return not _Policy.allows_link_local and any(
        contained in network for contained in _embedded_addresses(ip) for network in _NETWORKS
    )


def _embedded_addresses(
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
    """Whether an IP address is private, loopback, link-local or of another network that is not the
    internet.
    """
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

    ``url`` is canonical. Raises ``ValueError``, with a sentence for the person, if it is
    link-local.
    """
    host = urlsplit(url).hostname or ""
    addresses = _resolve(host)
    refused = [address for address in (host, *addresses) if is_refused(address)]
    # The name of a machine in a local network often has an fe80 address beside a usable one.
    if any("." in address for address in refused) or (refused and all(map(is_refused, addresses))):
        raise ValueError(
            "The address is link-local or of a cloud's services (169.254.0.0/16, fe80::/10, "
            "fd00:ec2::/32), which is"
            " refused unless DIRECTOR_ALLOW_LINK_LOCAL is 1."
        )


def _resolve(host: str) -> list[str]:
    """Return the addresses of a host; none where the resolver does not know it, or not in time."""
    if _Policy.allows_link_local or not _lookups.acquire(blocking=False):
        return []
    answers: queue.SimpleQueue[list[str]] = queue.SimpleQueue()

    def look_up() -> None:
        try:
            entries = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
            answers.put([str(entry[4][0]) for entry in entries])
        except (OSError, UnicodeError):
            answers.put([])
        finally:
            _lookups.release()

    threading.Thread(target=look_up, name="resolve a backend", daemon=True).start()
    try:
        return answers.get(timeout=_RESOLVE_WITHIN)
    except queue.Empty:
        return []


@dataclass(frozen=True, slots=True)
class Destinations:
    """Which addresses are connected to; the texts are ends of sentences."""

    refuses: Callable[[str], bool]
    refused: str  #: Said if no address of a host is permitted.
    unknown: str  #: Said if the resolver does not know the host.
    resolvers: ThreadPoolExecutor = _resolvers


BACKENDS: Final = Destinations(
    is_refused,
    "its address is link-local, which is refused unless DIRECTOR_ALLOW_LINK_LOCAL is 1",
    "no machine of this name is known",
)


def webhook_destinations(*, private: bool) -> Destinations:
    """Return those of webhooks, whose addresses any user of the API names.

    An unknown name and a refused address give one sentence: the names of an internal network cannot
    be found out.
    """
    reason = (
        "its name is not known, or no address of it is public, and "
        "DIRECTOR_WEBHOOK_PRIVATE_ADDRESSES is not 1"
    )
    if private:
        reason = "its name is not known, or its address is link-local, which is refused"
    refuses = is_refused if private else is_not_public
    return Destinations(refuses, reason, reason, _webhook_resolvers)


class NotConnected(ConnectionError):
    """There is no connection, so nothing was sent; the text is the end of a sentence."""


async def connect(host: str, port: int, destinations: Destinations = BACKENDS) -> socket.socket:
    """Return a socket that is connected to a permitted address of a host; no other address is
    connected to.

    ``localhost`` is reached without the resolver. There is no deadline. Raises ``NotConnected``.
    """
    failure: NotConnected | None = None
    for address in LOOPBACK_HOSTS if host == "localhost" else (host,):
        try:
            return await _connect(address, port, destinations)
        except NotConnected as error:
            failure = failure or error
    assert failure is not None  # noqa: S101  # for mypy
    raise failure


async def _connect(host: str, port: int, destinations: Destinations) -> socket.socket:
    try:
        entries = await _addresses(host, port, destinations.resolvers)
    except (OSError, UnicodeError) as error:
        raise NotConnected(destinations.unknown) from error
    permitted = [info for info in entries if not destinations.refuses(str(info[4][0]))]
    if not permitted:
        raise NotConnected(destinations.refused)
    try:
        connection = await start_connection(permitted, happy_eyeballs_delay=0.25)
    except (OSError, RuntimeError) as error:  # RuntimeError: uvloop
        was_refused = isinstance(error, ConnectionRefusedError)
        reason = "the connection was refused" if was_refused else "All connection attempts failed"
        raise NotConnected(reason) from error
    try:
        connection.getpeername()
    except OSError as error:
        connection.close()
        raise NotConnected("the connection was reset at once") from error
    return connection


async def _addresses(host: str, port: int, resolvers: ThreadPoolExecutor) -> list[AddrInfoType]:
    resolve: Callable[[], list[Any]] = functools.partial(
        socket.getaddrinfo, host, port, type=socket.SOCK_STREAM
    )
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return await asyncio.get_running_loop().run_in_executor(resolvers, resolve)
    return resolve()
