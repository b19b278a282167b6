"""Assigns children that a user retries or moves to their own backend or another one.

Runs in the transaction that queues them, with the group locked.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from django.db.models import F

from backends.capabilities import lacks_reason
from backends.eligibility import capabilities_of
from backends.models import Backend, Reachability
from backends.queries import backend_status, backends_by_id, unique_names
from backends.states import BackendState
from jobgroups.domain import retry_policy
from jobgroups.domain.clock import now
from jobgroups.domain.failures import BETTER_ELSEWHERE, FailureClass
from jobgroups.domain.retry_policy import AttemptHistory, Candidate
from jobgroups.domain.states import RetryScope, Where
from jobgroups.errors import BackendNotFound, BackendUnavailable, NoOtherBackend
from jobgroups.models import Attempt, ChildJob, JobGroup
from jobgroups.queries.pool import candidate_reasons
from jobgroups.services.candidates import CandidateBackends, are_locked, history_of

#: Why no child may wait at a backend, as clauses.
_UNSCHEDULABLE: Final = {
    BackendState.DISABLED: "It is disabled",
    BackendState.DRAINING: "It is being drained",
    BackendState.QUARANTINED: "It is quarantined",
}
_GONE: Final = "It is not registered any more."
_HINT: Final = (
    "Have it work again, let the jobs go to other backends with retry_elsewhere, or leave them out."
)
_NOWHERE_HINT: Final = "No other backend that is allowed works now. Have one work, then retry."
_POOL_HINT: Final = "Retry on another backend by its name, or when one of them works."
_MEMORY_HINT: Final = (
    "Retry on a backend by its name, also on one that ran out of memory, or lift an exclusion on "
    "the page of its backend."
)
_NAMED_HINT: Final = "Name another backend."


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which backends a user wants for a retry; by default the group's policy decides."""

    where: Where | None = None
    backend_id: str | None = None  #: At this backend, and at no other one.
    #: To which other backends a child may go if it has reason to, for this retry alone.
    elsewhere: RetryScope | None = None

    @property
    def names_a_backend(self) -> bool:
        """Whether the user wants the children to leave their backends."""
        return self.where is Where.OTHER or self.backend_id is not None

    def allowed(self, group: JobGroup, child: ChildJob) -> RetryScope:
        """Return to which other backends a child may go."""
        better = child.failure_class in BETTER_ELSEWHERE
        if self.where is Where.OTHER or (self.where is Where.AUTO and better):
            return RetryScope.ANY
        if self.where is Where.SAME:
            return RetryScope.NEVER
        return self.elsewhere or RetryScope(group.retry_elsewhere)


def assign_backends(
    group: JobGroup, children: Sequence[ChildJob], choice: Choice
) -> dict[str, str]:
    """Return the backend that each child is bound to, by the child's id. The group is locked.

    A child stays where it is unless it may go elsewhere and has a reason to: its backend takes
    nothing, is away, or failed it in the last run; or the user chose another one. A backend that is
    away or paused keeps those that must stay: they wait for it.

    Raises:
        BackendNotFound: the named backend is not registered.
        BackendUnavailable: one of the children can wait nowhere; all of them are refused then.
        NoOtherBackend: a child is to go to another backend, and there is none for it.
    """
    bound = _assign(group, children, choice)
    while not are_locked(bound.values()):
        bound = _assign(group, children, choice)
    return bound


def _assign(group: JobGroup, children: Sequence[ChildJob], choice: Choice) -> dict[str, str]:
    if choice.backend_id is not None:
        _check_named(group, choice.backend_id)
        return {child.id: choice.backend_id for child in children}
    unschedulable, tried = (
        _unschedulable({child.backend_id or "" for child in children}),
        _attempt_histories(children),
    )
    candidates = CandidateBackends(group)
    leave = choice.where is Where.OTHER
    bound: dict[str, str] = {}
    refused: dict[str, str] = {}
    stuck: list[str] = []
    hint = _HINT
    for child in children:
        own, allowed = child.backend_id or "", choice.allowed(group, child)
        target = _target(child, candidates.within(allowed), tried[child.id], leave=leave)
        if target is None and leave:
            stuck.append(child.id)
            continue
        if target is None and own in unschedulable:
            refused[own] = unschedulable[own]
            hint = _HINT if allowed is RetryScope.NEVER else _NOWHERE_HINT
            continue
        bound[child.id] = target = target or own
        candidates.count(target)
    if stuck:
        raise NoOtherBackend(stuck)
    if refused:
        raise BackendUnavailable(refused, unique_names(), hint=hint)
    return bound


def check_pool(group: JobGroup, children: Iterable[ChildJob]) -> None:
    """Check that a candidate of each child's variant takes jobs, or will.

    Raises ``BackendUnavailable`` with the reason of each candidate if none of one variant does.
    """
    for variant in group.variants.filter(pk__in={child.variant_id for child in children}):
        candidates = candidate_reasons(variant)
        reasons = {candidate.row.id: candidate.reason for candidate in candidates}
        if all(reasons.values()):
            none = {", ".join(sorted(variant.candidates)): "No registered backend is a candidate."}
            lacked_memory = FailureClass.OUT_OF_MEMORY in {one.failure for one in candidates}
            hint = _MEMORY_HINT if lacked_memory else _POOL_HINT
            raise BackendUnavailable(reasons or none, unique_names(), hint=hint)


def _target(
    child: ChildJob, candidates: dict[str, Candidate], tried: AttemptHistory, *, leave: bool
) -> str | None:
    """Return the best of the backends that a child may go to, its own among them; None: no other.

    ``tried`` has the backends that failed it. With ``leave`` its own backend is none of them.
    """
    own = child.backend_id or ""
    if not leave and own in candidates and own not in tried.failed_on:
        return own
    fit = [
        candidate
        for candidate in candidates.values()
        if not (leave and candidate.backend_id == own)
    ]
    out_of_memory = child.failure_class == FailureClass.OUT_OF_MEMORY
    return retry_policy.best_candidate(fit, tried, after_memory=out_of_memory)


def assign_named(group: JobGroup, backend_id: str) -> None:
    """Check that children of a group may wait at a backend that a user named, and lock it.

    Raises ``BackendNotFound``, or ``BackendUnavailable`` if it takes nothing or lacks what the
    group requires.
    """
    _check_named(group, backend_id)
    while not are_locked([backend_id]):
        _check_named(group, backend_id)


def _check_named(group: JobGroup, backend_id: str) -> None:
    row = Backend.objects.filter(pk=backend_id).first()
    if row is None:
        raise BackendNotFound(backend_id)
    lacks = lacks_reason(capabilities_of(row), group.needed_capabilities)
    reason = _unschedulable([backend_id]).get(backend_id, lacks)
    if reason is not None:
        raise BackendUnavailable({row.id: reason}, unique_names(), hint=_NAMED_HINT)


def unblock_unreachable(children: Iterable[ChildJob]) -> None:
    """Let children that a user assigned to other backends stop waiting for offline backends to
    remove their prompts.

    The end of such a prompt may never be seen. It keeps its slot and its pending stop. Two backends
    may render the child then; it has one result.
    """
    bound = {child.id: child.backend_id for child in children}
    removed = Attempt.objects.filter(
        child_id__in=list(bound),
        ended_at__isnull=True,
        stop_requested_at__isnull=False,
        failure_class="",
        backend__in=Backend.objects.filter(reachability=Reachability.OFFLINE).values("pk"),
    )
    kept = [attempt.pk for attempt in removed if attempt.backend_id != bound[attempt.child_id]]
    if kept:
        Attempt.objects.filter(pk__in=kept).update(failure_class=FailureClass.UNREACHABLE)


def _unschedulable(named: Collection[str]) -> dict[str, str]:
    """Return why no child may wait at a backend, by the id of each such backend."""
    rows, moment = backends_by_id(named), now()
    unschedulable = {}
    for backend_id in named:
        if backend_id not in rows:
            unschedulable[backend_id] = _GONE
            continue
        status = backend_status(rows[backend_id], now=moment)
        if status.state in _UNSCHEDULABLE:
            because = f" ({status.reason.rstrip('.')})" if status.reason else ""
            unschedulable[backend_id] = f"{_UNSCHEDULABLE[status.state]}{because}."
    return unschedulable


def _attempt_histories(children: Sequence[ChildJob]) -> dict[str, AttemptHistory]:
    """Return where each child failed in the run in which it was last queued."""
    failed = defaultdict[str, list[Attempt]](list)
    rows = Attempt.objects.filter(child__in=children, run=F("child__run")).exclude(failure_class="")
    for row in rows.order_by("number"):
        failed[row.child_id].append(row)
    return {child.id: history_of(failed[child.id]) for child in children}
