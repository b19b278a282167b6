"""Write the generated documents, and parts of pages, from the code: ``make docs``.

A part is between ``<!-- generated: name -->`` and ``<!-- end -->``. A test fails if one is stale.
"""

import inspect
import json
import os
import re
import sys
from collections.abc import Collection, Iterable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "director.settings")  # noqa: TID251 Django's own way

import django  # noqa: E402 after the line above

django.setup()

from backends.states import TAKES_CHILDREN, BackendState  # noqa: E402
from director.client import Director, errors  # noqa: E402
from director.client.accounts import Tokens  # noqa: E402
from director.client.assets import Assets  # noqa: E402
from director.client.webhooks import Webhooks  # noqa: E402
from docs import schema  # noqa: E402
from jobgroups.domain import states  # noqa: E402
from jobgroups.domain.failures import BETTER_ELSEWHERE, TAXONOMY, FailureClass, RetryTarget  # noqa: E402
from jobgroups.domain.states import AttemptState, ChildStatus  # noqa: E402
from jobgroups.runner.attempt import machine  # noqa: E402

S = TypeVar("S", bound=StrEnum)

_PART = re.compile(r"(<!-- generated: (\w+) -->(\n?)).*?(\n?<!-- end -->)", re.DOTALL)
_WHERE = {
    RetryTarget.ANY_BACKEND: "on the same backend or another",
    RetryTarget.OTHER_BACKEND: "only on another backend",
    RetryTarget.NEVER: "never",
}
#: States in which a backend gets new prompts.
_SENDS = {BackendState.ONLINE, BackendState.BUSY}
#: Moves by a user's retry within a run.
_RETRIED = dict.fromkeys(states.CHILD_RETRIED_IN_RUN, ChildStatus.QUEUED)


def _table(head: str, rows: Iterable[Iterable[str]]) -> str:
    names = head.split(", ")
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _listed(members: Collection[S], kind: type[S]) -> list[str]:
    return [f"`{member.value}`" for member in kind if member in members]


def _escaped(text: str) -> str:
    return re.sub(r"([|<])", r"\\\1", text)


# --- failures.md ----------------------------------------------------------------------------------


def _better() -> str:
    *most, last = _listed(BETTER_ELSEWHERE, FailureClass)
    return f"{', '.join(most)} and {last}"


def _classes() -> str:
    rows = (
        (
            f"`{failure.value}`",
            _escaped(kind.sentence),
            _WHERE[kind.retry],
            "yes" if kind.counts_against_backend else "no",
            f"`{kind.error_type.value}`",
        )
        for failure, kind in TAXONOMY.items()
    )
    return _table("`failure_class`, Message to users, Retried, Counts, `error_type`", rows)


def _examples() -> str:
    """Return what ComfyUI says (of an error ``exception_type: exception_message``) or what is seen
    of each class.

    The source is ``recorded`` from a real ComfyUI, or the file or report in which the example was
    read.
    """
    examples = json.loads((ROOT / "docs/failure_examples.json").read_text(encoding="utf-8"))
    lines = []
    for failure in TAXONOMY:
        lines.append(f"- `{failure.value}`")
        lines += [f"    - {_escaped(one['seen'])} ({one['source']})" for one in examples[failure]]
    return "\n".join(lines)


# --- states.md ------------------------------------------------------------------------------------


def _meanings(kind: type[StrEnum]) -> dict[str, str]:
    """Return the ``#:`` comment beside or above each member, by its value."""
    source = (ROOT / f"{kind.__module__.replace('.', '/')}.py").read_text(encoding="utf-8")
    body = source.split(f"class {kind.__name__}(StrEnum):", 1)[1].split("\n\n\n", 1)[0]
    member = r'^((?:    #: .+\n)*)    [A-Z_]+ = "(\w+)"(?:  #: (.+))?$'
    return {
        value: beside or " ".join(re.findall("#: (.+)", above))
        for above, value, beside in re.findall(member, body, re.MULTILINE)
    }


def _values(kind: type[StrEnum]) -> str:
    meanings = _meanings(kind)
    return _table("Value, Meaning", ((f"`{one.value}`", meanings[one.value]) for one in kind))


def _moves(kind: type[S], moves: Mapping[S, frozenset[S]], retried: Mapping[S, S]) -> str:
    meanings = _meanings(kind)

    def targets(one: S) -> str:
        if one in retried:
            return f"`{retried[one].value}` by a retry"
        return ", ".join(_listed(moves[one], kind)) or "— (final)"

    rows = ((f"`{one.value}`", meanings[one.value], targets(one)) for one in kind)
    return _table("Value, Meaning, May become", rows)


def _diagram(
    kind: type[S], first: Collection[S], moves: Mapping[S, Collection[S]], retried: Mapping[S, S]
) -> str:
    arrows = [f"    [*] --> {one.value}" for one in first]
    arrows += [
        f"    {one.value} --> {target.value}"
        for one in kind
        for target in kind
        if target in moves[one]
    ]
    arrows += [
        f"    {one.value} --> {retried[one].value}: retry by a user"
        for one in kind
        if one in retried
    ]
    arrows += [
        f"    {one.value} --> [*]"
        for one in kind
        if not moves[one] and one not in retried and len(first) > 1
    ]
    return "\n".join(["```mermaid", "stateDiagram-v2", *arrows, "```"])


_PHASES = {phase: rules.next for phase, rules in machine.PHASES.items()}


def _backend_states() -> str:
    """Return the states of backends, the strongest first, with what each means for work."""
    meanings = _meanings(BackendState)
    rows = (
        (
            f"`{one.value}`",
            meanings[one.value],
            "accepted" if one in TAKES_CHILDREN else "skipped",
            "sent" if one in _SENDS else "none",
        )
        for one in BackendState
    )
    return _table("Value, Meaning, Submissions, New prompts", rows)


# --- client.md ----------------------------------------------------------------------------------


def _sentence(described: object) -> str:
    """Return the first sentence of a docstring, in the Markdown of the pages."""
    text = " ".join((inspect.getdoc(described) or "").split("\n\n")[0].split())
    first = re.split(r"(?<=\.) |::", text)[0]
    first += "" if first.endswith((".", "?")) else "."
    return _escaped(first.replace("``", "`"))


def _errors_of_the_client() -> str:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    rows = (
        (f"`{kind.__name__}`", _sentence(kind))
        for kind in kinds
        if issubclass(kind, errors.DirectorError) and kind is not errors.DirectorError
    )
    return _table("Error, Meaning", rows)


def _methods() -> str:
    """Return the methods of the client, then those of its parts (``assets`` and so on)."""
    parts = {"": Director, "assets.": Assets, "webhooks.": Webhooks, "tokens.": Tokens}
    rows = []
    for part, kind in parts.items():
        known = [name for base in kind.__mro__ for name in vars(base)]
        for name in dict.fromkeys(known):
            one = getattr(kind, name)
            if name.startswith("_") or isinstance(one, property):
                continue
            arguments = list(inspect.signature(one).parameters.values())[1:]
            shown = ", ".join(
                f"**{argument.name}" if argument.kind is argument.VAR_KEYWORD else argument.name
                for argument in arguments
            )
            rows.append((f"`{part}{name}({shown})`", _sentence(one)))
    return _table("Method, Meaning", rows)


# --- frames.md ------------------------------------------------------------------------------------


def _type(field: schema.Schema) -> str:
    """Return the type of a field for a reader, as ``array of Child, or null``."""
    if "$ref" in field:
        return str(field["$ref"]).rpartition("/")[2]
    if "anyOf" in field:
        return ", or ".join(map(_type, field["anyOf"]))
    if "const" in field:
        return f"`{field['const']}`"
    kind = field.get("format", field.get("type", "any"))
    kind = kind if isinstance(kind, str) else ", or ".join(kind)
    return f"{kind} of {_type(field['items'])}" if "items" in field else kind


def _frames(document: schema.Schema) -> str:
    """Return a section for each frame, and for each type in them."""
    schemas: dict[str, schema.Schema] = document["components"]["schemas"]
    titles = {
        one["payload"]["$ref"].rpartition("/")[2]: name
        for name, one in document["components"]["messages"].items()
    }
    lines = []
    for name in [*titles, *(one for one in schemas if one not in titles)]:
        described = schemas[name]
        rows = (
            (f"`{key}`", _type(one), one.get("description", ""))
            for key, one in described["properties"].items()
        )
        lines += [
            f"## {f'`{titles[name]}`' if name in titles else name}",
            "",
            described.get("description", ""),
            "",
        ]
        lines += [_table("Field, Type, Meaning", rows), ""]
    return "\n".join(lines).replace("\n\n\n", "\n").replace("``", "`").strip()


_ASYNCAPI = schema.asyncapi()

#: The text of each part, by page and name.
PARTS: Mapping[str, Mapping[str, str]] = {
    "client": {"errors": _errors_of_the_client(), "methods": _methods()},
    "frames": {"frames": _frames(_ASYNCAPI)},
    "failures": {"better": _better(), "classes": _classes(), "examples": _examples()},
    "states": {
        "group": _values(states.GroupStatus),
        "child": _moves(ChildStatus, states.CHILD_MOVES, _RETRIED),
        "diagram": _diagram(ChildStatus, [ChildStatus.QUEUED], states.CHILD_MOVES, _RETRIED),
        "attempt": _moves(AttemptState, states.ATTEMPT_MOVES, {}),
        "phases": _values(machine.Phase),
        "phase_diagram": _diagram(machine.Phase, machine.FIRST, _PHASES, {}),
        "active": ", ".join(_listed(states.ATTEMPT_ACTIVE, AttemptState)),
        "backend": _backend_states(),
        "stop": _values(states.StopReason),
        "error_type": _values(states.ErrorType),
    },
}


def path(name: str) -> Path:
    """Return the file of a page."""
    return ROOT / "docs" / f"{name}.md"


def filled(name: str) -> str:
    """Return the text of a page with all its parts renewed."""
    parts = PARTS[name]
    text = path(name).read_text(encoding="utf-8")
    found = [part for _, part, *_ in _PART.findall(text)]
    if sorted(found) != sorted(parts):
        raise SystemExit(f"{name}.md has the parts {', '.join(found)}, not {', '.join(parts)}.")
    return _PART.sub(lambda match: f"{match[1]}{parts[match[2]]}{match[4]}", text)


def documents() -> dict[Path, str]:
    """Return the text of each document that is generated as a whole or in part."""
    pages = {path(page): filled(page) for page in PARTS}
    made = {"openapi": schema.openapi(), "asyncapi": _ASYNCAPI}
    return {
        **pages,
        **{ROOT / "docs" / f"{name}.yaml": schema.as_yaml(one) for name, one in made.items()},
    }


if __name__ == "__main__":
    for file, text in documents().items():
        file.write_text(text, encoding="utf-8")
