"""The check of ``Origin``, for HTTP and for WebSockets.

Requests without the header come from programs, which could send any value: allowed. With it, a
browser sends the request for a page, which must be served from this machine or by the Director, or
be listed in ``DIRECTOR_ALLOWED_ORIGINS``: a page of another site, even under a name that was
rebound to 127.0.0.1, submits no jobs and reads no images. The validator of Channels would refuse
programs.
"""

import ipaddress
import re
from dataclasses import dataclass
from io import BytesIO
from typing import Final

from django.conf import settings
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.http.request import split_domain_port, validate_host
from django.utils.cache import patch_vary_headers

from director.web.asgi_types import Scope
from director.web.errors import error_response
from director.web.handlers import LenientRequest
from director.web.listener import is_listener
from director.web.middleware import middleware

_ORIGIN: Final = re.compile(r"(https?)://(\[[0-9a-f:.]+\]|[^\s/?#@:\[\]]+)(?::([0-9]{1,5}))?")
_DEFAULT_PORTS: Final = {"http": "80", "https": "443"}

_PREFLIGHT: Final = {
    "Access-Control-Allow-Methods": "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS",
    "Access-Control-Allow-Headers": "Accept, Authorization, Content-Type, Idempotency-Key, If-Match, "
    "If-None-Match, If-Range, Last-Event-ID, Range, X-API-Key, X-Request-ID",
    "Access-Control-Max-Age": "600",
}
FOREIGN_CODE: Final = "origin_not_allowed"
FOREIGN_DETAIL: Final = (
    "Pages of this origin may not use the Director; its operator can list the origin in "
    "DIRECTOR_ALLOWED_ORIGINS."
)
FOREIGN_ORIGIN: Final = 4403  #: WebSocket close code for a page of an origin that is not allowed.
#: The Director's response headers that a page may read.
_EXPOSED: Final = (
    "Accept-Ranges, Content-Disposition, Content-Range, ETag, Idempotency-Replayed, Link, Location, "
    "Retry-After, X-Request-ID, X-Sheet-Pages"
)


@dataclass(frozen=True, slots=True)
class Origin:
    """Origin of a page. ``host`` in lower case, IPv6 in brackets; ``port`` is always set."""

    scheme: str
    host: str
    port: str

    @property
    def is_loopback(self) -> bool:
        """Whether the host is localhost, 127.0.0.0/8 or [::1]."""
        if self.host in ("localhost", "[::1]"):
            return True
        try:
            return ipaddress.IPv4Address(self.host).is_loopback
        except ValueError:
            return False

    def is_at(self, host_header: str) -> bool:
        """Return whether a request was sent to this origin.

        The scheme is not compared: behind a proxy that ends TLS the Director does not know its own.
        """
        host, port = split_domain_port(host_header)
        return (host, port or _DEFAULT_PORTS[self.scheme]) == (self.host, self.port)


def parse_origin(text: str) -> Origin | None:
    """Return the origin in a header or setting; None for ``null`` and for invalid values."""
    match = _ORIGIN.fullmatch(text.strip().lower())
    if match is None:
        return None
    scheme, host, port = match.groups()
    return Origin(scheme, host, str(int(port)) if port else _DEFAULT_PORTS[scheme])


def is_allowed(origin: str | None, host: str | None) -> bool:
    """Return whether a request with these headers may be served."""
    if origin is None:
        return True
    page = parse_origin(origin)
    if page is None:
        return False
    return page.is_loopback or _is_listed(page) or _is_own(page, host)


def is_own(origin: str | None, host: str | None) -> bool:
    """Return whether the request comes from a page of the Director or from a listed origin.

    Stricter than :func:`is_allowed`: other loopback pages, and programs, are not accepted.
    """
    page = None if origin is None else parse_origin(origin)
    return page is not None and (_is_listed(page) or _is_own(page, host))


def _is_listed(page: Origin) -> bool:
    return any(page == parse_origin(listed) for listed in settings.DIRECTOR_ALLOWED_ORIGINS)


def _is_own(page: Origin, host: str | None) -> bool:
    # The host must be an allowed one: a page whose name was rebound to this address has the same
    # origin.
    return (
        host is not None and validate_host(page.host, settings.ALLOWED_HOSTS) and page.is_at(host)
    )


def is_embedded(request: HttpRequest) -> bool:
    """Return whether a page of another site makes a browser send a request without ``Origin`` to
    the ComfyUI listener, other than by a link to the page of ComfyUI's editor.

    Its routes change things without a media type that browsers ask for permission to send.
    """
    if not is_listener(request) or "Origin" in request.headers:
        return False
    is_link = (
        request.method == "GET"
        and request.path == "/"
        and request.headers.get("Sec-Fetch-Dest") == "document"
    )
    return not is_link and request.headers.get("Sec-Fetch-Site", "none") not in (
        "none",
        "same-origin",
    )


def _early_answer(request: HttpRequest) -> HttpResponse | None:
    """Return the response to a request of a foreign origin or to a preflight; None for other
    requests.
    """
    origin = request.headers.get("Origin")
    if not is_allowed(origin, request.headers.get("Host")) or is_embedded(request):
        return error_response(403, FOREIGN_DETAIL, FOREIGN_CODE)
    preflight = request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers
    if origin is None or not preflight:
        return None
    return HttpResponse(status=204, headers=_PREFLIGHT)


def _with_cors_headers(request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
    """Let an allowed page read the response; ``Vary`` keeps caches from serving it to other
    origins.
    """
    patch_vary_headers(response, ["Origin"])
    origin = request.headers.get("Origin")
    if origin is not None and is_allowed(origin, request.headers.get("Host")):
        response.headers["Access-Control-Allow-Origin"] = origin
        response.headers["Access-Control-Expose-Headers"] = _EXPOSED
    return response


#: Refuses requests of foreign origins with 403, and sends CORS headers to allowed pages.
OriginMiddleware = middleware(_early_answer, _with_cors_headers)


def handshake(scope: Scope) -> HttpRequest:
    """Return the request that opens a WebSocket, for its headers, its cookies and the address of
    its client.
    """
    return LenientRequest({**scope, "method": "GET", "path": "/", "query_string": b""}, BytesIO())
