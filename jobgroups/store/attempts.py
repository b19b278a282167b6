"""Reads and locks the rows that a set of writes to attempts changes, in the order of all writers:
groups, children, attempts.
"""

import itertools
from collections.abc import Collection, Sequence
from functools import cache
from typing import Final

from django.db import connection
from django.db.models import F

from backends.models import Backend
from jobgroups.database.keys import places, read
from jobgroups.database.statements import PreparedQuery
from jobgroups.models import Attempt, JobGroup, ReportedFile

_GROUP: Final = (
    *(
        "seq",
        "run",
        "status",
        "webhook_json",
        "stop_when_json",
        "has_claimed_child",
        "accepted_without_runner",
    ),
    *("total_count", "completed_count", "failed_count", "cancelled_count"),
    *("completed_at", "cancelled_at", "stopped_at"),
    *("priority", "share_of", "submitter", "waiting_since"),
)
_ATTEMPT: Final = (
    "number",
    "backend_id",
    "state",
    "created_at",
    "started_at",
    "stop_requested_at",
    "node_errors_json",
)
_CHILD: Final = (
    *(
        "group_id",
        "backend_id",
        "is_bound",
        "seed",
        "variation_json",
        "status",
        "current_attempt_id",
    ),
    *("attempt_count", "queued_at", "not_before"),
)


def groups_locked(ids: Collection[str]) -> dict[str, JobGroup]:
    """Lock groups and return them by id, without those that another transaction has locked."""
    return {group.id: group for group in read(_groups, ids)}


@cache
def _groups(size: int) -> PreparedQuery[JobGroup]:
    return PreparedQuery(
        lambda: (
            JobGroup.objects.filter(pk__in=places(size))
            .only(*_GROUP)
            .select_for_update(skip_locked=True)
            .order_by("pk")
        )
    )


def followed_attempts_locked(ids: Collection[int]) -> list[Attempt]:
    """Lock attempts with their children, and return those that decide their child, and of which
    only that is known.

    They have not ended, none is to be stopped, and none has a failure or the text of an odd answer.
    Their groups are locked.
    """
    return read(_attempts, ids)


@cache
def _attempts(size: int) -> PreparedQuery[Attempt]:
    return PreparedQuery(
        lambda: (
            Attempt.objects.filter(
                pk__in=places(size),
                child__current_attempt=F("pk"),
                ended_at__isnull=True,
                stop_requested_at__isnull=True,
                failure_class="",
                error_message__isnull=True,
                error_details_json__isnull=True,
            )
            .select_related("child")
            .only(*_ATTEMPT, *(f"child__{name}" for name in _CHILD))
            .select_for_update(of=("child", "self"))
            .order_by("child_id")
        )
    )


_FILES: Final = ReportedFile._meta.db_table


def reports_of(digests: Collection[str]) -> list[tuple[str, bool]]:
    """Return the digest of each stored report of some files, and whether its attempt has written
    the file.
    """
    if not digests:
        return []
    listed = ", ".join(["%s"] * len(digests))
    with connection.cursor() as cursor:
        query = f"SELECT digest, executed FROM {_FILES} WHERE digest IN ({listed})"  # noqa: S608
        cursor.execute(query, list(digests))
        return [(digest, bool(executed)) for digest, executed in cursor.fetchall()]


def report_files(rows: Sequence[tuple[int, str, bool, str]]) -> int:
    """Store which attempt reported a file, whether it has written the file, and the origin of the
    node that did.

    Rows that contradict others are left out. Returns how many were stored.
    """
    if not rows:
        return 0
    listed = ", ".join(["(%s, %s, %s, %s)"] * len(rows))
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO {_FILES} (attempt_id, digest, executed, origin) VALUES {listed}"  # noqa: S608 no input in it
            " ON CONFLICT DO NOTHING",
            list(itertools.chain.from_iterable(rows)),
        )
        stored: int = cursor.rowcount
    return stored


_BACKENDS: Final = Backend._meta.db_table


def end_probations(backend_ids: Collection[str]) -> None:
    """End the probation of backends at which a prompt has succeeded."""
    listed = ", ".join(["%s"] * len(backend_ids))
    with connection.cursor() as cursor:
        cursor.execute(
            f"UPDATE {_BACKENDS} SET quarantine_count = 0"  # noqa: S608 no input in it
            f" WHERE quarantine_count > 0 AND quarantined_at IS NULL AND id IN ({listed})",
            sorted(backend_ids),
        )
