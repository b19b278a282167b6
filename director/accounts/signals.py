"""Records sign-ins and their ends. Django's signals also have those of the admin site, which has its own form."""

from typing import Any

from django.contrib.auth.models import User
from django.contrib.auth.signals import user_logged_in, user_logged_out, user_login_failed

from jobgroups.domain.audit import Action
from jobgroups.services.audit import record_alone


def connect() -> None:
    """Have sign-ins and sign-outs recorded from now on."""
    user_logged_in.connect(_signed_in)
    user_logged_out.connect(_signed_out)
    user_login_failed.connect(_sign_in_failed)


def _signed_in(user: User, **_: Any) -> None:
    record_alone(Action.SIGNED_IN, user.username, by=user.username)


def _signed_out(user: User | None, **_: Any) -> None:
    if user is not None:
        record_alone(Action.SIGNED_OUT, user.username, by=user.username)


def _sign_in_failed(credentials: dict[str, Any], request: Any = None, **_: Any) -> None:
    # Not those that are refused without a check: an attacker would decide how many rows there are.
    if not getattr(request, "axes_locked_out", False):
        record_alone(Action.SIGN_IN_FAILED, str(credentials.get("username") or ""))
