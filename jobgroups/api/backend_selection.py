"""Selects which of the backends that a submission names get a child, and says why the others do not.

Backends without a recent response are probed first, side by side, so that the request is answered within two
seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from backends import probes, queries
from backends.eligibility import ineligible_reason
from jobgroups.domain.clock import now


@dataclass(frozen=True, slots=True)
class Selection:
    """The backends that get a child, one an entry of the request in its order, and those that do not."""

    backend_ids: list[str]
    #: ``{"backend_id", "reason"}`` for each entry that was left out.
    skipped: list[dict[str, str]]


def select_backends(backend_ids: Sequence[str], required_capabilities: Sequence[str]) -> Selection:
    """Select among the named backends, after a probe of those without a recent response."""
    named = queries.backends_by_id(backend_ids)
    stale = [row for row in named.values() if row.enabled and probes.needs_probe(row, now=now())]
    if stale:
        probes.probe_backends(stale)
        named = queries.backends_by_id(backend_ids)
    reasons = {
        backend_id: ineligible_reason(named.get(backend_id), required_capabilities, now=now())
        for backend_id in set(backend_ids)
    }
    return Selection(
        [backend_id for backend_id in backend_ids if reasons[backend_id] is None],
        [{"backend_id": backend_id, "reason": reason} for backend_id in backend_ids if (reason := reasons[backend_id])],
    )
