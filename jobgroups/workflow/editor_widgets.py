"""The widgets of a node in ComfyUI's editor, and their values in a workflow of the editor's format.
Pure.

``widgets_values`` is a list without names. So the widgets must be laid out in the order in which
the editor adds them, also those that are not sent to ComfyUI, such as the choice beside a seed.
"""

from collections import deque
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from backends.node_classes import COMBO, NodeClass, NodeInput

MISSING: Final = object()  #: No value: the input is not sent.

#: First values of widgets by kind. A kind that is not here is a socket.
_DEFAULTS: Final[Mapping[str, Any]] = {
    **dict.fromkeys(("INT", "FLOAT"), 0),
    **dict.fromkeys(("STRING", "MARKDOWN", "TEXTAREA"), ""),
    **dict.fromkeys((COMBO, "COMFY_DYNAMICCOMBO_V3", "PAINTER", "RESOLUTION_PREVIEW"), MISSING),
    "BOOLEAN": False,
    "COLOR": "#000000",
    "BOUNDING_BOX": {"x": 0, "y": 0, "width": 512, "height": 512},
    "CURVE": {"points": [[0, 0], [1, 1]], "interpolation": "monotone_cubic"},
    "RANGE": {"min": 0, "max": 1},
    "COLORS": [],
    "BOUNDING_BOXES": [],
    "IMAGECOMPARE": ["", ""],
}
#: Kinds whose values the editor makes in the browser: a rendered scene, a photograph, a recording.
RENDERED: Final = frozenset(
    {"LOAD_3D", "LOAD_3D_ADVANCED", "WEBCAM", "AUDIO_RECORD", "COMPOSITOR", "VIDEO_EDIT"}
)
#: Kinds without a value in ``widgets_values``.
_UNSAVED: Final = frozenset({"IMAGECOMPARE", "RESOLUTION_PREVIEW"})
_SEEDS: Final = ("seed", "noise_seed")
#: Classes to which the editor adds a view of the result.
_PREVIEWS: Final = frozenset({"SaveGLB", "Preview3D"})


@dataclass(slots=True)
class Widget:
    """One widget of a node."""

    name: str = ""
    kind: str = ""  #: Empty: the editor's own, such as the choice beside a seed. It is not sent.
    value: Any = MISSING
    is_dynamic_prompt: bool = False


def is_widget(declared: NodeInput) -> bool:
    """Return whether the editor shows a widget for an input."""
    return declared.widget in _DEFAULTS and not declared.is_socket


def by_name(node: Mapping[str, Any], names: list[str]) -> Mapping[str, Any] | None:
    """Return the saved values of a node by name, if they were saved for other widgets than these;
    otherwise None.

    A node that was saved with another version of its class has a list of values that do not fit the
    widgets. The editor reads them all the same; newer versions of it also save the names.
    """
    named = node.get("widgets_values_named")
    if (
        not isinstance(named, dict)
        or names == [name for name in named if not name.startswith("control_")][: len(names)]
    ):
        return None
    return named


def widgets(
    class_type: str, known: NodeClass, node: Mapping[str, Any], slots: Collection[str]
) -> dict[str, Widget]:
    """Return the widgets of a node with their values, by name.

    Its ``widgets_values`` are a list, or an object by name. Some widgets exist only beside one of
    the inputs that are named in ``slots``.
    """
    saved = node.get("widgets_values")
    values = saved if isinstance(saved, list) else []
    if class_type == "CustomCombo":
        return _custom_combo(values)
    named = node.get("widgets_values_named")
    laid_out = _laid_out(known.inputs, slots, named if isinstance(named, dict) else {})
    saved = by_name(node, [widget.name for widget in laid_out if widget.kind]) or saved
    all_widgets = list(
        _laid_out(known.inputs, slots, saved if isinstance(saved, dict) else deque(values))
    )
    if class_type in _PREVIEWS:
        all_widgets.append(Widget("image", "PREVIEW_3D", ""))
    return {widget.name: widget for widget in all_widgets if widget.kind}


def saved_values(class_type: str, known: NodeClass | None, values: Mapping[str, Any]) -> list[Any]:
    """Return ``widgets_values`` of a node that has these values by name: the opposite of
    :func:`widgets`.

    The choices beside seeds are ``fixed``: the workflow stays as it was sent.
    """
    if known is None or class_type == "CustomCombo":
        return list(values.values())
    saved: list[Any] = []
    beside: Iterator[Any] = iter(())
    for widget in _laid_out(known.inputs, values, values):
        if not widget.kind:
            saved.append(next(beside, ""))
        elif widget.kind not in _UNSAVED:
            saved.append(None if widget.value is MISSING else widget.value)
            parts = widget.value if widget.kind == "BOUNDING_BOX" else None
            beside = iter(parts.values() if isinstance(parts, dict) else ("fixed",))
    return saved


def _laid_out(
    inputs: Mapping[str, NodeInput], slots: Collection[str], saved: deque[Any] | Mapping[str, Any]
) -> Iterator[Widget]:
    """Yield widgets in the editor's order. Their values are taken meanwhile: a choice decides what
    follows.
    """
    members = [
        member for name, declared in inputs.items() for member in _members(name, declared, slots)
    ]
    queue = deque(
        [*members, *((name, declared) for name, declared in inputs.items() if is_widget(declared))]
    )
    while queue:
        name, declared = queue.popleft()
        for widget in _of_input(name, declared):
            if isinstance(saved, deque):
                widget.value = (
                    saved.popleft() if saved and widget.kind not in _UNSAVED else widget.value
                )
            else:
                widget.value = saved.get(widget.name, widget.value)
            if widget.value is None and widget.kind == COMBO and declared.choices:
                widget.value = declared.choices[0]
            yield widget
            chosen = {
                f"{name}.{key}": nested
                for key, nested in declared.nested.get(str(widget.value), {}).items()
            }
            grown = [
                member for key, nested in chosen.items() for member in _members(key, nested, slots)
            ]
            queue.extendleft(
                reversed([*grown, *(entry for entry in chosen.items() if is_widget(entry[1]))])
            )


def _of_input(name: str, declared: NodeInput) -> Iterator[Widget]:
    kind, default = declared.widget, declared.default
    if declared.nested or kind == COMBO:
        default = default or next(iter(declared.nested or declared.choices or ()), MISSING)
    default = _DEFAULTS[kind] if default is None else default
    yield Widget(name, kind, default, declared.is_dynamic_prompt and "." not in name)
    has_control = (
        declared.control if declared.control is not None else kind == "INT" and name in _SEEDS
    )
    controls = {"INT": 1, "FLOAT": 1, COMBO: 2}.get(kind, 0) if has_control else 0
    yield from (Widget() for _ in range(4 if kind == "BOUNDING_BOX" else controls))


def _members(name: str, declared: NodeInput, slots: Collection[str]) -> list[tuple[str, NodeInput]]:
    """Return the members that have a widget, of an input that grows: those at the start, and those
    that are used.
    """
    member = next(iter(declared.members.values()), None)
    if member is None or len(declared.members) > 1 or not is_widget(member):
        return []
    count = max(declared.least + 1, 1)
    names = declared.names[:count] or [f"{declared.prefix}{at}" for at in range(count)]
    used = [slot for slot in slots if slot.startswith(f"{name}.")]
    return [
        (full_name, member)
        for full_name in dict.fromkeys([*(f"{name}.{short_name}" for short_name in names), *used])
    ]


def _custom_combo(values: list[Any]) -> dict[str, Widget]:
    """Return the widgets of ``CustomCombo``: its choice, the choice's index, and options that grow
    by one.
    """
    choice, options = values[0] if values else MISSING, [*values[2:]] or [""]
    options += [""] if options[-1] else []
    index = options.index(choice) if choice in options else -1
    widget_values = {"choice": choice, "index": index} | {
        f"option{at}": option for at, option in enumerate(options, 1)
    }
    return {name: Widget(name, "STRING", value) for name, value in widget_values.items()}
