"""The principal of a request, by its token or session: read once, and kept for a few seconds."""

import threading
import time
from collections import OrderedDict
from datetime import timedelta
from typing import Final

from django.contrib.auth.models import User
from django.core import signing
from django.db.models import Q
from django.utils.crypto import constant_time_compare

from director.accounts.models import Token
from director.accounts.people import role_of
from director.accounts.tokens import digest_of, valid_tokens
from jobgroups.domain.access import ROLE_RIGHTS, SCOPE_RIGHTS, Principal, Scope
from jobgroups.domain.clock import now

SESSION_SECONDS: Final = 30 * 86_400
#: A revoked token and a disabled account are valid for so long in a process that has just read them.
KEPT_SECONDS: Final = 3.0
_MAX_KEPT: Final = 10_000
_USE_INTERVAL: Final = timedelta(hours=1)
_SALT: Final = "director.accounts.session"


class _Kept:
    """Principals by the digests of their credentials; of wrong credentials as well. Thread-safe."""

    def __init__(self) -> None:
        self._found: OrderedDict[str, tuple[float, Principal | None]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, digest: str) -> tuple[Principal | None] | None:
        """Return what is kept for credentials, None: nobody; return None instead of it if nothing is kept."""
        with self._lock:
            until, principal = self._found.get(digest, (0.0, None))
            return (principal,) if until > time.monotonic() else None

    def put(self, digest: str, principal: Principal | None) -> None:
        with self._lock:
            self._found[digest] = (time.monotonic() + KEPT_SECONDS, principal)
            self._found.move_to_end(digest)
            while len(self._found) > _MAX_KEPT:
                self._found.popitem(last=False)

    def clear(self) -> None:
        with self._lock:
            self._found.clear()


kept: Final = _Kept()


def new_session(user: User) -> str:
    """Return the value of a session's cookie. It ends with a change of the password."""
    return signing.dumps([user.pk, user.get_session_auth_hash()], salt=_SALT)


def principal_of(token: str | None, session: str | None) -> Principal | None:
    """Return who sends a token, else a session; None: nobody is known by it. Reads the database unless it is kept."""
    given = token if token is not None else session
    if not given:
        return None
    digest = _key(given, is_token=token is not None)
    if (known := kept.get(digest)) is not None:
        return known[0]
    principal = _by_token(given) if token is not None else _by_session(given)
    kept.put(digest, principal)
    return principal


def is_kept(token: str | None, session: str | None) -> bool:
    """Return whether ``principal_of`` needs no database."""
    given = token if token is not None else session
    return not given or kept.get(_key(given, is_token=token is not None)) is not None


def _key(given: str, *, is_token: bool) -> str:
    return f"{'token' if is_token else 'session'}:{digest_of(given)}"


def _by_token(text: str) -> Principal | None:
    found = valid_tokens().filter(digest=digest_of(text)).select_related("owner").first()
    if found is None:
        return None
    unused = Q(used_at__isnull=True) | Q(used_at__lt=now() - _USE_INTERVAL)
    if found.used_at is None or found.used_at < now() - _USE_INTERVAL:
        Token.objects.filter(unused, pk=found.pk).update(used_at=now())
    principal = _of(found.owner)
    if principal is None:
        return None
    right = min(principal.right, SCOPE_RIGHTS[Scope(found.scope)])
    return Principal(right, principal.user_id, principal.name, principal.role, found.pk)


def _by_session(value: str) -> Principal | None:
    try:
        user_id, session_hash = signing.loads(value, salt=_SALT, max_age=SESSION_SECONDS)
    except (signing.BadSignature, ValueError, TypeError):
        return None
    user = User.objects.filter(pk=user_id, is_active=True).first()
    if user is None or not constant_time_compare(session_hash, user.get_session_auth_hash()):
        return None
    return _of(user)


def _of(user: User) -> Principal | None:
    role = role_of(user)
    return None if role is None else Principal(ROLE_RIGHTS[role], user.pk, user.username, role)
