"""The record of who did what, when: a row in the transaction of its cause. Rows are added, and
deleted when they are old; nothing changes one.

A service that acts for a user has a line that calls :func:`record`. What runners do by themselves
is in the events of groups, and not here.
"""

import datetime as dt
from typing import Any, Final

from django.conf import settings

from jobgroups.database.retry import retried_transaction
from jobgroups.database.statements import insert
from jobgroups.domain.audit import Action, actor
from jobgroups.domain.clock import iso, now
from jobgroups.models import AuditEntry
from jobgroups.serializers import to_json

_MAX_TEXT: Final = 200  #: Characters of the columns.
_DELETED_AT_ONCE: Final = 1_000


def record(action: Action, target: str, *, by: str = "", **details: Any) -> None:
    """Store in the caller's transaction that the actor of the request did something.

    Args:
        target: the id or name of its object; empty: there is none.
        by: the name that the request gave; it counts if the actor has no account.
        details: what else is to be known; those that are None or empty are left out.
    """
    who = actor.get()
    if who is None:
        return
    row = AuditEntry(
        created_at=now(),
        actor=_text(who.name or by),
        address=_text(who.address),
        token_id=who.token_id,
        action=action.value,
        target=_text(target),
        details_json=to_json(
            {
                name: iso(value) if isinstance(value, dt.datetime) else value
                for name, value in details.items()
                if value not in (None, "", [], ())
            }
        ),
    )
    insert([row])


@retried_transaction
def record_alone(action: Action, target: str, *, by: str = "", **details: Any) -> None:
    """Store an action that changes no other row, as :func:`record` does."""
    record(action, target, by=by, **details)


def _text(text: str) -> str:
    return text.replace("\0", "")[:_MAX_TEXT]


@retried_transaction
def audit_forget() -> bool:
    """Delete what is older than ``DIRECTOR_AUDIT_DAYS``; return whether there may be more of it."""
    days = settings.DIRECTOR_AUDIT_DAYS
    if not days:
        return False
    old = AuditEntry.objects.filter(created_at__lt=now() - dt.timedelta(days=days))
    keys = list(old.order_by("created_at").values_list("pk", flat=True)[:_DELETED_AT_ONCE])
    AuditEntry.objects.filter(pk__in=keys).delete()
    return len(keys) == _DELETED_AT_ONCE
