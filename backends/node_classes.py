"""Node classes as a ComfyUI describes them in ``/object_info/{class}``. Pure.

Only what decides whether a value is refused is kept. What has another form than ComfyUI's is left out, so that it
never speaks against a backend (comfyui-protocol.md, "Descriptions of node classes").
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

COMBO: Final = "COMBO"  #: The type of an input with a list of choices.
_DYNAMIC: Final = "COMFY_"  #: Types of newer versions that stand for several inputs (``format.codec``), or for none.
_CORE_MODULES: Final = ("nodes", "comfy_extras")


@dataclass(frozen=True, slots=True)
class NodeInput:
    """One input of a node class."""

    type: str  #: ``INT``, ``MODEL``, ``COMBO``.
    is_required: bool = False  #: ComfyUI refuses a node without it.
    choices: tuple[Any, ...] | None = None  #: Of a combo; None if the list is not in the description.
    low: float | None = None  #: The smallest number; likewise ``high``.
    high: float | None = None
    is_upload: bool = False  #: Its choices are files that users upload.


@dataclass(frozen=True, slots=True)
class NodeClass:
    """A node class of a backend."""

    inputs: Mapping[str, NodeInput]  #: By name.
    is_output: bool  #: ComfyUI executes such a node and what it needs.
    is_core: bool  #: It is ComfyUI's own. A custom class may check its inputs by itself.
    is_partner: bool  #: It calls a partner of Comfy.org, who is paid.
    size: int  #: Characters of its choices.


def node_class(described: Mapping[str, Any]) -> NodeClass | None:
    """Return the class of a description; None if it is not ComfyUI's."""
    declared, is_output = described.get("input"), described.get("output_node")
    if not isinstance(declared, dict) or not isinstance(is_output, bool):
        return None
    inputs = {
        name: _input(entry, is_required=category == "required")
        for category in ("required", "optional")
        if isinstance(of_category := declared.get(category), dict)
        for name, entry in of_category.items()
        if isinstance(entry, list) and entry and isinstance(entry[0], str | list)
    }
    module = described.get("python_module")
    return NodeClass(
        inputs=inputs,
        is_output=is_output,
        is_core=isinstance(module, str) and module.partition(".")[0] in _CORE_MODULES,
        is_partner=described.get("api_node") is True,
        size=sum(len(str(choice)) for one in inputs.values() for choice in one.choices or ()),
    )


def _input(entry: list[Any], *, is_required: bool) -> NodeInput:
    kind = entry[0]
    options = entry[1] if len(entry) > 1 and isinstance(entry[1], dict) else {}
    listed = kind if isinstance(kind, list) else options.get("options") if kind == COMBO else None
    # A remote list is read by the editor; a multiple choice has a list as its value.
    is_whole = not options.get("remote") and not options.get("multiselect")
    return NodeInput(
        type=kind if isinstance(kind, str) else COMBO,
        is_required=is_required and not (isinstance(kind, str) and kind.startswith(_DYNAMIC)),
        choices=tuple(listed) if is_whole and isinstance(listed, list) else None,
        low=_number(options.get("min")),
        high=_number(options.get("max")),
        is_upload=any(name.endswith("_upload") and value for name, value in options.items()),
    )


def _number(value: object) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None
