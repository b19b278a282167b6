"""Whether backends can execute a workflow, by their state, their capabilities and their node classes."""

import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from backends import inventory, queries
from backends.capabilities import lacks_reason, needed_capabilities
from backends.eligibility import capabilities_of, ineligible_reason
from backends.models import Backend, Reachability
from jobgroups.api.backend_selection import candidate_rows
from jobgroups.domain.clock import now
from jobgroups.queries.exclusions import excluded_from, reason_of
from jobgroups.workflow import Workflow, WorkflowTemplate, digest
from jobgroups.workflow.inventory import Reason, Verdict, class_types, judge, uses_partner_nodes

_CHECK_SECONDS: Final = 10.0  #: Seconds for one check, the probes included.
_FIRST_SHARE: Final = 0.7  #: The share of the time in which backends answer first.
#: Characters of a name of the request in an answer: each may be there for many reasons and backends.
_MAX_NAME: Final = 200


def check(
    prepared: WorkflowTemplate, candidates: Sequence[str], required_capabilities: Sequence[str]
) -> dict[str, Any]:
    """Return for each candidate whether it can execute a workflow, with every reason why not. Nothing is stored.

    The candidates are as of ``select_candidates``. The response has an entry for each backend, and for each entry of
    ``candidates`` that no backend has.
    """
    until = time.monotonic() + _CHECK_SECONDS
    rows, unmatched = candidate_rows(candidates)
    answers = [row for row in rows.values() if row.reachability == Reachability.ONLINE]
    verdicts = _verdicts(prepared.workflow, answers, until)
    is_paid = has_partner_nodes(prepared.workflow, [row.id for row in answers], until=time.monotonic())
    needed = needed_capabilities(required_capabilities, is_paid)
    excluded = excluded_from(digest(prepared))
    entries = [
        _entry(name, [_reason("unavailable", sentence)], Verdict(), until) for name, sentence in unmatched.items()
    ]
    for row in rows.values():
        reasons = []
        if state_reason := ineligible_reason(row, (), now=now()):
            reasons.append(_reason("unavailable", state_reason))
        if lacks := lacks_reason(capabilities_of(row), needed):
            reasons.append(_reason("capability_missing", lacks))
        if row.id in excluded:
            reasons.append(_reason("excluded", reason_of(excluded[row.id])))
        entries.append(_entry(row.id, reasons, verdicts.get(row.id, Verdict()), until))
    return {"backends": entries, "can_run": sum(entry["can_run"] for entry in entries)}


def refusals(graph: Workflow, backend_ids: Collection[str], *, until: float, in_part: bool) -> dict[str, str]:
    """Return those of some responding backends that certainly cannot execute a workflow, each with a sentence.

    It stops at ``until``, by ``time.monotonic``. ``in_part``: it suffices if ComfyUI executes some outputs.
    """
    rows = queries.backends_by_id(backend_ids).values()
    return {
        backend_id: _sentence(verdict.reasons)
        for backend_id, verdict in _verdicts(graph, rows, until).items()
        if verdict.is_refused or (verdict.reasons and not in_part)
    }


def has_partner_nodes(graph: Workflow, backend_ids: Collection[str], *, until: float) -> bool | None:
    """Return whether responding backends mark a node of a workflow as a partner's; None: not known.

    What is not answered by ``until``, by ``time.monotonic``, is not known.
    """
    rows = queries.backends_by_id(backend_ids).values()
    since = time.monotonic() - inventory.FRESH_SECONDS
    known = inventory.node_classes(dict.fromkeys(rows, class_types(graph)), since=since, until=until)
    found = ({name: one.is_partner for name, one in classes.items() if one} for classes in known.values())
    return uses_partner_nodes(graph, found)


def _verdicts(graph: Workflow, rows: Collection[Backend], until: float) -> Mapping[str, Verdict]:
    start = time.monotonic()
    known = inventory.node_classes(
        dict.fromkeys(rows, class_types(graph)),
        since=start - inventory.FRESH_SECONDS,
        # A silent backend must leave time for the verdicts on the others.
        until=start + _FIRST_SHARE * (until - start),
    )
    verdicts = _judged(graph, known, until)
    # A file may be newer than a kept answer: what speaks against a backend is read again.
    doubted = {
        row: {reason.class_type for reason in verdicts[row.id].reasons}
        for row in rows
        if row.id in verdicts and verdicts[row.id].reasons
    }
    again = inventory.node_classes(doubted, since=start, until=until)
    for backend_id, classes in again.items():
        for doubtful in {reason.class_type for reason in verdicts[backend_id].reasons}:
            known[backend_id].pop(doubtful, None)
        known[backend_id] |= classes
    return {**verdicts, **_judged(graph, {name: known[name] for name in again}, until)}


def _judged(graph: Workflow, known: Mapping[str, inventory.Classes], until: float) -> dict[str, Verdict]:
    """Return the verdicts; a large workflow on many backends may take longer than there is time."""
    return {
        backend_id: judge(graph, classes) if time.monotonic() < until else Verdict()
        for backend_id, classes in known.items()
    }


def _sentence(reasons: Sequence[Reason]) -> str:
    first = reasons[0]
    more = f"; and {len(reasons) - 1} more" if len(reasons) > 1 else ""
    node = f"{first.node_id[:_MAX_NAME]} ({first.class_type[:_MAX_NAME]})"
    return f"Cannot run the workflow: node {node}: {first.message}{more}"


def _entry(backend_id: str, reasons: Sequence[dict[str, Any]], verdict: Verdict, until: float) -> dict[str, Any]:
    of_nodes = [
        _reason(
            one.code.value,
            one.message,
            node_id=one.node_id[:_MAX_NAME],
            class_type=one.class_type[:_MAX_NAME],
            input=one.input and one.input[:_MAX_NAME],
            # Long lists are slow to compare.
            nearest=one.nearest() if time.monotonic() < until else [],
        )
        for one in verdict.reasons
    ]
    unavailable = (one["message"] for one in reasons if one["code"] == "unavailable")
    return {
        "backend_id": backend_id,
        "can_run": not reasons and not verdict.is_refused,
        "known": verdict.is_known,
        "state_reason": next(unavailable, None),
        "reasons": [*reasons, *of_nodes],
    }


def _reason(code: str, message: str, **of_node: Any) -> dict[str, Any]:
    none = {"node_id": None, "class_type": None, "input": None}
    return {"code": code, **none, "message": message, "nearest": []} | of_node
