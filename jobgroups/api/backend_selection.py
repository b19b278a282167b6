"""Selects which of the backends that a submission names get a child, and says why the others do
not.

Backends without a recent response are probed first, side by side, so that the request is answered
within two seconds.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from backends import probes
from backends.eligibility import ineligible_reason
from backends.models import Backend
from jobgroups.domain.clock import now
from jobgroups.domain.pool import ANY_BACKEND, TAG_PREFIX, is_candidate
from jobgroups.queries.backends import current_backends
from jobgroups.services.backends import backends_probed


@dataclass(frozen=True, slots=True)
class Selection:
    """The backends that get a child, one an entry of the request in its order, and those that do
    not.
    """

    backend_ids: list[str]
    skipped: list[dict[str, str]]  #: ``{"backend_id", "reason"}`` for each entry that was left out.
    rows: list[Backend]  #: Those that get a child, each once.


def select_backends(backend_ids: Sequence[str], required_capabilities: Sequence[str]) -> Selection:
    named, rows = dict.fromkeys(backend_ids), current_backends()
    rows = {name: rows[name] for name in named if name in rows}
    rows = _probed(rows, _stale(rows))
    reasons = {
        name: ineligible_reason(rows.get(name), required_capabilities, now=now()) for name in named
    }
    return _selection(backend_ids, reasons, rows)


def _selection(
    names: Collection[str], reasons: Mapping[str, str | None], rows: Mapping[str, Backend]
) -> Selection:
    skipped = [
        {"backend_id": name, "reason": reason} for name in names if (reason := reasons[name])
    ]
    chosen = [name for name in names if reasons[name] is None]
    return Selection(chosen, skipped, [rows[name] for name in dict.fromkeys(chosen)])


def select_candidates(
    candidates: Sequence[str],
    required_capabilities: Sequence[str],
    excluded: Mapping[str, str],
    *,
    may_wait: bool = False,
) -> Selection:
    """Select the backends that can take jobs of the pool now, after a probe of those without a
    recent response.

    Args:
        candidates: ``*`` (every enabled backend), or ids and ``tag:…``. One that cannot stays a
            candidate.
        excluded: backends that cannot take the jobs, each with a sentence.
        may_wait: as of ``candidate_rows``.
    """
    meant, unmatched = candidate_rows(candidates, may_wait=may_wait)
    reasons = unmatched | {
        row.id: ineligible_reason(row, required_capabilities, now=now()) or excluded.get(row.id)
        for row in meant.values()
    }
    return _selection(reasons, reasons, meant)


def candidate_rows(
    candidates: Sequence[str], *, may_wait: bool = False
) -> tuple[dict[str, Backend], dict[str, str]]:
    """Return the candidates by id, after a probe where needed, and a sentence for each entry that
    no backend has.

    Those that did not respond to the last probe are not probed again if another one can take the
    job, or if it ``may_wait`` until one is back.
    """
    everything = ANY_BACKEND in candidates
    meant = {
        row.id: row
        for row in current_backends().values()
        if is_candidate(candidates, row.id, row.tags) and (row.enabled or not everything)
    }
    moment = now()
    # A job of the pool needs no certain backend, and hundreds are late at once if the host is busy.
    stale = [row for row in _stale(meant) if not probes.was_online(row, now=moment)]
    if may_wait or any(ineligible_reason(row, (), now=moment) is None for row in meant.values()):
        # A machine that is off costs 1.5 s.
        stale = [row for row in stale if row.unreachable_since is None]
    meant = _probed(meant, stale)
    unmatched = {
        candidate: "No backend has this tag."
        if candidate.startswith(TAG_PREFIX)
        else "Unknown: no backend has this id."
        for candidate in candidates
        if not any(is_candidate([candidate], row.id, row.tags) for row in meant.values())
        and not everything
    }
    return meant, unmatched


def _stale(rows: Mapping[str, Backend]) -> list[Backend]:
    """Return the backends without a recent response."""
    return [row for row in rows.values() if row.enabled and probes.needs_probe(row, now=now())]


def _probed(rows: dict[str, Backend], stale: Collection[Backend]) -> dict[str, Backend]:
    """Probe some of the backends, and return all as they are then."""
    if not stale:
        return rows
    probes.probe_backends(stale, backends_probed)
    present = current_backends()
    return {name: present[name] for name in rows if name in present}
