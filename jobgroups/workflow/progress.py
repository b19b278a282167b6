"""How far a whole child is, from what ComfyUI tells of its nodes.

Each node of the workflow has a weight: the steps it will report, where that can be read from the
graph, else 1. The child's percentage is the weight done of the weight to be done, and never goes
back, whatever order or repetition the frames come in.

Which nodes ComfyUI will run is not told: only it knows which classes are outputs. All nodes count
but two kinds: cached ones, and those without any link in a graph that has links (left over in the
editor), until they show a sign of life. A bar may therefore end early; it jumps to 100 at the end.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from math import fsum
from typing import Final, NamedTuple, Protocol

from jobgroups.workflow.graph import (
    Node,
    Workflow,
    input_names_by_source,
    is_integer,
    linked_node,
    only_integer_input,
)

#: What is shown at most before the outcome is stored: success is history's to tell.
CEILING: Final = 99.9
#: How much of a node the nodes it expands to can fill: nobody knows how many are still to come.
EXPANSION_CEILING: Final = 0.95
#: No node weighs more, so that a nonsense ``steps`` cannot hide all other nodes.
MAX_WEIGHT: Final = 10_000

_SIGMAS: Final = "sigmas"
_FINISHED: Final = "finished"
_RUNNING: Final = "running"


class NodeState(Protocol):
    """One node inside a ``progress_state`` frame (comfyui-protocol.md, "WebSocket")."""

    @property
    def value(self) -> float: ...
    @property
    def max(self) -> float: ...
    @property
    def state(self) -> str: ...
    @property
    def display_node_id(self) -> str | None: ...


class _Report(NamedTuple):
    """The last ``value`` of ``max`` that a node told; 0 of 1 where it told none."""

    value: float = 0
    maximum: float = 1

    @property
    def fraction(self) -> float:
        """Between 0 and 1; 0 for nonsense (a maximum of 0, NaN)."""
        if not self.maximum > 0 or not self.value > 0:
            return 0.0
        return 1.0 if self.value >= self.maximum else self.value / self.maximum


class ProgressTracker:
    """The progress of one attempt of a child. Feed it frames of that attempt's prompt only.

    Args of its methods are node ids as frames have them: also those of nodes that another node
    expands to (``1.0.0.1``), which count towards the node of the workflow they stand for (``1``).
    """

    def __init__(self, workflow: Workflow) -> None:
        """Start at 0 percent with the workflow as it is sent to ComfyUI."""
        self._classes = {node_id: str(node["class_type"]) for node_id, node in workflow.items()}
        self._weights = node_weights(workflow)
        self._counted = _linked_nodes(workflow) or set(workflow)
        self._cached: set[str] = set()
        self._fractions: dict[str, float] = {}
        self._reports: dict[str, _Report] = {}
        self._owners: dict[str, str] = {}
        self._current: str | None = None
        self._told_by_state = False
        self._percent = 0.0
        #: Whether something was heard that the percentage does not hold yet.
        self._heard = False

    @property
    def percent(self) -> float:
        """Percent done, 0.0 … 99.9, with two decimals. It never decreases."""
        if self._heard:
            self._heard = False
            self._percent = max(self._percent, self._reckoned())
        return self._percent

    @property
    def current_step(self) -> str | None:
        """The class of the last node heard of, None before the first."""
        owner = self._owner(self._current) if self._current is not None else None
        return self._classes[owner] if owner is not None else None

    @property
    def steps_completed(self) -> int:
        """Steps of the last node heard of; 0 or 1 for one that reports none."""
        report = self._current_report()
        return min(_whole(report.value), self.steps_total)

    @property
    def steps_total(self) -> int:
        """All steps of the last node heard of; 1 for one that reports none."""
        return max(1, _whole(self._current_report().maximum))

    def cached(self, nodes: Iterable[str]) -> None:
        """Leave out nodes that will not run (``execution_cached``)."""
        self._cached.update(nodes)
        self._heard = True

    def executing(self, node: str | None) -> None:
        """Note that a node begins (``executing``); None, the end of the prompt, says nothing."""
        if node is None or self._owner(node) is None:
            return
        self._finish_previous(node)
        self._current = node
        self._see(node)
        self._heard = True

    def progress(self, node: str, value: float, maximum: float) -> None:
        """Note the steps that a node reports (``progress``)."""
        if self._owner(node) is None:
            return
        self._current = node
        self._report(node, _Report(value, maximum))
        self._heard = True

    def progress_state(self, states: Mapping[str, NodeState]) -> None:
        """Note all nodes of the prompt that are not pending any more (``progress_state``).

        It is cumulative: after a reconnect the first one makes up for all that was missed.
        """
        self._told_by_state = True
        for node, state in states.items():
            self._learn_owner(node, state.display_node_id)
            if self._owner(node) is not None:
                self._report(node, _Report(state.value, state.max))
                if state.state == _FINISHED:
                    self._finish(node)
        self._current = self._choose_current(states)
        self._heard = True

    def executed(self, node: str) -> None:
        """Note that a node has finished (``executed``, which only some nodes send)."""
        if self._owner(node) is None:
            return
        self._current = node
        self._see(node)
        self._finish(node)
        if node not in self._reports:
            self._reports[node] = _Report(1, 1)
        self._heard = True

    def _current_report(self) -> _Report:
        return self._reports.get(self._current or "", _Report())

    def _owner(self, node: str) -> str | None:
        """Return the node of the workflow that ``node`` stands for, None if there is none.

        The prefixes serve where no ``progress_state`` told it: ``1.0.0.1`` belongs to ``1``.
        """
        if node in self._classes:
            return node
        if node in self._owners:
            return self._owners[node]
        prefix = node
        while "." in prefix:
            prefix = prefix.rpartition(".")[0]
            if prefix in self._classes:
                return prefix
        return None

    def _learn_owner(self, node: str, display_node: str | None) -> None:
        if display_node is not None and display_node in self._classes:
            self._owners[node] = display_node

    def _choose_current(self, states: Mapping[str, NodeState]) -> str | None:
        """Keep the current node while it runs; else take the last that runs, or is known at all."""
        known = [node for node in states if self._owner(node) is not None]
        running = [node for node in known if states[node].state == _RUNNING]
        if running:
            return self._current if self._current in running else running[-1]
        return self._current or next(reversed(known), None)

    def _finish_previous(self, node: str) -> None:
        """Take the node before for finished, where nothing better tells.

        A ComfyUI that sends ``progress_state`` says itself when a node ends, and may run several
        at once; older ones send none and run one after the other.
        """
        previous = self._owner(self._current) if self._current is not None else None
        if self._told_by_state or previous is None or previous == self._owner(node):
            return
        self._fractions[previous] = 1.0

    def _see(self, node: str) -> str | None:
        """Count the workflow's node behind ``node`` from now on, and return it."""
        owner = self._owner(node)
        if owner is not None:
            self._counted.add(owner)
        return owner

    def _report(self, node: str, report: _Report) -> None:
        self._reports[node] = report
        self._raise(node, report.fraction, stepwise=report.maximum > 1)

    def _finish(self, node: str) -> None:
        self._raise(node, 1.0, stepwise=False)

    def _raise(self, node: str, fraction: float, *, stepwise: bool) -> None:
        """Raise the done part of the workflow's node behind ``node``, never lower it.

        Of the nodes it expands to only those that report steps say anything of the whole.
        """
        owner = self._see(node)
        if owner is None:
            return
        if owner != node:
            fraction = min(fraction, EXPANSION_CEILING) if stepwise else 0.0
        self._fractions[owner] = max(fraction, self._fractions.get(owner, 0.0))

    def _reckoned(self) -> float:
        nodes = self._counted - self._cached
        total = sum(self._weights[node] for node in nodes)
        done = fsum(self._weights[node] * self._fractions.get(node, 0.0) for node in nodes)
        return min(round(100.0 * done / total, 2), CEILING) if total else CEILING


def node_weights(workflow: Workflow) -> dict[str, int]:
    """Return each node's share of the work, in steps it is expected to report; at least 1.

    ``steps`` may be a literal or a link to a node with one integer. Samplers that read ``sigmas``
    have the steps of the scheduler at the chain's other end, which itself takes no time.
    """
    read_as = input_names_by_source(workflow)
    return {
        node_id: 1 if _SIGMAS in read_as.get(node_id, ()) else _weight(workflow, node)
        for node_id, node in workflow.items()
    }


def _weight(workflow: Workflow, node: Node) -> int:
    """Return the node's own steps, else those of the nearest node up its chain of sigmas."""
    told = (_steps(workflow, each) for each in (node, *_sigmas_chain(workflow, node)))
    steps = next((steps for steps in told if steps is not None), 1)
    return min(max(steps, 1), MAX_WEIGHT)


def _sigmas_chain(workflow: Workflow, node: Node) -> Iterator[Node]:
    """Yield the nodes that ``sigmas`` come from, nearest first; a loop ends it."""
    seen: set[str] = set()
    source = linked_node(node["inputs"].get(_SIGMAS))
    while source is not None and source in workflow and source not in seen:
        seen.add(source)
        yield workflow[source]
        source = linked_node(workflow[source]["inputs"].get(_SIGMAS))


def _steps(workflow: Workflow, node: Node) -> int | None:
    """Return the steps a node will report, None if the graph does not say.

    An advanced sampler runs those from ``start_at_step`` up to ``end_at_step`` only.
    """
    steps = _integer(workflow, node, "steps")
    if steps is None:
        return None
    end = _integer(workflow, node, "end_at_step")
    start = _integer(workflow, node, "start_at_step")
    return min(steps, steps if end is None else end) - (start or 0)


def _integer(workflow: Workflow, node: Node, name: str) -> int | None:
    """Return an input's integer, also one that a linked node holds; None if there is none."""
    value = node["inputs"].get(name)
    source = linked_node(value)
    if source is not None and source in workflow:
        held = only_integer_input(workflow[source])
        value = workflow[source]["inputs"][held] if held is not None else None
    return int(value) if value is not None and is_integer(value) else None


def _linked_nodes(workflow: Workflow) -> set[str]:
    """Return the nodes that read another one or are read by one."""
    read = {node_id for node_id in input_names_by_source(workflow) if node_id in workflow}
    reading = {
        node_id
        for node_id, node in workflow.items()
        if any(linked_node(value) in workflow for value in node["inputs"].values())
    }
    return read | reading


def _whole(value: float) -> int:
    """Return a frame's number as a count; 0 for nonsense (infinite, NaN, negative)."""
    try:
        return max(0, int(value))
    except (ValueError, OverflowError):
        return 0
