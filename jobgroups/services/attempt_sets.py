"""Stores what happened to many attempts in one transaction: those that were accepted, started, or
ended with success.

This is the plain case, and the conditions here and in ``store.attempts`` define it. A write that
they leave out is stored by its service in ``attempts``, alone: each rare case has one place.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from django.db import transaction
from django.db.models import Model

from jobgroups import metrics
from jobgroups.database.retry import retry_on_conflict
from jobgroups.domain.clock import now
from jobgroups.domain.leases import FencingToken
from jobgroups.domain.results import AttemptResult
from jobgroups.domain.states import (
    AttemptState,
    ChildStatus,
    attempt_sources_of,
    group_status,
    sources_of,
)
from jobgroups.errors import LeaseLost, SetRefused
from jobgroups.events import log
from jobgroups.models import Attempt, ChildJob, JobGroup
from jobgroups.services import attempts, captures, files, notices, outcomes
from jobgroups.services.group_transaction import children_of, observe_wait
from jobgroups.services.leases import valid_fences
from jobgroups.store import attempts as store
from jobgroups.store.rows import update_rows


@dataclass(frozen=True, slots=True, eq=False)
class AttemptWrite:
    """A call of a fenced service of ``attempts``."""

    work: Callable[..., Any]
    fence: FencingToken
    group_id: str
    attempt_id: int
    fields: Mapping[str, Any]

    def store_alone(self) -> Any:
        return self.work(attempt_id=self.attempt_id, fence=self.fence, **self.fields)


def may_be_plain(write: AttemptWrite) -> bool:
    """Return whether only the rows can tell that a write is not of the plain case."""
    return _step_of(write) is not None


@retry_on_conflict
def attempts_store(*, writes: Sequence[AttemptWrite]) -> dict[AttemptWrite, Any]:
    """Store some writes that may be plain in one transaction, and return what their services would
    return.

    For a write whose lease is lost that is its ``LeaseLost``. A write that turns out not to be
    plain has no result, and is left to its service. After an error nothing is stored, and all are.
    """
    results: dict[AttemptWrite, Any] = {}
    with transaction.atomic():
        fences = valid_fences({write.fence for write in writes})
        fenced: dict[int, AttemptWrite] = {}
        for write in writes:
            if write.fence in fences:
                fenced[write.attempt_id] = write
            else:
                results[write] = LeaseLost(write.fence.backend_id, write.fence.epoch)
        groups = store.groups_locked({write.group_id for write in fenced.values()})
        of_groups = {key: write for key, write in fenced.items() if write.group_id in groups}
        rows = {row.pk: row for row in store.followed_attempts_locked(of_groups)}
        # Events are numbered in the order of the writes.
        plain = [(rows[key], write) for key, write in of_groups.items() if key in rows]
        ends = [(row, write.fields["end"]) for row, write in plain if "end" in write.fields]
        changes = _Set(
            groups, {row.pk: outcomes.files_of(row.backend_id, end) for row, end in ends}
        )
        for row, write in plain:
            step = _step_of(write)
            if step is not None and step(changes, row, **write.fields):
                results[write] = True if "end" in write.fields else row
        changes.store()
    return results


#: The digests of reported files, each with whether it was written, and the origins of those that
#: were.
_Files = tuple[dict[str, bool], dict[str, str]]


class _Set:
    """What a set changes. Its rows are locked, and are changed in memory first."""

    def __init__(self, groups: Mapping[str, JobGroup], files_of: Mapping[int, _Files]) -> None:
        self.groups = groups
        self.files_of = files_of  #: By the attempt that ends.
        #: Whether a file has been written by an attempt that has reported it, by its digest.
        self.is_written: dict[str, bool] = {}
        for digest, written in store.reports_of(
            {digest for reported, _ in files_of.values() for digest in reported}
        ):
            self.is_written[digest] = self.is_written.get(digest, False) or written
        self._rows: dict[type[Model], dict[Any, dict[str, Any]]] = {Attempt: {}, ChildJob: {}}
        self._events: dict[str, list[log.NewEvent]] = defaultdict(list)
        self._completed: list[tuple[ChildJob, Attempt]] = []

    def change(self, row: Attempt | ChildJob, **fields: Any) -> None:
        for name, value in fields.items():
            setattr(row, name, value)
        self._rows[type(row)].setdefault(row.pk, {}).update(fields)

    def start(self, attempt: Attempt) -> None:
        child = attempt.child
        count = max(child.attempt_count, attempt.number)
        self.change(
            child,
            status=ChildStatus.RUNNING.value,
            started_at=attempt.started_at,
            attempt_count=count,
        )
        observe_wait(self.groups[child.group_id], child, attempt)
        self._events[child.group_id].append(log.child_started(child, attempt))

    def complete(self, attempt: Attempt, end: AttemptResult) -> None:
        child = attempt.child
        columns = outcomes.completed_columns(end)
        self.change(child, status=ChildStatus.COMPLETED.value, completed_at=now(), **columns)
        self._completed.append((child, attempt))
        self._events[child.group_id].append(log.child_completed(child))

    def store(self) -> None:
        """Store all changes; raise ``SetRefused`` if a row is not as it was read."""
        reports = [
            row for _, of in self._completed for row in files.rows_of(of, *self.files_of[of.pk])
        ]
        # In one order: concurrent ends wait for each other.
        if store.report_files(sorted(reports, key=lambda row: row[1])) != len(reports):
            raise SetRefused("Another attempt has reported one of the files.")
        self._move(Attempt, "state", {to.value: attempt_sources_of(to) for to in AttemptState})
        self._move(ChildJob, "status", {to.value: sources_of(to) for to in ChildStatus})
        if not self._events:
            return
        captures.captures_enqueue(self._completed)
        if self._completed:
            store.end_probations({attempt.backend_id for _, attempt in self._completed})
            metrics.count_on_commit(
                metrics.jobs, ChildStatus.COMPLETED.value, by=len(self._completed)
            )
        ended = self._count_completed()
        changed = [(self.groups[group_id], events) for group_id, events in self._events.items()]
        log.append_events(*changed)
        update_rows(
            JobGroup,
            {group.pk: {name: getattr(group, name) for name in _DERIVED} for group, _ in changed},
        )
        for group, children in ended:
            notices.enqueue_group_ended(group, children)

    def _move(self, model: type[Model], column: str, sources: Mapping[str, Sequence[str]]) -> None:
        rows = self._rows[model]
        for target in {fields[column] for fields in rows.values()}:
            moved = {key: fields for key, fields in rows.items() if fields[column] == target}
            if update_rows(model, moved, **{column: sources[target]}) != moved.keys():
                raise SetRefused(f"A {model._meta.verbose_name} was moved meanwhile.")

    def _count_completed(self) -> list[tuple[JobGroup, list[ChildJob]]]:
        """Set what is derived of the groups; return those that have ended, with their children."""
        ended = []
        for group_id in {child.group_id: None for child, _ in self._completed}:
            group = self.groups[group_id]
            group.completed_count += sum(child.group_id == group_id for child, _ in self._completed)
            counts = {
                ChildStatus.COMPLETED: group.completed_count,
                ChildStatus.FAILED: group.failed_count,
                ChildStatus.CANCELLED: group.cancelled_count,
            }
            left = group.total_count - sum(counts.values())
            group.status = group_status(
                {**counts, ChildStatus.RUNNING: left},
                cancelled=False,
                claimed=True,
                accepted_without_runner=False,
            ).value
            if not left:
                group.completed_at = now()
                children = children_of(group_id)
                self._events[group_id].append(log.group_complete(group, children))
                ended.append((group, children))
        return ended


_DERIVED: Final = ("seq", "status", "completed_count", "completed_at")


def _step_of(write: AttemptWrite) -> Callable[..., bool] | None:
    """Return what stores a write in a set; None: its values are not of the plain case."""
    fields = write.fields
    if write.work is attempts.attempt_accepted:
        # ComfyUI's answer is known, took the prompt id, and refused no output.
        return (
            _accept if fields.get("node_errors") == {} and fields.get("prompt_id") is None else None
        )
    if write.work is attempts.attempt_started:
        return _start
    if write.work is attempts.attempt_ended:
        end: AttemptResult = fields["end"]
        is_plain = end.state is AttemptState.SUCCESS and end.ran
        unusual = (
            end.failure,
            end.files,
            end.node_errors,
            end.error_message,
            end.error_type,
            end.error_details,
        )
        return _end if is_plain and all(value is None for value in unusual) else None
    return None


# Each changes what its service changes, and returns whether the rows are of the plain case; if not,
# it has changed nothing.


def _accept(
    changes: _Set, attempt: Attempt, *, has_started: Callable[[], bool] = lambda: False, **_: Any
) -> bool:
    if attempt.state != AttemptState.INTENT or attempt.node_errors_json is not None:
        return False
    accepted = {
        "state": AttemptState.ACCEPTED.value,
        "accepted_at": now(),
        "node_errors_json": "{}",
    }
    if not has_started():
        changes.change(attempt, **accepted)
        return True
    if attempt.child.status != ChildStatus.QUEUED:
        return False
    changes.change(attempt, **accepted)
    return _start(changes, attempt)


def _start(changes: _Set, attempt: Attempt) -> bool:
    if (
        attempt.state not in (AttemptState.INTENT, AttemptState.ACCEPTED)
        or attempt.child.status != ChildStatus.QUEUED
    ):
        return False
    changes.change(attempt, state=AttemptState.RUNNING.value, started_at=now())
    changes.start(attempt)
    return True


def _end(changes: _Set, attempt: Attempt, *, end: AttemptResult) -> bool:
    group, child = changes.groups[attempt.child.group_id], attempt.child
    # A group that is over, was cancelled, or may be stopped by this end.
    is_special = (
        group.completed_at or group.cancelled_at or group.stopped_at or group.stop_when_json
    )
    if is_special or attempt.node_errors_json not in (None, "{}"):
        return False
    if attempt.state not in attempt_sources_of(AttemptState.SUCCESS):
        return False
    if child.status not in sources_of(ChildStatus.COMPLETED):
        return False
    # A file that another attempt has reported may be replaced, or come from a cache.
    reported, _origins = changes.files_of[attempt.pk]
    written = changes.is_written
    if any(
        digest in written and (was_written or written[digest])
        for digest, was_written in reported.items()
    ):
        return False
    for digest, was_written in reported.items():
        written[digest] = written.get(digest, False) or was_written
    columns = outcomes.result_columns(attempt, end)
    changes.change(attempt, state=AttemptState.SUCCESS.value, ended_at=now(), **columns)
    if child.status == ChildStatus.QUEUED:
        # The runner saw no start: record it just before the end.
        changes.start(attempt)
    changes.complete(attempt, end)
    return True
