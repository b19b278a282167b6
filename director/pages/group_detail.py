"""Read model of a group's page: its head, and a card for each child."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from backends.models import Backend, Reachability
from backends.queries import backends_by_id
from director.pages import group_list
from director.pages import text as words
from director.pages.outputs import Output, outputs_of
from jobgroups.domain import text
from jobgroups.domain.failures import BETTER_ELSEWHERE, TAXONOMY, FailureClass
from jobgroups.domain.outputs import reported_files
from jobgroups.domain.states import CHILD_FINAL, CHILD_RETRIED_IN_RUN, ChildStatus
from jobgroups.domain.text import pluralize
from jobgroups.domain.waiting_reasons import left_running
from jobgroups.errors import ChildNotFound, GroupNotFound
from jobgroups.models import Attempt, ChildJob, JobGroup
from jobgroups.queries import groups

#: Cards on one page of a group.
PAGE_SIZE: Final = 120
#: Details of an error that its card shows elsewhere.
_SHOWN_ELSEWHERE: Final = ("node_id", "node_type", "node_title", "exception_type", "phase")

_ATTEMPT_FIELDS: Final = (
    "child_id",
    "number",
    "run",
    "backend_id",
    "state",
    "error_message",
    "failure_class",
    "stop_requested_at",
    "ended_at",
)


@dataclass(frozen=True, slots=True)
class AttemptRow:
    """One attempt, as text."""

    number: int
    run: int
    backend_id: str
    backend_name: str
    label: str
    #: ComfyUI's message, or the Director's.
    reason: str
    #: Explanation and short label of a failure; else empty.
    meaning: str
    failure: str
    #: Whether a stop is pending, and why the prompt still runs.
    is_stopping: bool
    left_running: str


@dataclass(frozen=True, slots=True)
class ChildCard:
    """Card of one child."""

    group_id: str
    #: The group's run, and whether it has ended: before that, only failed children can be retried.
    run: int
    ended: bool
    job_id: str
    position: int
    status: str
    label: str
    seed: int
    backend_id: str
    backend_name: str
    progress: float
    step: str
    waiting: str
    #: Whether it runs at an offline backend: its progress is unknown.
    is_stale: bool
    error: str
    #: Explanation of the failure, if known.
    meaning: str
    #: Whether a retry on another backend may avoid the cause.
    better_elsewhere: bool
    error_type: str
    error_node: str
    traceback: str
    warnings: list[str]
    outputs: list[Output]
    attempts: list[AttemptRow]
    #: Number of the attempt that completed it, failed attempts counted; else 1.
    completed_on: int
    took: str
    starred: bool

    @property
    def open(self) -> bool:
        """Whether it can be cancelled."""
        return self.status not in CHILD_FINAL

    @property
    def to_retry(self) -> bool:
        """Whether it can be retried in this group."""
        if not self.ended:
            return self.status in CHILD_RETRIED_IN_RUN
        return not self.open and self.status != ChildStatus.COMPLETED

    @property
    def attempts_text(self) -> str:
        """The attempt that completed it, else the number of attempts."""
        if self.completed_on > 1:
            return f"Completed {words.on_attempt(self.completed_on)}"
        failed = [one for one in self.attempts if one.failure]
        if self.open and failed:
            last = f"the last: {failed[-1].failure}" if len(failed) > 1 else failed[-1].failure
            return f"{pluralize(len(failed), 'failed attempt', 'failed attempts')}, {last}"
        return pluralize(len(self.attempts), "attempt", "attempts")

    @property
    def is_stopping(self) -> bool:
        """Whether a prompt is being stopped: the card changes without an event."""
        return any(one.is_stopping for one in self.attempts)

    @property
    def left_running(self) -> list[str]:
        """Why a prompt with a pending stop still runs, one sentence for each."""
        return [one.left_running for one in self.attempts if one.left_running]

    @property
    def shows_attempts(self) -> bool:
        """Whether the card lists its attempts."""
        return len(self.attempts) > 1 or any(one.failure for one in self.attempts)

    @property
    def spans_runs(self) -> bool:
        """Whether its attempts belong to more than one run."""
        return len({one.run for one in self.attempts}) > 1

    @property
    def images(self) -> list[Output]:
        """Images, including replaced ones with a thumbnail."""
        return [one for one in self.outputs if one.is_image and (one.replaced or not one.missing)]

    @property
    def replaced(self) -> list[Output]:
        """The files that a later file of the same name has replaced."""
        return [one for one in self.outputs if one.replaced]

    @property
    def files(self) -> list[Output]:
        """Files that are not images."""
        return [one for one in self.outputs if not one.is_image and not one.missing]


@dataclass(frozen=True, slots=True)
class Skipped:
    """A backend that was left out at the submission, and how often it was named."""

    backend_id: str
    reason: str
    count: int


@dataclass(frozen=True, slots=True)
class GroupPage:
    """A group's page."""

    row: group_list.Row
    cards: list[ChildCard]
    metadata: list[tuple[str, str]]
    warnings: list[str]
    skipped: list[Skipped]
    page: int
    pages: int
    strategy: str
    base_seed: int
    timeout_seconds: int
    #: Retry policy.
    on_failure: str
    #: Policy for refused outputs.
    partial_outputs: str
    #: Whether any child of the group has a file that can be downloaded.
    has_files: bool
    #: Number of starred children with files.
    starred: int

    @property
    def skipped_text(self) -> str:
        """Number of backends that were left out, and of missing jobs."""
        said = pluralize(len(self.skipped), "backend left out", "backends left out")
        fewer = sum(one.count for one in self.skipped)
        return f"{said}: {pluralize(fewer, 'job fewer', 'jobs fewer')}"

    @property
    def first_failed(self) -> str:
        """Id of the first child on this page that failed or timed out."""
        return next((one.job_id for one in self.cards if one.status in ("failed", "timeout")), "")


def group_page(group_id: str, page: int = 1) -> GroupPage:
    """Return a group's page.

    Raises:
        GroupNotFound: there is no such group.
    """
    # Read the row first: later reads may be newer than its seq, and the stream repeats these events.
    row = group_list.group_row(group_id)
    snapshot = groups.group_snapshot(group_id)
    children: list[dict[str, Any]] = snapshot["child_jobs"]
    pages = max(-(-len(children) // PAGE_SIZE), 1)
    page = min(max(page, 1), pages)
    shown = list(enumerate(children))[(page - 1) * PAGE_SIZE : page * PAGE_SIZE]
    return GroupPage(
        row=row,
        cards=_cards(_Group(row.id, row.run, row.ended), shown),
        metadata=_metadata(snapshot["metadata"]),
        warnings=[str(one) for one in snapshot["warnings"]],
        skipped=_skipped(snapshot["skipped_backends"]),
        page=page,
        pages=pages,
        strategy=snapshot["seed_strategy"],
        base_seed=snapshot["base_seed"],
        timeout_seconds=snapshot["timeout_seconds"],
        on_failure=words.policy_text(snapshot["max_attempts"], snapshot["retry_elsewhere"], snapshot["retry_on"]),
        partial_outputs=words.PARTIAL_OUTPUTS[snapshot["partial_outputs"]],
        has_files=any(_has_files(child) for child in children),
        starred=sum(bool(child["starred"]) and _has_files(child) for child in children),
    )


def _has_files(child: Mapping[str, Any]) -> bool:
    return any(not one.get("missing") for one in reported_files(child["outputs"] or {}))


def child_card(group_id: str, job_id: str) -> ChildCard:
    """Return one child's card.

    Raises:
        GroupNotFound, ChildNotFound: there is no such group, or no such child in it.
    """
    group = _group(group_id)
    detail = groups.child_detail(group_id, job_id)
    position = ChildJob.objects.filter(pk=job_id).values_list("position", flat=True).first()
    if position is None:
        raise ChildNotFound(job_id)
    return _cards(group, [(position, detail)])[0]


def _skipped(skipped: Iterable[Mapping[str, str]]) -> list[Skipped]:
    """Return each backend once; the list has an entry for each time it was named."""
    found = Counter((one["backend_id"], one["reason"]) for one in skipped)
    return [Skipped(backend_id, reason, count) for (backend_id, reason), count in found.items()]


def _metadata(metadata: Any) -> list[tuple[str, str]]:
    if not isinstance(metadata, Mapping):
        return []
    return [
        (str(key), value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
        for key, value in metadata.items()
    ]


@dataclass(frozen=True, slots=True)
class _Group:
    """Fields of the group that a card needs."""

    id: str
    run: int
    ended: bool


def _group(group_id: str) -> _Group:
    rows = JobGroup.objects.filter(pk=group_id).values_list("run", "completed_at")
    for run, completed_at in rows:
        return _Group(group_id, run, completed_at is not None)
    raise GroupNotFound(group_id)


def _cards(group: _Group, children: Sequence[tuple[int, Mapping[str, Any]]]) -> list[ChildCard]:
    rows = list(
        Attempt.objects.filter(child_id__in=[child["job_id"] for _, child in children])
        .order_by("child_id", "number")
        .only(*_ATTEMPT_FIELDS)
    )
    named = {child["backend_id"] for _, child in children} | {row.backend_id for row in rows}
    known = backends_by_id(named)
    tries = _attempt_rows(rows, known)
    done_on = group_list.attempts_needed(
        child["job_id"]
        for _, child in children
        if child["status"] == ChildStatus.COMPLETED and len(tries[child["job_id"]]) > 1
    )
    return [
        _card(
            group,
            position,
            child,
            tries[child["job_id"]],
            done_on=done_on.get(child["job_id"], 1),
            backend=known.get(child["backend_id"]),
        )
        for position, child in children
    ]


def _name(backend_id: str, known: Mapping[str, Backend]) -> str:
    """Return a backend's name, or its id if it was deleted."""
    row = known.get(backend_id)
    return backend_id if row is None else row.name or row.id


def _attempt_rows(rows: Iterable[Attempt], known: Mapping[str, Backend]) -> dict[str, list[AttemptRow]]:
    found: dict[str, list[AttemptRow]] = defaultdict(list)
    for row in rows:
        said = words.ATTEMPT_LABELS.get(row.state, row.state)
        backend = known.get(row.backend_id)
        if row.is_stopping:
            said = "is being stopped"
        found[row.child_id].append(
            AttemptRow(
                number=row.number,
                run=row.run,
                backend_id=row.backend_id,
                backend_name=_name(row.backend_id, known),
                label=said,
                reason=row.error_message or "",
                meaning=_meaning(row.failure_class),
                failure=text.failure_label(row.failure_class) if row.failure_class else "",
                is_stopping=row.is_stopping,
                left_running=left_running(
                    row.state, "" if backend is None else backend.status_reason, stopping=row.is_stopping
                ),
            )
        )
    return found


def _meaning(failure_class: str) -> str:
    return TAXONOMY[FailureClass(failure_class)].sentence if failure_class else ""


def _card(
    group: _Group,
    position: int,
    child: Mapping[str, Any],
    tries: list[AttemptRow],
    *,
    done_on: int,
    backend: Backend | None,
) -> ChildCard:
    details = child["error_details"] if isinstance(child["error_details"], Mapping) else {}
    return ChildCard(
        group_id=group.id,
        run=group.run,
        ended=group.ended,
        job_id=child["job_id"],
        position=position + 1,
        status=child["status"],
        label=words.CHILD_LABELS.get(child["status"], child["status"]),
        seed=child["seed"],
        backend_id=child["backend_id"],
        backend_name=child["backend_id"] if backend is None else backend.name or backend.id,
        progress=child["progress"],
        step=child["current_step"] or "",
        waiting=child["waiting_reason"] or "",
        is_stale=child["status"] == ChildStatus.RUNNING
        and backend is not None
        and backend.reachability == Reachability.OFFLINE,
        error=child["error_message"] or "",
        meaning=_meaning(child["failure_class"] or ""),
        better_elsewhere=child["failure_class"] in BETTER_ELSEWHERE,
        error_type=child["error_type"] or "",
        error_node=_node(details),
        traceback=_traceback(details),
        warnings=[str(one) for one in child["warnings"] or []],
        outputs=outputs_of(group.id, child),
        attempts=tries,
        completed_on=done_on,
        took=_took(child),
        starred=child["starred"],
    )


def _node(details: Mapping[str, Any]) -> str:
    node, kind = details.get("node_id"), details.get("node_type")
    if node is None and kind is None:
        return ""
    return f"{kind or 'node'} ({node})" if node is not None else str(kind)


def _traceback(details: Mapping[str, Any]) -> str:
    lines = details.get("traceback")
    if isinstance(lines, list):
        return "".join(str(line) for line in lines)
    if isinstance(lines, str):
        return lines
    rest = {key: value for key, value in details.items() if key not in _SHOWN_ELSEWHERE}
    return json.dumps(rest, indent=2, ensure_ascii=False) if rest else ""


def _took(child: Mapping[str, Any]) -> str:
    started, ended = child["started_at"], child["completed_at"]
    if started is None or ended is None:
        return ""
    from_, to = (words.parse_time(one) for one in (started, ended))
    return words.duration((to - from_).total_seconds())
