"""Address, token, certificates and errors of both wires."""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Final
from urllib.parse import urlsplit

import httpx
from websockets.exceptions import InvalidStatus

from director import __version__
from director.client.errors import DirectorError, Unreachable, error_from_answer

DEFAULT_URL: Final = "http://localhost:9820"
#: Characters of a token.
_TOKEN: Final = re.compile(r"[\x21-\x7e]+")


def environment_value(name: str) -> str | None:
    """Return a variable of the client's environment; None if it is empty or not set."""
    return os.environ.get(name, "").strip() or None  # noqa: TID251 a client has no Django settings


def with_scheme(url: str) -> str:
    """Return an address with its scheme: users type ``gpu-host:9820``."""
    return url if "://" in url else f"http://{url}"


@dataclass(frozen=True, slots=True)
class Address:
    """The Director's address and the token for it."""

    url: str
    token: str | None

    @classmethod
    def parse(cls, url: str, token: str | None) -> Address:
        """Return the address.

        Raises ``ValueError`` if it is no http or https URL, or the token has other characters than
        a token may have.
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
    def public_url(self) -> str:
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


def _origin(url: str) -> tuple[str, str, int] | None:
    """Return scheme, host and port, None if ``url`` has none."""
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    except (ValueError, KeyError):
        return None
    return parts.scheme, parts.hostname or "", port


@cache
def authorities() -> ssl.SSLContext:
    """Return the trusted certificates: httpx's list, and this host's own.

    A studio's proxy often has a certificate of the studio's authority. They are read once, not for
    each connection.
    """
    context = httpx.create_ssl_context(trust_env=False)
    context.load_default_certs()
    return context


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
        raise Unreachable(
            f"No answer from {url}: {_reason(error)}", maybe_received=not unsent
        ) from error


def _reason(error: Exception) -> str:
    """Return an error's text without the system's number (``[Errno 111]``)."""
    return _ERROR_NUMBER.sub("", str(error)) or type(error).__name__


def no_socket(url: str, error: Exception) -> DirectorError:
    """Return the error for an event stream that could not be opened."""
    if isinstance(error, InvalidStatus):
        return error_from_answer(error.response.status_code, error.response.body or b"")
    return Unreachable(f"No event stream from {url}: {_reason(error)}", maybe_received=False)
