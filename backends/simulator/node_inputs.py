"""What a node is called with: its declared constants and the values of its links.

ComfyUI drops an undeclared constant but passes an undeclared link on, and Python refuses the call
(ComfyUI execution.py, get_input_data). A link it can't follow brings None.
"""

from __future__ import annotations

from typing import Any

from backends.simulator.cache import NodeCache
from backends.simulator.calls import call_of
from backends.simulator.catalog import Catalog
from backends.simulator.graph import Node, is_link

_CONSTANTS = (str, int, float, dict, list)
_ATTRIBUTES = {"ImageScale": "movedim", "ImageScaleBy": "movedim"}  # the attribute that they read first
_INDEXING = ("PreviewImage", "SaveImage")  # take the first image before anything else


def gather(node: Node, catalog: Catalog, cache: NodeCache) -> dict[str, Any]:
    """A node's arguments by name, in the prompt's order.

    Raises AttributeError for a link in a hidden input, TypeError for a slot that is no integer,
    IndexError for one too far below zero; all before the node is executed.
    """
    declared = catalog.inputs(node["class_type"])
    hidden = catalog.hidden(node["class_type"])
    given = {}
    for name, value in node["inputs"].items():
        if is_link(value) and name in hidden:
            raise AttributeError("'str' object has no attribute 'get'")
        if is_link(value) or name in declared:
            given[name] = resolve(value, cache)
    return given


def resolve(value: Any, cache: NodeCache) -> Any:
    """What a link brings, or the constant itself. Raises TypeError; IndexError."""
    if not is_link(value):
        return value
    source, slot = value
    outputs = cache.output(source)
    if outputs is None or slot >= len(outputs):
        return None
    return list(outputs)[slot]  # a list: its errors are the ones that ComfyUI reports


def refuse_undeclared(class_type: str, given: dict[str, Any], catalog: Catalog) -> None:
    """Raise the TypeError of a call with an argument that the class's function doesn't take."""
    declared = catalog.inputs(class_type)
    call = call_of(class_type)
    if (name := call.refused(name for name in given if name not in declared)) is not None:
        raise TypeError(f"{call.function}() got an unexpected keyword argument '{name}'")


def refuse_constants(class_type: str, given: dict[str, Any], catalog: Catalog) -> None:
    """Raise what a node raises that gets a constant, which validation lets pass, for an IMAGE."""
    if class_type.startswith("Test") or class_type in _INDEXING:
        return
    attribute = _ATTRIBUTES.get(class_type, "shape")
    for name, declared in catalog.inputs(class_type).items():
        if declared.type == "IMAGE" and isinstance(given.get(name), _CONSTANTS):
            kind = type(given[name]).__name__
            raise AttributeError(f"'{kind}' object has no attribute '{attribute}'")


def shown(value: Any) -> Any:
    """An argument as an error report shows it."""
    return value if value is None or isinstance(value, int | float | bool | str) else str(value)
