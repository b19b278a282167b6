"""Listen addresses and host names. The default is loopback."""

import contextlib
import ipaddress
import socket
from dataclasses import dataclass
from typing import Final

_LAST_PORT: Final = 65_535


class CannotListen(Exception):
    """The address or port cannot be used; the message says what to do."""


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """One socket to listen on."""

    host: str
    port: int

    @property
    def endpoint(self) -> str:
        kind = "tcp6" if ":" in self.host else "tcp"
        escaped = self.host.replace(":", "\\:")
        return f"{kind}:port={self.port}:interface={escaped}"


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach ``host``."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def listen_addresses(host: str, port: int) -> list[ListenAddress]:
    """Return the sockets to listen on; for ``localhost`` 127.0.0.1 and, if the machine has IPv6, ::1.

    Port 0 selects a free port. Raises ``CannotListen`` if the port is invalid or in use, or the address belongs to
    another machine.
    """
    if not 0 <= port <= _LAST_PORT:
        raise CannotListen(f"--port {port} is not a port; use 1 to {_LAST_PORT}, or 0 for a free one.")
    if host.lower() == "localhost":
        first = _checked("127.0.0.1", port)
        try:
            return [first, _checked("::1", first.port)]
        except CannotListen:
            if _has_ipv6():
                raise
            return [first]
    return [_checked(host.strip("[]"), port)]


def _checked(host: str, port: int) -> ListenAddress:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.bind((host, port))
            return ListenAddress(host, probe.getsockname()[1])
    except OSError as error:
        raise CannotListen(
            f"Cannot listen on {host} port {port}: {error.strerror or error}. Choose another with --port or --host."
        ) from error


def _has_ipv6() -> bool:
    try:
        _checked("::1", 0)
    except CannotListen:
        return False
    return True


def display_hosts(host: str) -> list[str]:
    """Return the hosts, as in a URL, under which a Director that listens on ``host`` can be reached.

    For all addresses: ``localhost``, then each address of this machine on the network.
    """
    bare = host.strip("[]")
    if is_loopback(host):
        return ["localhost"]
    if bare not in ("0.0.0.0", "::"):  # noqa: S104 compared, not bound
        return local_host_names(host)
    wanted = 6 if bare == "::" else 4
    found = sorted(_addresses() - {"0.0.0.0"})  # noqa: S104 likewise
    return ["localhost", *(_in_url(one) for one in found if _is_shown(one, wanted))]


def _is_shown(address: str, version: int) -> bool:
    one = ipaddress.ip_address(address)
    # Browsers do not support link-local addresses, which need the name of an interface.
    return one.version == version and not one.is_loopback and not one.is_link_local


def _in_url(address: str) -> str:
    bare = address.split("%", maxsplit=1)[0]
    return f"[{bare}]" if ":" in bare else bare


def local_host_names(host: str) -> list[str]:
    """Return the allowed ``Host`` names of a Director that listens on ``host``.

    For all addresses (``0.0.0.0``, ``::``): this machine's names and addresses. Requests with any other
    name are refused: they may come from a page whose name was pointed to this address (DNS rebinding).
    """
    bare = host.strip("[]")
    if bare not in ("0.0.0.0", "::"):  # noqa: S104 compared, not bound
        return [_in_url(bare)]
    names = {socket.gethostname(), socket.getfqdn(), f"{socket.gethostname()}.local"}
    names |= {_in_url(one) for one in _addresses()}
    return sorted(name for name in names if name)


def _addresses() -> set[str]:
    """Return the addresses of this machine's name, and that of its default route. Nothing is sent."""
    found: set[str] = set()
    with contextlib.suppress(OSError):
        found |= {str(info[4][0]) for info in socket.getaddrinfo(socket.gethostname(), None)}
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))
        found.add(probe.getsockname()[0])
    return found
