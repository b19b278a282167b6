"""Finds the inputs of a workflow that take a child's seed."""

from collections.abc import Collection
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

NO_SEED: Final = (
    "The workflow has no seed that can be set: all its jobs would make the same output."
)

#: Nodes through which a linked seed is followed; also the end of a loop of links.
_MAX_CHAIN: Final = 16

Slot = tuple[str, str]  #: One input of one node: (node id, name).


def find_seed_inputs(
    workflow: Workflow, addressed: Collection[Slot] = ()
) -> tuple[tuple[Slot, ...], list[str]]:
    """Return each literal ``seed`` and ``noise_seed``, the integers behind links, and warnings
    about other seeds.

    A linked seed is set at its source if that node has one literal integer and only seed inputs
    read it, directly or through nodes that return one value. An input that an addressed parameter
    has set stays. The workflow has passed ``check_workflow``.
    """
    pinned = {node_id for node_id, name in addressed if name in SEED_INPUTS}
    shared = _shared_nodes(workflow)
    slots: list[Slot] = []
    warnings: list[str] = []
    for node_id, node in workflow.items():
        for name in SEED_INPUTS if node_id not in pinned else ():
            if name not in node["inputs"]:
                continue
            value = node["inputs"][name]
            source = linked_node(value)
            own_slots = (
                [(node_id, name)] if is_literal(value) else _behind(workflow, source, shared)
            )
            if own_slots is None:
                warnings.append(
                    f"The seed of node {shown_key(node_id)} is left as it is: it comes from node"
                    f" {shown_key(source or '')}, which has no single integer that only seeds read."
                )
            slots += [slot for slot in own_slots or () if slot not in addressed]
    if not slots:
        warnings.append(NO_SEED)
    return tuple(dict.fromkeys(slots)), list(dict.fromkeys(warnings))


def _behind(workflow: Workflow, source_id: str | None, shared: set[str]) -> list[Slot] | None:
    """Return the integer behind a linked seed, none if there is nothing to set; None if it cannot
    be set.
    """
    for _ in range(_MAX_CHAIN):
        source = workflow.get(source_id) if source_id is not None else None
        if source is None or source_id is None:
            return []  # A link to a missing node: the check of the graph reports it.
        if any(is_literal(source["inputs"].get(name, [])) for name in SEED_INPUTS):
            return []  # The source has its own seed, which is set or addressed.
        name, following = only_integer_input(source), only_linked_source(source)
        if source_id in shared or (name is None and following is None):
            return None
        if name is not None:
            return [(source_id, name)]
        source_id = following
    return None


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
