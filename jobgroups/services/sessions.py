"""Django's sessions: those of the admin site, and of sign-ins by a provider that are under way."""

from typing import Final

from django.contrib.sessions.models import Session

from jobgroups.database.retry import retried_transaction
from jobgroups.domain.clock import now

_DELETED_AT_ONCE: Final = 1_000


@retried_transaction
def sessions_forget() -> bool:
    """Delete expired sessions; return whether there may be more of them."""
    expired = Session.objects.filter(expire_date__lt=now())
    keys = list(expired.values_list("pk", flat=True)[:_DELETED_AT_ONCE])
    Session.objects.filter(pk__in=keys).delete()
    return len(keys) == _DELETED_AT_ONCE
