"""Finds the inputs of a workflow that take a child's seed."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from jobgroups.workflow.graph import (
    Workflow,
    input_names_by_source,
    is_literal,
    linked_node,
    only_integer_input,
    only_linked_source,
)
from jobgroups.workflow.parameters import SEED_INPUTS
from jobgroups.workflow.validation import shown_key

NO_SEED: Final = "The workflow has no seed that can be set: all its jobs would make the same output."

#: Nodes through which a linked seed is followed; also the end of a loop of links.
MAX_CHAIN: Final = 16

#: One input of one node: (node id, name).
Slot = tuple[str, str]


@dataclass(frozen=True, slots=True)
class SeedInputs:
    """The inputs that take a seed, and warnings about seeds that cannot be set."""

    slots: tuple[Slot, ...]
    warnings: tuple[str, ...]


def find_seed_inputs(workflow: Workflow, addressed: Collection[Slot] = ()) -> SeedInputs:
    """Find every literal ``seed`` and ``noise_seed``, and the integers behind linked ones.

    A linked seed is set at its source if that node has one literal integer and only seed inputs read it,
    directly or through nodes that return one value. An addressed seed, or addressed integer of a source, stays.

    Args:
        workflow: One that ``check_workflow`` has passed.
        addressed: The inputs that addressed parameters have set.
    """
    finder = _Finder(workflow, frozenset(addressed))
    for node_id in workflow:
        finder.visit(node_id)
    slots = tuple(dict.fromkeys(finder.slots))
    warnings = finder.warnings if slots else [*finder.warnings, NO_SEED]
    return SeedInputs(slots, tuple(dict.fromkeys(warnings)))


class _Finder:
    """Collects seed inputs, node by node."""

    def __init__(self, workflow: Workflow, addressed: frozenset[Slot]) -> None:
        self._workflow = workflow
        self._addressed = addressed
        self._pinned = {node_id for node_id, name in addressed if name in SEED_INPUTS}
        self._shared = _shared_nodes(workflow)
        self.slots: list[Slot] = []
        self.warnings: list[str] = []

    def visit(self, node_id: str) -> None:
        """Collect the seed inputs of one node."""
        if node_id in self._pinned:
            return
        inputs = self._workflow[node_id]["inputs"]
        for name in SEED_INPUTS:
            if name not in inputs:
                continue
            if is_literal(inputs[name]):
                self.slots.append((node_id, name))
            else:
                self._follow(node_id, linked_node(inputs[name]))

    def _follow(self, node_id: str, source_id: str | None) -> None:
        """Collect the integer behind a linked seed, or warn that the seed stays unchanged."""
        linked_to = source_id
        for _ in range(MAX_CHAIN):
            source = self._workflow.get(source_id) if source_id is not None else None
            if source is None or source_id is None:
                return  # A link to a missing node: the check of the graph reports it.
            if any(is_literal(source["inputs"].get(name, [])) for name in SEED_INPUTS):
                return  # The source has its own seed, which is set or addressed.
            name = only_integer_input(source)
            if source_id in self._shared or (name is None and only_linked_source(source) is None):
                break
            if name is not None:
                if (source_id, name) not in self._addressed:
                    self.slots.append((source_id, name))
                return
            source_id = only_linked_source(source)
        self.warnings.append(_unsettable(node_id, linked_to or ""))


def _shared_nodes(workflow: Workflow) -> set[str]:
    """Return the nodes whose value reaches an input other than a seed: they must stay unchanged."""
    # A node that no other node reads uses the value itself, such as a preview.
    passing = {
        node_id: source
        for node_id in input_names_by_source(workflow)
        if node_id in workflow and (source := only_linked_source(workflow[node_id])) is not None
    }
    shared: set[str] = set()
    for node_id, node in workflow.items():
        for name, value in node["inputs"].items():
            source = None if name in SEED_INPUTS or node_id in passing else linked_node(value)
            while source is not None and source not in shared:
                shared.add(source)
                source = passing.get(source)
    return shared


def _unsettable(node_id: str, source_id: str) -> str:
    return (
        f"The seed of node {shown_key(node_id)} is left as it is: it comes from node"
        f" {shown_key(source_id)}, which has no single integer that only seeds read."
    )
