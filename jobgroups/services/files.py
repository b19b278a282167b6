"""Records which attempt a file at a backend belongs to, and marks the outputs whose file was
replaced.

ComfyUI gives the name of a removed file to another picture (comfyui-protocol.md, trap 9). Without
the mark, the Director would serve the picture of a later job for an earlier one. A mark is no
event, as a star is none. An output that was captured before stays.
"""

import json
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from django.db import connection
from django.db.models import F

from jobgroups.database.retry import retried_transaction
from jobgroups.database.statements import update_where
from jobgroups.domain.outputs import file_digest, mark_missing, reported_files
from jobgroups.events import log
from jobgroups.models import Attempt, ChildJob, ReportedFile
from jobgroups.serializers import to_json
from jobgroups.services.revisions import groups_of, groups_revise
from jobgroups.store.attempts import report_files

_TABLE: Final = ReportedFile._meta.db_table
_AT_ONCE: Final = 240  #: Files in one statement: SQLite before 3.32 takes 999 values.


def record(
    attempt: Attempt, reported: Mapping[str, bool], origins: Mapping[str, str]
) -> frozenset[str]:
    """Store which files an attempt reported, and mark the outputs of the attempts whose files it
    replaced.

    In the transaction that ends the attempt: two statements, if nothing was replaced. The attempt
    is locked, not ended yet, and has ``backend_ended_at``. ``reported`` has the digest of each
    file, and whether the attempt has written it; ``origins`` the origin of the node that has
    written it. Returns the digests of the files that a later attempt, whose end was stored before,
    has replaced.
    """
    # In one order: concurrent ends wait for each other, and do not deadlock.
    digests = sorted(reported)
    lost: set[str] = set()
    for first in range(0, len(digests), _AT_ONCE):
        some = {digest: reported[digest] for digest in digests[first : first + _AT_ONCE]}
        report_files(rows_of(attempt, some, origins))
        while others := _others(attempt, some):
            if _settle(attempt, reported, origins, others, lost):
                break
            # Another transaction has replaced the same rows meanwhile, and its own are visible now.
    return frozenset(lost)


def rows_of(
    attempt: Attempt, reported: Mapping[str, bool], origins: Mapping[str, str]
) -> list[tuple[int, str, bool, str]]:
    """Return the rows of the files that an attempt reported."""
    return [
        (attempt.pk, digest, written, origins.get(digest, "") if written else "")
        for digest, written in reported.items()
    ]


def _others(attempt: Attempt, reported: Mapping[str, bool]) -> list[tuple[int, str, bool]]:
    """Return the rows of other attempts that matter: of a file from ComfyUI's cache, which all jobs
    may have, its writer.
    """
    queries, values = [], list[Any]()
    for written, condition in ((True, ""), (False, " AND executed")):
        if digests := [digest for digest, is_written in reported.items() if is_written is written]:
            places = ", ".join(["%s"] * len(digests))
            queries.append(
                f"SELECT attempt_id, digest, executed FROM {_TABLE}"  # noqa: S608 no input in it
                f" WHERE digest IN ({places}) AND attempt_id <> %s{condition}"
            )
            values += [*digests, attempt.pk]
    with connection.cursor() as cursor:
        cursor.execute(" UNION ALL ".join(queries), values)
        return [(row[0], row[1], bool(row[2])) for row in cursor.fetchall()]


def _settle(
    attempt: Attempt,
    reported: Mapping[str, bool],
    origins: Mapping[str, str],
    others: Sequence[tuple[int, str, bool]],
    lost: set[str],
) -> bool:
    """Decide about each file that other attempts have too; add what this one has lost to ``lost``.

    Two attempts of one job render one seed: neither has a wrong picture, and none is marked.
    Returns whether the rows are stored.
    """
    rows = Attempt.objects.in_bulk({attempt_id for attempt_id, _, _ in others})
    replaced: dict[int, set[str]] = defaultdict(set)
    taken, given_up = set[str](), set[str]()
    for other_id, digest, executed in others:
        other = rows.get(other_id)
        if other is None:
            # Its group was deleted just now.
            taken |= {digest} if executed else set()
        elif _is_later(other, attempt):
            if executed:
                given_up.add(digest)
                if other.child_id != attempt.child_id:
                    lost.add(digest)
        elif reported[digest]:
            replaced[other_id].add(digest)
            if executed:
                taken.add(digest)
    if given_up:
        ReportedFile.objects.filter(attempt=attempt, digest__in=given_up).delete()
    for other_id, digests in sorted(replaced.items()):
        ReportedFile.objects.filter(attempt_id=other_id, digest__in=digests).delete()
    of_other_jobs = {
        other_id: digests
        for other_id, digests in replaced.items()
        if rows[other_id].child_id != attempt.child_id
    }
    _mark(of_other_jobs, rows)
    # The rows of the attempts that had written them kept this one's from being stored.
    return report_files(rows_of(attempt, dict.fromkeys(sorted(taken), True), origins)) == len(taken)


def _is_later(other: Attempt, ending: Attempt) -> bool:
    """Return whether ``other``, whose end is stored, ended after the attempt that ends now.

    The clock of their backend decides, but only between attempts that the Director had open at the
    same time: between other attempts, a user may have set the clock back.
    """
    if other.ended_at is None or ending.created_at >= other.ended_at:
        return False
    if other.backend_ended_at is None or ending.backend_ended_at is None:
        return False
    return (other.backend_ended_at, other.pk) > (ending.backend_ended_at, ending.pk)


@retried_transaction
def output_replaced(*, job_id: str, digest: str) -> None:
    """Mark a child's output whose file is younger than the child's end: another prompt has written
    it.
    """
    attempts = Attempt.objects.filter(child=job_id, child__current_attempt=F("pk"))
    rows = {row.pk: row for row in attempts}
    ReportedFile.objects.filter(attempt__in=rows, digest=digest).delete()
    _mark({attempt_id: {digest} for attempt_id in rows}, rows, keep_captured=False)


def _mark(
    replaced: Mapping[int, set[str]], rows: Mapping[int, Attempt], *, keep_captured: bool = True
) -> None:
    """Mark the outputs of attempts, and of their children where they are the same files.

    The children are of other groups: nothing but the mark changes, and an output that is there
    never changes otherwise.
    """
    of_child: dict[str, set[str]] = defaultdict(set)
    for attempt_id, digests in replaced.items():
        of_child[rows[attempt_id].child_id] |= digests
    if not of_child:
        return
    groups_revise(groups_of(of_child).values())
    for child in ChildJob.objects.select_for_update().filter(pk__in=of_child).order_by("pk"):
        if keep_captured:
            # Read under the lock: a capture that is stored later finds the mark.
            of_child[child.pk] -= _captured_digests(child)
        if _mark_row(child, of_child[child.pk]):
            log.publish_replaced(child.group_id, child.pk)
    for old in Attempt.objects.select_for_update().filter(pk__in=replaced).order_by("pk"):
        _mark_row(old, replaced[old.pk] & of_child[old.child_id])


def _captured_digests(child: ChildJob) -> set[str]:
    """Return the digests of a child's files that the storage has.

    Before the child is completed, it may have the pictures that a late success sent as frames, and
    no outputs.
    """
    numbers = set(child.captures.filter(file__isnull=False).values_list("number", flat=True))
    items = enumerate(reported_files(json.loads(child.outputs_json or "{}")))
    return {
        file_digest(child.backend_id or "", item) for number, item in items if number in numbers
    }


def _mark_row(row: ChildJob | Attempt, replaced: Collection[str]) -> bool:
    if row.outputs_json is None:
        return False
    text = to_json(mark_missing(json.loads(row.outputs_json), row.backend_id or "", replaced))
    return text != row.outputs_json and update_where(type(row), row.pk, {"outputs_json": text})
