"""Requests at the port of the ComfyUI listener, with their credentials in one form.

Programs of ComfyUI can send less than those of the Director's API: some know only Basic, some no
header at all. Before anything else reads the request, its token is moved to the header where all
others have it.
"""

import base64
import binascii
from typing import Final

from django.conf import settings
from django.http import HttpRequest

from director.web.asgi_types import Scope
from director.web.url_tokens import token_in_url

#: The key of a scope that is true for a request at the ComfyUI listener.
LISTENER_KEY: Final = "director.comfyui_listener"
#: The key of a scope that is true if a browser may have added the token by itself, as it adds a
#: cookie.
BY_BROWSER_KEY: Final = "director.by_browser"

#: The URL table of the ComfyUI listener.
LISTENER_URLS: Final = "jobgroups.api.listener.urls"


def is_listener(request: HttpRequest) -> bool:
    """Return whether a request was sent to the ComfyUI listener."""
    return bool(getattr(request, "scope", {}).get(LISTENER_KEY))


def is_listener_port(port: int) -> bool:
    """Return whether a port of this process is that of the ComfyUI listener."""
    return bool(settings.DIRECTOR_COMFYUI_PORT) and port == settings.DIRECTOR_COMFYUI_PORT


def at_listener(scope: Scope) -> Scope | None:
    """Return the scope of a connection to the ComfyUI listener with its token in ``Authorization:
    Bearer``; None: the connection is to another port.
    """
    server = scope.get("server")
    if server is None or not is_listener_port(server[1]):
        return None
    moved: Scope = {**scope, LISTENER_KEY: True}
    headers = dict(scope["headers"])
    token = _basic_token(headers.get(b"authorization", b""))
    if token is not None:
        moved[BY_BROWSER_KEY] = True
    url, in_url = token_in_url(b"/api?" + scope["query_string"])
    moved["query_string"] = url.partition(b"?")[2]
    if not headers.keys() & {b"authorization", b"x-api-key"}:
        token = in_url
    if token is not None:
        others = [pair for pair in scope["headers"] if pair[0] != b"authorization"]
        moved["headers"] = [
            *others,
            (b"authorization", f"Bearer {token}".encode("latin-1", "replace")),
        ]
    return moved


def _basic_token(authorization: bytes) -> str | None:
    """Return the password of ``Authorization: Basic``; None for another scheme."""
    scheme, _, sent = authorization.partition(b" ")
    if scheme.lower() != b"basic":
        return None
    try:
        decoded = base64.b64decode(sent, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return ""
    return decoded.partition(":")[2]
