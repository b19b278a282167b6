"""Claims: store the intent to send a queued child before anything is sent.

Holds are checked under the fence: a user's pause locks the lease, so no claim is stored after the
pause.
"""

import contextlib
import datetime as dt
import uuid
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Final

from django.db import transaction
from django.db.models import DateTimeField, Exists, ExpressionWrapper, OuterRef, Q, QuerySet

from backends.eligibility import capabilities_of
from backends.hours import is_open
from backends.models import Backend
from backends.states import prompt_limit
from jobgroups.database.retry import retry_on_conflict
from jobgroups.database.statements import (
    KEY,
    Parameter,
    PreparedQuery,
    PreparedValues,
    insert_with_keys,
    update_where,
)
from jobgroups.domain.clock import now
from jobgroups.domain.failures import ONLY_ELSEWHERE
from jobgroups.domain.leases import FencingToken
from jobgroups.domain.pool import fits
from jobgroups.domain.schedule import Choice
from jobgroups.domain.states import AttemptState, StopReason
from jobgroups.events import log
from jobgroups.models import UNREAD, Attempt, ChildJob, Exclusion, JobGroup
from jobgroups.queries.exclusions import ACTIVE, valid_since
from jobgroups.services.group_transaction import GroupTransaction
from jobgroups.services.leases import verify_fence
from jobgroups.services.transactions import group_transaction
from jobgroups.store import claims as store


@dataclass(frozen=True, slots=True)
class ClaimResult:
    """What a claim came to.

    There is none if no child is queued, no slot is free, the backend is disabled, held or
    quarantined, or a running prompt there is being interrupted (ComfyUI's flag is process-wide and
    could stop a second prompt).
    """

    #: With child, variant and group, whose columns are loaded that a prompt needs.
    claim: Attempt | None = None
    from_pool: bool = False  #: Whether the claim is of the chosen variant.
    in_vain: bool = False  #: Whether the chosen variant had no job for this backend.


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ClaimRequest:
    """A claim of a queued child for a backend: see :func:`child_claim`."""

    fence: FencingToken  #: The lease on the backend.
    client_id: str  #: Of the socket that will receive the prompt's events.
    depth: int  #: Slots of the backend; each prompt without a seen end uses one.
    choice: Choice | None = None  #: What the backend takes from the pool; None: nothing.
    #: The group whose bound child comes before the choice; empty: none does; None: the older of
    #: both comes first.
    bound_first: str | None = None
    #: Groups of which nothing was sent when the runner chose. They have bound jobs of this backend,
    #: which are not read.
    held: Collection[str] = ()
    #: The attempts whose running prompts are stopped as jobs, which can hit no other prompt.
    cancelled: Collection[int] = ()
    #: Digests of the workflows of which no bound child is claimed.
    withheld: Collection[str] = ()

    def store_alone(self) -> ClaimResult:
        return child_claim(self)

    @property
    def has_only_pool_first(self) -> bool:
        """Whether there is a job of the pool, which is claimed before any bound child."""
        return self.choice is not None and self.bound_first == ""

    def choice_before(self, bound: store.Oldest | None) -> Choice | None:
        """Return the choice if it is claimed before the oldest bound child."""
        if self.choice is None or bound is None or self.has_only_pool_first:
            return self.choice
        variant = self.choice.variant
        # A job of the named group may be delayed: others wait by their age then.
        is_before = (variant.queued_at, variant.group_id) < (bound.queued_at, bound.group_id)
        return self.choice if is_before and bound.group_id != self.bound_first else None


@retry_on_conflict
def child_claim(request: ClaimRequest) -> ClaimResult:
    """Claim a queued child for a backend: store the intent to send it.

    This is a bound child of the group ``bound_first``, else a job of the chosen variant, else the
    oldest child that is bound to the backend.
    """
    first, full = request.bound_first, set(request.held)
    # Check for queued children first: most of a farm's backends have none, and this runs often.
    bound = None if request.has_only_pool_first else _oldest_bound(request, full)
    in_vain = False
    try:
        if bound is not None and first and bound.group_id != first:
            bound = _oldest_bound(request, (), first) or bound
        if (choice := request.choice_before(bound)) is not None:
            with contextlib.suppress(_LimitReached):
                find = partial(_first_of_pool, choice)
                claim = _claim_in_group(choice.variant.group_id, request, find)
                if claim is not None:
                    return ClaimResult(claim, from_pool=True)
            in_vain = True
            if request.has_only_pool_first:
                bound = _oldest_bound(request, full)
        while bound is not None:
            try:
                claim = _claim_in_group(bound.group_id, request, partial(_still_bound, bound))
            except _LimitReached:
                claim = None
                full.add(bound.group_id)
            if claim is not None:
                return ClaimResult(claim, in_vain=in_vain)
            bound = _oldest_bound(request, full)
    except _NoFreeSlot:
        return ClaimResult()
    return ClaimResult(in_vain=in_vain)


def stored_intents(*, fence: FencingToken) -> set[int]:
    """Return the ids of the attempts that were claimed under a lease and are still intents.

    An intent that the lease's holder does not know was not sent: its claim was committed, but the
    response was lost.
    """
    intents = Attempt.objects.filter(
        backend_id=fence.backend_id,
        epoch=fence.epoch,
        ended_at__isnull=True,
        state=AttemptState.INTENT,
    )
    return set(intents.values_list("id", flat=True))


class _LimitReached(Exception):
    """The group or its submitter may have no more prompts. Rolls the claim's transaction back."""


class _NoFreeSlot(Exception):
    """The backend takes no prompt now. Rolls the claim's transaction back."""


def _lock_slot(request: ClaimRequest) -> Backend:
    """Lock the backend, and return it with its capabilities; raise ``_NoFreeSlot`` if it has no
    free slot.

    Under the fence: who holds the backend back has its lease, and was before this or comes after
    it.
    """
    active = _active(request.fence.backend_id)
    stopping = any(
        state == AttemptState.RUNNING
        and stop_requested_at is not None
        and key not in request.cancelled
        for key, state, stop_requested_at in active
    )
    row = _locked_backend.first(request.fence.backend_id)
    if row is None or stopping:
        raise _NoFreeSlot
    limit = prompt_limit(
        enabled=row.enabled,
        hold=row.hold or ("" if is_open(row.hours, row.time_zone, now()) else "closed"),
        quarantined=row.quarantined_at is not None,
        consecutive_quarantines=row.consecutive_quarantines,
        depth=request.depth,
    )
    if len(active) >= limit:
        raise _NoFreeSlot
    return row


_active: Final = PreparedValues(
    lambda: (
        Attempt.objects.filter(backend_id=KEY, ended_at__isnull=True)
        .order_by()
        .values_list("pk", "state", "stop_requested_at")
    )
)
_HELD_BY: Final = (
    *("enabled", "hold", "quarantined_at", "consecutive_quarantines"),
    *("hours", "time_zone"),
)
#: Wait for a failure that is being stored: it may quarantine the backend.
_locked_backend: Final = PreparedQuery(
    lambda: (
        Backend.objects.filter(pk=KEY)
        .only(*_HELD_BY, *store.CAPABLE)
        .select_for_update(no_key=True)
    )
)


_still_waiting: Final = PreparedQuery(
    lambda: (
        store.claimable(backend_id=KEY, pk=Parameter("child_id"))
        .select_related("variant")
        .only(*store.TAKEN)
        .select_for_update(of=("self",))
        .order_by()
    )
)


def _oldest_bound(
    request: ClaimRequest, full: Collection[str], group_id: str = ""
) -> store.Oldest | None:
    """Return the oldest bound child of a backend, or of a group there; of ``full`` groups none."""
    name = request.fence.backend_id
    oldest = store.oldest_bound([name], group_id, held=full, withheld=request.withheld)
    return oldest.get(name)


def _still_bound(oldest: store.Oldest, row: Backend) -> ChildJob | None:
    """Lock a bound child, unless it was reassigned or delayed since the first query."""
    return _still_waiting.first(row.id, child_id=oldest.child_id, **store.time_parameters())


def _claim_in_group(
    group_id: str, request: ClaimRequest, find: Callable[[Backend], ChildJob | None]
) -> Attempt | None:
    """Claim what ``find`` locks for a backend with a free slot, in a transaction that locks the
    lease, and the group's row only for the group's first claim, or if the number of its prompts is
    limited.

    So claims of one group for many backends wait neither for one another nor for outcomes of the
    group.
    """

    def claim(group: JobGroup) -> Attempt | None:
        child = find(_lock_slot(request))
        return None if child is None else _store(child, group, request)

    group = store.groups_sent([group_id]).get(group_id)
    if group is None:
        return None
    if group.has_claimed_child and not group.is_limited:
        with transaction.atomic():
            verify_fence(request.fence)
            return claim(group)
    with group_transaction(group_id, fence=request.fence) as tx:
        if group.is_limited and not store.has_room(tx.group):
            raise _LimitReached
        # The lock does not read them, and they never change.
        for name in UNREAD:
            setattr(tx.group, name, getattr(group, name))
        claimed = claim(tx.group)
        if claimed is not None and not tx.group.has_claimed_child:
            _first_claim(tx)
        return claimed


# --- from the pool --------------------------------------------------------------------------------


def _first_of_pool(choice: Choice, row: Backend) -> ChildJob | None:
    """Lock the first job of a variant that this backend may take; None: there is none.

    A row that another claim or a cancel has locked is skipped.
    """
    variant = choice.variant
    # Its row is locked: a tag that was removed before is seen, one that is removed later comes
    # after this claim.
    if not fits(variant.needs, row.id, capabilities_of(row)):
        return None
    # Learned before this claim; one that is learned later waits for the row.
    cannot = {"digest": variant.workflow_digest, "variant": variant.variant_id, **valid_since()}
    if _excluded.first(row.id, **cannot) is not None:
        return None
    times = store.time_parameters()
    left_alone = _LEFT_TO_RIVALS if choice.has_rival else dt.timedelta()
    since = times["moment"] - left_alone
    return _next_of_variant.first(row.id, variant=variant.variant_id, since=since, **times)


#: A backend that failed a job, or from which it was recalled, does not take it again for so long if
#: another backend can.
_LEFT_TO_RIVALS: Final = dt.timedelta(seconds=60)


def _valid_exclusions() -> QuerySet[Exclusion]:
    of_variant = Q(variant_id=0) | Q(variant_id=Parameter("variant"))
    return Exclusion.objects.filter(
        ACTIVE, of_variant, backend_id=KEY, workflow_digest=Parameter("digest")
    )


_excluded: Final = PreparedQuery(lambda: _valid_exclusions().only("id").order_by()[:1])


def _refused_by_history() -> QuerySet[Attempt]:
    """Return the failures and recalls of a job at a backend for which the backend does not take the
    job again.
    """
    earlier = Attempt.objects.filter(child=OuterRef("pk"), backend_id=KEY)
    failed = ~Q(failure_class="")
    left = failed | Q(stop_reason=StopReason.RECALLED)
    in_run = Q(run=OuterRef("run"), created_at__gte=OuterRef("queued_at"))
    # A retry by a user queues the job again: every backend may execute it, the last one after the
    # others.
    earlier = earlier.alias(queued_at=ExpressionWrapper(OuterRef("queued_at"), DateTimeField()))
    retried = Q(number=OuterRef("attempt_count"), created_at__lt=OuterRef("queued_at"))
    return earlier.filter(
        (in_run & Q(failure_class__in=ONLY_ELSEWHERE))
        | (in_run & left & Q(ended_at__gt=Parameter("since")))
        | (retried & failed & Q(queued_at__gt=Parameter("since")))
    )


def _claimable_of_variant() -> QuerySet[ChildJob]:
    rows = store.claimable(variant_id=Parameter("variant"), is_bound=False).filter(
        ~Exists(_refused_by_history())
    )
    rows = rows.order_by("position").select_related("variant").only(*store.TAKEN)
    return rows.select_for_update(of=("self",), skip_locked=True)[:1]


_next_of_variant: Final = PreparedQuery(_claimable_of_variant)


# --- stored ---------------------------------------------------------------------------------------


def _store(child: ChildJob, group: JobGroup, request: ClaimRequest) -> Attempt:
    child.group = group
    last = _last(child.id)
    attempt = new_attempt(child, last[0][0] if last else None, request)
    insert_with_keys([attempt], by="prompt_id")
    update_where(
        ChildJob, child.pk, {"current_attempt": attempt.pk, "backend": request.fence.backend_id}
    )
    return attempt


def new_attempt(child: ChildJob, last_number: int | None, request: ClaimRequest) -> Attempt:
    """Return the intent to send a child, which is not stored. ``last_number`` is that of its last
    attempt.
    """
    return Attempt(
        child=child,
        number=(last_number or 0) + 1,
        run=child.run,
        backend_id=request.fence.backend_id,
        variant_id=None if child.is_bound else child.variant_id,
        prompt_id=str(uuid.uuid4()),
        client_id=request.client_id,
        epoch=request.fence.epoch,
        created_at=now(),
    )


_last: Final = PreparedValues(
    lambda: Attempt.objects.filter(child_id=KEY).order_by("-number").values_list("number")[:1]
)


def _first_claim(tx: GroupTransaction) -> None:
    tx.group.has_claimed_child = True
    if tx.group.accepted_without_runner:
        tx.add_event(log.group_started(tx.group))
    tx.mark_changed()
