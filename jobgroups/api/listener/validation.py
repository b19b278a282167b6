"""Validation of a prompt by all machines, with ComfyUI's errors."""

import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from backends import descriptions
from backends.descriptions import FarmNodes, NodeDescriptions
from backends.eligibility import ineligible_reason
from jobgroups.api.listener.base import PromptRefused
from jobgroups.domain.clock import now
from jobgroups.domain.text import pluralize
from jobgroups.queries.listener_machine import usable_backends
from jobgroups.services.write_start import check_until
from jobgroups.workflow.prompt_check import (
    Checked,
    Describe,
    Problem,
    Slot,
    check_prompt,
    failed,
    missing_class,
    problem,
)

#: Seconds for which a refusal is repeated without another look: a file may be newer than what is
#: kept, but a program that repeats a wrong prompt must not make machines list their files.
_REFUSED_SECONDS: Final = 5.0
_CHECK_SECONDS: Final = 2.0  #: For which machines that are not known yet are waited for.
#: A node, and the name of its input; None: its class.
_Lack = tuple[str, str | None]


def validate(
    graph: Mapping[str, Mapping[str, Any]],
    *,
    targets: Collection[str] | None,
    resolved: Collection[Slot],
) -> Checked:
    """Return what the machine would answer that executes most of a prompt.

    Without a machine that describes its nodes there are no outputs and no errors: the prompt waits.
    ``targets`` and ``resolved`` are those of ``check_prompt``. Raises ``PromptRefused`` if each
    machine that can take jobs refuses the prompt.
    """
    began = time.monotonic()
    rows = [row for row in usable_backends() if ineligible_reason(row, (), now=now()) is None]
    known = descriptions.nodes.get(rows, within=_seconds_left())
    checks = _checks(graph, known, targets, resolved)
    if checks and all(check.error for check in checks.values()):
        since = began - _REFUSED_SECONDS
        known = descriptions.nodes.again(rows, since, within=_seconds_left())
        checks = _checks(graph, known, targets, resolved)
    accepted = [check for check in checks.values() if check.error is None]
    if accepted:
        return max(accepted, key=lambda check: len(check.outputs))
    if not checks or len(checks) < len(rows):
        # A machine that is not known may execute it.
        return Checked()
    farm = descriptions.farm_nodes(rows, known)
    of_all = check_prompt(graph, _describe(farm), targets=targets, resolved=resolved)
    raise _refusal(graph, of_all, list(checks.values()))


def _seconds_left() -> float:
    return max(check_until(_CHECK_SECONDS) - time.monotonic(), 0.0)


def _checks(
    graph: Mapping[str, Mapping[str, Any]],
    known: Mapping[str, NodeDescriptions],
    targets: Collection[str] | None,
    resolved: Collection[Slot],
) -> dict[str, Checked]:
    """Return the answer of each machine that is known for this prompt."""
    class_types = {node["class_type"] for node in graph.values()}
    by_digest: dict[bytes, Checked] = {}
    checks = {}
    for backend_id, nodes in known.items():
        if class_types & nodes.replaced - nodes.classes.keys():
            # The machine replaces them before it validates.
            continue
        if nodes.digest not in by_digest:
            by_digest[nodes.digest] = check_prompt(
                graph, _describe(nodes), targets=targets, resolved=resolved
            )
        checks[backend_id] = by_digest[nodes.digest]
    return checks


def _describe(nodes: NodeDescriptions | FarmNodes) -> Describe:
    def describe(class_type: str) -> Mapping[str, Any] | None:
        description = nodes.classes.get(class_type)
        return None if description is None else description.value

    return describe


def refused(error: Problem, node_errors: Mapping[str, Any] | None = None) -> PromptRefused:
    """Return the refusal of a prompt with an error in ComfyUI's shape."""
    return PromptRefused(
        error["type"],
        error["message"],
        details=error["details"],
        extra_info=error["extra_info"],
        node_errors=node_errors,
    )


def _refusal(
    graph: Mapping[str, Mapping[str, Any]], of_all: Checked, checks: Sequence[Checked]
) -> PromptRefused:
    """Return the refusal of a prompt that each machine refuses: what no machine has, by the answer
    of one that had all, else what the fewest have.
    """
    if of_all.error is not None:
        return refused(of_all.error, of_all.node_errors)
    lacks = Counter(lack for check in checks for lack in _lacks(check))
    (node_id, name), count = max(lacks.items(), key=lambda lack: lack[1])
    node = graph[node_id]
    rest = (
        f"{len(checks) - count} of {pluralize(len(checks), 'machine')} can execute it; no machine "
        "can execute all of the prompt"
    )
    if name is None:
        error = missing_class(node_id, node)
        return refused({**error, "details": f"{error['details']}: {rest}"})
    entry = next(found for check in checks if (found := check.node_errors.get(node_id)))
    value = node["inputs"].get(name)
    info = {"input_name": name, "input_config": None, "received_value": value}
    details = f"{name}: {value!r}: {rest}"
    found = problem("value_not_in_list", "Value not in list", details, **info)
    return refused(failed([found]), {node_id: {**entry, "errors": [found]}})


def _lacks(check: Checked) -> list[_Lack]:
    """Return what a machine refuses of a prompt."""
    error = check.error or {}
    if error.get("type") == "missing_node_type":
        return [(error["extra_info"]["node_id"], None)]
    return [
        (node_id, one["extra_info"].get("input_name"))
        for node_id, entry in check.node_errors.items()
        for one in entry["errors"]
    ]
