"""Reads groups, children, attempts and events as JSON objects."""

import base64
import contextlib
import datetime as dt
import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import Any, Final, TypeVar

from django.db import transaction
from django.db.models import Count, Exists, F, OuterRef, Q, QuerySet

from backends.errors import FieldInvalid
from backends.models import Backend
from jobgroups.database.statements import KEY, Parameter, PreparedQuery
from jobgroups.domain.access import Principal
from jobgroups.domain.clock import iso
from jobgroups.domain.listener_records import is_prompt_id
from jobgroups.domain.shapes.groups import OpenWork
from jobgroups.domain.states import CHILD_OPEN, ChildStatus, GroupStatus, Placement
from jobgroups.domain.waiting_reasons import left_running
from jobgroups.errors import ChildNotFound, GroupNotFound
from jobgroups.models import (
    LONG,
    TITLE,
    Attempt,
    ChildJob,
    GroupLabel,
    JobEvent,
    JobGroup,
    ListenerPrompt,
)
from jobgroups.queries.etas import group_etas
from jobgroups.queries.outputs import known_files
from jobgroups.queries.pauses import group_pause_now
from jobgroups.queries.visibility import visible
from jobgroups.queries.waiting_reasons import outlooks
from jobgroups.serializers import (
    MAX_FRAME_BYTES,
    describe_files,
    serialize_attempt,
    serialize_child,
    serialize_group,
    to_json,
    truncate_to_frame,
)

R = TypeVar("R")

#: Direction, and the row before the page.
_CURSOR: Final = re.compile(
    r"([fb])\|([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}\.[0-9]{3}Z)\|([0-9a-z_-]{1,36})"
)
_SEED: Final = re.compile(r"[0-9]{1,18}")
_MAX_WORDS: Final = 10  #: Words of a search; the rest is left out.
_FEW: Final = 1_000  #: Up to so many rows of each index are counted to choose one.
MAX_PAGE: Final = 200  #: Maximum number of entries on a page of a list.
MAX_LISTED: Final = 1_000  #: Children of a group above which they are read in pages only.


def is_large(group: JobGroup) -> bool:
    """Return whether the children of a group are read in pages only."""
    return group.total_count > MAX_LISTED


def children_path(group_id: str) -> str:
    return f"/api/job-groups/{group_id}?limit={MAX_PAGE}"


def group_snapshot(group_id: str, *, with_files: bool = True) -> dict[str, Any]:
    """Return a group with its children, all as of the ``seq`` in it, or raise ``GroupNotFound``.

    A large group is without its children.

    ``with_files``: files have what the events, which are stored before their capture, do not have.
    """
    group, rows = group_rows(group_id)
    head = _with_eta(group)
    children = _rows(group, [CHILDREN.instance(row) for row in rows], with_files=with_files)
    return {
        "job_group_id": head.pop("job_group_id"),
        "status": head.pop("status"),
        "child_jobs": children,
        **head,
    }


def group_names(groups: QuerySet[JobGroup]) -> str:
    """Return the names and ids of the oldest three groups, and how many others there are."""
    count, first = groups.count(), groups.order_by("created_at").only(*TITLE)[:3]
    titles = [(group.title, group.id) for group in first]
    names = ", ".join(title if title == pk else f"{title} ({pk})" for title, pk in titles)
    return names + (f" and {count - len(titles)} more" * (count > len(titles)))


def group_rows(
    group_id: str, since: tuple[int, int] | None = None, *, with_open: bool = True
) -> tuple[JobGroup, list[tuple[Any, ...]]]:
    """Return a group and the rows of its children, of ``CHILDREN``, all as of one ``seq``; raise
    ``GroupNotFound``.

    Of a large group no rows are read. ``since``: of the others only the first, and those that
    changed after the group had this ``seq`` and ``revision``, or ``with_open`` are open.
    """
    group_seq = CHILDREN.column("group_seq")

    def read(group: JobGroup) -> list[tuple[Any, ...]]:
        if is_large(group):
            return []
        return (
            CHILDREN.raw(group_id)
            if since is None
            else _CHANGED[with_open].raw(group_id, since=sum(since))
        )

    group, rows = _at_one_seq(group_id, read, lambda row: row[group_seq])
    if not rows and not is_large(group):
        raise GroupNotFound(group_id)  # it was deleted between the two queries
    return group, rows


def _at_one_seq(
    group_id: str, read: Callable[[JobGroup], list[R]], seq_of: Callable[[R], int]
) -> tuple[JobGroup, list[R]]:
    """Return a group and what ``read`` returns, as of one ``seq``; raise ``GroupNotFound``."""
    for _ in range(5):
        group = _group(group_id)
        rows = read(group)
        # Each child has the group's ``seq``: if they are equal, no transaction came between the two
        # queries.
        if all(seq_of(row) == group.seq for row in rows):
            return group, rows
    with transaction.atomic():
        locked = JobGroup.objects.select_for_update().filter(pk=group_id).first()
        if locked is None:
            raise GroupNotFound(group_id)
        return locked, read(locked)


def _group(group_id: str) -> JobGroup:
    groups = _groups(group_id)
    if not groups:
        raise GroupNotFound(group_id)
    return groups[0]


_groups: Final = PreparedQuery(lambda: JobGroup.objects.filter(pk=KEY).order_by().defer(*LONG))
_UNUSED_OF_ATTEMPT: Final = [
    f"current_attempt__{attempt_field.name}"
    for attempt_field in Attempt._meta.concrete_fields
    if attempt_field.name not in ("id", "state", "stop_reason")
]


def _children(also: Q | None = None) -> QuerySet[ChildJob]:
    """Return the children of a group in order, with what an outlook needs of their current
    attempts.

    ``also``: of those that have not changed since, only the first and these.
    """
    rows = ChildJob.objects.filter(group_id=KEY)
    if also is not None:
        # Without the first, neither a deletion of the group nor a later ``seq`` would be seen.
        rows = rows.filter(Q(changed__gt=Parameter("since")) | Q(position=0) | also)
    rows = rows.order_by("position").select_related("current_attempt")
    return rows.defer(*_UNUSED_OF_ATTEMPT, "group_created_at").annotate(group_seq=F("group__seq"))


CHILDREN: Final = PreparedQuery(_children)
#: The same that have changed, and with True those that are open.
_CHANGED: Final = {
    False: PreparedQuery(lambda: _children(Q())),
    True: PreparedQuery(lambda: _children(Q(status__in=CHILD_OPEN))),
}


def _rows(
    group: JobGroup, children: Sequence[ChildJob], *, with_files: bool = True
) -> list[dict[str, Any]]:
    outlook_by_id = outlooks(group, children)
    rows = [serialize_child(child, *outlook_by_id.get(child.id, ())) for child in children]
    if with_files:
        files = known_files(group.id, [child.position for child in children if child.outputs_json])
        for row in rows:
            describe_files(row, group.id, files.get(row["job_id"], {}))
    return rows


def _with_eta(group: JobGroup) -> dict[str, Any]:
    ends = group_etas([] if group.completed_at else [group.id])
    return serialize_group(group, ends.get(group.id), group_pause_now(group))


def group_head(group_id: str) -> dict[str, Any]:
    return _with_eta(_group(group_id))


def group_page(
    group_id: str, *, first: int = 0, limit: int = 0, positions: Collection[int] | None = None
) -> dict[str, Any]:
    """Return a group with at most ``limit`` children from position ``first`` (0 …), or with those
    at some positions.

    All are as of the ``seq`` in it. Raises ``GroupNotFound``.
    """
    rows = ChildJob.objects.filter(group_id=group_id)
    rows = (
        rows.filter(position__gte=first, position__lt=first + limit)
        if positions is None
        else rows.filter(position__in=positions)
    )
    rows = (
        rows.order_by("position")
        .select_related("current_attempt")
        .annotate(group_seq=F("group__seq"))
    )
    group, children = _at_one_seq(group_id, lambda _: list(rows.all()), attrgetter("group_seq"))
    return {**_with_eta(group), "child_jobs": _rows(group, children)}


def group_exists(group_id: str) -> bool:
    return JobGroup.objects.filter(pk=group_id).exists()


def group_workflow(group_id: str) -> str:
    texts = JobGroup.objects.filter(pk=group_id).values_list("workflow_json", flat=True)
    if not (workflows := list(texts)):
        raise GroupNotFound(group_id)
    return workflows[0]


def group_seqs(group_ids: Sequence[str]) -> dict[str, tuple[int, bool]]:
    """Return the last ``seq`` of each group that exists, and whether the group is shared."""
    rows = JobGroup.objects.filter(pk__in=group_ids).values_list("id", "seq", "shared_at")
    return {group_id: (seq, shared_at is not None) for group_id, seq, shared_at in rows}


def group_events(group_id: str, *, since: int, limit: int = 1_000) -> list[tuple[int, str]]:
    """Return ``(seq, frame text)`` of up to ``limit`` events after ``since``, in order."""
    rows = JobEvent.objects.filter(group_id=group_id, seq__gt=since).order_by("seq")
    return list(rows.values_list("seq", "frame")[:limit])


def group_stream_start(group_id: str, since: int | None) -> tuple[int, str | None]:
    """Return the start of a socket's stream: the ``seq`` before its first event, and the snapshot.

    A client that resumes after a known event gets ``(since, None)``; a ``since`` outside of 0 … the
    last ``seq`` is ignored. Others get ``(seq, initial_state)``. The snapshot of a finished group
    has the ``seq`` before its last event, so that ``group_complete`` follows. Of a large group, and
    if the frame would be too long, it has the path of the first page of the children instead of the
    children. Raises ``GroupNotFound``.
    """
    group = _group(group_id)
    if since is not None and 0 <= since <= group.seq:
        return since, None
    snapshot = group_snapshot(group_id, with_files=False)
    if snapshot["completed_at"] is not None:
        snapshot["seq"] -= 1
    frame = {"type": "initial_state", **snapshot}
    text = truncate_to_frame(frame, ("error_details", "outputs", "warnings"), within="child_jobs")
    if not snapshot["child_jobs"] or len(text.encode()) > MAX_FRAME_BYTES:
        frame |= {"child_jobs": [], "children_next": children_path(group_id)}
        text = truncate_to_frame(frame, ("sweep",))
    return snapshot["seq"], text


def child_states(group_id: str) -> list[tuple[str, str, float, int]]:
    rows = ChildJob.objects.filter(group_id=group_id).order_by()
    states = rows.values_list("id", "status", "progress", "attempt_count")
    return [
        (child_id, status, round(progress, 2), attempts)
        for child_id, status, progress, attempts in states
    ]


def child_detail(group_id: str, job_id: str) -> dict[str, Any]:
    group = _group(group_id)
    child = group.children.filter(pk=job_id).select_related("current_attempt").first()
    if child is None:
        raise ChildNotFound(job_id)
    (row,) = _rows(group, [child])
    rows = list(child.attempts.order_by("number"))
    stopping = {attempt.backend_id for attempt in rows if attempt.is_stopping}
    reasons_of = dict(
        Backend.objects.filter(pk__in=stopping).values_list("id", "status_reason")
        if stopping
        else ()
    )
    attempts = [
        serialize_attempt(
            attempt,
            left_running=left_running(
                attempt.state, reasons_of.get(attempt.backend_id, ""), stopping=attempt.is_stopping
            ),
        )
        for attempt in rows
    ]
    return {**row, "attempt_count": row["attempts"], "attempts": attempts}


def submitted_backends(group: JobGroup) -> dict[str, str | None]:
    """Return the backend to which each child of a group was submitted, by the child's id, in order;
    None: to the pool.

    Within the first run every move has a ``child_retrying`` event with the previous backend. A
    retry that starts another run can assign a backend without an event; the ``group_complete`` of
    the first run has the backend before it.
    """
    rows = group.children.order_by("position").values_list("id", "backend_id")
    if group.placement == Placement.POOL:
        return {child_id: None for child_id, _ in rows}
    first: dict[str, str | None] = {child_id: backend_id or "" for child_id, backend_id in rows}
    log = JobEvent.objects.filter(group=group, run=1)
    if group.run > 1:
        for frame in log.filter(type="group_complete").values_list("frame", flat=True):
            first |= {
                result["job_id"]: result["backend_id"] for result in json.loads(frame)["results"]
            }
    moves = log.filter(type="child_retrying").order_by("-seq")
    for frame in moves.values_list("frame", flat=True):
        # Newest first: the oldest move is applied last.
        move = json.loads(frame)
        first[move["job_id"]] = move["backend_id"]
    return first


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupFilter:
    """Filters of the list of groups; None and empty match every group that the principal sees."""

    principal: Principal
    status: str | None = None
    backend: str | None = None
    submitter: str | None = None
    #: Words that the name, metadata, prompt, id or submitter have; also the seed of a job.
    text: str = ""
    archived: bool | None = False  #: Whether it is archived; None: any group.
    is_open: bool = False  #: Whether groups that have ended are left out.
    metadata: Mapping[str, str] = field(default_factory=dict)
    created_after: dt.datetime | None = None
    created_before: dt.datetime | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a list, newest first, and the cursors of the next and previous page."""

    results: list[Any]
    next_cursor: str | None
    previous_cursor: str | None


def group_list(*, filters: GroupFilter, cursor: str | None, limit: int) -> Page:
    """Return up to ``limit`` groups, newest first, after ``cursor``; raise ``InvalidRequest`` if no
    page gave it.
    """
    page = listed_page(filters, serialize_group, cursor=cursor, limit=limit)
    opened = {row["job_group_id"]: row for row in page.results if row["completed_at"] is None}
    for group_id, eta in group_etas(opened).items():
        opened[group_id]["eta_seconds"] = eta and round(eta, 1)
    return page


def open_groups() -> QuerySet[JobGroup]:
    """Return the groups that have not ended; the index leads to each of their statuses."""
    # Ended groups are among the partly complete ones alone.
    partly = Q(status=GroupStatus.PARTIAL_COMPLETE, completed_at=None)
    return JobGroup.objects.filter(
        Q(status__in=(GroupStatus.PENDING, GroupStatus.RUNNING)) | partly
    )


def open_groups_of(owner_id: int | None) -> QuerySet[JobGroup]:
    """Return the open groups of an account, or of all (None)."""
    rows = open_groups()
    return rows if owner_id is None else rows.filter(owner=owner_id)


def open_work(owner_id: int | None) -> OpenWork:
    """Return how much an account, or all (None), have to do."""
    groups = open_groups_of(owner_id).order_by()
    jobs = ChildJob.objects.filter(group__in=groups, status__in=CHILD_OPEN).order_by()
    is_running = Q(status=ChildStatus.RUNNING)
    counts = jobs.aggregate(
        groups=Count("group", distinct=True),
        jobs=Count("pk"),
        running=Count("pk", filter=is_running),
    )
    return OpenWork(**counts)


def listed_page(
    filters: GroupFilter, serialize: Callable[[JobGroup], Any], *, cursor: str | None, limit: int
) -> Page:
    """Return up to ``limit`` groups as :func:`group_list` does.

    Labels and jobs have an index in the order of the list: of metadata or a backend that many
    groups have, it is read as far as the page needs. Few groups have another status, are archived
    or open: these are read instead.
    """
    sources: list[tuple[QuerySet[Any], GroupFilter]] = []
    for key, value in filters.metadata.items():
        others = {name: text for name, text in filters.metadata.items() if name != key}
        sources.append(
            (GroupLabel.objects.filter(key=key, value=value), replace(filters, metadata=others))
        )
    if filters.backend:
        sources.append(
            (ChildJob.objects.filter(backend_id=filters.backend), replace(filters, backend=None))
        )
    is_filled = not any(rows.filter(group_created_at=None).exists() for rows, _ in sources)
    has_few = (
        filters.status not in (None, "", GroupStatus.COMPLETED)
        or filters.archived
        or filters.is_open
    )
    if not sources or not is_filled or has_few:
        return read_page(
            filter_groups(filters, is_filled=is_filled), serialize, cursor=cursor, limit=limit
        )
    indexed, rest = min(sources, key=lambda source: source[0].order_by()[:_FEW].count())
    return read_page(
        filter_groups(rest, is_filled=True), serialize, cursor=cursor, limit=limit, indexed=indexed
    )


@contextlib.contextmanager
def cursor_errors() -> Iterator[None]:
    try:
        yield
    except (ValueError, OverflowError):
        raise FieldInvalid("cursor", "Is not one that this list gave; start without it.") from None


def read_page(
    rows: QuerySet[Any],
    serialize: Callable[[Any], Any],
    *,
    cursor: str | None,
    limit: int,
    indexed: QuerySet[Any] | None = None,
) -> Page:
    """Return up to ``limit`` rows with ``created_at`` and ``id``, as :func:`group_list` does.

    With ``indexed``, they are groups to which one of these rows refers.
    """
    backwards, place = _decode_cursor(cursor)
    sign = "" if backwards else "-"
    order = (f"{sign}created_at", f"{sign}id")
    if indexed is not None:
        if place is not None:
            indexed = indexed.filter(_after_cursor(place, "group_", backwards=backwards))
        # In a subquery: the database would otherwise begin with the groups, all of which match.
        keys = indexed.filter(Exists(rows.filter(pk=OuterRef("group_id"))))
        pairs = keys.order_by(f"{sign}group_created_at", f"{sign}group_id").values_list(
            "group_id", "group_created_at"
        )
        rows = JobGroup.objects.defer(*LONG).filter(
            pk__in=[key for key, _ in pairs.distinct()[: limit + 1]]
        )
    with cursor_errors():  # an id that is a number has no such place
        if indexed is None and place is not None:
            rows = rows.filter(_after_cursor(place, "", backwards=backwards))
        page = list(rows.order_by(*order)[: limit + 1])
    more, page = len(page) > limit, page[:limit]
    if backwards:
        page.reverse()
    if not page:
        return Page([], None, None)
    after = _cursor(page[-1], backwards=False) if more or backwards else None
    before = _cursor(page[0], backwards=True) if (more if backwards else place) else None
    return Page([serialize(row) for row in page], after, before)


def filter_groups(filters: GroupFilter, *, is_filled: bool = False) -> QuerySet[JobGroup]:
    """Return the groups that match, without their long columns.

    ``is_filled``: all jobs of the backend have the time of their group.
    """
    rows = JobGroup.objects.filter(visible(filters.principal)).defer(*LONG)
    if filters.status:
        rows = rows.filter(status=filters.status)
    if filters.backend:
        jobs = ChildJob.objects.filter(backend_id=filters.backend)
        # With the time, an index finds the job; without it, SQLite would read all of the backend
        # for each group.
        exact = Exists(jobs.filter(group=OuterRef("pk"), group_created_at=OuterRef("created_at")))
        rows = rows.filter(exact if is_filled else Q(pk__in=jobs.values("group_id")))
    if filters.submitter:
        rows = rows.filter(submitter=filters.submitter)
    if filters.is_open:
        rows = rows.filter(completed_at=None)
    if filters.archived is not None:
        rows = rows.filter(archived_at__isnull=not filters.archived)
    for word in filters.text.split()[:_MAX_WORDS]:
        rows = rows.filter(_with_word(word))
    for key, value in filters.metadata.items():
        rows = rows.filter(labels__key=key, labels__value=value)
    if filters.created_after:
        rows = rows.filter(created_at__gt=filters.created_after)
    if filters.created_before:
        rows = rows.filter(created_at__lt=filters.created_before)
    return rows


def _with_word(word: str) -> Q:
    condition = Q(metadata_json__icontains=to_json(word)[1:-1])
    for column in ("name", "prompt", "id", "submitter"):
        condition |= Q(**{f"{column}__icontains": word})
    if is_prompt_id(word):
        condition |= Q(pk__in=ListenerPrompt.objects.filter(prompt_id=word).values("group_id"))
    if _SEED.fullmatch(word):
        condition |= Q(pk__in=ChildJob.objects.filter(seed=int(word)).values("group_id"))
    return condition


def _after_cursor(place: tuple[dt.datetime, str], prefix: str, *, backwards: bool) -> Q:
    moment, key = place
    side = "gt" if backwards else "lt"

    def where(name: str, value: Any) -> Q:
        return Q(**{f"{prefix}{name}": value})

    # The first condition is the one with which an index is searched.
    return where(f"created_at__{side}e", moment) & (
        where(f"created_at__{side}", moment)
        | where("created_at", moment) & where(f"id__{side}", key)
    )


def _cursor(row: Any, *, backwards: bool) -> str:
    return encode_cursor("b" if backwards else "f", iso(row.created_at), row.id)


@cursor_errors()
def _decode_cursor(cursor: str | None) -> tuple[bool, tuple[dt.datetime, str] | None]:
    if not cursor:
        return False, None
    match = decode_cursor(cursor, _CURSOR)
    return match[1] == "b", (dt.datetime.fromisoformat(match[2]), match[3])


def encode_cursor(*parts: object) -> str:
    return base64.urlsafe_b64encode("|".join(map(str, parts)).encode()).decode().rstrip("=")


def decode_cursor(cursor: str, form: re.Pattern[str]) -> re.Match[str]:
    """Return the parts of a cursor; raise ``ValueError`` if it has another form."""
    match = form.fullmatch(base64.urlsafe_b64decode(f"{cursor}===").decode("ascii"))
    if match is None:
        raise ValueError(cursor)
    return match
