"""A backend's address: one spelling for each, a readable name, headers. Pure: no name is resolved.

The ``ValueError`` sentences never repeat the input, which may hold a password.
"""

import base64
import contextlib
import ipaddress
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import SplitResult, quote, unquote, urlsplit

import idna

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*://")
_HOST_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
_HEADER_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,200}")
_HEADER_VALUE = re.compile(r"[\x21-\x7e]([\x20-\x7e\t]{0,8000}[\x21-\x7e])?|")
#: Headers that the client or the protocol sets; a wrong one would break every request.
_OWN_HEADERS: Final = frozenset(
    {
        *(
            "accept-encoding",
            "connection",
            "content-encoding",
            "content-length",
            "content-type",
            "expect",
            "host",
        ),
        *("keep-alive", "origin", "te", "trailer", "transfer-encoding", "upgrade"),
    }
)


@dataclass(frozen=True, slots=True)
class BackendAddress:
    """Where a backend is reached.

    ``url`` is canonical, ``scheme://host[:port][/prefix]``, never with a slash at the end, never
    with a password; two spellings of one address give one url.
    """

    url: str
    #: The header, from ``user:password@`` in the input.
    authorization: str | None = field(default=None, repr=False)

    def headers_with(self, given: Mapping[str, str]) -> dict[str, str]:
        """Return the headers that are sent: the credentials in the address, overridden by the given
        headers.

        Raises the errors of :func:`check_headers`.
        """
        checked = check_headers(given)
        if self.authorization is None or "authorization" in map(str.lower, checked):
            return checked
        return {"Authorization": self.authorization, **checked}


def normalise_url(text: str) -> BackendAddress:
    """Read an address as a person types it; every loopback spelling becomes ``localhost``.

    ``text`` is ``http://host:port/prefix``, ``https://user:password@host``, or ``host[:port]``,
    which is http at ComfyUI's port unless one is given. The port of a URL defaults to its scheme's,
    as everywhere. Raises ``ValueError`` with a sentence for the person.
    """
    parts = _split(text.strip())
    scheme = parts.scheme.lower()
    if scheme not in _DEFAULT_PORTS:
        raise ValueError("The address must begin with http:// or https://.")
    if parts.query or parts.fragment:
        raise ValueError("The address must not contain a query (?) or a fragment (#).")
    host, port = _host(parts.hostname or ""), _port(parts)
    shown_port = "" if port in (None, _DEFAULT_PORTS[scheme]) else f":{port}"
    return BackendAddress(
        url=f"{scheme}://{host}{shown_port}{_prefix(parts.path)}", authorization=_basic(parts)
    )


def slug_for_url(url: str) -> str:
    """Return a backend id for ``url``: ``localhost_8188``, ``192.168.100.6_8188``,
    ``farm_443_gpu1``.

    Two addresses may get one slug; the caller that registers them makes it unique.
    """
    parts = urlsplit(normalise_url(url).url)
    port = parts.port or _DEFAULT_PORTS[parts.scheme]
    words = [parts.hostname or "", str(port), *parts.path.strip("/").split("/")]
    slug = re.sub(r"[^A-Za-z0-9._-]", "-", "_".join(word for word in words if word))
    return slug.lstrip("._-")[:64]


def check_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return ``headers`` if they can be sent with every request and WebSocket.

    Raises ``ValueError`` for a name or value that HTTP forbids, and for a header that the client
    sets itself. The sentence names the header, never its value.
    """
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name):
            raise ValueError("A header's name must consist of letters, digits and hyphens.")
        if name.lower() in _OWN_HEADERS or name.lower().startswith("sec-websocket-"):
            raise ValueError(f"The header {name} is set by the program itself.")
        if not _HEADER_VALUE.fullmatch(value):
            raise ValueError(f"The value of the header {name} must be one line of ASCII text.")
    return dict(headers)


def _split(text: str) -> SplitResult:
    if not text:
        raise ValueError("The address is empty.")
    if "\\" in text or any(char.isspace() or not char.isprintable() for char in text):
        raise ValueError("The address must not contain spaces, backslashes or control characters.")
    bare = not _SCHEME.match(text)
    if bare and text.count(":") > 1 and re.fullmatch(r"[0-9A-Fa-f:.]+", text):
        text = f"[{text}]"
    try:
        parts = urlsplit(f"http://{text}" if bare else text)
        if bare and parts.port is None:
            parts = parts._replace(netloc=f"{parts.netloc.removesuffix(':')}:8188")
    except ValueError as exc:
        raise ValueError("The address has a malformed host or port.") from exc
    return parts


def _port(parts: SplitResult) -> int | None:
    with contextlib.suppress(ValueError):
        if parts.port != 0:
            return parts.port
    raise ValueError("The port must be a number from 1 to 65535.")


def _host(host: str) -> str:
    """The canonical host, in brackets if it is an IPv6 address."""
    host = host.removesuffix(".")
    if not host:
        raise ValueError("The address has no host.")
    address = _ip_address(host)
    if address is None:
        return _host_name(host)
    if isinstance(address, ipaddress.IPv6Address):
        address = address.ipv4_mapped or address
    # 0.0.0.0 and :: are what a server listens on; to connect to them is to connect here.
    if address.is_loopback or address.is_unspecified:
        return "localhost"
    return f"[{address.compressed}]" if address.version == 6 else str(address)


def _ip_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    if ":" in host:
        return _ipv6(host)
    if not re.fullmatch(r"[0-9a-fx.]+", host) or not host[0].isdigit():
        return None
    try:
        # As the system reads it: ``127.1``, ``0x7f.0.0.1`` and ``2130706433`` are addresses too.
        return ipaddress.IPv4Address(socket.inet_aton(host))
    except OSError:
        return None


def _ipv6(host: str) -> ipaddress.IPv6Address:
    if "%" in host:
        raise ValueError("An IPv6 address with a zone (%) cannot be used; take a name instead.")
    try:
        return ipaddress.IPv6Address(host)
    except ValueError as exc:
        raise ValueError("The address has a malformed IPv6 host.") from exc


def _host_name(host: str) -> str:
    try:
        name = host.encode("idna").decode("ascii").lower()
        labels = name.split(".")
        for label in labels:
            if label.startswith("xn--"):
                idna.decode(label)  # follows a newer standard than Python's own codec
    except UnicodeError as exc:
        raise ValueError("The address has a malformed host name.") from exc
    if len(name) > 253 or not all(_HOST_LABEL.fullmatch(label) for label in labels):
        raise ValueError("The address has a malformed host name.")
    if labels[-1].isdigit():
        raise ValueError("The address has a malformed IPv4 host.")
    return name


def _prefix(path: str) -> str:
    """The path before ComfyUI's own, percent-encoded once, without a slash at the end."""
    segments = [unquote(segment) for segment in path.split("/") if segment]
    if any(segment in (".", "..") for segment in segments):
        raise ValueError("The address must not contain . or .. as a folder.")
    return "".join(f"/{quote(segment, safe='')}" for segment in segments)


def _basic(parts: SplitResult) -> str | None:
    if parts.username is None:
        return None
    login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return f"Basic {base64.b64encode(login.encode()).decode()}"
