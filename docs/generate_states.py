"""Write ``docs/states.md`` from the tables of states: ``make docs``. A test fails if it is stale."""

import re
import sys
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from backends import states as backend_states  # noqa: E402 only importable after the line above
from jobgroups.domain import states  # noqa: E402 likewise

S = TypeVar("S", bound=StrEnum)

PAGE = ROOT / "docs" / "states.md"
_HEAD = """\
# States

<!-- Generated from jobgroups/domain/states.py and backends/states.py by `make docs`; do not edit. -->

Every move is a guarded `UPDATE … WHERE status IN (sources)`: of two concurrent moves, the second changes
nothing. The CHECK constraints of the database repeat the tables.
"""
_GROUP = "Derived from the children, in the transaction that changes a child."
_CHILD = (
    "A status without a move is final. Within a run a child leaves `failed` or `timeout` only by a user's retry."
    " A child that its group's policy retries is queued again and does not become `failed`. A retry of an ended"
    " group starts the next run and queues the selected children again, also cancelled ones."
)
#: Moves by a user's retry within a run.
_RETRIED = dict.fromkeys(states.CHILD_RETRIED_IN_RUN, states.ChildStatus.QUEUED)
_ATTEMPT = (
    "One attempt of a child on one backend, with one prompt id. Only `success` completes a child. After"
    " `not_sent`, `never_accepted`, and `lost` without a sign of execution, the child is queued again and the"
    " attempt is not counted."
)


_BACKEND = (
    "Derived from requests of users, failures and the last observation. Of several states that apply, the first"
    " of this table is shown. `status_reason`, `status_since` and `status_by` are its reason, beginning and author."
)


def _meanings(kind: type[StrEnum]) -> dict[str, str]:
    """Return the ``#:`` comment of each member, by its value."""
    source = (ROOT / f"{kind.__module__.replace('.', '/')}.py").read_text(encoding="utf-8")
    body = source.split(f"class {kind.__name__}(StrEnum):", 1)[1].split("\n\n\n", 1)[0]
    found = dict(re.findall(r'^    [A-Z_]+ = "(\w+)"  #: (.+)$', body, re.MULTILINE))
    missing = [member.value for member in kind if member.value not in found]
    if missing:
        raise SystemExit(f"{kind.__name__} has no comment for {', '.join(missing)}.")
    return found


def _table(kind: type[S], moves: Mapping[S, frozenset[S]] | None, retried: Mapping[S, S] | None = None) -> list[str]:
    meanings = _meanings(kind)
    head = "| Value | Meaning |" if moves is None else "| Value | Meaning | May become |"
    lines = [head, "| --- " * (head.count("|") - 1) + "|"]
    for member in kind:
        line = f"| `{member.value}` | {meanings[member.value]} |"
        if moves is not None:
            again = (retried or {}).get(member)
            said = f"`{again.value}` by a retry" if again else _targets(kind, moves[member])
            line += f" {said} |"
        lines.append(line)
    return lines


def _backend_table() -> list[str]:
    """Return the states of backends, the strongest first, with what each means for work."""
    meanings = _meanings(backend_states.BackendState)
    lines = ["| Value | Meaning | Submissions | New prompts |", "| --- | --- | --- | --- |"]
    for state in backend_states.BackendState:
        takes = "accepted" if state in backend_states.TAKES_CHILDREN else "skipped"
        sent = "sent" if state in _SENDS else "none"
        lines.append(f"| `{state.value}` | {meanings[state.value]} | {takes} | {sent} |")
    return lines


_SENDS = {backend_states.BackendState.ONLINE, backend_states.BackendState.BUSY}


def _targets(kind: type[S], targets: frozenset[S]) -> str:
    named = [f"`{member.value}`" for member in kind if member in targets]
    return ", ".join(named) or "— (final)"


def _diagram(kind: type[S], moves: Mapping[S, frozenset[S]], first: S, retried: Mapping[S, S]) -> list[str]:
    arrows = [f"    {source.value} --> {target.value}" for source in kind for target in kind if target in moves[source]]
    arrows += [f"    {one.value} --> {retried[one].value}: retry by a user" for one in kind if one in retried]
    return ["```mermaid", "stateDiagram-v2", f"    [*] --> {first.value}", *arrows, "```"]


def page() -> str:
    """Return the whole page."""
    child, attempt = states.ChildStatus, states.AttemptState
    lines = [
        _HEAD,
        "## Group",
        "",
        _GROUP,
        "",
        *_table(states.GroupStatus, None),
        "",
        "## Child",
        "",
        _CHILD,
        "",
        *_table(child, states.CHILD_MOVES, _RETRIED),
        "",
        *_diagram(child, states.CHILD_MOVES, child.QUEUED, _RETRIED),
        "",
        "## Attempt",
        "",
        _ATTEMPT,
        "",
        *_table(attempt, states.ATTEMPT_MOVES),
        "",
        f"In {_targets(attempt, states.ATTEMPT_ACTIVE)} its prompt may be queued or running at the"
        " backend, and takes a slot there.",
        "",
        "## Backend",
        "",
        _BACKEND,
        "",
        *_backend_table(),
        "",
        "## Reasons of a pending stop",
        "",
        *_table(states.StopReason, None),
        "",
        "## `error_type`",
        "",
        *_table(states.ErrorType, None),
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
