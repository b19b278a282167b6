"""Percent of a whole workflow, from ComfyUI's node events: the finished weight divided by the total
weight.

A node's weight is the steps that it will report, if the graph contains them, else 1.

Only ComfyUI knows which nodes it will run. All nodes count except cached ones, and except nodes
without links in a graph that has links (left over in the editor) until a frame names them.
Therefore the percentage may end early; it is 100 when the child has completed.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from itertools import accumulate
from math import fsum
from typing import Final, NamedTuple

from backends.comfyui.protocol import NodeState
from backends.comfyui.texts import one_line
from jobgroups.workflow.graph import (
    Node,
    Workflow,
    input_names_by_source,
    is_integer,
    linked_node,
    links,
    only_integer_input,
)

#: The maximum before the result is stored: only the history decides about success.
CEILING: Final = 99.9
#: The part of a node that its expanded nodes can fill: their number is not known in advance.
EXPANSION_CEILING: Final = 0.95
#: The maximum weight, so that an absurd ``steps`` cannot hide all other nodes.
MAX_WEIGHT: Final = 10_000

_SIGMAS: Final = "sigmas"
_ROUNDING: Final = 0.01  #: Percent: stored percentages have two decimals.


class _Report(NamedTuple):
    """The last ``value`` and ``max`` of a node; 0 of 1 without any."""

    value: float = 0
    maximum: float = 1

    @property
    def fraction(self) -> float:
        """Between 0 and 1; 0 for invalid numbers (a maximum of 0, NaN)."""
        if not self.maximum > 0 or not self.value > 0:
            return 0.0
        return 1.0 if self.value >= self.maximum else self.value / self.maximum


class ProgressTracker:
    """The progress of one attempt, from the frames of its prompt.

    The methods take node ids of frames. The id of an expanded node (``1.0.0.1``) counts for the
    node of the workflow that it belongs to (``1``).
    """

    def __init__(self, workflow: Workflow) -> None:
        """Start at 0 percent with the workflow that is sent to ComfyUI."""
        self._classes = {node_id: str(node["class_type"]) for node_id, node in workflow.items()}
        self._weights = node_weights(workflow)
        self._counted = _counted_nodes(workflow)
        self._cached: set[str] = set()
        self._fractions: dict[str, float] = {}
        self._reports: dict[str, _Report] = {}
        self._owners: dict[str, str] = {}
        self._current: str | None = None
        self._activity = ""
        self._has_state_frames = False
        self._percent = 0.0
        self._is_stale = False  #: Whether a frame arrived since the percentage was computed.

    @property
    def percent(self) -> float:
        """Percent done, 0.0 … 99.9, with two decimals. It never decreases."""
        if self._is_stale:
            self._is_stale = False
            self._percent = max(self._percent, self._compute())
        return self._percent

    @property
    def current_step(self) -> str | None:
        """The class of the current node, with what it does if ComfyUI says so; None before the
        first frame.
        """
        owner = self._owner(self._current) if self._current is not None else None
        if owner is None:
            return None
        return (
            f"{self._classes[owner]}: {self._activity}"[:200]
            if self._activity
            else self._classes[owner]
        )

    @property
    def steps_completed(self) -> int:
        """Completed steps of the current node; 0 or 1 if it reports none."""
        report = self._current_report()
        return min(_whole(report.value), self.steps_total)

    @property
    def steps_total(self) -> int:
        """Total steps of the current node; 1 if it reports none."""
        return max(1, _whole(self._current_report().maximum))

    def cached(self, nodes: Iterable[str]) -> None:
        """Exclude nodes that will not run (``execution_cached``)."""
        self._cached.update(nodes)
        self._is_stale = True

    def executing(self, node: str | None) -> None:
        """Record that a node begins (``executing``); None, the end of the prompt, is ignored."""
        if node is None or self._owner(node) is None:
            return
        self._finish_previous(node)
        self._current = node
        self._count(node)
        self._is_stale = True

    def progress(self, node: str, value: float, maximum: float) -> None:
        """Record the steps of a node (``progress``)."""
        if self._owner(node) is None:
            return
        self._current = node
        self._report(node, _Report(value, maximum))
        self._is_stale = True

    def progress_state(self, states: Mapping[str, NodeState]) -> None:
        """Record all started nodes of the prompt (``progress_state``).

        The frame is cumulative: after a reconnect the first one contains everything that was
        missed.
        """
        self._has_state_frames = True
        for node, state in states.items():
            if state.display_node_id in self._classes:
                self._owners[node] = state.display_node_id
            if self._owner(node) is not None:
                self._report(node, _Report(state.value, state.max))
                if state.state == "finished":
                    self._raise(node, 1.0, stepwise=False)
        self._current = self._choose_current(states)
        current = states.get(self._current or "")
        activity = None if current is None else current.activity
        self._activity = one_line(activity) if isinstance(activity, str) else ""
        self._is_stale = True

    def executed(self, node: str) -> None:
        """Record that a node has finished (``executed``, which only some nodes send)."""
        if self._owner(node) is None:
            return
        self._current = node
        self._count(node)
        self._raise(node, 1.0, stepwise=False)
        self._reports.setdefault(node, _Report(1, 1))
        self._is_stale = True

    def _current_report(self) -> _Report:
        return self._reports.get(self._current or "", _Report())

    def _owner(self, node: str) -> str | None:
        """Return the workflow's node that ``node`` belongs to, or None."""
        if node in self._classes:
            return node
        if node in self._owners:
            return self._owners[node]
        # Without a progress_state that names it: 1.0.0.1 belongs to 1.
        prefix = node
        while "." in prefix:
            prefix = prefix.rpartition(".")[0]
            if prefix in self._classes:
                return prefix
        return None

    def _choose_current(self, states: Mapping[str, NodeState]) -> str | None:
        """Return the current node while it runs, else the last running one, else the last one."""
        known = [node for node in states if self._owner(node) is not None]
        running = [node for node in known if states[node].state == "running"]
        if running:
            return self._current if self._current in running else running[-1]
        return self._current or next(reversed(known), None)

    def _finish_previous(self, node: str) -> None:
        """Mark the previous node as finished, if it runs one after the other: without
        ``progress_state`` frames.
        """
        previous = self._owner(self._current) if self._current is not None else None
        if self._has_state_frames or previous is None or previous == self._owner(node):
            return
        self._fractions[previous] = 1.0

    def _count(self, node: str) -> str | None:
        """Count the workflow's node that ``node`` belongs to from now on, and return it."""
        owner = self._owner(node)
        if owner is not None:
            self._counted.add(owner)
        return owner

    def _report(self, node: str, report: _Report) -> None:
        self._reports[node] = report
        self._raise(node, report.fraction, stepwise=report.maximum > 1)

    def _raise(self, node: str, fraction: float, *, stepwise: bool) -> None:
        """Raise the finished part of the workflow's node; of its expanded nodes, those that report
        steps count.
        """
        owner = self._count(node)
        if owner is None:
            return
        if owner != node:
            fraction = min(fraction, EXPANSION_CEILING) if stepwise else 0.0
        self._fractions[owner] = max(fraction, self._fractions.get(owner, 0.0))

    def _compute(self) -> float:
        nodes = self._counted - self._cached
        total = sum(self._weights[node] for node in nodes)
        done = fsum(self._weights[node] * self._fractions.get(node, 0.0) for node in nodes)
        return min(round(100.0 * done / total, 2), CEILING) if total else CEILING


def _counted_nodes(workflow: Workflow) -> set[str]:
    linked = {
        end
        for node_id, _, source in links(workflow)
        if source in workflow
        for end in (node_id, source)
    }
    return linked or set(workflow)


class Position(NamedTuple):
    """How far a prompt is, in nodes."""

    done: int
    total: int
    current: str | None


def position(workflow: Workflow, percent: float, current_step: str | None) -> Position:
    """Return the finished nodes and the current one that a stored percentage and step stand for.

    The nodes are taken in an order in which ComfyUI can execute them, each with its weight. So the
    result is about right if ComfyUI took another order or had some of them cached.
    """
    weights, counted = node_weights(workflow), _counted_nodes(workflow)
    sources: dict[str, set[str]] = {node_id: set() for node_id in workflow}
    for node_id, _, source in links(workflow):
        if source in workflow:
            sources[node_id].add(source)
    try:
        order = [
            node_id for node_id in TopologicalSorter(sources).static_order() if node_id in counted
        ]
    except CycleError:
        order = [node_id for node_id in workflow if node_id in counted]
    ends = list(accumulate(weights[node_id] for node_id in order))
    done = bisect_right(ends, ends[-1] * (percent + _ROUNDING) / 100)
    of_step = [
        node_id
        for node_id in (*order[done:], *reversed(order[:done]))
        if f"{current_step}: ".startswith(f"{workflow[node_id]['class_type']}: ")
    ]
    return Position(done, len(order), of_step[0] if of_step else None)


def node_weights(workflow: Workflow) -> dict[str, int]:
    """Return the expected steps of each node, at least 1.

    ``steps`` may be a literal or a link to a node with one integer. A sampler that reads ``sigmas``
    has the steps of the scheduler at the other end of the chain, which itself takes no time.
    """
    read_as = input_names_by_source(workflow)
    return {
        node_id: 1 if _SIGMAS in read_as.get(node_id, ()) else _weight(workflow, node)
        for node_id, node in workflow.items()
    }


def _weight(workflow: Workflow, node: Node) -> int:
    """Return the node's own steps, else those of the nearest node in its chain of sigmas."""
    candidates = (_steps(workflow, each) for each in (node, *_sigmas_chain(workflow, node)))
    steps = next((steps for steps in candidates if steps is not None), 1)
    return min(max(steps, 1), MAX_WEIGHT)


def _sigmas_chain(workflow: Workflow, node: Node) -> Iterator[Node]:
    """Yield the nodes that ``sigmas`` come from, nearest first, until a loop."""
    seen: set[str] = set()
    source = linked_node(node["inputs"].get(_SIGMAS))
    while source is not None and source in workflow and source not in seen:
        seen.add(source)
        yield workflow[source]
        source = linked_node(workflow[source]["inputs"].get(_SIGMAS))


def _steps(workflow: Workflow, node: Node) -> int | None:
    """Return the steps that a node will report, None if the graph does not contain them."""
    steps = _integer(workflow, node, "steps")
    if steps is None:
        return None
    # Of an advanced sampler.
    end = _integer(workflow, node, "end_at_step")
    start = _integer(workflow, node, "start_at_step")
    return min(steps, steps if end is None else end) - (start or 0)


def _integer(workflow: Workflow, node: Node, name: str) -> int | None:
    """Return an input's integer, its own or that of a linked node, or None."""
    value = node["inputs"].get(name)
    source = linked_node(value)
    if source is not None and source in workflow:
        held = only_integer_input(workflow[source])
        value = workflow[source]["inputs"][held] if held is not None else None
    return int(value) if value is not None and is_integer(value) else None


def _whole(value: float) -> int:
    """Return a frame's number as a count; 0 for an invalid one (infinite, NaN, negative)."""
    try:
        return max(0, int(value))
    except (ValueError, OverflowError):
        return 0
