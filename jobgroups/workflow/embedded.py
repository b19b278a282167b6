"""The editor's workflow that ComfyUI writes into pictures, with the values that a job was sent.
Pure.

The editor's format has values by their place in a node. Each value has a mark of its place while
the workflow is converted, so that the inputs of the result show which widget each of them comes
from.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Final

from jobgroups.workflow.graph import Workflow

_FIELDS: Final = ("widgets_values", "widgets_values_named")


class _Mark:
    plain: ClassVar[type]
    #: A graph, 0 for the workflow itself, then its subgraphs; a node in it; a field of the node; an
    #: index or key in that; and what the conversion made of the value, if that is another one.
    place: tuple[Any, ...]


class _Text(_Mark, str):
    plain = str


class _Integer(_Mark, int):
    plain = int


class _Number(_Mark, float):
    plain = float


class _Flag(_Mark, int):
    plain = bool

    def __str__(self) -> str:
        return str(bool(self))


_KINDS: Final[Mapping[type, type[Any]]] = {
    marked_type.plain: marked_type for marked_type in (_Text, _Integer, _Number, _Flag)
}


def _mark(value: Any, *place: Any) -> Any:
    if (kind := _KINDS.get(type(value))) is None:
        return value
    marked_value = kind(value)
    marked_value.place = place
    return marked_value


def with_mark_of(value: Any, text: str) -> str:
    """Return a text that the conversion made of a value, with the mark of the value's place."""
    others = () if text == value else (text,)
    marked_text: str = _mark(text, *value.place, *others) if isinstance(value, _Mark) else text
    return marked_text


def mark_values(editor: Mapping[str, Any]) -> dict[str, Any]:
    """Return a workflow of the editor's format whose values have marks; it shares all else."""
    first, *others = [
        {**graph, "nodes": _nodes(number, graph)} for number, graph in enumerate(_graphs(editor))
    ]
    if others:
        first["definitions"] = {**editor["definitions"], "subgraphs": others}
    return first


def _graphs(editor: Mapping[str, Any]) -> list[Any]:
    definitions = editor.get("definitions")
    subgraphs = definitions.get("subgraphs") if isinstance(definitions, dict) else None
    return [
        editor,
        *(
            subgraph
            for subgraph in (subgraphs if isinstance(subgraphs, list) else ())
            if isinstance(subgraph, dict)
        ),
    ]


def _nodes(number: int, graph: Mapping[str, Any]) -> Any:
    nodes = graph.get("nodes")
    if not isinstance(nodes, list):
        return nodes
    return [
        {
            **node,
            **{
                field: _values(node[field], number, at, field) for field in _FIELDS if field in node
            },
        }
        if isinstance(node, dict)
        else node
        for at, node in enumerate(nodes)
    ]


def _values(values: Any, *place: Any) -> Any:
    if isinstance(values, dict):
        return {key: _mark(value, *place, key) for key, value in values.items()}
    if isinstance(values, list):
        return [_mark(value, *place, index) for index, value in enumerate(values)]
    return values


def take_places(converted: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Remove the marks from a converted workflow, and return the places that they show, by node and
    input.
    """
    places: dict[str, dict[str, Any]] = {}
    for node_id, node in converted.items():
        for name, value in node["inputs"].items():
            if isinstance(value, _Mark):
                places.setdefault(node_id, {})[name] = value.place
                node["inputs"][name] = value.plain(value)
    return places


def fill_values(
    editor: dict[str, Any], places: Mapping[str, Mapping[str, Any]], sent: Workflow
) -> dict[str, Any]:
    """Write the values of a sent workflow into the editor's workflow where they are others than the
    converted ones.

    A widget that stands for several inputs, such as one in a subgraph that is used twice, is
    written only if all of them were sent with one value.
    """
    values: dict[tuple[Any, ...], list[tuple[str, Any]]] = {}
    for node_id, inputs in places.items():
        for name, place in inputs.items():
            values.setdefault(tuple(place), []).append((name, sent[node_id]["inputs"].get(name)))
    graphs = _graphs(editor)
    for (number, at, field, key, *converted), given in values.items():
        node, (name, value) = graphs[number]["nodes"][at], given[0]
        was = node[field][key]
        if any(other != value for _, other in given) or value == (
            converted[0] if converted else was
        ):
            continue
        node[field][key] = value
        named = node.get("widgets_values_named")
        if isinstance(named, dict) and named.get(name) == was:
            named[name] = value
    return editor
