"""All breakages, and the page that lists them."""

from pathlib import Path
from typing import Final

from tests.sabotage.breakage import Breakage
from tests.sabotage.of_access import OF_DESTINATIONS, OF_LIMITS
from tests.sabotage.of_assets import OF_ASSETS
from tests.sabotage.of_attempts import OF_ATTEMPTS
from tests.sabotage.of_failures import OF_FAILURES
from tests.sabotage.of_holds import OF_HOLDS, OF_WAITS
from tests.sabotage.of_leases import OF_LEASES
from tests.sabotage.of_notices import OF_NOTICES
from tests.sabotage.of_pool import OF_POOL
from tests.sabotage.of_prompts import OF_PROMPTS
from tests.sabotage.of_retries import OF_RETRIES
from tests.sabotage.of_rows import OF_ROWS

ROOT: Final = Path(__file__).resolve().parents[2]
PAGE: Final = ROOT / "docs" / "sabotage.md"

_PARTS: Final = (
    ("Sending prompts", OF_PROMPTS),
    ("Following, ending and stopping attempts", OF_ATTEMPTS),
    ("Rows, events and files", OF_ROWS),
    ("Assets", OF_ASSETS),
    ("Retry policy", OF_FAILURES),
    ("Retries and moves by users", OF_RETRIES),
    ("The pool", OF_POOL),
    ("Holds and quarantine", OF_HOLDS),
    ("Bounds of waits", OF_WAITS),
    ("Destinations", OF_DESTINATIONS),
    ("Notifications and failures", OF_NOTICES),
    ("A farm of processes", OF_LEASES),
    ("Limits and access", OF_LIMITS),
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
