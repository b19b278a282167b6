"""Address, headers, timeouts and errors of both wires."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
from websockets.exceptions import InvalidStatus

from director import __version__
from director.client.errors import DirectorError, Unreachable, error_from_answer
from director.client.requests import Request

DEFAULT_URL: Final = "http://localhost:9820"
#: Characters of a token.
_TOKEN: Final = re.compile(r"[\x21-\x7e]+")
#: Seconds for a connection; a host that is off does not answer.
CONNECT_TIMEOUT_S: Final = 5.0
#: Frames of the API stay below 1 MiB.
MAX_FRAME_BYTES: Final = 16 * 2**20
#: At most this much of an error page is read.
MAX_ERROR_BYTES: Final = 2**20


@dataclass(frozen=True, slots=True)
class Address:
    """The Director's address and the token for it."""

    url: str
    token: str | None

    @classmethod
    def parse(cls, url: str, token: str | None) -> Address:
        """Return the address.

        Raises ``ValueError`` if it is no http or https URL, or the token has other characters than a token may have.
        """
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError(f"{url!r} is not an address like {DEFAULT_URL}.")
        if parts.query or parts.fragment:
            raise ValueError(f"{url!r} has a query or a fragment; an address has neither.")
        if _origin(url) is None:
            raise ValueError(f"{url!r} is not an address: its port is no number.")
        if token is not None and not _TOKEN.fullmatch(token):
            raise ValueError("The token may have letters, digits and signs only, without blanks.")
        return cls(url.rstrip("/"), token)

    @property
    def shown(self) -> str:
        """Return the address without a password, for messages."""
        parts = urlsplit(self.url)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()

    def headers_for(self, url: str) -> dict[str, str]:
        """Return the headers of every request to ``url``.

        The token is sent to the Director only: files may be on other hosts.
        """
        headers = {"User-Agent": f"comfyui-director/{__version__}", "Accept-Encoding": "identity"}
        if self.token is not None and _origin(url) == _origin(self.url):
            headers["Authorization"] = f"Bearer {self.token}"
        return headers

    def http_options(self, request: Request) -> dict[str, Any]:
        """Return the arguments of httpx's ``request`` for ``request``."""
        url = self.url + request.path
        headers = {**self.headers_for(url), "Accept": "application/json", **request.headers}
        if request.body is not None:
            headers.setdefault("Content-Type", "application/json")
        return {
            "method": request.method,
            "url": url,
            "params": list(request.params) or None,
            "content": request.body,
            "headers": headers,
        }

    def socket_options(self, path: str) -> dict[str, Any]:
        """Return the arguments of websockets' ``connect`` for the stream at ``path``."""
        headers = self.headers_for(self.url)
        agent = headers.pop("User-Agent")
        del headers["Accept-Encoding"]
        return {
            "uri": "ws" + self.url.removeprefix("http") + path,
            "additional_headers": headers,
            "user_agent_header": agent,
            "compression": None,
            "proxy": None,
            "ssl": _authorities() if self.url.startswith("https:") else None,
            "open_timeout": 10.0,
            # The caller has its result and should not wait.
            "close_timeout": 1.0,
            "max_size": MAX_FRAME_BYTES,
        }


def _origin(url: str) -> tuple[str, str, int] | None:
    """Return scheme, host and port, None if ``url`` has none."""
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    except (ValueError, KeyError):
        return None
    return parts.scheme, parts.hostname or "", port


@cache
def _authorities() -> ssl.SSLContext:
    """Return the trusted certificates: httpx's list, and this host's own.

    A studio's proxy often has a certificate of the studio's authority. They are read once, not for each
    connection.
    """
    context = httpx.create_ssl_context(trust_env=False)
    context.load_default_certs()
    return context


def client_options(timeout: float) -> dict[str, Any]:
    """Return the arguments of httpx's clients. Proxy variables and ``.netrc`` are ignored."""
    return {
        "verify": _authorities(),
        "timeout": httpx.Timeout(timeout, connect=min(timeout, CONNECT_TIMEOUT_S)),
        # Each wait for a group occupies a connection.
        "limits": httpx.Limits(max_connections=None, max_keepalive_connections=20),
        "trust_env": False,
        "follow_redirects": False,
    }


def request_timeout(seconds: float | None) -> Any:
    """Return httpx's ``timeout`` argument for one request."""
    if seconds is None:
        return httpx.USE_CLIENT_DEFAULT
    return httpx.Timeout(seconds, connect=min(seconds, CONNECT_TIMEOUT_S))


_ERROR_NUMBER: Final = re.compile(r"\[(?:Errno|WinError) -?\d+\] ")
#: There was no connection, so the server cannot have acted.
_NOT_SENT: Final = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.InvalidURL,
    httpx.PoolTimeout,
    httpx.UnsupportedProtocol,
)


@contextmanager
def answer_required(url: str) -> Iterator[None]:
    """Raise ``Unreachable`` for an HTTP request without an answer; ``url`` is named in its message."""
    try:
        yield
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        unsent = isinstance(error, _NOT_SENT)
        raise Unreachable(f"No answer from {url}: {_reason(error)}", maybe_received=not unsent) from error


def _reason(error: Exception) -> str:
    """Return an error's text without the system's number (``[Errno 111]``)."""
    return _ERROR_NUMBER.sub("", str(error)) or type(error).__name__


def no_socket(url: str, error: Exception) -> DirectorError:
    """Return the error for an event stream that could not be opened."""
    if isinstance(error, InvalidStatus):
        return error_from_answer(error.response.status_code, error.response.body or b"")
    return Unreachable(f"No event stream from {url}: {_reason(error)}", maybe_received=False)
