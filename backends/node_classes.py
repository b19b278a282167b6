"""Node classes as a ComfyUI describes them in ``/object_info/{class}``. Pure.

Only what decides whether a value is refused, and which widgets the editor shows, is kept. What has
another form than ComfyUI's is left out, so that it never speaks against a backend
(comfyui-protocol.md, "Descriptions of node classes").
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

COMBO: Final = "COMBO"  #: The type of an input with a list of choices.
#: Types of newer versions that stand for several inputs (``format.codec``), or for none.
_DYNAMIC: Final = "COMFY_"
_CORE_MODULES: Final = ("nodes", "comfy_extras")
_CHOICES_OF_INPUTS: Final = "COMFY_DYNAMICCOMBO_V3"
_AUTOGROW: Final = "COMFY_AUTOGROW_V3"
_MAX_NESTED: Final = 8  #: Levels of inputs that depend on a choice.


@dataclass(frozen=True, slots=True)
class NodeInput:
    type: str  #: ``INT``, ``MODEL``, ``COMBO``.
    is_required: bool = False  #: ComfyUI refuses a node without it.
    #: Of a combo; None if the list is not in the description.
    choices: tuple[Any, ...] | None = None
    low: float | None = None  #: The smallest number; likewise ``high``.
    high: float | None = None
    is_upload: bool = False  #: Its choices are files that users upload.
    widget: str = ""  #: The kind of the editor's widget; a kind without a widget is a socket.
    default: Any = None  #: The widget's first value; None if it has none.
    is_socket: bool = False  #: ``forceInput``: the editor shows no widget.
    has_socket: bool = True  #: A link can take the place of the widget.
    #: ``control_after_generate``; None if the description does not have it.
    control: bool | None = None
    is_dynamic_prompt: bool = False  #: The editor removes comments and chooses of ``{a|b}``.
    #: Of a choice with inputs: those of each choice, by name.
    nested: Mapping[str, Mapping[str, "NodeInput"]] = field(default_factory=dict)
    #: Of an input that grows: the inputs of one member, and the names or the prefix of the members.
    members: Mapping[str, "NodeInput"] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    prefix: str = ""
    least: int = 1  #: Members that are always there.


@dataclass(frozen=True, slots=True)
class NodeClass:
    inputs: Mapping[str, NodeInput]  #: By name.
    is_output: bool  #: ComfyUI executes such a node and what it needs.
    is_core: bool  #: It is ComfyUI's own. A custom class may check its inputs by itself.
    is_partner: bool  #: It calls a partner of Comfy.org, who is paid.
    size: int  #: Characters of its choices and defaults.
    title: str = ""  #: What the editor calls it.
    outputs: tuple[tuple[str, str], ...] = ()  #: Type and name of each.


def node_class(described: Mapping[str, Any]) -> NodeClass | None:
    """Return the class of a description; None if it is not ComfyUI's."""
    declared, is_output = described.get("input"), described.get("output_node")
    if not isinstance(declared, dict) or not isinstance(is_output, bool):
        return None
    inputs = _inputs(declared)
    module = described.get("python_module")
    return NodeClass(
        inputs=inputs,
        is_output=is_output,
        is_core=isinstance(module, str) and module.partition(".")[0] in _CORE_MODULES,
        is_partner=described.get("api_node") is True,
        size=_size(inputs),
        title=title if isinstance(title := described.get("display_name"), str) else "",
        outputs=_outputs(described.get("output"), described.get("output_name")),
    )


def _outputs(types: object, names: object) -> tuple[tuple[str, str], ...]:
    kinds = [kind if isinstance(kind, str) else COMBO for kind in _list(types)]
    labels = map(str, _list(names))
    return tuple((kind, next(labels, kind)) for kind in kinds)


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _inputs(declared: object, depth: int = 0) -> Mapping[str, NodeInput]:
    if not isinstance(declared, dict) or depth > _MAX_NESTED:
        return {}
    return {
        name: _input(entry, is_required=category == "required", depth=depth)
        for category in ("required", "optional")
        if isinstance(of_category := declared.get(category), dict)
        for name, entry in of_category.items()
        if isinstance(entry, list) and entry and isinstance(entry[0], str | list)
    }


def _size(inputs: Mapping[str, NodeInput]) -> int:
    total = 0
    for entry in inputs.values():
        total += sum(
            len(str(part))
            for part in (
                *(entry.choices or ()),
                *entry.nested,
                entry.default,
                entry.names,
                entry.prefix,
            )
        )
        total += sum(map(_size, (*entry.nested.values(), entry.members)))
    return total


def _input(entry: list[Any], *, is_required: bool, depth: int) -> NodeInput:
    kind = entry[0]
    options = entry[1] if len(entry) > 1 and isinstance(entry[1], dict) else {}
    name = kind if isinstance(kind, str) else COMBO
    listed = kind if isinstance(kind, list) else options.get("options") if kind == COMBO else None
    # A remote list is read by the editor; a multiple choice has a list as its value.
    is_whole = not options.get("remote") and not options.get("multiselect")
    nested = options.get("options") if name == _CHOICES_OF_INPUTS else None
    template = options.get("template") if name == _AUTOGROW else None
    template = template if isinstance(template, dict) else {}
    names, control = template.get("names"), options.get("control_after_generate")
    return NodeInput(
        type=name,
        is_required=is_required and not name.startswith(_DYNAMIC),
        choices=tuple(listed) if is_whole and isinstance(listed, list) else None,
        low=_number(options.get("min")),
        high=_number(options.get("max")),
        is_upload=any(name.endswith("_upload") and value for name, value in options.items()),
        widget=str(options.get("widgetType") or name),
        default=options.get("default"),
        is_socket=bool(options.get("forceInput")),
        has_socket=not options.get("socketless"),
        control=None if control is None else bool(control),
        is_dynamic_prompt=options.get("dynamicPrompts") is True,
        nested={
            str(option.get("key")): _inputs(option.get("inputs"), depth + 1)
            for option in (nested if isinstance(nested, list) else ())
            if isinstance(option, dict)
        },
        members=_inputs(template.get("input"), depth + 1),
        names=tuple(map(str, names)) if isinstance(names, list) else (),
        prefix=str(template.get("prefix") or ""),
        least=least if isinstance(least := template.get("min"), int) else 1,
    )


def _number(value: object) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None
