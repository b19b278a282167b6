"""Candidate backends: where a child may be retried, as a snapshot for ``retry_policy``."""

import datetime as dt
import json
from collections.abc import Collection, Iterable
from dataclasses import replace

from django.conf import settings
from django.db.models import Count

from backends.capabilities import missing_capabilities
from backends.eligibility import capabilities_of, is_working, largest_vram
from backends.models import Backend
from backends.states import Hold
from jobgroups.domain import retry_policy
from jobgroups.domain.clock import now
from jobgroups.domain.failures import TAXONOMY, FailureClass, RetryTarget
from jobgroups.domain.pool import is_candidate
from jobgroups.domain.retry_policy import AttemptHistory, Candidate
from jobgroups.domain.states import CHILD_OPEN, Placement, RetryScope
from jobgroups.errors import Conflict
from jobgroups.models import Attempt, ChildJob, JobGroup, Variant
from jobgroups.queries.groups import submitted_backends
from jobgroups.queries.pool import barring_failures, candidate_reasons, pool_candidates
from jobgroups.services.backends import lock_backends


class CandidateBackends:
    """The backends to which children of a group may go, read once for all of them; ``left`` is one
    that they leave.
    """

    def __init__(self, group: JobGroup, left: str = "") -> None:
        self._group = group
        self._left = left
        self._by_scope: dict[RetryScope, dict[str, Candidate]] = {}

    def within(self, elsewhere: RetryScope) -> dict[str, Candidate]:
        if elsewhere not in self._by_scope:
            candidates = candidate_backends(self._group, elsewhere, besides={self._left})
            self._by_scope[elsewhere] = {
                candidate.backend_id: candidate for candidate in candidates
            }
        return self._by_scope[elsewhere]

    def count(self, backend_id: str) -> None:
        """Count one more queued child at a backend, so that the next child prefers an idle one."""
        for candidates in self._by_scope.values():
            if backend_id in candidates:
                taken = candidates[backend_id]
                candidates[backend_id] = replace(taken, waiting=taken.waiting + 1)

    def pick(self, tried: AttemptHistory) -> str | None:
        """Return the best backend for one more child, which counts as queued there, by the group's
        policy; None: no one.

        The backend cannot be deleted until the transaction ends.
        """
        candidates = self.within(RetryScope(self._group.retry_elsewhere))
        while (target := retry_policy.best_candidate(candidates.values(), tried)) is not None:
            if are_locked([target]):
                self.count(target)
                return target
            del candidates[target]
        return None


def are_locked(backend_ids: Collection[str]) -> bool:
    """Prevent the deletion of backends until the caller's transaction ends; False: one was just
    deleted or disabled.
    """
    try:
        lock_backends(backend_ids)
    except Conflict:
        return False
    return True


def attempt_history(group: JobGroup, child: ChildJob) -> AttemptHistory:
    """Return where a child has failed in its group's current run."""
    return history_of(
        child.attempts.filter(run=group.run).exclude(failure_class="").order_by("number")
    )


def history_of(attempts: Iterable[Attempt]) -> AttemptHistory:
    """Return where failed attempts of a child were, from the first to the last."""
    failed = [(row.backend_id, TAXONOMY[FailureClass(row.failure_class)].retry) for row in attempts]
    return AttemptHistory(
        failed_on=[backend_id for backend_id, _ in failed],
        excluded=frozenset(
            backend_id for backend_id, retry in failed if retry is RetryTarget.OTHER_BACKEND
        ),
    )


def candidate_backends(
    group: JobGroup, elsewhere: RetryScope, *, besides: Collection[str]
) -> list[Candidate]:
    """Return the backends to which a group's child may go now: they work and have the required
    capabilities.

    ``elsewhere`` is the scope of the retry, ``besides`` are ids to leave out.
    """
    if elsewhere is RetryScope.NEVER:
        return []
    rows = Backend.objects.exclude(pk__in=besides).order_by("id")
    fit = [
        row
        for row in rows
        if is_working(row, now=now())
        and not missing_capabilities(capabilities_of(row), group.needed_capabilities)
    ]
    if fit and group.placement == Placement.POOL:
        candidates = pool_candidates(group.id)
        fit = [row for row in fit if is_candidate(candidates, row.id, row.tags)]
    elif fit and elsewhere is RetryScope.GROUP:
        within = _submitted_to(group)
        fit = [row for row in fit if row.id in within]
    return _candidates(fit) if fit else []


def open_candidates(variant: Variant) -> set[str]:
    """Return the candidates that can execute jobs of a variant, and are not disabled, drained or
    away for too long.
    """
    gone_since = now() - dt.timedelta(seconds=settings.DIRECTOR_GIVE_UP_SECONDS)
    return {
        row.id
        for row, _, unfit, _ in candidate_reasons(variant)
        if unfit is None and row.enabled and row.hold != Hold.DRAIN
        if row.unreachable_since is None or row.unreachable_since > gone_since
    }


def pool_is_open(group: JobGroup, child: ChildJob) -> bool:
    """Return whether a candidate may still take a child of the pool."""
    failed_at = set(barring_failures(child=child).values_list("backend_id", flat=True))
    return not open_candidates(group.variants.get(children=child)) <= failed_at


def own_candidate(backend_id: str) -> Candidate | None:
    """Return the backend of a failed attempt, or None if it takes no more children.

    A paused, offline or quarantined backend keeps its children: they wait for it.
    """
    row = Backend.objects.filter(pk=backend_id, enabled=True).exclude(hold=Hold.DRAIN).first()
    return None if row is None else _candidates([row])[0]


def _candidates(rows: Collection[Backend]) -> list[Candidate]:
    ids = [row.id for row in rows]
    open_children = ChildJob.objects.filter(backend_id__in=ids, status__in=CHILD_OPEN)
    waiting = dict(open_children.order_by().values_list("backend_id").annotate(Count("id")))
    return [
        Candidate(
            backend_id=row.id,
            vram=largest_vram(row),
            waiting=waiting.get(row.id, 0) + row.queue_foreign,
            works=is_working(row, now=now()),
        )
        for row in rows
    ]


def _submitted_to(group: JobGroup) -> set[str]:
    """Return the backends that a group was submitted to, those included that were skipped then."""
    skipped = {backend["backend_id"] for backend in json.loads(group.skipped_backends_json)}
    return {
        backend_id for backend_id in (*submitted_backends(group).values(), *skipped) if backend_id
    }
