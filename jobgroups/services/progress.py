"""The progress flush: the newest progress of running children, many in one transaction.

On a connection and thread of its own, with SQLite's ``synchronous=NORMAL``: a power cut may cost
the last quarter of a second of progress, and nothing else.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from django.db import connection, transaction

from jobgroups.domain.leases import FencingToken
from jobgroups.domain.states import ChildStatus
from jobgroups.models import ChildJob
from jobgroups.services.leases import valid_fences
from jobgroups.services.revisions import groups_of, groups_revise

#: The most steps that their columns hold; what a node reports has no limit of its own.
MAX_STEPS: Final = 2**31 - 1


@dataclass(frozen=True, slots=True)
class ProgressRow:
    child_id: str
    attempt_id: int
    percent: float
    current_step: str | None
    steps_completed: int
    steps_total: int
    #: The lease under which it was received; None: the lease is not checked.
    fence: FencingToken | None = None


def relax_durability() -> None:
    """Give up syncing each commit on the calling thread's connection. SQLite only."""
    if connection.vendor == "sqlite":
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA synchronous=NORMAL")


def progress_flush(*, rows: Sequence[ProgressRow]) -> None:
    """Store progress, guarded: only of a child that runs, by its current attempt, under its lease.

    A group that another transaction has locked is stored by itself, so that its lock delays no
    other group.
    """
    group_of = groups_of([row.child_id for row in rows])
    for group_id in sorted(_store(rows, group_of, skip_locked=True)):
        _store([row for row in rows if group_of.get(row.child_id) == group_id], group_of)


def _store(
    rows: Sequence[ProgressRow], group_of: Mapping[str, str], *, skip_locked: bool = False
) -> set[str]:
    """Store progress in one transaction, and return the groups that were left out."""
    with transaction.atomic():
        ours = _still_ours(rows)
        wanted = {group_of[row.child_id] for row in ours if row.child_id in group_of}
        revised = groups_revise(wanted, skip_locked=skip_locked)
        values = [
            (
                row.percent,
                row.current_step,
                row.steps_completed,
                row.steps_total,
                row.child_id,
                row.attempt_id,
            )
            for row in ours
            if group_of.get(row.child_id) in revised
        ]
        if values:
            with connection.cursor() as cursor:
                if connection.vendor == "postgresql":
                    cursor.execute(_ALL, [list(column) for column in zip(*values, strict=True)])
                else:
                    cursor.executemany(_EACH, values)
    return wanted - revised


_TABLE: Final = ChildJob._meta.db_table
# Never bulk_update: its CASE WHEN compiles slower than single-row updates run.
_EACH: Final = (
    f"UPDATE {_TABLE} SET progress = %s, current_step = %s, steps_completed = %s,"  # noqa: S608 names of ours
    " steps_total = %s WHERE id = %s AND current_attempt_id = %s AND status = "
    f"'{ChildStatus.RUNNING}'"
)
#: The same for columns of values. Never ``executemany`` here: see ``statements.Insertion``.
_ALL: Final = (
    f"UPDATE {_TABLE} AS child SET progress = new.progress, current_step = new.step,"  # noqa: S608 names of ours
    " steps_completed = new.completed, steps_total = new.total FROM unnest(%s::float8[], "
    "%s::text[],"
    " %s::int[], %s::int[], %s::text[], %s::bigint[])"
    " AS new(progress, step, completed, total, id, attempt_id)"
    " WHERE child.id = new.id AND child.current_attempt_id = new.attempt_id"
    f" AND child.status = '{ChildStatus.RUNNING}'"
)


def _still_ours(rows: Sequence[ProgressRow]) -> list[ProgressRow]:
    """Leave out rows whose lease was lost; sort the others in one order for all writers."""
    held = valid_fences({row.fence for row in rows if row.fence is not None})
    ours = [row for row in rows if row.fence is None or row.fence in held]
    return sorted(ours, key=lambda row: row.child_id)
