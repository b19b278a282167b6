"""Retry policy: whether a failed child is retried, on which backend and after which delay. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from jobgroups.domain.failures import TAXONOMY, FailureClass, RetryTarget
from jobgroups.domain.states import RetryScope

LONGEST_PAUSE: Final = 60.0  #: Seconds: the longest pause before a child is tried again.


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    max_attempts: int  #: Charged attempts that a child may have within one run.
    elsewhere: RetryScope
    #: None: after every class that may be tried again.
    retry_on: frozenset[FailureClass] | None = None
    #: Whether each execution costs money: an executed child is retried only after the classes of
    #: ``retry_on``.
    is_paid: bool = False

    def allows(self, failure: FailureClass, charged: int, *, executed: bool = True) -> bool:
        """Return whether a child is retried after this many counted attempts, the last one with
        this failure.

        ``executed``: whether a part of the last one may have been executed.
        """
        if charged >= self.max_attempts or TAXONOMY[failure].retry is RetryTarget.NEVER:
            return False
        if self.retry_on is None:
            return not (self.is_paid and executed)
        return failure in self.retry_on


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A backend that may take a child and has the required capabilities."""

    backend_id: str
    vram: int = 0  #: Bytes of its largest device; 0 where that is not known.
    #: What stands before a child there: children that are not final, and other people's prompts.
    waiting: int = 0
    works: bool = True  #: False: a child would wait there until it comes back or is let go on.


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptHistory:
    """The failed attempts of a child in this run."""

    #: The backends of its failed attempts, in order; one may be here twice.
    failed_on: Sequence[str] = ()
    excluded: frozenset[str] = frozenset()  #: Those to which it never comes back in this run.


def best_candidate(
    candidates: Iterable[Candidate], tried: AttemptHistory, *, after_memory: bool = False
) -> str | None:
    """Return the backend at which a child is to be tried next, None where there is none.

    One that works now comes first, then one that failed the child less often, then the one where
    the least waits, then the first by id. After an out of memory the larger card comes before all
    but the first of these; one that ran out of it once counts as untried, for its memory was freed
    since.
    """

    def rank(candidate: Candidate) -> tuple[bool, int, int, int, int, str]:
        failures = list(tried.failed_on).count(candidate.backend_id)
        vram, forgiven = (candidate.vram, max(failures - 1, 0)) if after_memory else (0, failures)
        return (
            not candidate.works,
            forgiven,
            -vram,
            failures,
            candidate.waiting,
            candidate.backend_id,
        )

    fit = [candidate for candidate in candidates if candidate.backend_id not in tried.excluded]
    return min(fit, key=rank).backend_id if fit else None


def next_backend(
    failure: FailureClass,
    *,
    own: Candidate | None,
    others: Iterable[Candidate],
    tried: AttemptHistory,
    policy: RetryPolicy,
) -> str | None:
    """Return where a child is tried again after a failure that the policy allows to be met.

    ``own`` is the backend at which it failed, None if that takes nothing more; ``tried`` has this
    failure.
    """
    open_to = list(others) if policy.elsewhere is not RetryScope.NEVER else []
    if own is not None and TAXONOMY[failure].retry is RetryTarget.ANY_BACKEND:
        open_to.append(own)
    return best_candidate(open_to, tried, after_memory=failure is FailureClass.OUT_OF_MEMORY)


def backoff_delay(charged: int, *, backoff: float, jitter: float) -> float:
    """Return the seconds to wait before the next attempt, so that many children do not come at
    once.

    Each of the ``charged`` attempts so far (at least 1) doubles ``backoff``. ``jitter`` from 0 to
    1, drawn by the caller, gives half the delay to one and a half.
    """
    # Bounded before it is doubled: 2.0 ** 2000 is an error and no long pause.
    doubled = backoff * 2.0 ** min(max(charged, 1) - 1, 16)
    return min(doubled * (0.5 + jitter), LONGEST_PAUSE)
