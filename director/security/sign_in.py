"""Who sends a request: everybody, who has the one shared secret (``DIRECTOR_TOKEN``), or whose
account it is.

Programs send the secret, or a token of an account, as ``Authorization: Bearer`` or ``X-API-Key``. A
user enters the secret, or name and password, in the form at ``/sign-in`` and gets a signed cookie
with a digest of it: a new secret or password ends every session, and a sign-out that of an account.
Browsers also send the cookie with requests of other sites' pages, so with the cookie alone every
change, and every WebSocket, must come from a page of the Director or of a listed origin.

Django's sessions are not used: they need a row for each user, or middleware that the API's chain
and the WebSockets do not have. The cookie of the secret is checked without a database query, that
of an account with one in a few seconds.
"""

import ipaddress
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from enum import Enum
from typing import Final
from urllib.parse import quote

from django.conf import settings
from django.core import signing
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, parse_cookie
from django.http.response import HttpResponseBase
from django.shortcuts import render
from django.utils.crypto import constant_time_compare, salted_hmac
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST
from rest_framework.permissions import SAFE_METHODS

from director.accounts.principals import (
    SESSION_SECONDS,
    Credentials,
    kept_result,
    principal_of,
    session_end,
)
from director.security.origins import (
    FOREIGN_CODE,
    FOREIGN_DETAIL,
    FOREIGN_ORIGIN,
    handshake,
    is_allowed,
    is_embedded,
    is_own,
)
from director.security.revocations import CREDENTIALS_KEY, serve_socket
from director.web.asgi_types import Application, Receive, Scope, Send
from director.web.errors import error_response, is_api
from director.web.listener import BY_BROWSER_KEY, is_listener
from director.web.middleware import middleware
from jobgroups.api.permissions import client_address, refusal_text
from jobgroups.database.pools import read
from jobgroups.database.threads import TRANSIENT
from jobgroups.domain.access import EVERYBODY, PRINCIPAL_KEY, Principal, Right, may
from jobgroups.domain.audit import Action, Actor, actor
from jobgroups.domain.newest import Newest
from jobgroups.services.audit import record_alone
from jobgroups.streams.feed import error_frame

logger = logging.getLogger(__name__)

ALLOWED: Final = 10  #: Wrong tokens that an address may send within the window.
WINDOW: Final = 60.0  #: Seconds.
#: Maximum number of stored addresses, or tokens; the oldest failure is dropped first.
_MAX_ADDRESSES: Final = 10_000


class Throttle:
    """Counts failures by address, or requests by token. Thread-safe.

    ``allowed`` returns how many are allowed within the window.
    """

    def __init__(self, allowed: Callable[[], int] = lambda: ALLOWED) -> None:
        self._wrong = Newest[str, deque[float]](_MAX_ADDRESSES, WINDOW)
        self._lock = threading.Lock()
        self._allowed = allowed

    def retry_after(self, address: str) -> int:
        """Return the seconds until an address may send a token again; 0: at once."""
        if not self._wrong:
            return 0
        wrong = self._wrong.get(network_of(address))
        if wrong is None or len(wrong) < self._allowed():
            return 0
        return max(0, int(wrong[0] + WINDOW - time.monotonic() + 0.999))

    def record_failure(self, address: str) -> None:
        name = network_of(address)
        with self._lock:
            wrong = self._wrong.get(name) or deque(maxlen=self._allowed())
            wrong.append(time.monotonic())
            self._wrong.put(name, wrong)


def network_of(address: str) -> str:
    """Return the key of an address: for IPv6 its /64, because one host can use all addresses of it."""
    try:
        parsed = ipaddress.ip_address(address.split("%", maxsplit=1)[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    return str(parsed.ipv4_mapped or ipaddress.ip_network((parsed, 64), strict=False))


COOKIE: Final = "director_session"
PATH: Final = "/sign-in"
SIGN_IN_REQUIRED: Final = 4401  #: WebSocket close code: sign in, then reconnect.
_SALT: Final = "director.sign_in"

throttle = Throttle()
#: The requests of each token; each process counts its own.
token_requests = Throttle(lambda: settings.DIRECTOR_REQUESTS_PER_MINUTE)


class Refused(Enum):
    UNAUTHENTICATED = "unauthenticated"  #: no valid token or session
    FOREIGN_PAGE = "foreign page"  #: a valid session, but the page is of another origin
    THROTTLED = "throttled"  #: too many wrong tokens
    UNAVAILABLE = "unavailable"  #: the database with the accounts does not answer


#: What a scope has when its credentials have ended during the request.
ENDED: Final[Scope] = {PRINCIPAL_KEY: Refused.UNAUTHENTICATED}


def is_token(given: str) -> bool:
    """Return whether this is the token, in constant time."""
    return constant_time_compare(given.encode("utf-8", "replace"), settings.DIRECTOR_TOKEN.encode())


def _digest() -> str:
    return salted_hmac(_SALT, settings.DIRECTOR_TOKEN, algorithm="sha256").hexdigest()


def new_session() -> str:
    return signing.dumps(_digest(), salt=_SALT)


def is_session(value: str) -> bool:
    """Return whether the cookie is signed, for the current token, and at most 30 days old."""
    try:
        digest = signing.loads(value, salt=_SALT, max_age=SESSION_SECONDS)
    except signing.BadSignature:
        return False
    return isinstance(digest, str) and constant_time_compare(digest, _digest())


def authenticate(request: HttpRequest, *, changes: bool) -> Principal | Refused:
    """Return who sends a request. ``changes``: it may change data, or opens a WebSocket."""
    if not settings.DIRECTOR_TOKEN and not settings.DIRECTOR_ACCOUNTS:
        return EVERYBODY
    has_token = _credentials(request)[0] is not None
    principal = _identify_throttled(request) if has_token else _identify(request)
    if principal is None:
        return Refused.UNAUTHENTICATED
    is_by_browser = getattr(request, "scope", {}).get(BY_BROWSER_KEY, False)
    by_cookie = isinstance(principal, Principal) and (not has_token or is_by_browser)
    if (
        by_cookie
        and changes
        and not is_own(request.headers.get("Origin"), request.headers.get("Host"))
    ):
        return Refused.FOREIGN_PAGE
    return principal


def _credentials(request: HttpRequest) -> Credentials:
    """Return the token of a request, or without one its cookie."""
    noted: Credentials | None = getattr(request, "scope", {}).get(CREDENTIALS_KEY)
    if noted is not None:
        return noted
    token = sent_token(request.headers)
    return (None, request.COOKIES.get(COOKIE)) if token is None else (token.strip(), None)


#: What ``sent_token`` reads, and the cookies.
_CREDENTIAL_HEADERS: Final = {
    b"authorization": "Authorization",
    b"x-api-key": "X-API-Key",
    b"cookie": "Cookie",
}


def _credentials_of(scope: Scope) -> Credentials:
    """Return the credentials of a request that does not exist yet, as ``_credentials`` does: this
    is done for each request.
    """
    sent: dict[str, str] = {}
    for name, value in scope["headers"]:
        if (known := _CREDENTIAL_HEADERS.get(name)) is not None:
            text, separator = value.decode("latin-1"), "; " if known == "Cookie" else ","
            sent[known] = f"{sent[known]}{separator}{text}" if known in sent else text
    token = sent_token(sent)
    if token is not None:
        return token.strip(), None
    return None, parse_cookie(sent["Cookie"]).get(COOKIE) if "Cookie" in sent else None


def _identify(request: HttpRequest) -> Principal | Refused | None:
    """Return the principal of a request; None: its credentials are invalid, or it has none."""
    scope = getattr(request, "scope", {})
    if PRINCIPAL_KEY in scope:
        principal: Principal | Refused | None = scope[PRINCIPAL_KEY]
        return principal
    token, cookie = _credentials(request)
    if settings.DIRECTOR_ACCOUNTS:
        return principal_of(token, cookie)
    is_valid = is_token(token) if token is not None else cookie is not None and is_session(cookie)
    return EVERYBODY if is_valid else None


def note_kept_principal(scope: Scope) -> bool:
    """Note in a scope who sends its request; return False if that needs the database."""
    if not settings.DIRECTOR_ACCOUNTS:
        return True
    token, cookie = scope[CREDENTIALS_KEY] = _credentials_of(scope)
    if (kept := kept_result(token, cookie)) is None:
        return False
    scope[PRINCIPAL_KEY] = kept[0]
    return True


async def find_principal(scope: Scope) -> None:
    """Note in a scope who sends its request, so that nothing in the event loop waits for the
    database.
    """
    if note_kept_principal(scope):
        return
    try:
        scope[PRINCIPAL_KEY] = await read(principal_of, *scope[CREDENTIALS_KEY])
    except TRANSIENT as error:
        logger.warning("Accounts: database unavailable (%s)", error)
        scope[PRINCIPAL_KEY] = Refused.UNAVAILABLE


def sent_token(headers: Mapping[str, str]) -> str | None:
    """Return the token in a program's headers, empty for another scheme than Bearer; None: there is
    none.
    """
    authorization = headers.get("Authorization")
    if authorization is None:
        return headers.get("X-API-Key")
    scheme, _, token = authorization.partition(" ")
    return token if scheme.lower() == "bearer" else ""


def _identify_throttled(request: HttpRequest) -> Principal | Refused | None:
    principal = _identify(request)
    # No guess finds a token of an account, so wrong ones of an address do not lock out right ones
    # behind it, which may be a proxy. The shared secret may be a short one.
    if principal is None or not settings.DIRECTOR_ACCOUNTS:
        address = client_address(request)
        if throttle.retry_after(address):
            return Refused.THROTTLED
        if principal is None:
            throttle.record_failure(address)
    return principal


#: Pages that need more than the right to see, by the beginning of their paths.
_PAGE_RIGHTS: Final = {
    "/admin": Right.ADMINISTER,
    "/people": Right.ADMINISTER,
    "/audit": Right.OPERATE,
}


def _too_many(detail: str, wait: int) -> HttpResponseBase:
    headers = {"Retry-After": str(wait)}
    return error_response(429, detail, "too_many_requests", headers=headers)


def _refusal_of(request: HttpRequest, principal: Principal) -> HttpResponseBase | None:
    request.principal = principal  # type: ignore[attr-defined]  # as Django's own middleware sets ``user``
    if known := actor.get():
        actor.set(replace(known, name=principal.name, token_id=principal.token_id))
    if settings.DIRECTOR_REQUESTS_PER_MINUTE and principal.token_id:
        if wait := token_requests.retry_after(principal.token_id):
            return _too_many(f"Too many requests of this token; try again in {wait} s.", wait)
        token_requests.record_failure(principal.token_id)
    right = next(
        (page_right for path, page_right in _PAGE_RIGHTS.items() if request.path.startswith(path)),
        Right.SEE,
    )
    return None if may(principal, right) else _not_allowed(request, principal, right)


def _refusal(request: HttpRequest) -> HttpResponseBase | None:
    is_sign_in = request.path.rstrip("/") == PATH or request.path.startswith(f"{PATH}/")
    # A browser comes back from a provider of OpenID Connect by GET.
    if is_sign_in or request.method not in SAFE_METHODS:
        actor.set(Actor(address=client_address(request)))
    if is_sign_in:
        return None
    match authenticate(request, changes=request.method not in SAFE_METHODS):
        case Principal() as principal:
            return _refusal_of(request, principal)
        case Refused.THROTTLED:
            wait = throttle.retry_after(client_address(request))
            return _too_many(f"Too many wrong tokens; try again in {wait} s.", wait)
        case Refused.FOREIGN_PAGE:
            detail = "Only pages of the Director may do this; programs must send the token."
            return error_response(403, detail, "origin_not_allowed")
        case Refused.UNAVAILABLE:
            detail = "The database does not answer; nothing was stored. Try again."
            return error_response(503, detail, "database_unavailable", headers={"Retry-After": "2"})
        case Refused.UNAUTHENTICATED:
            return _sign_in_required(request)


def _not_allowed(request: HttpRequest, principal: Principal, right: Right) -> HttpResponse:
    detail = refusal_text(principal, right)
    if is_api(request) or request.method not in SAFE_METHODS:
        return error_response(403, detail, "not_allowed")
    return render(request, "403.html", {"detail": detail}, status=403)


def _sign_in_required(request: HttpRequest) -> HttpResponse:
    if is_api(request) or request.method not in SAFE_METHODS:
        which = "a token of an account" if settings.DIRECTOR_ACCOUNTS else "its token"
        detail = (
            f"This Director requires {which}, as Authorization: Bearer TOKEN or X-API-Key: TOKEN."
        )
        scheme = "Basic" if is_listener(request) else "Bearer"
        headers = {"WWW-Authenticate": f'{scheme} realm="Director"'}
        return error_response(401, detail, "sign_in_required", headers=headers)
    if "HX-Request" in request.headers:
        # A fragment: redirect the page instead of inserting the form.
        return HttpResponse(status=401, headers={"HX-Redirect": PATH})
    return HttpResponseRedirect(f"{PATH}?next={quote(request.get_full_path(), safe='/')}")


def _end(_request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
    actor.set(None)
    if settings.DIRECTOR_TOKEN or settings.DIRECTOR_ACCOUNTS:
        # No cache of a proxy gives it to another account, or to a client without credentials.
        response.headers.setdefault("Cache-Control", "private, no-cache")
    return response


#: Allows requests with the token or a session; all requests if no token is set.
SignInMiddleware = middleware(_refusal, _end)


def token_form(request: HttpRequest, wanted: str) -> HttpResponse:
    """Answer the sign-in page of the shared secret: its form, or the check of it, which sets the
    session cookie.
    """
    if not settings.DIRECTOR_TOKEN:
        return HttpResponseRedirect(wanted)
    if request.method != "POST":
        return form(request, wanted)
    wait = throttle.retry_after(client_address(request))
    if wait:
        message = f"Too many wrong tokens. Try again in {wait} seconds."
        refused = form(request, wanted, message, status=429)
        refused.headers["Retry-After"] = str(wait)
        return refused
    if not is_token(request.POST.get("token", "").strip()):
        throttle.record_failure(client_address(request))
        record_alone(Action.SIGN_IN_FAILED, "")
        return form(request, wanted, "This is not the token.", status=403)
    record_alone(Action.SIGNED_IN, "")
    response = HttpResponseRedirect(wanted)
    set_session(request, response, new_session())
    return response


def set_session(request: HttpRequest, response: HttpResponse, value: str) -> None:
    """Set the session cookie."""
    response.set_cookie(
        COOKIE,
        value,
        max_age=SESSION_SECONDS,
        httponly=True,
        samesite="Lax",
        secure=request.is_secure(),
    )


def next_page(request: HttpRequest) -> str:
    """Return the requested page; never a page of another site."""
    return local_page(request.POST.get("next") or request.GET.get("next") or "/")


def local_page(wanted: str) -> str:
    """Return a path, or that of the first page instead of another site's."""
    is_here = wanted.startswith("/") and url_has_allowed_host_and_scheme(wanted, allowed_hosts=None)
    return wanted if is_here and not wanted.startswith(PATH) else "/"


def form(request: HttpRequest, wanted: str, error: str = "", *, status: int = 200) -> HttpResponse:
    """Return the sign-in page, with what is wrong with the last try."""
    provider = settings.DIRECTOR_OIDC_NAME if settings.DIRECTOR_OIDC_ISSUER else ""
    context = {
        "next": wanted,
        "error": error,
        "accounts": settings.DIRECTOR_ACCOUNTS,
        "provider": provider,
    }
    return render(request, "director/sign_in.html", context, status=status)


@never_cache
@csrf_exempt  # the sign-in middleware has checked the origin
@require_POST
def sign_out(request: HttpRequest) -> HttpResponse:
    """``/sign-out``: end the session of this browser, that of an account also for copies of its
    cookie.
    """
    if session := request.COOKIES.get(COOKIE):
        principal: Principal = request.principal  # type: ignore[attr-defined]  # the middleware sets it
        if settings.DIRECTOR_ACCOUNTS:
            session_end(session)
        record_alone(Action.SIGNED_OUT, principal.name)
    response = HttpResponseRedirect(PATH)
    response.delete_cookie(COOKIE, samesite="Lax")
    return response


def guard_sockets(application: Application) -> Application:
    """Wrap a WebSocket application: others than allowed pages and programs get an error frame and a
    close code.

    A refusal before the handshake would not tell the author of the page what is wrong.
    """

    async def guard(scope: Scope, receive: Receive, send: Send) -> None:
        request = handshake(scope)
        noted: Scope = request.scope  # type: ignore[attr-defined]  # an ASGIRequest has it
        await find_principal(noted)
        is_foreign = not is_allowed(request.headers.get("Origin"), request.headers.get("Host"))
        if is_foreign or is_embedded(request):
            code, frame = FOREIGN_ORIGIN, error_frame(FOREIGN_CODE, FOREIGN_DETAIL)
        elif isinstance(authenticate(request, changes=True), Refused):
            detail = "Sign in, or connect with Authorization: Bearer TOKEN or X-API-Key: TOKEN."
            code, frame = SIGN_IN_REQUIRED, error_frame("sign_in_required", detail)
        else:
            for key in {PRINCIPAL_KEY, CREDENTIALS_KEY} & noted.keys():
                scope[key] = noted[key]
            await serve_socket(application, scope, receive, send, code=SIGN_IN_REQUIRED)
            return
        is_connecting = (await receive())["type"] == "websocket.connect"
        if is_listener(request):
            # Programs of ComfyUI expect the refusal of the handshake, here 403.
            await send({"type": "websocket.close"})
        elif is_connecting:
            await send({"type": "websocket.accept"})
            await send({"type": "websocket.send", "text": frame})
            await send({"type": "websocket.close", "code": code})

    return guard
