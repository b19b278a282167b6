"""Sign-in with one shared secret: ``DIRECTOR_TOKEN``. Without it everybody who reaches the Director is in.

Programs show it as ``Authorization: Bearer``. A person types it into the form at ``/sign-in`` once and
gets a cookie, signed with the secret key, that names the token by a digest: another token ends every
session. A browser sends a cookie along whoever asks, so with the cookie alone anything that changes
something, and every WebSocket, must come from a page of the Director's own (or a listed one).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import Enum
from inspect import iscoroutinefunction
from typing import Any, Final, cast
from urllib.parse import quote

from django.conf import settings
from django.core import signing
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, parse_cookie
from django.http.response import HttpResponseBase
from django.shortcuts import render
from django.utils.crypto import constant_time_compare, salted_hmac
from django.utils.decorators import sync_and_async_middleware
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods, require_POST

from director.security.origins import header_values, is_own
from director.security.throttle import Throttle
from director.web.asgi_types import Application, Receive, Scope, Send
from director.web.errors import error_response, is_api
from jobgroups.consumers.socket import error_frame

COOKIE: Final = "director_session"
SESSION_SECONDS: Final = 30 * 86_400
PATH: Final = "/sign-in"
#: WebSocket close code: sign in, then connect again.
SIGN_IN_REQUIRED: Final = 4401
_SALT: Final = "director.sign_in"
_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_WRONG: Final = "That is not the token."

throttle = Throttle()


class AuthResult(Enum):
    """What is known of who asks."""

    IN = "in"
    STRANGER = "stranger"  #: shows nothing that is worth anything
    FOREIGN_PAGE = "foreign page"  #: has a session, but another site's page asks
    THROTTLED = "throttled"  #: showed too many wrong tokens


# --- tokens and sessions --------------------------------------------------------------------------


def is_token(given: str) -> bool:
    """Whether this is the token. Takes the same time however much of it is right."""
    return constant_time_compare(given.encode("utf-8", "replace"), settings.DIRECTOR_TOKEN.encode())


def _digest() -> str:
    return salted_hmac(_SALT, settings.DIRECTOR_TOKEN, algorithm="sha256").hexdigest()


def new_session() -> str:
    """Return the cookie's value for somebody who knows the token."""
    return signing.dumps(_digest(), salt=_SALT)


def is_session(value: str) -> bool:
    """Whether it is a cookie of ours, of the present token, and not older than 30 days."""
    try:
        digest = signing.loads(value, salt=_SALT, max_age=SESSION_SECONDS)
    except signing.BadSignature:
        return False
    return isinstance(digest, str) and constant_time_compare(digest, _digest())


def authenticate(
    *,
    address: str,
    authorization: str | None,
    cookie: str | None,
    origin: str | None,
    host: str | None,
    changes: bool,
) -> AuthResult:
    """Return whether somebody may use the Director.

    Args:
        address: the client's, for counting wrong tokens.
        authorization, cookie, origin, host: the headers' values; ``cookie`` is our one's.
        changes: whether the request may change something, or opens a WebSocket.
    """
    if not settings.DIRECTOR_TOKEN:
        return AuthResult.IN
    if authorization is not None:
        return _bearer(address, authorization)
    if cookie is None or not is_session(cookie):
        return AuthResult.STRANGER
    if changes and not is_own(origin, host):
        return AuthResult.FOREIGN_PAGE
    return AuthResult.IN


def client_address(peer: str, forwarded: str | None) -> str:
    """Return whose wrong tokens are counted: behind a trusted proxy the client's that it names.

    Else one program with an old token would close the door for all who come through the proxy.

    Args:
        peer: who is connected.
        forwarded: the header ``X-Forwarded-For``; each proxy adds whom it saw at the end.
    """
    if forwarded is None or peer not in settings.DIRECTOR_TRUSTED_PROXIES:
        return peer
    return forwarded.rpartition(",")[2].strip() or peer


def _bearer(address: str, authorization: str) -> AuthResult:
    if throttle.retry_after(address):
        return AuthResult.THROTTLED
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() == "bearer" and is_token(token.strip()):
        return AuthResult.IN
    throttle.record_failure(address)
    return AuthResult.STRANGER


# --- HTTP -----------------------------------------------------------------------------------------


def _address(request: HttpRequest) -> str:
    peer = str(request.META.get("REMOTE_ADDR") or "")
    return client_address(peer, request.headers.get("X-Forwarded-For"))


def _refusal(request: HttpRequest) -> HttpResponseBase | None:
    """Return the answer to who is not in; None: go on."""
    if request.path.rstrip("/") == PATH:
        return None
    found = authenticate(
        address=_address(request),
        authorization=request.headers.get("Authorization"),
        cookie=request.COOKIES.get(COOKIE),
        origin=request.headers.get("Origin"),
        host=request.headers.get("Host"),
        changes=request.method not in _SAFE,
    )
    match found:
        case AuthResult.IN:
            return None
        case AuthResult.THROTTLED:
            return _too_often(throttle.retry_after(_address(request)))
        case AuthResult.FOREIGN_PAGE:
            detail = "Only pages of the Director's own may do this; a program shows the token."
            return error_response(403, detail, "origin_not_allowed")
        case AuthResult.STRANGER:
            return _ask_to_sign_in(request)


def _too_often(wait: int) -> HttpResponse:
    detail = f"Too many wrong tokens; try again in {wait} s."
    headers = {"Retry-After": str(wait)}
    return error_response(429, detail, "too_many_requests", headers=headers)


def _ask_to_sign_in(request: HttpRequest) -> HttpResponse:
    if is_api(request) or request.method not in _SAFE:
        detail = "This Director asks for its token, as Authorization: Bearer TOKEN."
        headers = {"WWW-Authenticate": 'Bearer realm="Director"'}
        return error_response(401, detail, "sign_in_required", headers=headers)
    if "HX-Request" in request.headers:
        # A fragment: the page that asks for it goes, not the form into the page.
        return HttpResponse(status=401, headers={"HX-Redirect": PATH})
    return HttpResponseRedirect(f"{PATH}?next={quote(request.get_full_path(), safe='/')}")


def sign_in_middleware(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
    """Let in who shows the token or a session; everybody where no token is set."""
    if iscoroutinefunction(get_response):

        async def in_loop(request: HttpRequest) -> HttpResponseBase:
            refusal = _refusal(request)
            if refusal is not None:
                return refusal
            return await cast(Awaitable[HttpResponseBase], get_response(request))

        return in_loop

    def in_thread(request: HttpRequest) -> HttpResponseBase:
        return _refusal(request) or cast(HttpResponseBase, get_response(request))

    return in_thread


#: The name that the settings know it by.
SignInMiddleware = sync_and_async_middleware(sign_in_middleware)


# --- the form -------------------------------------------------------------------------------------


@never_cache
@csrf_exempt  # who knows the token needs no forgery; the origin is checked before
@sensitive_post_parameters("token")
@require_http_methods(["GET", "HEAD", "POST"])
def sign_in(request: HttpRequest) -> HttpResponse:
    """``/sign-in``: ask for the token, or take it and give a session."""
    wanted = _next(request)
    if not settings.DIRECTOR_TOKEN:
        return HttpResponseRedirect(wanted)
    if request.method != "POST":
        return _form(request, wanted)
    wait = throttle.retry_after(_address(request))
    if wait:
        said = f"Too many wrong tokens. Try again in {wait} seconds."
        return _form(request, wanted, said, status=429, headers={"Retry-After": str(wait)})
    if not is_token(request.POST.get("token", "").strip()):
        throttle.record_failure(_address(request))
        return _form(request, wanted, _WRONG, status=403)
    response = HttpResponseRedirect(wanted)
    response.set_cookie(
        COOKIE,
        new_session(),
        max_age=SESSION_SECONDS,
        httponly=True,
        samesite="Lax",
        secure=request.is_secure(),
    )
    return response


def _next(request: HttpRequest) -> str:
    """Return the page that was wanted; never one of another site."""
    wanted = request.POST.get("next") or request.GET.get("next") or "/"
    is_here = wanted.startswith("/") and url_has_allowed_host_and_scheme(wanted, allowed_hosts=None)
    return wanted if is_here and not wanted.startswith(PATH) else "/"


def _form(
    request: HttpRequest,
    wanted: str,
    said: str = "",
    *,
    status: int = 200,
    headers: dict[str, str] | None = None,
) -> HttpResponse:
    context = {"next": wanted, "said": said}
    response = render(request, "director/sign_in.html", context, status=status)
    for name, value in (headers or {}).items():
        response.headers[name] = value
    return response


@never_cache
@csrf_exempt  # the sign-in's own check of the origin has let it through
@require_POST
def sign_out(_request: HttpRequest) -> HttpResponse:
    """``/sign-out``: forget this browser's session."""
    response = HttpResponseRedirect(PATH)
    response.delete_cookie(COOKIE, samesite="Lax")
    return response


# --- WebSockets -----------------------------------------------------------------------------------


def require_sign_in(application: Application) -> Application:
    """Wrap a WebSocket application: who is not in is told so by a frame, and closed with 4401."""

    async def guard(scope: Scope, receive: Receive, send: Send) -> None:
        if _authenticate_socket(scope) is AuthResult.IN:
            await application(scope, receive, send)
        elif (await receive())["type"] == "websocket.connect":
            detail = "Sign in, or connect with Authorization: Bearer TOKEN."
            await send({"type": "websocket.accept"})
            text = error_frame("sign_in_required", detail)
            await send({"type": "websocket.send", "text": text})
            await send({"type": "websocket.close", "code": SIGN_IN_REQUIRED})

    return guard


def _authenticate_socket(scope: Scope) -> AuthResult:
    def only(name: bytes) -> str | None:
        found = header_values(scope, name)
        return found[0] if len(found) == 1 else None

    cookies = parse_cookie("; ".join(header_values(scope, b"cookie")))
    return authenticate(
        address=client_address(str((scope.get("client") or [""])[0]), only(b"x-forwarded-for")),
        authorization=only(b"authorization"),
        cookie=cookies.get(COOKIE),
        origin=only(b"origin"),
        host=only(b"host"),
        changes=True,
    )
