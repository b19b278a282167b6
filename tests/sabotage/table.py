"""All breakages, and the page that lists them."""

import tomllib
from pathlib import Path
from typing import Final

from tests.sabotage.breakage import Breakage, Edit

ROOT: Final = Path(__file__).resolve().parents[2]
PAGE: Final = ROOT / "docs" / "sabotage.md"


def _part(name: str) -> tuple[Breakage, ...]:
    """Return the breakages of one file; for their fields see ``Breakage``."""
    listed = tomllib.loads(Path(__file__).with_name(f"{name}.toml").read_text(encoding="utf-8"))[
        "breakage"
    ]
    return tuple(
        Breakage(**one | {"edits": [Edit(**edit) for edit in one["edits"]]}) for one in listed
    )


_PARTS: Final = (
    ("Sending prompts", _part("prompts")),
    ("Following, ending and stopping attempts", _part("attempts")),
    ("Rows, events and files", _part("rows")),
    ("Assets", _part("assets")),
    ("Captures", _part("captures")),
    ("Retry policy", _part("failures")),
    ("Retries and moves by users", _part("retries")),
    ("The pool", _part("pool")),
    ("Holds and quarantine", _part("holds")),
    ("Bounds of waits", _part("waits")),
    ("Destinations", _part("destinations")),
    ("Notifications and failures", _part("notices")),
    ("Webhooks", _part("webhooks")),
    ("A farm of processes", _part("leases")),
    ("Limits and access", _part("limits")),
)
BREAKAGES: Final = tuple(breakage for _, part in _PARTS for breakage in part)

_HEAD: Final = """\
# Sabotage

<!-- Generated from tests/sabotage by `python -m tests.sabotage`; do not edit. -->

A test that cannot fail protects nothing. Each law of the Director is broken on purpose in a copy of the code,
and the named test must fail by an assertion, not by a crash. `pytest tests/sabotage` runs all of them.
"""


def page() -> str:
    return "\n".join([_HEAD, *(f"## {title}\n\n{_table(part)}\n" for title, part in _PARTS)])


def _table(breakages: tuple[Breakage, ...]) -> str:
    rows = ["| Defect | Harm | Test that finds it |", "| --- | --- | --- |"]
    for one in breakages:
        path, _, test = one.notices.partition("::")
        rows.append(f"| {one.broken} | {one.hurts} | [`{test}`](../tests/{path}) |")
    return "\n".join(rows)
