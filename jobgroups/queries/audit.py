"""Reads the record of who did what."""

import datetime as dt
from functools import partial

from jobgroups.domain.shapes.audit import AuditEntry as Shape
from jobgroups.models import AuditEntry
from jobgroups.queries.groups import Page, read_page
from jobgroups.serializers import shape


def audit_list(
    *,
    cursor: str | None,
    limit: int,
    actor: str | None = None,
    action: str | None = None,
    target: str | None = None,
    created_after: dt.datetime | None = None,
    created_before: dt.datetime | None = None,
) -> Page:
    """Return up to ``limit`` entries, newest first, after ``cursor``.

    ``action`` is one, or the beginning of some (``backend``). Raises ``FieldInvalid`` if no page
    gave the cursor.
    """
    bounds = {"created_at__gte": created_after, "created_at__lt": created_before}
    exact = {"actor": actor, "target": target, **bounds}
    rows = AuditEntry.objects.filter(
        **{name: value for name, value in exact.items() if value is not None}
    )
    if action:
        rows = rows.filter(action__startswith=action)
    return read_page(rows, partial(shape, Shape), cursor=cursor, limit=limit)
