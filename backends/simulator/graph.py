"""The graph of a running prompt, and the order in which ComfyUI dissolves it."""

from collections import ChainMap
from typing import Any

from backends.simulator.catalog import Catalog

Node = dict[str, Any]


def is_link(value: Any) -> bool:
    """Whether an input's value is a link [node id, slot]."""
    return (
        isinstance(value, list)
        and len(value) == 2
        and isinstance(value[0], str)
        and isinstance(value[1], int | float)
    )


class Graph:
    """A prompt's nodes, and those that node expansion adds while it runs."""

    def __init__(self, prompt: dict[str, Node]) -> None:
        self.prompt = prompt
        self.nodes = ChainMap[str, Node]({}, prompt)
        self.parents: dict[str, str] = {}  # of an added node: the node that added it

    def add(self, node_id: str, node: Node, parent: str) -> None:
        self.nodes[node_id] = node
        self.parents[node_id] = parent

    def real(self, node_id: str) -> str:
        """The node of the prompt itself that this one belongs to; also the one displayed."""
        while node_id in self.parents:
            node_id = self.parents[node_id]
        return node_id


class ExecutionOrder:
    """The nodes still to run: those that outputs need and no cache has."""

    def __init__(self, graph: Graph, catalog: Catalog, is_cached: Any) -> None:
        self._graph = graph
        self._catalog = catalog
        self._is_cached = is_cached
        self._blockers: dict[str, int] = {}  # pending node: how many nodes it waits for
        self._blocking: dict[str, dict[str, None]] = {}  # node: who waits for it, in order

    def __bool__(self) -> bool:
        return bool(self._blockers)

    def add(self, node_id: str) -> None:
        """Put a node and all it needs on the list, last-found first, as ComfyUI does."""
        stack = [node_id]
        links: list[tuple[str, str]] = []
        while stack:
            current = stack.pop()
            if current in self._blockers:
                continue
            self._blockers[current] = 0
            self._blocking[current] = {}
            for value in self._graph.nodes[current]["inputs"].values():
                if is_link(value) and not self._is_cached(value[0]):
                    stack.append(value[0])
                    links.append((value[0], current))
        for source, target in links:
            self.block(source, target)

    def block(self, source: str, target: str) -> None:
        """Make `target` wait for `source`, which is put on the list if it isn't cached."""
        if self._is_cached(source):
            return
        self.add(source)
        if target not in self._blocking[source]:
            self._blocking[source][target] = None
            self._blockers[target] += 1

    def next(self) -> str | None:
        """The node to run now; None if what is left waits for itself."""
        ready = [node_id for node_id, count in self._blockers.items() if count == 0]
        return min(ready, key=self._links_to_output, default=None)

    def left(self) -> list[str]:
        return list(self._blockers)

    def done(self, node_id: str) -> None:
        del self._blockers[node_id]
        for waiting in self._blocking.pop(node_id):
            self._blockers[waiting] -= 1

    def _links_to_output(self, node_id: str) -> int:
        """The number of links from a node to the next output, or 3 if there are more than two."""
        targets = [node_id]
        for links in range(3):
            if any(self._catalog.is_output(self._graph.nodes[t]["class_type"]) for t in targets):
                return links
            targets = [waiting for target in targets for waiting in self._blocking[target]]
        return 3
