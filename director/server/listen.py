"""Listen addresses and host names. The default is loopback."""

import contextlib
import ipaddress
import os
import socket
from typing import Final

_LAST_PORT: Final = 65_535


class CannotListen(Exception):
    """The address or port cannot be used; the message says what to do."""


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach ``host``."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def is_own(host: str) -> bool:
    """Return whether an address or a name belongs to this machine."""
    try:
        entries = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return False
    for family, kind, _, _, address in entries:
        with socket.socket(family, kind) as own, contextlib.suppress(OSError):
            own.bind(address)
            return True
    return False


def bind_sockets(host: str, port: int, *, option: str = "--port") -> list[socket.socket]:
    """Return bound sockets; for ``localhost`` of 127.0.0.1 and, if the machine has IPv6, ::1. They
    do not listen yet.

    Port 0 selects a free port; ``option`` is where the port was given. Raises ``CannotListen`` if
    the port is invalid or in use, or the address belongs to another machine.
    """
    if not 0 <= port <= _LAST_PORT:
        raise CannotListen(
            f"{option} {port} is not a port; use 1 to {_LAST_PORT}, or 0 for a free one."
        )
    if host.lower() == "localhost":
        first = _bind("127.0.0.1", port, option)
        try:
            return [first, _bind("::1", port_of(first), option)]
        except CannotListen:
            if _has_ipv6():
                raise
            return [first]
    return [_bind(host.strip("[]"), port, option)]


def port_of(bound: socket.socket) -> int:
    """Return the port of a bound socket."""
    return int(bound.getsockname()[1])


def check_free(port: int) -> None:
    """Raise ``CannotListen`` if ``serve`` cannot listen on a port of this machine."""
    for bound in bind_sockets("localhost", port):
        bound.close()


def _bind(host: str, port: int, option: str = "--port") -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "posix":  # Windows would share the port with another program
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind((host, port))
        bound.setblocking(False)
    except OSError as error:
        bound.close()
        raise cannot_listen(host, port, error, option=option) from error
    return bound


def cannot_listen(host: str, port: int, error: OSError, *, option: str = "--port") -> CannotListen:
    """Return the error of an address that cannot be used; ``option`` is where the port was given."""
    return CannotListen(
        f"Cannot listen on {host} port {port}: {error.strerror or error}. Choose another with "
        f"{option} or --host."
    )


def _has_ipv6() -> bool:
    try:
        _bind("::1", 0).close()
    except CannotListen:
        return False
    return True


def display_hosts(host: str) -> list[str]:
    """Return the hosts, as in a URL, under which a Director that listens on ``host`` can be
    reached.

    For all addresses: ``localhost``, then each address of this machine on the network.
    """
    bare = host.strip("[]")
    if is_loopback(host):
        return ["localhost"]
    if bare not in ("0.0.0.0", "::"):  # noqa: S104 compared, not bound
        return local_host_names(host)
    wanted = 6 if bare == "::" else 4
    addresses = sorted(_addresses() - {"0.0.0.0"})  # noqa: S104 likewise
    return ["localhost", *(_in_url(address) for address in addresses if _is_shown(address, wanted))]


def _is_shown(address: str, version: int) -> bool:
    ip = ipaddress.ip_address(address)
    # Browsers do not support link-local addresses, which need the name of an interface.
    return ip.version == version and not ip.is_loopback and not ip.is_link_local


def _in_url(address: str) -> str:
    bare = address.split("%", maxsplit=1)[0]
    return f"[{bare}]" if ":" in bare else bare


def local_host_names(host: str) -> list[str]:
    """Return the allowed ``Host`` names of a Director that listens on ``host``.

    For all addresses (``0.0.0.0``, ``::``): this machine's names and addresses. Requests with any
    other name are refused: they may come from a page whose name was pointed to this address (DNS
    rebinding).
    """
    bare = host.strip("[]")
    if bare not in ("0.0.0.0", "::"):  # noqa: S104 compared, not bound
        return [_in_url(bare)]
    names = {socket.gethostname(), socket.getfqdn(), f"{socket.gethostname()}.local"}
    names |= {_in_url(address) for address in _addresses()}
    return sorted(name for name in names if name)


def _addresses() -> set[str]:
    """Return the addresses of this machine's name, and that of its default route. Nothing is sent."""
    addresses: set[str] = set()
    with contextlib.suppress(OSError):
        addresses |= {str(info[4][0]) for info in socket.getaddrinfo(socket.gethostname(), None)}
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))
        addresses.add(probe.getsockname()[0])
    return addresses
