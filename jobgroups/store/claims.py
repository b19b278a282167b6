"""What a claim reads and locks: the children that may be claimed, backends with a free slot, and
groups. The conditions of a claimable child are here alone.

A claim of many backends waits for no row: what another transaction has locked is left out.
"""

import datetime as dt
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Final

from django.conf import settings
from django.db import connection
from django.db.models import Exists, F, OuterRef, Q, QuerySet, Subquery, Value
from django.db.models.functions import Coalesce, Concat

from backends.hours import is_open
from backends.models import Backend
from backends.queries import offline_for
from jobgroups.database.keys import places, read
from jobgroups.database.statements import KEY, Parameter, PreparedQuery, PreparedValues
from jobgroups.domain.clock import now
from jobgroups.domain.failures import OVERTAKEN
from jobgroups.domain.pauses import FARM, target_of_submitter
from jobgroups.domain.retry_policy import LONGEST_PAUSE
from jobgroups.domain.states import AttemptState, ChildStatus
from jobgroups.models import Attempt, ChildJob, JobGroup, Pause, Submitter, share_name

#: The columns of a claimed child, of its variant and of its group that its prompt needs.
TAKEN: Final = ("group_id", "run", "seed", "variation_json", "is_bound", "variant__workflow_digest")
SENT: Final = (
    *(
        "workflow_json",
        "parameters_json",
        "editor_json",
        "prompt_fields_json",
        "workflow_digest",
        "timeout_seconds",
        "stall_seconds",
    ),
    *("uses_partner_nodes", "has_secret", "program"),
)
#: The columns of a backend by which it fits a variant.
CAPABLE: Final = ("tags", "devices", "comfyui_version", "partner_nodes_allowed")


def time_parameters() -> dict[str, dt.datetime]:
    """Return the moments of :func:`claimable`."""
    moment = now()
    return {"moment": moment, "longest": moment + dt.timedelta(seconds=LONGEST_PAUSE)}


def claimable(at: Any = KEY, **of: Any) -> QuerySet[ChildJob]:
    """Return the children that may be claimed for a backend; its key is ``at``."""
    return _due(**of).filter(~Exists(_older_prompts(at)))


def _due(**of: Any) -> QuerySet[ChildJob]:
    waits = ChildJob.objects.filter(status=ChildStatus.QUEUED, current_attempt__isnull=True, **of)
    # Without any pause, which the database finds out once, it looks up none for each child.
    waits = waits.filter(~Exists(_active_pauses()) | ~Exists(_pauses()), ~Exists(_later_groups()))
    return waits.filter(
        Q(not_before__isnull=True)
        | Q(not_before__lte=Parameter("moment"))
        # A longer delay was stored before the clock was set back.
        | Q(not_before__gt=Parameter("longest"))
    )


def _pauses() -> QuerySet[Pause]:
    """Return the pauses of the farm, and of the group of a child and its submitter."""
    group = JobGroup.objects.filter(pk=OuterRef(OuterRef("group_id"))).order_by()
    submitter = group.values(target=Concat(Value(target_of_submitter("")), share_name()))
    targets = [Value(FARM), OuterRef("group_id"), Subquery(submitter)]
    return _active_pauses().filter(target__in=targets)


def _active_pauses() -> QuerySet[Pause]:
    return Pause.objects.filter(Q(ends_at__isnull=True) | Q(ends_at__gt=Parameter("moment")))


def _later_groups() -> QuerySet[JobGroup]:
    """Return the group of a child if nothing of it is sent yet."""
    return JobGroup.objects.filter(pk=OuterRef("group_id"), start_after__gt=Parameter("moment"))


def _older_prompts(at: Any) -> QuerySet[Attempt]:
    """Return the prompts of a child that keep it from being claimed for a backend.

    Two prompts of one child never run at once, but where the older one hangs, is out of reach or
    cannot be followed elsewhere, and its end may never be seen. What stands at this backend is
    settled first.
    """
    older = Attempt.objects.filter(child=OuterRef("pk"), ended_at__isnull=True)
    overtaken = Q(failure_class__in=OVERTAKEN)
    return older.exclude(overtaken & ~Q(backend_id=at))


# --- of many backends -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Oldest:
    """The oldest claimable child that is bound to a backend."""

    child_id: str
    group_id: str
    queued_at: dt.datetime


def oldest_bound(
    backend_ids: Collection[str],
    group_id: str = "",
    *,
    held: Collection[str] = (),
    withheld: Collection[str] = (),
) -> dict[str, Oldest]:
    """Return the oldest claimable child of each backend that has one, or one of a group; without
    those of the groups ``held``, which are passed over in the index, and of the workflows
    ``withheld``.
    """
    of = {"group": group_id} if group_id else {}
    of |= {f"held_{number}": name for number, name in enumerate(held)}
    of |= {f"withheld_{number}": digest for number, digest in enumerate(withheld)}
    prepared = partial(
        _oldest_bound, of_group=bool(group_id), held=len(held), withheld=len(withheld)
    )
    rows = read(prepared, backend_ids, **time_parameters(), **of)
    return {backend_id: Oldest(*child) for backend_id, *child in rows}


@cache
def _oldest_bound(size: int, *, of_group: bool, held: int, withheld: int) -> PreparedValues:
    def rows() -> QuerySet[ChildJob, tuple[Any, ...]]:
        of = {"group_id": Parameter("group")} if of_group else {}
        queued = claimable(OuterRef("backend_id"), backend_id=OuterRef("pk"), **of)
        queued = queued.exclude(group__id__in=[Parameter(f"held_{at}") for at in range(held)])
        if withheld:
            workflow = Coalesce("variant__workflow_digest", "group__workflow_digest")
            digests = [Parameter(f"withheld_{at}") for at in range(withheld)]
            queued = queued.alias(workflow=workflow).exclude(workflow__in=digests)
        first = queued.order_by("queued_at", "group_id", "position").values("pk")[:1]
        heads = Backend.objects.filter(pk__in=places(size)).order_by().values_list(Subquery(first))
        children = ChildJob.objects.filter(pk__in=heads).order_by()
        return children.values_list("backend_id", "pk", "group_id", "queued_at")

    return PreparedValues(rows)


def groups_sent(ids: Collection[str]) -> dict[str, Any]:
    """Return groups by id with what prompts of theirs need, whether a child was claimed before, and
    ``is_limited``: whether the number of their prompts is limited.
    """
    return {group.id: group for group in read(_groups_sent, ids)}


@cache
def _groups_sent(size: int) -> PreparedQuery[JobGroup]:
    limited = Submitter.objects.filter(name=OuterRef("share_key"), max_running__isnull=False)
    is_limited = Q(max_running__isnull=False) | Exists(limited)
    return PreparedQuery(
        lambda: (
            JobGroup.objects.filter(pk__in=places(size))
            .alias(share_key=share_name())
            .annotate(is_limited=is_limited)
            .only("has_claimed_child", *SENT)
            .order_by()
        )
    )


def has_room(group: JobGroup) -> bool:
    """Return whether a locked group and its submitter may have one more prompt.

    Prompts count from their claim until their end is seen, since ComfyUI starts them by itself.
    Those that are being stopped at a backend which has gone do not, as their jobs do not wait for
    it. Claims of all groups of a submitter wait for its row.
    """
    submitter = _limited_submitter.first(group.share_name)
    limits = (group.max_running, None if submitter is None else submitter.max_running)
    if limits == (None, None):
        return True
    prompts = _active_of_share(group.share_name)
    gone = set[str]()
    if any(stopped_at for *_, stopped_at in prompts):
        gone = offline_for(settings.DIRECTOR_MOVE_AFTER_SECONDS, now=now())
    active = [
        of_group
        for of_group, backend_id, stopped_at in prompts
        if stopped_at is None or backend_id not in gone
    ]
    counts = (active.count(group.id), len(active))
    return all(limit is None or count < limit for limit, count in zip(limits, counts, strict=True))


_limited_submitter: Final = PreparedQuery(
    lambda: (
        Submitter.objects.filter(pk=KEY, max_running__isnull=False)
        .only("max_running")
        .select_for_update(no_key=True)
    )
)


_active_of_share: Final = PreparedValues(
    lambda: (
        Attempt.objects.alias(share=share_name("child__group__"))
        .filter(ended_at__isnull=True, share=KEY)
        .order_by()
        .values_list("child__group_id", "backend_id", "stop_requested_at")
    )
)


def unclaimed_groups_locked(ids: Collection[str]) -> set[str]:
    """Lock groups whose first claim is no event, and return them."""
    return {group_id for (group_id,) in read(_unclaimed, ids)}


@cache
def _unclaimed(size: int) -> PreparedValues:
    return PreparedValues(
        lambda: (
            JobGroup.objects.filter(
                pk__in=places(size), has_claimed_child=False, accepted_without_runner=False
            )
            .select_for_update(skip_locked=True)
            .order_by("pk")
            .values_list("pk")
        )
    )


def backends_locked(ids: Collection[str]) -> dict[str, int]:
    """Lock backends without any fault that are not held back; return the number of their prompts.

    One where a running prompt is to be stopped is left out.
    """
    moment, rows = now(), read(_backends, ids)
    free = {name: 0 for name, hours, zone in rows if is_open(hours, zone, moment)}
    for backend_id, state, stop_requested_at in read(_prompts, free):
        if backend_id in free:
            free[backend_id] += 1
            if state == AttemptState.RUNNING and stop_requested_at is not None:
                del free[backend_id]
    return free


@cache
def _backends(size: int) -> PreparedValues:
    return PreparedValues(
        lambda: (
            Backend.objects.filter(
                pk__in=places(size),
                enabled=True,
                hold="",
                quarantined_at__isnull=True,
                consecutive_quarantines=0,
            )
            .select_for_update(no_key=True, skip_locked=True)
            .order_by("pk")
            .values_list("pk", "hours", "time_zone")
        )
    )


@cache
def _prompts(size: int) -> PreparedValues:
    return PreparedValues(
        lambda: (
            Attempt.objects.filter(backend__id__in=places(size), ended_at__isnull=True)
            .order_by()
            .values_list("backend_id", "state", "stop_requested_at")
        )
    )


def capable_backends(ids: Collection[str]) -> dict[str, Backend]:
    """Return backends with what decides which variants fit."""
    return {row.id: row for row in read(_capable, ids)}


@cache
def _capable(size: int) -> PreparedQuery[Backend]:
    return PreparedQuery(
        lambda: Backend.objects.filter(pk__in=places(size)).only(*CAPABLE).order_by()
    )


def children_locked(ids: Collection[str]) -> dict[str, Any]:
    """Lock children that are bound and may be claimed, with their variants and ``last_number``."""
    return {child.id: child for child in read(_children, ids, **time_parameters())}


@cache
def _children(size: int) -> PreparedQuery[ChildJob]:
    def rows() -> QuerySet[ChildJob]:
        return _locked(claimable(OuterRef("backend_id"), pk__in=places(size)).order_by("pk"))

    return PreparedQuery(rows)


def first_of_variant_locked(variant_id: int, count: int) -> list[Any]:
    """Lock the first due children of a variant that no other transaction has locked, with
    ``last_number``: earlier prompts may keep a backend from taking them.
    """
    return _first_of_variant(count)(variant=variant_id, **time_parameters())


@cache
def _first_of_variant(count: int) -> PreparedQuery[ChildJob]:
    def rows() -> QuerySet[ChildJob]:
        waits = _due(variant_id=Parameter("variant"), is_bound=False)
        return _locked(waits.order_by("position"))[:count]

    return PreparedQuery(rows)


def _locked(rows: QuerySet[ChildJob]) -> QuerySet[ChildJob]:
    numbers = Attempt.objects.filter(child=OuterRef("pk")).order_by("-number").values("number")
    rows = rows.annotate(last_number=Subquery(numbers[:1])).select_related("variant")
    rows = rows.only("backend_id", *TAKEN)
    return rows.select_for_update(of=("self",), skip_locked=True)


_CHILDREN: Final = ChildJob._meta.db_table
_GROUPS: Final = JobGroup._meta.db_table


def bind(rows: Sequence[tuple[str, int, str]]) -> set[str]:
    """Bind queued children that have no attempt; return them. ``rows`` are children, attempts and
    backends.
    """
    listed = ", ".join(["(%s, CAST(%s AS bigint), %s)"] * len(rows))
    with connection.cursor() as cursor:
        cursor.execute(
            f"UPDATE {_CHILDREN} SET current_attempt_id = v.column2, backend_id = v.column3"  # noqa: S608 names of the schema
            f" FROM (VALUES {listed}) AS v WHERE {_CHILDREN}.id = v.column1"
            f" AND {_CHILDREN}.status = %s AND {_CHILDREN}.current_attempt_id IS NULL"
            f" RETURNING {_CHILDREN}.id",
            [*(value for row in rows for value in row), ChildStatus.QUEUED.value],
        )
        return {child_id for (child_id,) in cursor.fetchall()}


def note_first_claims(group_ids: Collection[str]) -> None:
    """Record the first claim of groups that are locked."""
    if group_ids:
        JobGroup.objects.filter(pk__in=group_ids).update(
            has_claimed_child=True, revision=F("revision") + 1
        )
