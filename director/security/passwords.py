"""Sign-in of accounts by name and password, its change, and the one-time links for a first one.

``django-axes`` counts wrong passwords by account and by address in the database, so for all
processes.
"""

import ipaddress
from collections.abc import Callable
from typing import Any, Final, TypeAlias

from django.conf import settings
from django.contrib.auth import authenticate, user_logged_in
from django.contrib.auth.models import User
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods

from backends.errors import FieldInvalid
from director.accounts.people import (
    is_first_code,
    password_set,
    person_add,
    person_of_link,
    role_of,
)
from director.accounts.principals import new_session
from director.security import sign_in as shared
from jobgroups.api.permissions import client_address, principal_of
from jobgroups.domain.access import Role
from jobgroups.errors import Conflict

View: TypeAlias = Callable[..., HttpResponse]

_MAX_NAME: Final = 150  #: Characters of Django's names of users.


def client_network(request: HttpRequest) -> str:
    """Return the address by which ``axes`` counts: of IPv6 the network, all of which one host may
    use.
    """
    name = shared.network_of(client_address(request))
    try:
        return str(ipaddress.ip_network(name, strict=False).network_address)
    except ValueError:
        return "0.0.0.0"  # noqa: S104 no address to listen on


def locked_out(request: HttpRequest, *_: Any) -> HttpResponse:
    """Return the answer after too many wrong passwords, which the middleware of ``axes`` sends
    instead of another.
    """
    message = "Too many wrong passwords. Wait a minute."
    refused = shared.form(request, shared.next_page(request), message, status=429)
    refused.headers["Retry-After"] = str(int(settings.AXES_COOLOFF_TIME.total_seconds()))
    return refused


def _credentials_form(view: View) -> View:
    view = sensitive_post_parameters()(require_http_methods(["GET", "HEAD", "POST"])(view))
    # The credentials themselves are the proof, and the origin is checked before.
    return never_cache(csrf_exempt(view))


@_credentials_form
def sign_in(request: HttpRequest) -> HttpResponse:
    """``/sign-in``: show the form, or check name and password, or the token, and set the session
    cookie.
    """
    wanted = shared.next_page(request)
    if not settings.DIRECTOR_ACCOUNTS:
        return shared.token_form(request, wanted)
    if request.method != "POST":
        return shared.form(request, wanted)
    # PostgreSQL refuses a NUL, and axes has a column for 255 characters.
    name = request.POST.get("name", "").replace("\0", "").strip()[:_MAX_NAME]
    password = request.POST.get("password", "")
    user = authenticate(request, username=name, password=password)
    if not isinstance(user, User) or role_of(user) in (None, Role.SERVICE):
        return shared.form(request, wanted, "Name or password is wrong.", status=403)
    return signed_in(request, user, wanted)


def signed_in(request: HttpRequest, user: User, wanted: str) -> HttpResponse:
    """Return the answer that gives a browser the session of an account, and leads to a page."""
    # Notes the time, with which a link ends, and resets the count of wrong passwords.
    user_logged_in.send(sender=User, request=request, user=user)
    return _with_session(request, user, wanted)


def _with_session(request: HttpRequest, user: User, wanted: str) -> HttpResponse:
    response = HttpResponseRedirect(wanted)
    shared.set_session(request, response, new_session(user))
    return response


@_credentials_form
def set_password(request: HttpRequest, uid: str, code: str) -> HttpResponse:
    """``/sign-in/password/…``: the page of a one-time link."""
    user = person_of_link(uid, code) if settings.DIRECTOR_ACCOUNTS else None
    if user is None:
        return _page(request, status=404, expired=True)
    if request.method != "POST":
        return _page(request, user_name=user.username)
    if problems := _problems(request, user):
        return _page(request, status=400, user_name=user.username, problems=problems)
    password_set(user, request.POST["password"])
    return signed_in(request, user, "/")


@_credentials_form
def change_password(request: HttpRequest) -> HttpResponse:
    """``/account/password``: the page where a person changes the own password, which ends the other
    sessions. ``axes`` counts wrong ones as those of the sign-in.
    """
    principal = principal_of(request)
    user = User.objects.filter(pk=principal.user_id or 0).first()
    if user is None or principal.token_id or not user.has_usable_password():
        raise Http404
    context: dict[str, Any] = {"user_name": user.username, "is_change": True}
    if request.method != "POST":
        return _page(request, **context)
    problems = ["The present password is wrong."]
    if authenticate(request, username=user.username, password=request.POST.get("present", "")):
        problems = _problems(request, user)
    if problems:
        return _page(request, status=400, problems=problems, **context)
    password_set(user, request.POST["password"])
    return _with_session(request, user, "/account")


@_credentials_form
def first_administrator(request: HttpRequest, code: str) -> HttpResponse:
    """``/sign-in/first/…``: the page of the code in the log, which makes the first administrator."""
    if not settings.DIRECTOR_ACCOUNTS or not is_first_code(code):
        return _page(request, status=404, expired=True)
    if request.method != "POST":
        return _page(request, is_first=True)
    name = request.POST.get("name", "").strip()
    try:
        problems = _problems(request, User(username=name))
        user = None if problems else person_add(name, Role.ADMINISTRATOR)
    except (FieldInvalid, Conflict) as error:
        problems, user = [error.detail], None
    if user is None:
        return _page(request, status=400, is_first=True, name=name, problems=problems)
    password_set(user, request.POST["password"])
    return signed_in(request, user, "/")


def _page(request: HttpRequest, *, status: int = 200, **context: Any) -> HttpResponse:
    return render(request, "director/password.html", context, status=status)


def _problems(request: HttpRequest, user: User) -> list[str]:
    password = request.POST.get("password", "")
    if password != request.POST.get("again", ""):
        return ["The two passwords differ."]
    try:
        validate_password(password, user)
    except ValidationError as error:
        return list(error.messages)
    return []
