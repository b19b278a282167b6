"""Write ``docs/failures.md`` from ``jobgroups/domain/failures.py``: ``make docs``. A test fails if it is stale."""

from __future__ import annotations

import re
import sys
from collections.abc import Collection
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from jobgroups.domain.failures import (  # noqa: E402 after the line above
    BETTER_ELSEWHERE,
    TAXONOMY,
    FailureClass,
    Kind,
    Retry,
)

PAGE = ROOT / "docs" / "failures.md"
_HEAD = """\
# When a render fails

<!-- Generated from jobgroups/domain/failures.py by `make docs`; do not edit. -->

Each failed attempt has a class, its `failure_class`. The class says whether and where another try may
help, and whether the failure speaks against the machine. What is done about it is each group's to say.

## What a group may say

| Field of a submission | |
| --- | --- |
| `max_attempts` | How often a child is tried within a run at most, 1–10. With 1 (the installation's default, `DIRECTOR_MAX_ATTEMPTS`) its first failure ends it. |
| `retry_elsewhere` | `false`: on its own backend only; `true` or `"group"`: also on the backends that its group was submitted to, those included that were skipped then; `"any"`: on every backend. Default: `DIRECTOR_RETRY_ELSEWHERE`. |
| `partial_outputs` | `"accept"` (default): a child of which ComfyUI refuses some outputs completes with the others and a warning; `"fail"`: its prompt is stopped, and the child fails with the class of the refusal. |
| `retry_on` | The classes after which a child is tried again. Left out: all that may be. |

A child that is tried again keeps its seed, waits as `queued`, and is told of by `child_retrying` on the
stream; it has not ended. It goes to a backend that works at that moment and has what the group requires:
first one that has not failed it in this run, then the one where the least waits. It never comes back to
a backend where it failed with a class that may be tried elsewhere only. Between two attempts it waits
`DIRECTOR_RETRY_BACKOFF_SECONDS`, doubled each time, 60 s at most.

- **Out of memory**: the backend is asked to free its memory, then the largest card comes first. One that
  ran out of it once counts as untried; where it runs out again, a smaller one is tried.
- **Timeout**: the prompt is stopped first; the next attempt begins when it was seen to end, so that no two
  of a child run at once. A prompt that goes on a minute after it was to stop hangs (`stalled`): its child
  waits for it no longer. If it ends with a picture after all, and its child still waits, or its next try
  fails, that is taken.
- **Offline in a render**: once the backend has given no answer and no frame for
  `DIRECTOR_MOVE_AFTER_SECONDS`, the child is tried on another backend, if `retry_elsewhere`, `max_attempts`
  and `retry_on` allow it. Otherwise it waits for its backend until its `timeout_seconds` are over, and
  ends as `backend_lost` if the backend is still offline then. Both count as an attempt, and once against the
  backend. A child that the offline backend had accepted and not started moves too, and costs no attempt. The
  prompt may still run there, as behind a broken network: it is stopped when the backend is back. If it
  has its picture by then, and its child still waits, or its next try fails, that is taken.
- **Never sent**: a child that waits for a backend that has been away for `DIRECTOR_MOVE_AFTER_SECONDS`, is
  drained, disabled or set aside, is moved to another one where `retry_elsewhere` lets it. That is no
  attempt.
- What ends without anything executed (the connection never stood, the prompt was forgotten before it
  began) costs no attempt; five of those in a row count as one.

## A person's retry

A person retries a group that has ended, or one child that failed while its group runs, and says where: at
the same backend, at another one, or at one by name. The pages and the command line propose another one after
{better},
if a backend that suits the child better works. This try is made whatever `max_attempts` says, and counts as
one attempt of the run.

## Which classes there are

*Tried again*: where another try may help, if the group lets it. *Counts*: too many of these in a short
time set the backend aside (`DIRECTOR_QUARANTINE_FAILURES`).
"""
_WHERE = {
    Retry.HERE: "at the same backend or another",
    Retry.ELSEWHERE: "at another backend only",
    Retry.NEVER: "never",
}


def _listed(classes: Collection[FailureClass]) -> str:
    *most, last = (f"`{one.value}`" for one in FailureClass if one in classes)
    return f"{', '.join(most)} and {last}"


def _cell(text: str) -> str:
    return re.sub(r"([|<])", r"\\\1", text)


def _row(failure: FailureClass, kind: Kind) -> str:
    cells = [
        f"`{failure.value}`",
        _cell(kind.sentence),
        _WHERE[kind.retry],
        "yes" if kind.counts else "no",
        f"`{kind.error_type.value}`",
    ]
    return f"| {' | '.join(cells)} |"


def _examples(failure: FailureClass, kind: Kind) -> list[str]:
    lines = [f"- `{failure.value}`"]
    lines += [f"  - {_cell(example.said)} ({example.source})" for example in kind.examples]
    return lines


def page() -> str:
    """Return the whole page."""
    lines = [
        _HEAD.format(better=_listed(BETTER_ELSEWHERE)),
        "| `failure_class` | What a user reads | Tried again | Counts | `error_type` |",
        "| --- | --- | --- | --- | --- |",
        *(_row(failure, kind) for failure, kind in TAXONOMY.items()),
        "",
        "## How they look",
        "",
        "Recordings of a real ComfyUI stand in `tests/contract/recordings`.",
        "",
        *(line for failure, kind in TAXONOMY.items() for line in _examples(failure, kind)),
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
