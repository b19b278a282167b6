"""Validation of a prompt by all machines, with ComfyUI's errors."""

import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final

from backends import inventory
from backends.comfyui.versions import release_of
from backends.descriptions import has_file
from backends.eligibility import ineligible_reason
from backends.models import Backend
from backends.node_texts import Description
from backends.node_union import union
from jobgroups.api.listener.base import PromptRefused
from jobgroups.domain.clock import now
from jobgroups.domain.listener_files import file_path, split_annotated
from jobgroups.domain.text import pluralize
from jobgroups.queries.listener_machine import usable_backends
from jobgroups.services.write_start import check_until
from jobgroups.workflow import Workflow
from jobgroups.workflow.inventory import class_types
from jobgroups.workflow.prompt_check import (
    Checked,
    Describe,
    Problem,
    Slot,
    check_prompt,
    failed,
    missing_class,
    problem,
    unlisted_files,
)

#: Seconds for which a refusal is repeated without another look: a file may be newer than what is
#: kept, but a program that repeats a wrong prompt must not make machines list their files.
_REFUSED_SECONDS: Final = 5.0
_CHECK_SECONDS: Final = 1.5  #: For which machines that are not known yet are waited for.
_MAX_FILES: Final = 16  #: Names of a prompt that machines are queried for.
#: A node, and the name of its input; None: its class.
_Lack = tuple[str, str | None]


def validate(
    graph: Workflow, *, targets: Collection[str] | None, resolved: Collection[Slot]
) -> Checked:
    """Return what the machine would answer that executes most of a prompt.

    Without a machine that describes its nodes there are no outputs and no errors: the prompt waits.
    ``targets`` and ``resolved`` are those of ``check_prompt``. Raises ``PromptRefused`` if each
    machine that can take jobs refuses the prompt.
    """
    since = time.monotonic() - _REFUSED_SECONDS
    rows = [row for row in usable_backends() if ineligible_reason(row, (), now=now()) is None]
    wanted = dict.fromkeys(rows, class_types(graph))

    def check_all(since: float) -> dict[str, Checked]:
        until = check_until(_CHECK_SECONDS)
        known.update(inventory.descriptions(wanted, since=since, until=until))
        return _checks(graph, known, targets, resolved)

    known: dict[str, inventory.Descriptions] = {}
    checks = check_all(time.monotonic() - inventory.KEPT_SECONDS)
    if checks and all(check.error for check in checks.values()):
        checks = check_all(since)
    checked = [row for row in rows if row.id in checks]
    missing = _missing_files(graph, checked, known, resolved, since)
    checks |= {
        backend_id: check_prompt(
            graph, _describe(known[backend_id]), targets=targets, resolved=resolved, missing=slots
        )
        for backend_id, slots in missing.items()
    }
    accepted = [check for check in checks.values() if check.error is None]
    if accepted:
        inventory.read_behind(wanted)
        return max(accepted, key=lambda check: len(check.outputs))
    if not checks or len(checks) < len(rows):
        # A machine that is not known may execute it.
        return Checked()
    of_all = check_prompt(
        graph,
        _union(rows, known),
        targets=targets,
        resolved=resolved,
        missing=set.intersection(*(missing.get(backend_id, set()) for backend_id in checks)),
    )
    raise _refusal(graph, of_all, list(checks.values()))


def _checks(
    graph: Workflow,
    known: Mapping[str, inventory.Descriptions],
    targets: Collection[str] | None,
    resolved: Collection[Slot],
) -> dict[str, Checked]:
    """Return the answer of each machine of which all classes of the prompt are known."""
    wanted = class_types(graph)
    by_classes: dict[frozenset[tuple[str, Description | None]], Checked] = {}
    checks = {}
    for backend_id, classes in known.items():
        if classes.keys() != wanted:
            continue
        key = frozenset(classes.items())
        if key not in by_classes:
            by_classes[key] = check_prompt(
                graph, _describe(classes), targets=targets, resolved=resolved
            )
        checks[backend_id] = by_classes[key]
    return checks


def _union(rows: Iterable[Backend], known: Mapping[str, inventory.Descriptions]) -> Describe:
    """Return what all machines together describe, the newest ComfyUI first."""
    by_class: defaultdict[str, dict[Description, None]] = defaultdict(dict)
    for row in sorted(rows, key=lambda row: release_of(row.comfyui_version), reverse=True):
        for name, described in known[row.id].items():
            if described is not None:
                by_class[name][described] = None
    return {name: union([one.value for one in some]) for name, some in by_class.items()}.get


def _missing_files(
    graph: Workflow,
    rows: Sequence[Backend],
    known: Mapping[str, inventory.Descriptions],
    resolved: Collection[Slot],
    since: float,
) -> dict[str, set[Slot]]:
    """Return by machine the inputs that name files which it answers not to have."""
    named = {
        row.id: unlisted_files(graph, _describe(known[row.id]), resolved=resolved) for row in rows
    }
    missing: dict[str, set[Slot]] = {}
    values = dict.fromkeys(value for slots in named.values() for value in slots.values())
    for value in list(values)[:_MAX_FILES]:
        text, folder = split_annotated(value)
        if (path := file_path("", text)) is None:
            continue  # The machines judge it.
        for backend_id, is_there in has_file(
            [row for row in rows if value in named[row.id].values()],
            folder,
            path,
            since=since,
            within=max(check_until(_CHECK_SECONDS) - time.monotonic(), 0.0),
        ).items():
            if not is_there:
                slots = {slot for slot, other in named[backend_id].items() if other == value}
                missing.setdefault(backend_id, set()).update(slots)
    return missing


def _describe(classes: inventory.Descriptions) -> Describe:
    return {name: one.value for name, one in classes.items() if one is not None}.get


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
