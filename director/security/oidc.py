"""Sign-in by a provider of OpenID Connect, with ``django-allauth``: who may, as which account, and
with which role.

allauth speaks the protocol (state, PKCE, the exchange of the code). Its accounts, sign-up and mail
are not used: :class:`Adapter` ends each sign-in itself, with the session of this Director.
"""

import logging
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, NoReturn

import requests
from allauth.core.exceptions import ImmediateHttpResponse
from allauth.socialaccount.adapter import DefaultSocialAccountAdapter
from allauth.socialaccount.models import SocialAccount, SocialLogin
from allauth.socialaccount.providers.openid_connect import views
from django.conf import settings
from django.contrib.auth.models import User
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.urls import path
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from director.accounts.people import person_add, person_change, role_of
from director.accounts.principals import kept
from director.security import sign_in as shared
from director.security.passwords import signed_in
from jobgroups.database.retry import retried_transaction
from jobgroups.domain.access import ROLE_RIGHTS, Role
from jobgroups.domain.audit import Action
from jobgroups.errors import AccountExists, LastAdministrator
from jobgroups.services.audit import record_alone

logger = logging.getLogger(__name__)

PROVIDER_ID: Final = "oidc"  #: As in the settings.
_STATE_SECONDS: Final = 600  #: Time for the sign-in at the provider.
_FAILED: Final = "The provider did not confirm the sign-in. Try again, or use a password."
_AWAY: Final = "The provider does not answer. Try again later, or use a password."
_UNKNOWN: Final = "Your account at the provider may not use this Director."


class Adapter(DefaultSocialAccountAdapter):  # type: ignore[misc]  # allauth has no types
    """What allauth asks during a sign-in."""

    def pre_social_login(self, request: HttpRequest, sociallogin: SocialLogin) -> NoReturn:
        """Sign in the account of a confirmed identity, or refuse it."""
        claims = claims_of(sociallogin.account.extra_data)
        user = None if claims is None or not is_allowed(claims) else account_of(claims)
        if claims is None or user is None:
            name = str((claims or {}).get("email") or sociallogin.account.uid)
            record_alone(Action.SIGN_IN_FAILED, name, provider=settings.DIRECTOR_OIDC_ISSUER)
            raise ImmediateHttpResponse(shared.form(request, "/", _UNKNOWN, status=403))
        # From the address of the first request, by allauth's state.
        wanted = shared.local_page(str(sociallogin.state.get("next") or "/"))
        raise ImmediateHttpResponse(signed_in(request, user, wanted))

    def on_authentication_error(self, request: HttpRequest, *_: Any, **fields: Any) -> NoReturn:
        """Show the form again: the state is not ours, or the provider refused or did not answer."""
        error = fields.get("exception")
        logger.warning("OpenID Connect: sign-in failed (%s)", error or fields.get("error"))
        is_away = isinstance(error, requests.ConnectionError | requests.Timeout)
        text, status = (_AWAY, 503) if is_away else (_FAILED, 403)
        raise ImmediateHttpResponse(shared.form(request, "/", text, status=status))


def claims_of(data: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the claims about a person; None if the two sources are about different ones."""
    token, info = data.get("id_token") or {}, data.get("userinfo") or {}
    if token and info and token.get("sub") != info.get("sub"):
        return None
    return {**token, **info}


def is_allowed(claims: Mapping[str, Any]) -> bool:
    """Return whether ``DIRECTOR_OIDC_ALLOW`` has the domain of the verified address, or a claim."""
    address = str(claims.get("email") or "").lower()
    is_verified = claims.get("email_verified") in (True, "true")
    domain = address.rpartition("@")[2] if is_verified and "@" in address else ""
    return any(
        value in _values(claims, name) if is_claim else domain == name.lower()
        for name, is_claim, value in (
            entry.partition("=") for entry in settings.DIRECTOR_OIDC_ALLOW
        )
    )


def role_by(claims: Mapping[str, Any]) -> Role | None:
    """Return the role that the claims give; None: no roles are mapped, and it stays as it is."""
    if not settings.DIRECTOR_OIDC_ROLES:
        return None
    values = _values(claims, settings.DIRECTOR_OIDC_ROLE_CLAIM)
    pairs = (entry.rpartition("=") for entry in settings.DIRECTOR_OIDC_ROLES)
    roles = [Role(role) for value, _, role in pairs if value in values]
    return max(
        roles, key=ROLE_RIGHTS.__getitem__, default=Role(settings.DIRECTOR_OIDC_DEFAULT_ROLE)
    )


def _values(claims: Mapping[str, Any], name: str) -> set[str]:
    """Return the texts of a claim; a dot in its name leads into an object."""
    value: Any = claims
    for key in [name] if name in claims else name.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    values = value if isinstance(value, list) else [value]
    return {str(text) for text in values if isinstance(text, str | int)}


def account_of(claims: Mapping[str, Any]) -> User | None:
    """Return the account of an identity, with its role as the claims say; None: it is disabled.

    Issuer and subject name the identity. A new one gets an account of its own, even if
    another account has its name or address.
    """
    user = _linked(claims) or _link(claims)
    role = role_by(claims)
    if role is not None and role is not role_of(user):
        try:
            user = person_change(user.username, role=role)
        except LastAdministrator:
            logger.warning("%s stays an administrator: it is the last one", user.username)
        kept.clear()
    return user if user.is_active and role_of(user) not in (None, Role.SERVICE) else None


def _linked(claims: Mapping[str, Any]) -> User | None:
    link = SocialAccount.objects.filter(**_key(claims)).select_related("user").first()
    return None if link is None else link.user


def _key(claims: Mapping[str, Any]) -> dict[str, str]:
    return {"provider": settings.DIRECTOR_OIDC_ISSUER, "uid": str(claims["sub"])}


@retried_transaction
def _link(claims: Mapping[str, Any]) -> User:
    """Store an account for an identity."""
    address = str(claims.get("email") or "").partition("@")[0]
    given = str(claims.get("preferred_username") or address or claims.get("name") or "person")
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", given.partition("@")[0]).strip("-._")[:50] or "person"
    role = role_by(claims) or Role(settings.DIRECTOR_OIDC_DEFAULT_ROLE)
    number = 1
    while True:
        try:
            user = person_add(name if number == 1 else f"{name}-{number}", role)
        except AccountExists:
            number += 1
        else:
            SocialAccount.objects.create(user=user, extra_data={}, **_key(claims))
            return user


def _with_errors(view: Callable[..., HttpResponseBase]) -> Callable[..., HttpResponseBase]:
    """Wrap a view of allauth, which does not catch the errors of the provider's description."""

    def wrapped(request: HttpRequest, provider_id: str) -> HttpResponseBase:
        if request.session.is_empty():
            # A row for each stranger who follows the link.
            request.session.set_expiry(_STATE_SECONDS)
        try:
            return view(request, provider_id)
        except (requests.RequestException, KeyError, ValueError) as error:
            logger.warning("OpenID Connect: no provider (%s)", error)
            return shared.form(request, "/", _AWAY, status=503)

    return never_cache(require_safe(wrapped))


urlpatterns = [
    path(
        f"sign-in/oidc{rest}",
        _with_errors(view),
        {"provider_id": PROVIDER_ID},
        name=f"openid_connect_{name}",
    )
    for rest, view, name in (("", views.login, "login"), ("/callback", views.callback, "callback"))
]
