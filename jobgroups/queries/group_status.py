"""Encoded answers about a group and its jobs: of a group only the jobs that changed are read and
encoded again.
"""

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Self, TypeAlias

from blake3 import blake3
from django.db import connection

from jobgroups.domain.states import CHILD_OPEN
from jobgroups.models import JobGroup
from jobgroups.queries import groups
from jobgroups.queries.etas import group_etas
from jobgroups.queries.outputs import known_files
from jobgroups.queries.pauses import group_pause_now
from jobgroups.queries.waiting_reasons import Outlook, outlooks
from jobgroups.serializers import describe_files, serialize_child, serialize_group, to_json

#: Seconds for which waiting reasons and estimates are shown; an older answer of an open group has
#: expired.
OUTLOOK_SECONDS: Final = 1.0
#: Seconds for which other answers are kept: during an upgrade, the previous release changes rows
#: without a revision.
ENDED_SECONDS: Final = 60.0

#: ``seq`` and ``revision`` of a group. Every change of an answer changes one of them, except that
#: of an outlook.
Version: TypeAlias = tuple[int, int]
_TABLE: Final = JobGroup._meta.db_table
_Files: TypeAlias = Mapping[int, Sequence[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    version: Version  #: Of the group, read before all else.
    read_at: float  #: When the reading began, by the monotonic clock.
    expires_at: float  #: Until when it is true while the version does not change.
    body: bytes  #: JSON.
    etag: str  #: Its strong validator.

    @classmethod
    def of(
        cls, version: Version, read_at: float, body: bytes, *, may_change: bool, **fields: Any
    ) -> Self:
        """Return an answer with its validator; ``may_change``: also without another version, as an
        outlook does.
        """
        expires_at = read_at + (OUTLOOK_SECONDS if may_change else ENDED_SECONDS)
        etag = f'"{blake3(body).hexdigest(length=16)}"'
        return cls(
            version=version,
            read_at=read_at,
            body=body,
            etag=etag,
            **{"expires_at": expires_at, **fields},
        )

    @property
    def size(self) -> int:
        """Bytes that keeping it takes, about."""
        return len(self.body)


@dataclass(frozen=True, slots=True)
class _Job:
    row: tuple[Any, ...]
    files: _Files
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupAnswer(Answer):
    """The status of a group with all its jobs; of a large group without them."""

    jobs: Sequence[_Job]
    is_open: bool  #: Whether a job is queued or runs.
    eta_seconds: float | None

    @property
    def size(self) -> int:
        """Bytes that keeping it takes, about: each job is kept as a row, and encoded by itself too."""
        return 3 * len(self.body)


@dataclass(frozen=True, slots=True, kw_only=True)
class PageAnswer(Answer):
    """The status of a group with a page of its jobs, and the position of the last one if others
    follow.
    """

    last: int | None


def group_versions(group_ids: Collection[str]) -> dict[str, Version]:
    places = ", ".join(["%s"] * len(group_ids))
    with connection.cursor() as cursor:
        # Written out: it is the query of each request, and Django would take longer than the
        # database.
        query = f"SELECT id, seq, revision FROM {_TABLE} WHERE id IN ({places})"  # noqa: S608
        cursor.execute(query, list(group_ids))
        return {group_id: (seq, revision) for group_id, seq, revision in cursor.fetchall()}


def read_status(group_id: str, earlier: GroupAnswer | None) -> GroupAnswer:
    """Return the status of a group with its jobs, of a large group without them, or raise
    ``GroupNotFound``.

    ``earlier`` is an answer about the group: its jobs are kept that have not changed, and its
    outlooks until they expire.
    """
    began = time.monotonic()
    kept = (
        earlier if earlier is not None and earlier.is_open and began < earlier.expires_at else None
    )
    group, rows = groups.group_rows(
        group_id, None if earlier is None else earlier.version, with_open=kept is None
    )
    jobs = _jobs(group, rows, earlier, keeps_outlooks=kept is not None)
    status = groups.CHILDREN.column("status")
    is_open = (
        any(job.row[status] in CHILD_OPEN for job in jobs) if jobs else group.completed_at is None
    )
    fields: dict[str, Any] = {"jobs": jobs, "is_open": is_open}
    if kept is None or not is_open:
        fields["eta_seconds"] = group_etas([group.id] if is_open else []).get(group.id)
    else:
        fields |= {"eta_seconds": kept.eta_seconds, "expires_at": kept.expires_at}
    row = serialize_group(group, fields["eta_seconds"], group_pause_now(group))
    body = _status_body(row, [job.text for job in jobs])
    return GroupAnswer.of((group.seq, group.revision), began, body, may_change=is_open, **fields)


def _jobs(
    group: JobGroup,
    rows: Sequence[tuple[Any, ...]],
    earlier: GroupAnswer | None,
    *,
    keeps_outlooks: bool,
) -> list[_Job]:
    """Return the encoded jobs: those of ``rows``, of which ``earlier`` has all others, and those
    that are still true.
    """
    columns = ("id", "status", "position", "outputs_json", "group_seq")
    own_id, status, position, outputs, seq = map(groups.CHILDREN.column, columns)
    known = {} if earlier is None else dict(enumerate(earlier.jobs))
    stale, changed = [], {}
    for row in rows:
        # The group's ``seq`` is no part of a job.
        bare, job = row[:seq] + row[seq + 1 :], known.get(row[position])
        if job is None or job.row != bare:
            changed[row[own_id]] = bare
        elif keeps_outlooks or row[status] not in CHILD_OPEN:
            continue
        stale.append(row)
    files = known_files(
        group.id, [row[position] for row in stale if row[outputs] and row[own_id] in changed]
    )
    children = list(map(groups.CHILDREN.instance, stale))
    outlook_by_id = outlooks(group, children)
    for child in children:
        job = (
            _Job(changed[child.id], files.get(child.id, {}), "")
            if child.id in changed
            else known[child.position]
        )
        shape = serialize_child(child, *outlook_by_id.get(child.id, Outlook()))
        describe_files(shape, group.id, job.files)
        known[child.position] = replace(job, text=to_json(shape))
    return list(known.values())


def read_head(group_id: str, _earlier: Answer | None) -> Answer:
    """Return the status of a group without its jobs, or raise ``GroupNotFound``."""
    began = time.monotonic()
    head = groups.group_head(group_id)
    return Answer.of(
        _version(head), began, _status_body(head, []), may_change=head["completed_at"] is None
    )


def read_page(group_id: str, first: int, limit: int, _earlier: Answer | None) -> PageAnswer:
    """Return the status of a group with at most ``limit`` jobs, from position ``first`` (0 …).

    Raises ``GroupNotFound``.
    """
    began = time.monotonic()
    head = groups.group_page(group_id, first=first, limit=limit)
    rows = head.pop("child_jobs")
    last = first + len(rows) - 1
    return PageAnswer.of(
        _version(head),
        began,
        _status_body(head, [to_json(row) for row in rows]),
        may_change=head["completed_at"] is None,
        last=last if rows and last < head["total_count"] - 1 else None,
    )


def read_job(group_id: str, job_id: str, _earlier: Answer | None) -> Answer:
    """Return a job with its attempts, or raise ``GroupNotFound`` or ``ChildNotFound``."""
    began = time.monotonic()
    versions = group_versions([group_id])
    detail = groups.child_detail(group_id, job_id)
    # A final job may have an attempt that is still being stopped.
    is_open = detail["status"] in CHILD_OPEN or any(
        attempt["ended_at"] is None for attempt in detail["attempts"]
    )
    return Answer.of(versions[group_id], began, to_json(detail).encode(), may_change=is_open)


def _version(head: Mapping[str, Any]) -> Version:
    return head["seq"], head["revision"]


def _status_body(head: Mapping[str, Any], jobs: Sequence[str]) -> bytes:
    rest = dict(head)
    first = {name: rest.pop(name) for name in ("job_group_id", "status")}
    return f'{to_json(first)[:-1]},"child_jobs":[{",".join(jobs)}],{to_json(rest)[1:]}'.encode()
