"""Captures: the copies of the outputs of completed jobs in the storage.

A row for each file is stored in the transaction that completes the job, so a crash loses none. A
capture is no event, as a star is none: it increases the group's ``revision``. Equal contents share
one file.
"""

import datetime as dt
import json
import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from django.conf import settings
from django.db import connection, transaction
from django.db.models import Exists, OuterRef, QuerySet

from jobgroups.database.retry import retried_transaction, retry_on_conflict
from jobgroups.database.statements import KEY, PreparedQuery, insert, update_where
from jobgroups.domain.clock import now
from jobgroups.domain.outputs import SENT, file_digest, nodes_of_files, reported_files
from jobgroups.domain.states import ChildStatus
from jobgroups.models import Attempt, Capture, ChildJob, JobGroup, ReportedFile, StoredFile
from jobgroups.queries.leases import database_now
from jobgroups.services import files, stored_files
from jobgroups.services.revisions import groups_revise
from jobgroups.store import captures as store

#: A file that could not be copied for so long is given up.
GIVEN_UP_AFTER: Final = dt.timedelta(days=7)
_AT_ONCE: Final = 500  #: Rows that one transaction changes.


def captures_enqueue(completed: Iterable[tuple[ChildJob, Attempt]]) -> None:
    """Have the files of children copied that complete by these attempts in the caller's
    transaction.
    """
    if settings.DIRECTOR_CAPTURE:
        insert([row for child, attempt in completed for row in _rows(child, attempt)])


def captures_keep(child: ChildJob, attempt: Attempt, files: Mapping[str, StoredFile]) -> None:
    """Store the pictures that a successful attempt sent as frames, by their names, instead of those
    of another attempt.

    Also if the attempt does not complete its child now: it may later. The files are in the storage.
    """
    if child.status in (ChildStatus.COMPLETED, ChildStatus.CANCELLED):
        return
    child.captures.all().delete()
    stored: dict[str, StoredFile] = {}
    contents = {name: file.blake3 for name, file in files.items()}
    while unknown := [file for file in files.values() if file.blake3 not in stored]:
        StoredFile.objects.bulk_create(unknown, ignore_conflicts=True)
        # Locked: content that was there before may be being deleted.
        same_files = (
            StoredFile.objects.select_for_update()
            .filter(blake3__in=contents.values())
            .order_by("pk")
        )
        stored = {file.blake3: file for file in same_files}
    items = list(reported_files(json.loads(attempt.outputs_json or "{}")))
    rows = _rows(child, attempt, attempt.outputs_json, of_frames=True)
    for row in rows:
        row.due_at, row.file = None, stored[contents[items[row.number]["filename"]]]
    insert(rows)


def _rows(
    child: ChildJob,
    attempt: Attempt | None,
    outputs_json: str | None = None,
    *,
    of_frames: bool = False,
) -> list[Capture]:
    moment, backend_id = now(), (attempt or child).backend_id or ""
    node_of = nodes_of_files(
        backend_id, {} if attempt is None else json.loads(attempt.node_outputs_json)
    )
    return [
        Capture(
            child_id=child.pk,
            number=number,
            node_id=node_of.get(digest := file_digest(backend_id, file), "")[:200],
            backend_id=backend_id,
            digest=digest,
            created_at=moment,
            due_at=moment,
        )
        for number, file in enumerate(
            reported_files(json.loads(outputs_json or child.outputs_json or "{}"))
        )
        if not file.get("missing") and (file.get("type") == SENT) == of_frames
    ]


def captures_request(*, group_id: str | None = None) -> int:
    """Have every file copied that is neither stored nor pending, of one group or of all; return
    their number.
    """
    count = 0
    completed = ChildJob.objects.filter(status=ChildStatus.COMPLETED).select_related(
        "current_attempt"
    )
    if group_id is not None:
        completed = completed.filter(group_id=group_id)
    missing = completed.filter(~Exists(Capture.objects.filter(child=OuterRef("pk")))).order_by("pk")
    last = ""
    while children := list(missing.filter(pk__gt=last)[:_AT_ONCE]):
        last = children[-1].pk
        rows = [row for child in children for row in _rows(child, child.current_attempt)]
        with transaction.atomic():
            groups_revise({child.group_id for child in children})
            count += len(Capture.objects.bulk_create(rows, ignore_conflicts=True))
    given_up = Capture.objects.filter(child__in=completed, file__isnull=True, due_at__isnull=True)
    moment = now()
    return count + given_up.update(due_at=moment, created_at=moment, tries=0)


def capture_store(
    *, capture_id: int, path: Path, file: StoredFile, warning: str = "", earlier: str | None = None
) -> None:
    """Store a copied file with its capture, unless that is not pending any more; move it where no
    such content is yet.

    ``path`` is in the folder of ``stored_files.incoming_folder``; ``file`` is a new row without key
    and time; ``earlier`` is the key of the copy that it replaces.
    """
    file.id, file.created_at = str(uuid.uuid4()), now()
    known = partial(_of_content.first, file.blake3)
    stored_files.content_store(
        path, file, known=known, keep=partial(_refer, capture_id, warning, earlier)
    )


@retried_transaction
def _refer(
    capture_id: int, warning: str, earlier: str | None, file: StoredFile, is_new: bool
) -> bool:
    """Store a file with a capture that has ``earlier``; return False if the capture or the known
    file is gone.
    """
    with connection.cursor() as cursor:
        cursor.execute(_REVISE, [capture_id, earlier or ""])
    # The lock under which an output is marked as replaced.
    child = _locked_child.first(capture_id)
    capture = _locked_capture.first(capture_id)
    if child is None or capture is None or capture.file_id != earlier:
        return False
    item = _item(child, capture.number)
    if item.get("missing"):
        return False
    digest = file_digest(capture.backend_id, item)
    if is_new:
        insert([file])
    elif StoredFile.objects.select_for_update().filter(pk=file.pk).first() is None:
        return False
    else:
        _correct_earlier(child, file, digest)
    return update_where(
        Capture, capture.pk, {"file": file.pk, "digest": digest, "due_at": None, "reason": warning}
    )


_of_content: Final = PreparedQuery(lambda: StoredFile.objects.filter(blake3=KEY).order_by())
_locked_child: Final = PreparedQuery(
    lambda: ChildJob.objects.select_for_update().filter(captures=KEY).order_by()
)
_locked_capture: Final = PreparedQuery(
    lambda: Capture.objects.select_for_update().filter(pk=KEY).order_by()
)
_REVISE: Final = (
    f"UPDATE {JobGroup._meta.db_table} SET revision = revision + 1 WHERE id = (SELECT c.group_id"  # noqa: S608
    f" FROM {ChildJob._meta.db_table} c JOIN {Capture._meta.db_table} p ON p.child_id = c.id "
    "WHERE p.id = %s AND COALESCE(p.file_id, '') = %s)"
)


def _item(child: ChildJob, number: int) -> Mapping[str, Any]:
    return list(reported_files(json.loads(child.outputs_json or "{}")))[number]


def _correct_earlier(child: ChildJob, file: StoredFile, digest: str) -> None:
    """Mark earlier outputs that have this content by mistake: they were copied just after this
    child replaced them.

    The dates of files are too coarse for that. A child that did not execute the node has the file
    of an earlier one.
    """
    if not ReportedFile.objects.filter(
        attempt=child.current_attempt_id, digest=digest, executed=True
    ).exists():
        return
    # One query for each: of an OR, SQLite would use the index of the files alone.
    for known in (digest, None):
        earlier = file.captures.filter(
            digest=known, child__current_attempt__lt=child.current_attempt_id
        )
        for other in earlier.exclude(child=child).select_related("child"):
            if known or _digest(other) == digest:
                files.output_replaced(job_id=other.child_id, digest=digest)
                update_where(Capture, other.pk, {"digest": ""})


def _digest(capture: Capture) -> str:
    item = _item(capture.child, capture.number)
    return "" if item.get("missing") else file_digest(capture.backend_id, item)


def captures_fill() -> int:
    """Store the digests of some rows that the previous release wrote; return their number."""
    unfilled = Capture.objects.filter(digest=None)
    captures = list(unfilled.select_related("child").order_by()[:_AT_ONCE])
    for capture in captures:
        capture.digest = _digest(capture)
    # Only of rows without one, still: another capture may have corrected them.
    retry_on_conflict(unfilled.bulk_update)(captures, ["digest"], batch_size=100)
    return len(captures)


@retried_transaction
def captures_claim(*, backend_ids: Collection[str], limit: int, seconds: float) -> list[int]:
    """Claim the oldest due captures of each backend for so many seconds, and return their ids.

    They are due again then: a process that was killed delays them. By the clock of the database,
    which all processes share.
    """
    moment = database_now()
    return store.claim(
        backend_ids, limit=limit, moment=moment, until=moment + dt.timedelta(seconds=seconds)
    )


@retried_transaction
def captures_hold(*, ids: Sequence[int], seconds: float) -> None:
    """Keep the claims of captures that are pending still for so many seconds from now; 0 releases
    them.
    """
    pending = Capture.objects.filter(pk__in=ids, due_at__isnull=False).order_by("pk")
    capture_ids = list(pending.select_for_update(skip_locked=True).values_list("pk", flat=True))
    Capture.objects.filter(pk__in=capture_ids).update(
        due_at=database_now() + dt.timedelta(seconds=seconds)
    )


def capture_postpone(*, capture_id: int, first: float, longest: float, reason: str) -> float:
    """Store a failed try; return the seconds until the next one, which double from ``first`` up to
    ``longest``.
    """
    row = Capture.objects.filter(pk=capture_id, due_at__isnull=False)
    tries = row.values_list("tries", flat=True).first() or 0
    seconds: float = min(first * 2 ** min(tries, 20), longest)
    _change(row, tries=tries + 1, reason=reason, due_at=now() + dt.timedelta(seconds=seconds))
    return seconds


def capture_give_up(*, capture_id: int, reason: str) -> None:
    _change(Capture.objects.filter(pk=capture_id, due_at__isnull=False), due_at=None, reason=reason)


def capture_warn(*, capture_id: int, reason: str) -> None:
    """Store what is doubtful about a copy, which stays."""
    _change(Capture.objects.filter(pk=capture_id, file__isnull=False), reason=reason)


def _change(rows: QuerySet[Capture], **values: Any) -> None:
    # The reason is part of what the answers show.
    with transaction.atomic():
        groups_revise(set(rows.values_list("child__group_id", flat=True)))
        rows.update(**values)


def captures_clean() -> None:
    """Give up the files that could not be copied for days, with the reason of the last failure;
    delete unused files.
    """
    Capture.objects.filter(due_at__isnull=False, created_at__lt=now() - GIVEN_UP_AFTER).update(
        due_at=None
    )
    files_collect()


def files_collect(file_ids: Sequence[str] | None = None) -> tuple[int, int]:
    """Delete the files, of all or of these, to which no capture refers any more; return their
    number and bytes.
    """
    if file_ids is None:
        # The previous release deletes jobs without their captures.
        Capture.objects.filter(~Exists(ChildJob.objects.filter(pk=OuterRef("child_id")))).delete()
        file_ids = list(_unused_files().values_list("pk", flat=True))
    count = size = 0
    for first in range(0, len(file_ids), _AT_ONCE):
        unused = _unused_files().filter(pk__in=file_ids[first : first + _AT_ONCE])
        with stored_files.mark_files(*(file.stored_name for file in unused)):
            for file in _delete_rows([file.pk for file in unused]):
                stored_files.delete_file(file.stored_name)
                count += 1
                size += file.size_bytes
    return count, size


def _unused_files() -> QuerySet[StoredFile]:
    return StoredFile.objects.filter(~Exists(Capture.objects.filter(file=OuterRef("pk")))).order_by(
        "pk"
    )


@retried_transaction
def _delete_rows(ids: Sequence[str]) -> list[StoredFile]:
    locked = list(StoredFile.objects.select_for_update().filter(pk__in=ids).order_by("pk"))
    # Queried again under the lock: a capture may refer to one of them now.
    unused = list(_unused_files().filter(pk__in=[file.pk for file in locked]))
    StoredFile.objects.filter(pk__in=[file.pk for file in unused]).delete()
    return unused
