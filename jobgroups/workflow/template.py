"""From what was submitted to the workflow of one child: parameters once, then a seed each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from jobgroups.workflow.graph import Draft, Workflow
from jobgroups.workflow.parameters import apply_parameters
from jobgroups.workflow.seed_inputs import Slot, find_seed_places

#: More warnings than a person reads help nobody, and a request may cause any number of them.
MAX_WARNINGS: Final = 50


@dataclass(frozen=True, slots=True)
class Prepared:
    """A group's workflow with its parameters set, and the places that wait for a child's seed."""

    workflow: dict[str, Any]
    warnings: tuple[str, ...]
    seed_slots: tuple[Slot, ...]
    #: Parameters that set nothing, and why.
    ignored: Mapping[str, str]


def prepare(workflow: Workflow, parameters: object = None) -> Prepared:
    """Apply ``parameters`` and find the places of the seed. Changes nothing it is given.

    Args:
        workflow: One that ``check_workflow`` has passed.
        parameters: The request's ``parameters``; None for none.

    Raises:
        ParameterInvalid: Not an object; an ambiguous title; a value of the wrong kind.
    """
    draft = Draft(workflow)
    applied = apply_parameters(draft, parameters)
    places = find_seed_places(draft.nodes, applied.addressed)
    warnings = _limited([*applied.warnings, *places.warnings])
    return Prepared(draft.nodes, warnings, places.slots, applied.ignored)


def with_seed(prepared: Prepared, seed: int) -> dict[str, Any]:
    """Return the workflow of the child that has ``seed``; it shares all other nodes' objects."""
    draft = Draft(prepared.workflow)
    for node_id, name in prepared.seed_slots:
        draft.set(node_id, name, seed)
    return draft.nodes


def _limited(warnings: list[str]) -> tuple[str, ...]:
    if len(warnings) <= MAX_WARNINGS:
        return tuple(warnings)
    more = len(warnings) - MAX_WARNINGS
    return (*warnings[:MAX_WARNINGS], f"… and {more} more warning{'s' if more > 1 else ''}.")
