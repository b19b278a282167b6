"""Where children that a person retries are bound: at their own backend, or at another that may be.

In the transaction that queues them, with the group locked.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from backends.selectors import backend_facts, backends_by_id
from backends.states import BackendState, backend_state
from jobgroups import retrying
from jobgroups.clock import now
from jobgroups.errors import BackendUnavailable, Conflict
from jobgroups.failures import TAXONOMY, FailureClass, Retry
from jobgroups.models import Attempt, ChildJob, JobGroup
from jobgroups.retrying import Candidate, Tried
from jobgroups.services.backends import hold_backends
from jobgroups.services.places import others_for
from jobgroups.states import Elsewhere

#: Words for a backend at which nobody may wait: it takes nothing until a person says so, or ever.
_SHUT: Final = {
    BackendState.DISABLED: "It is disabled.",
    BackendState.DRAINING: "It is being drained.",
    BackendState.QUARANTINED: "It is quarantined.",
}
_GONE: Final = "It is not registered any more."
_HINT: Final = (
    "Have it work again, let the jobs go to other backends with retry_elsewhere, or leave them out."
)
_NOWHERE_HINT: Final = "No other backend that is allowed works now. Have one work, then retry."


def bind(group: JobGroup, children: Sequence[ChildJob], elsewhere: Elsewhere) -> dict[str, str]:
    """Return the backend that each child is bound to, by the child's id.

    A child stays where it is unless it may go elsewhere and has reason to: its backend takes
    nothing, is away, or has failed it in the run before. A backend that is away or paused keeps
    those that must stay: they wait for it.

    Args:
        group: theirs; locked.
        children: as their last run left them.
        elsewhere: at which other backends they may be bound.

    Raises:
        BackendUnavailable: one of them can wait nowhere; all of them are refused then.
    """
    while True:
        bound = _bound(group, children, elsewhere)
        try:
            # None of them is forgotten until the caller's transaction ends.
            hold_backends(bound.values())
        except Conflict:
            # One was, or was disabled, since it was looked at.
            continue
        return bound


def _bound(group: JobGroup, children: Sequence[ChildJob], elsewhere: Elsewhere) -> dict[str, str]:
    shut, tried = _shut(children), _tried(children)
    open_to = others_for(group, elsewhere, besides=())
    candidates = {one.backend_id: one for one in open_to}
    bound: dict[str, str] = {}
    refused: dict[str, str] = {}
    for child in children:
        own = child.backend_id or ""
        target = _target(child, candidates, tried[child.id])
        if target is None and own in shut:
            refused[own] = shut[own]
            continue
        bound[child.id] = target = target or own
        if target in candidates:
            # So that the next one does not come behind it where another stands idle.
            taken = candidates[target]
            candidates[target] = replace(taken, waiting=taken.waiting + 1)
    if refused:
        raise BackendUnavailable(
            [{"backend_id": one, "reason": reason} for one, reason in refused.items()],
            hint=_HINT if elsewhere is Elsewhere.NEVER else _NOWHERE_HINT,
        )
    return bound


def _target(child: ChildJob, candidates: dict[str, Candidate], tried: Tried) -> str | None:
    """Return the best of the backends that a child may go to, its own among them; None: no other."""
    own = child.backend_id or ""
    if own in candidates and own not in tried.failed_at:
        return own
    out_of_memory = child.failure_class == FailureClass.OUT_OF_MEMORY
    return retrying.choose(candidates.values(), tried, after_memory=out_of_memory)


def _shut(children: Sequence[ChildJob]) -> dict[str, str]:
    """Return why nobody may wait at a backend, by the id of each at which that is so."""
    named = {child.backend_id or "" for child in children}
    rows, moment = backends_by_id(named), now()
    shut = {}
    for backend_id in named:
        if backend_id not in rows:
            shut[backend_id] = _GONE
            continue
        standing = backend_state(backend_facts(rows[backend_id], now=moment))
        if standing.state in _SHUT:
            because = f" ({standing.reason.rstrip('.')})" if standing.reason else ""
            shut[backend_id] = f"{_SHUT[standing.state].rstrip('.')}{because}."
    return shut


def _tried(children: Sequence[ChildJob]) -> dict[str, Tried]:
    """Return where each child failed in the run in which it was last queued."""
    rows = Attempt.objects.filter(child__in=children).exclude(failure_class="")
    runs = {child.id: child.run for child in children}
    failed: dict[str, list[tuple[str, Retry]]] = defaultdict(list)
    for row in rows.order_by("number"):
        if row.run == runs[row.child_id]:
            retry = TAXONOMY[FailureClass(row.failure_class)].retry
            failed[row.child_id].append((row.backend_id, retry))
    return {
        child.id: Tried(
            failed_at=[backend_id for backend_id, _ in failed[child.id]],
            barred=frozenset(one for one, retry in failed[child.id] if retry is Retry.ELSEWHERE),
        )
        for child in children
    }
