"""Sign-in of accounts by name and password, its change, and the one-time links for a first one.

``django-axes`` counts wrong passwords by account and by address in the database, so for all
processes.
"""

import ipaddress
from typing import Any

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


@never_cache
@csrf_exempt  # the credentials themselves are the proof, and the origin is checked before
@sensitive_post_parameters("token", "password")
@require_http_methods(["GET", "HEAD", "POST"])
def sign_in(request: HttpRequest) -> HttpResponse:
    """``/sign-in``: show the form, or check name and password, or the token, and set the session
    cookie.
    """
    wanted = shared.next_page(request)
    if not settings.DIRECTOR_ACCOUNTS:
        return shared.token_form(request, wanted)
    if request.method != "POST":
        return shared.form(request, wanted)
    name, password = request.POST.get("name", "").strip(), request.POST.get("password", "")
    user = authenticate(request, username=name, password=password)
    if not isinstance(user, User) or role_of(user) in (None, Role.SERVICE):
        return shared.form(request, wanted, "Name or password is wrong.", status=403)
    return signed_in(request, user, wanted)


def signed_in(request: HttpRequest, user: User, wanted: str) -> HttpResponse:
    """Return the answer that gives a browser the session of an account, and leads to a page."""
    # Notes the time, with which a link ends, and resets the count of wrong passwords.
    user_logged_in.send(sender=User, request=request, user=user)
    response = HttpResponseRedirect(wanted)
    shared.set_session(request, response, new_session(user))
    return response


@never_cache
@csrf_exempt  # as above
@sensitive_post_parameters("password")
@require_http_methods(["GET", "HEAD", "POST"])
def set_password(request: HttpRequest, uid: str, code: str) -> HttpResponse:
    """``/sign-in/password/…``: the page of a one-time link."""
    user = person_of_link(uid, code) if settings.DIRECTOR_ACCOUNTS else None
    if user is None:
        return render(request, "director/password.html", {"expired": True}, status=404)
    if request.method != "POST":
        return render(request, "director/password.html", {"user_name": user.username})
    password = request.POST.get("password", "")
    if problems := _problems(password, request.POST.get("again", ""), user):
        return render(
            request,
            "director/password.html",
            {"user_name": user.username, "problems": problems},
            status=400,
        )
    password_set(user, password)
    return signed_in(request, user, "/")


@never_cache
@csrf_exempt  # as above
@sensitive_post_parameters("present", "password")
@require_http_methods(["GET", "HEAD", "POST"])
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
        return render(request, "director/password.html", context)
    password = request.POST.get("password", "")
    if authenticate(request, username=user.username, password=request.POST.get("present", "")):
        context["problems"] = _problems(password, request.POST.get("again", ""), user)
    else:
        context["problems"] = ["The present password is wrong."]
    if context["problems"]:
        return render(request, "director/password.html", context, status=400)
    password_set(user, password)
    response = HttpResponseRedirect("/account")
    shared.set_session(request, response, new_session(user))
    return response


@never_cache
@csrf_exempt  # as above
@sensitive_post_parameters("password")
@require_http_methods(["GET", "HEAD", "POST"])
def first_administrator(request: HttpRequest, code: str) -> HttpResponse:
    """``/sign-in/first/…``: the page of the code in the log, which makes the first administrator."""
    if not settings.DIRECTOR_ACCOUNTS or not is_first_code(code):
        return render(request, "director/password.html", {"expired": True}, status=404)
    if request.method != "POST":
        return render(request, "director/password.html", {"is_first": True})
    name, password = request.POST.get("name", "").strip(), request.POST.get("password", "")
    try:
        problems = _problems(password, request.POST.get("again", ""), User(username=name))
        user = None if problems else person_add(name, Role.ADMINISTRATOR)
    except (FieldInvalid, Conflict) as error:
        problems, user = [error.detail], None
    if user is None:
        context: dict[str, Any] = {"is_first": True, "name": name, "problems": problems}
        return render(request, "director/password.html", context, status=400)
    password_set(user, password)
    return signed_in(request, user, "/")


def _problems(password: str, again: str, user: User) -> list[str]:
    if password != again:
        return ["The two passwords differ."]
    try:
        validate_password(password, user)
    except ValidationError as error:
        return list(error.messages)
    return []
