"""Names, durations and counts as users read them. Pure."""

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any, Final

from jobgroups.domain.failures import TAXONOMY, FailureClass

_MINUTE: Final = 60
_HOUR: Final = 3600
_DAY: Final = 86_400

_ORDINALS: Final = {1: "first", 2: "second", 3: "third", 4: "fourth", 5: "fifth"}
#: Inputs that name what a graph is built around, the most telling first.
_MODEL_INPUTS: Final = ("ckpt_name", "unet_name", "model_name")


def failure_label(failure_class: str) -> str:
    """Return a failure class as text; an unknown class unchanged."""
    try:
        return TAXONOMY[FailureClass(failure_class)].label
    except ValueError:
        return failure_class or "failed"


def sentence(text: str) -> str:
    """Return a text with exactly one full stop at its end; other closing marks stay."""
    text = text.rstrip()
    if text.endswith(("!", "?", "…")):
        return text
    return f"{text.rstrip('.')}."


def clock_time(moment: dt.datetime, now: dt.datetime) -> str:
    """Return ``21:04:10 UTC``, with its date where that is not today's."""
    utc = moment.astimezone(dt.UTC)
    day = "" if utc.date() == now.astimezone(dt.UTC).date() else f"{utc:%Y-%m-%d} "
    return f"{day}{utc:%H:%M:%S} UTC"


def capitalize(words: str) -> str:
    """Return words as a sentence begins; what is written large otherwise stays so."""
    return words[:1].upper() + words[1:]


def gibibytes(size: int) -> str:
    """Return a size as text: ``2.0 GiB``."""
    return f"{size / 2**30:.1f} GiB"


def group_name(group_id: str, metadata: Any) -> str:
    """Return the metadata's ``name``, else its scene and panel, else the id."""
    if not isinstance(metadata, Mapping):
        return group_id
    name = _scalar(metadata.get("name"))
    if name:
        return name
    scene = _scalar(metadata.get("scene"))
    panel = _scalar(metadata.get("panel", metadata.get("panel_id")))
    parts = [scene, f"panel {panel}" if panel else ""]
    return " · ".join(part for part in parts if part) or group_id


def _scalar(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return ""
    return " ".join(str(value).split())


def model_name(graph: Any) -> str:
    """Return the checkpoint that a graph loads, without folder and ending; nothing where none is named."""
    nodes = graph.values() if isinstance(graph, Mapping) else ()
    inputs = [node.get("inputs") for node in nodes if isinstance(node, Mapping)]
    for name in _MODEL_INPUTS:
        for one in inputs:
            value = one.get(name) if isinstance(one, Mapping) else None
            if isinstance(value, str) and value:
                file = value.replace("\\", "/").rsplit("/", 1)[-1]
                return file.rsplit(".", 1)[0] or file
    return ""


def duration(seconds: float) -> str:
    """Return ``45 s``, ``4 min``, ``2 h 5 min`` or ``3 d``."""
    if seconds < _MINUTE:
        return f"{max(round(seconds), 1)} s"
    if seconds < _HOUR:
        return f"{round(seconds / _MINUTE)} min"
    if seconds < _DAY:
        hours, rest = divmod(round(seconds / _MINUTE), 60)
        return f"{hours} h {rest} min" if rest else f"{hours} h"
    return f"{round(seconds / _DAY)} d"


def on_attempt(number: int) -> str:
    """Return ``on the second attempt``."""
    return f"on the {_ORDINALS.get(number, f'{number}th')} attempt"


def first_of(names: Sequence[str], most: int = 3) -> str:
    """Return ``gpu-1, gpu-2, gpu-3 and 2 more``."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more}"


def pluralize(number: int, one: str, many: str = "") -> str:
    """Return ``1 job`` or ``7 jobs``; the plural has an ``s`` unless it is given."""
    return f"{number} {one if number == 1 else many or f'{one}s'}"
