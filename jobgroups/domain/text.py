"""Names, durations and counts as users read them. Pure."""

import datetime as dt
import json
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from jobgroups.domain.failures import TAXONOMY, FailureClass

_MINUTE: Final = 60
_HOUR: Final = 3600
_DAY: Final = 86_400
_MAX_TITLE: Final = 60  #: Characters of a title that is the beginning of a prompt.

_ORDINALS: Final = {1: "first", 2: "second", 3: "third", 4: "fourth", 5: "fifth"}


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


def gibibytes(size: int) -> str:
    """Return a size as text: ``2.0 GiB``."""
    return f"{size / 2**30:.1f} GiB"


def group_title(metadata: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    """Return the metadata's ``name``, else its scene and panel, else the beginning of the prompt,
    else the file.
    """
    name = _scalar(metadata.get("name"))
    if name:
        return name
    scene = _scalar(metadata.get("scene"))
    panel = _scalar(metadata.get("panel", metadata.get("panel_id")))
    parts = [scene, f"panel {panel}" if panel else ""]
    title = " · ".join(part for part in parts if part)
    return (
        title
        or textwrap.shorten(_scalar(summary.get("prompt")), _MAX_TITLE, placeholder=" …")
        or _file(summary)
    )


def _file(summary: Mapping[str, Any]) -> str:
    return _scalar(summary.get("file")).replace("\\", "/").rsplit("/", 1)[-1]


def value_line(value: Any) -> str:
    return " ".join(
        (value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)).split()
    )


def value_text(value: Any, most: int = 120) -> str:
    """Return the value of an input as one line of at most ``most`` characters; the middle of a
    longer one is left out.
    """
    line = value_line(value)
    return line if len(line) <= most else f"{line[: most // 2]}…{line[1 - most + most // 2 :]}"


def input_labels(names: Iterable[str], suffix: str = "") -> dict[str, str]:
    """Return each input with a label: without its node and a ``suffix``, if no other one has that
    label.
    """
    plain = {name: name.rpartition(".")[2].removesuffix(suffix) or name for name in names}
    count = Counter(plain.values())
    return {name: short if count[short] == 1 else name for name, short in plain.items()}


def _scalar(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return ""
    return " ".join(str(value).split())


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


def pluralize(number: int, singular: str, many: str = "") -> str:
    """Return ``1 job`` or ``7 jobs``; the plural has an ``s`` unless it is given."""
    return f"{number} {singular if number == 1 else many or f'{singular}s'}"


def stop_condition(stop_when: Mapping[str, int] | None) -> str:
    """Return ``4 jobs completed or 10 jobs failed``; empty without a condition."""
    return " or ".join(
        f"{pluralize(number, 'job')} {name}" for name, number in (stop_when or {}).items()
    )
