"""Texts of the pages: names, ages, durations, statuses. Every template has what ``register`` has."""

import datetime as dt
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from django import template
from django.templatetags.static import static
from django.utils.html import conditional_escape, format_html, format_html_join
from django.utils.safestring import SafeString, mark_safe

from backends.models import Backend
from jobgroups.domain.clock import iso, now
from jobgroups.domain.failures import BETTER_ELSEWHERE, TAXONOMY, FailureClass
from jobgroups.domain.pool import ANY_BACKEND, TAG_PREFIX
from jobgroups.domain.states import PartialOutputs
from jobgroups.domain.text import (
    duration,
    failure_label,
    input_labels,
    on_attempt,
    pluralize,
    value_line,
)

register = template.Library()
register.filter("counted", pluralize)
register.filter("duration", duration)
register.filter("failure_label", failure_label)

_ATTEMPT_LABELS: Final = {
    "intent": "is being sent",
    "uncertain": "may have been accepted; being looked up",
    "accepted": "is pending",
    "running": "is running",
    "success": "succeeded",
    "error": "raised an error",
    "interrupted": "was interrupted",
    "timeout": "timed out",
    "refused": "was refused",
    "not_sent": "was not sent",
    "never_accepted": "was never accepted",
    "lost": "was forgotten by ComfyUI",
}


@register.simple_tag
def icon(name: str) -> SafeString:
    """Return a picture of ``icons.svg``, which screen readers leave out."""
    path = static("director/icons.svg")
    return format_html('<svg class="icon" aria-hidden="true"><use href="{}#{}"/></svg>', path, name)


@register.simple_tag
def styles(*names: str) -> SafeString:
    """Return the links to style sheets of the pages."""
    paths = ((static(f"director/{name}.css"),) for name in names)
    return format_html_join("", '<link rel="stylesheet" href="{}">', paths)


@register.simple_tag
def module(name: str) -> SafeString:
    """Return the script of a page."""
    path = static(f"director/{name}.js")
    return format_html('<script type="module" src="{}"></script>', path)


@register.simple_tag
def options(values: Iterable[Any], chosen: object = None) -> SafeString:
    """Return the options of a select: texts, pairs of value and text, or backends."""
    pairs = (
        (one.id, one.name or one.id)
        if isinstance(one, Backend)
        else (one, one)
        if isinstance(one, str)
        else one
        for one in values
    )
    rows = ((value, " selected" if value == chosen else "", label) for value, label in pairs)
    return format_html_join("", '<option value="{}"{}>{}</option>', rows)


@register.simple_tag
def error(field: str) -> SafeString:
    """Return the place of the error of a field of the API."""
    return format_html('<span class="field-error" data-error="{}"></span>', field)


_ACTIONS: Final = {
    "enable": "Enable",
    "release": "Release …",
    "resume": "Resume",
    "pause": "Pause …",
    "drain": "Drain …",
    "quarantine": "Quarantine …",
    "allow": "Allow partner nodes …",
    "forbid": "Forbid partner nodes",
    "allow_extensions": "Allow editor extensions …",
    "forbid_extensions": "Forbid editor extensions",
    "disable": "Disable …",
    "remove": "Remove …",
}


@register.simple_tag
def actions(names: Iterable[str] = tuple(_ACTIONS)) -> SafeString:
    """Return the buttons of actions on a backend."""
    rows = (
        (" danger" if name in ("disable", "remove") else "", name, label)
        for name, label in _ACTIONS.items()
        if name in names
    )
    return format_html_join("\n", '<button class="button{}" data-act="{}">{}</button>', rows)


@register.filter
def attempt_label(state: str) -> str:
    """Return the state of an attempt, as the end of a sentence: "attempt 1 on gpu-1 …"."""
    return _ATTEMPT_LABELS[state]


@register.filter
def failure_sentence(failure_class: str) -> str:
    """Return the explanation of a failure class."""
    return TAXONOMY[FailureClass(failure_class)].sentence


@register.filter
def better_elsewhere(failure_class: str) -> bool:
    """Return whether a retry on another backend may avoid such a failure."""
    return failure_class in BETTER_ELSEWHERE


@register.simple_tag
def better_elsewhere_classes() -> str:
    return " ".join(sorted(BETTER_ELSEWHERE))


def status_label(status: str, *, ended: bool) -> str:
    """Return the label of a group's status; partial_complete also occurs while a group runs."""
    if status == "partial_complete":
        return "Partly completed" if ended else "Running, some failed"
    return "Queued" if status == "pending" else status.capitalize()


#: Names such as gpu-1, up to the width of a card, and durations.
_WHOLE: Final = re.compile(
    r"(?<![\w.:-])(?=[\w.:-]{1,24}(?![\w-]))\w[\w.:]*(?:-\w+)+|\b\d+ (?:s|min|h|d)\b"
)


def unbroken(sentence: str) -> SafeString:
    """Return a sentence as HTML in which names with hyphens, and durations, are not broken over
    lines.
    """
    return mark_safe(_WHOLE.sub(r'<span class="whole">\g<0></span>', conditional_escape(sentence)))  # noqa: S308 escaped


def summary_values(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a workflow makes with numbers as users write them: ``7``, not ``7.0``."""
    return {
        name: f"{value:g}" if isinstance(value, float) else value for name, value in summary.items()
    }


def replaced_text(file: Mapping[str, Any], backend: str) -> str:
    """Return the note about a file of a job that a later file has replaced."""
    sentence = f"{file['filename']} was replaced: a later file on {backend} has the same name."
    if not file["is_shown"]:
        return sentence
    kind = file["kind"]
    return (
        f"{sentence} A thumbnail, if there is one, shows the old {kind}; the {kind} itself is lost."
    )


def child_label(status: str, stopped_by: str | None = None) -> str:
    """Return the label of a job's status, of one that ``stop_when`` stopped ``Not needed``."""
    if stopped_by:
        return "Not needed"
    return "Timed out" if status == "timeout" else status.capitalize()


def result_label(completed: int, total: int, tries: Mapping[int, int]) -> str:
    """Return ``5/12 done``; of a whole group whose machines failed ``4 done, 1 done on the second
    attempt``.

    ``tries`` are the completed children by number of the attempt, without first attempts.
    """
    again = [f"{count} completed {on_attempt(number)}" for number, count in sorted(tries.items())]
    if not again:
        return f"{completed}/{total} completed"
    if completed == total:
        first = completed - sum(tries.values())
        return ", ".join([f"{first} completed"] * (first > 0) + again)
    late = [f"{count} {on_attempt(number)}" for number, count in sorted(tries.items())]
    return f"{completed}/{total} completed, {', '.join(late)}"


#: Policies for outputs of a workflow that ComfyUI refuses.
PARTIAL_OUTPUTS: Final = {
    PartialOutputs.ACCEPT: "the job keeps the others, with a warning",
    PartialOutputs.FAIL: "the job is stopped and fails",
}


def policy_text(
    max_attempts: int,
    retry_elsewhere: str | bool,
    retry_on: Sequence[str] | None = None,
    *,
    is_paid: bool = False,
) -> str:
    """Return the text of a retry policy.

    ``retry_on`` None: after every failure that may be retried, and if ``is_paid`` (partner nodes)
    after none.
    """
    if is_paid and not retry_on:
        return "it is not retried after an execution: its partner nodes might be paid twice"
    others = {"group": "the other backends of the group", "any": "any other backend"}
    other = others.get(str(retry_elsewhere))
    if max_attempts == 1:
        moves = f"; while its backend is offline it may move to {other}" if other else ""
        return f"it is not retried{moves}"
    where = f", also on {other}" if other else ", on its own backend only"
    these = ", ".join(failure_label(failure_class) for failure_class in retry_on or ())
    return f"up to {max_attempts} attempts{where}" + (f", only after: {these}" if these else "")


def candidates_text(candidates: Sequence[str]) -> str:
    """Return the candidates of a group of the pool, as the end of "on …"."""
    if ANY_BACKEND in candidates:
        return "any backend"
    tags = [
        candidate.removeprefix(TAG_PREFIX)
        for candidate in candidates
        if candidate.startswith(TAG_PREFIX)
    ]
    named = [candidate for candidate in candidates if not candidate.startswith(TAG_PREFIX)]
    names = [f"backends with the tag {tag}" for tag in tags] + named
    return f"any of: {', '.join(names)}"


@register.filter
def ago(moment: dt.datetime | str) -> SafeString:
    """Return the element that shows how long ago it was, ``just now`` below five seconds; scripts
    keep it current.
    """
    seconds = _seconds_since(moment)
    label = "just now" if seconds < 5 else f"{duration(seconds)} ago"
    return format_html('<time datetime="{}">{}</time>', _iso(moment), label)


@register.filter
def since(moment: dt.datetime | str) -> SafeString:
    """Return the element that shows for how long something has lasted; scripts keep it current."""
    label = duration(_seconds_since(moment))
    return format_html('<time datetime="{}" data-for>{}</time>', _iso(moment), label)


@register.filter
def until(moment: dt.datetime) -> str:
    """Return the time that is left, ``a moment`` if it has passed."""
    left = -_seconds_since(moment)
    return duration(left) if left > 0 else "a moment"


def _seconds_since(moment: dt.datetime | str) -> float:
    at = dt.datetime.fromisoformat(moment) if isinstance(moment, str) else moment
    return (now() - at).total_seconds()


def _iso(moment: dt.datetime | str) -> str:
    return moment if isinstance(moment, str) else iso(moment)


def memory(size: object) -> str:
    """Return bytes as ``24 GB``, empty if the value is not a number."""
    if not isinstance(size, int | float) or isinstance(size, bool) or size <= 0:
        return ""
    return f"{size / 2**30:.0f} GB"


def shown_value(value: Any, most: int = 36) -> str:
    """Return a value of an input in at most so many characters: the end of a file's name, the
    beginning of a text.
    """
    line = value_line(value)
    if len(line) <= most:
        return line
    return f"{line[: most - 1]}…" if " " in line else f"…{line[1 - most :]}"


@register.filter("variation")
def variation_text(variation: Any, most: int = 36) -> str:
    """Return how a job differs from the others of its group: ``cfg 7 · ckpt b.safetensors``."""
    values = dict(_flat(variation)) if isinstance(variation, Mapping) else {}
    labels = input_labels(values, "_name")
    return " · ".join(
        f"{labels[name]} {shown_value(value, most)}" for name, value in list(values.items())[:12]
    )


def _flat(variation: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield input and value; the inputs of a node may stand in an object of their own."""
    for name, value in variation.items():
        if isinstance(value, Mapping) and "__type" not in value:
            yield from ((f"{name}.{key}", inner) for key, inner in value.items())
        else:
            yield name, value
