"""Addresses to which nothing is sent: link-local ones unless an operator allows it; of webhooks, all that are not public.

A cloud machine's metadata service, which gives out its credentials, has a link-local address: a backend
registered there would have the Director fetch them. A name is checked when it is registered. It may resolve to another
address later, so each connection resolves it again, and is made to a permitted address of it, never to the name.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeAlias, TypeVar
from urllib.parse import urlsplit

import httpcore

T = TypeVar("T")
Refuses: TypeAlias = Callable[[str], bool]  #: Whether nothing may be sent to an IP address.

#: A ComfyUI listens on one of these, ComfyUI's default first, and a machine's resolver may know only one of them as
#: ``localhost``, the name that ``normalise_url`` gives to every loopback address. Both are tried, in this order.
_LOOPBACK_HOSTS: Final = ("127.0.0.1", "::1")
_NETWORKS: Final = (ipaddress.ip_network("169.254.0.0/16"), ipaddress.ip_network("fe80::/10"))
#: Seconds for the resolver at a registration: what it does not answer by then is left to the check of each connection.
_RESOLVE_WITHIN: Final = 1.5
#: Resolve names. A resolver that hangs keeps a thread for half a minute: names that are registered must not take those
#: of connections.
_resolvers: Final = ThreadPoolExecutor(max_workers=8, thread_name_prefix="resolver")
_registrations: Final = ThreadPoolExecutor(max_workers=8, thread_name_prefix="resolver of registrations")
_IPV6_UNICAST: Final = ipaddress.ip_network("2000::/3")
_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")  #: Has IPv4 addresses in its last 4 bytes.
_REFUSED: Final = "its address is link-local, which is refused unless DIRECTOR_ALLOW_LINK_LOCAL is 1"


class PeerRefused(ConnectionError):
    """No address of a host may be connected to; nothing was sent."""


class _Policy:
    allows_link_local = False


def allow_link_local(allowed: bool) -> None:
    """Set for this process whether link-local addresses may be connected to."""
    _Policy.allows_link_local = allowed


def _ip_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None


def is_refused(address: str) -> bool:
    """Whether nothing may be sent to an IP address. A name is none."""
    ip = _ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        ip = ip.ipv4_mapped or ip
    return ip is not None and not _Policy.allows_link_local and any(ip in network for network in _NETWORKS)


def is_not_public(address: str) -> bool:
    """Whether an IP address is private, loopback, link-local or of another network that is not the internet."""
    ip = _ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or (ipaddress.IPv4Address(ip.packed[-4:]) if ip in _NAT64 else None)
        if inner is None:
            return ip not in _IPV6_UNICAST or not ip.is_global or ip.sixtofour is not None
        ip = inner
    return ip is not None and (not ip.is_global or ip.is_multicast)


def check_url(url: str) -> None:
    """Check the host of a backend that is to be registered or probed; a name is resolved for that.

    ``url`` is canonical. Raises ``ValueError``, with a sentence for the person, if it is link-local.
    """
    if _Policy.allows_link_local:
        return
    host = urlsplit(url).hostname or ""
    try:
        found = _known_addresses(host) or _registrations.submit(_resolved, host).result(_RESOLVE_WITHIN)
    except OSError:  # the resolver does not know it, or not in time
        return
    refused = [one for one in found if is_refused(one)]
    # The name of a machine in a local network often has an fe80 address beside a usable one.
    if any("." in one for one in refused) or (refused and len(refused) == len(found)):
        raise ValueError(
            "The address is link-local (169.254.0.0/16 or fe80::/10), which is refused unless"
            " DIRECTOR_ALLOW_LINK_LOCAL is 1."
        )


def _known_addresses(host: str) -> list[str]:
    """Return the addresses of a host that is not resolved; none of a name."""
    if host == "localhost":
        return list(_LOOPBACK_HOSTS)
    return [] if _ip_address(host) is None else [host]


def _resolved(host: str) -> list[str]:
    """Return the addresses of a name, IPv4 first, as ComfyUI listens. Raises ``OSError`` for an unknown name."""
    try:
        entries = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except UnicodeError as error:
        raise socket.gaierror(str(error)) from error
    return sorted(dict.fromkeys(str(entry[4][0]) for entry in entries), key=lambda address: ":" in address)


async def connect_permitted(
    host: str,
    timeout: float | None,
    connect: Callable[[str, float | None], Awaitable[T]],
    refuses: Refuses = is_refused,
) -> T:
    """Return the connection to the first permitted address of a host that accepts one.

    ``connect`` takes an address, and its share of ``timeout`` in seconds (None: no limit). Raises ``socket.gaierror`` for an unknown name,
    ``PeerRefused``, ``TimeoutError``, or the error of the first address.
    """
    if not (found := _known_addresses(host)):
        async with asyncio.timeout(timeout):
            found = await asyncio.get_running_loop().run_in_executor(_resolvers, _resolved, host)
    permitted = [address for address in found if not refuses(address)]
    failures: list[Exception] = []
    for address in permitted:
        try:
            return await connect(address, timeout and timeout / len(permitted))
        except (OSError, httpcore.ConnectError, httpcore.ConnectTimeout) as error:
            failures.append(error)
    raise failures[0] if failures else PeerRefused(_REFUSED)


class CheckedNetwork(httpcore.AnyIOBackend):
    """Connections for HTTP, to permitted addresses alone.

    ``refuses`` decides that of an address. ``reason`` is the end of the sentence for a host without a permitted address;
    empty: the sentence shows whether its name is known.
    """

    def __init__(self, refuses: Refuses = is_refused, reason: str = "") -> None:
        self._refuses = refuses
        self._reason = reason

    async def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, *args: Any, **options: Any
    ) -> httpcore.AsyncNetworkStream:
        """Connect; raise ``httpcore.ConnectError`` or ``httpcore.ConnectTimeout`` if there is no connection."""
        connect_tcp = super().connect_tcp

        async def connect(address: str, seconds: float | None) -> httpcore.AsyncNetworkStream:
            return await connect_tcp(address, port, seconds, *args, **options)

        try:
            return await connect_permitted(host, timeout, connect, self._refuses)
        except TimeoutError as error:
            raise httpcore.ConnectTimeout(str(error)) from error
        except OSError as error:
            if not self._reason:
                raise httpcore.ConnectError(str(error)) from error
        # Outside of the handler: else the error would be its context, which is shown.
        raise httpcore.ConnectError(self._reason)


def webhook_network(*, private: bool) -> CheckedNetwork:
    """Return the connections to webhooks, whose addresses any user of the API names."""
    if private:
        return CheckedNetwork(reason="its name is not known, or its address is link-local, which is refused")
    reason = "its name is not known, or no address of it is public, and DIRECTOR_WEBHOOK_PRIVATE_ADDRESSES is not 1"
    return CheckedNetwork(is_not_public, reason)
