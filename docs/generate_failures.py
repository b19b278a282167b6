"""Write ``docs/failures.md`` from ``jobgroups/domain/failures.py``: ``make docs``. A test fails if it is stale."""

import json
import re
import sys
from collections.abc import Collection
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from jobgroups.domain.failures import BETTER_ELSEWHERE, TAXONOMY, FailureClass, FailureKind, RetryTarget  # noqa: E402 after the line above

PAGE = ROOT / "docs" / "failures.md"
#: Of each class: what ComfyUI says (of an error ``exception_type: exception_message``) or what is seen, and
#: ``recorded`` from a real ComfyUI, or the file or report in which it was read.
EXAMPLES = json.loads((ROOT / "docs/failure_examples.json").read_text(encoding="utf-8"))
_HEAD = """\
# When a job fails

<!-- Generated from jobgroups/domain/failures.py by `make docs`; do not edit. -->

Each failed attempt has a class, its `failure_class`. The class decides whether and where a retry may help, and
whether the failure counts against the backend. Each group decides which failures are retried.

## Fields of a submission

| Field | |
| --- | --- |
| `max_attempts` | The maximum number of attempts of a job within a run, 1–10. With 1 (the default, `DIRECTOR_MAX_ATTEMPTS`) a job is not retried. With `count` the default is at least 2. |
| `retry_elsewhere` | `false`: only on its own backend; `true` or `"group"`: also on the backends to which its group was submitted, including those that were skipped; `"any"`: on every backend. Default: `DIRECTOR_RETRY_ELSEWHERE`. With `count`: on the candidates. |
| `partial_outputs` | `"accept"` (default): if ComfyUI refuses some outputs of a job, it completes with the others and a warning; `"fail"`: its prompt is stopped, and the job fails with the class of the refusal. |
| `retry_on` | The classes after which a job is retried. If absent: all that can be retried. |

A job that is retried keeps its seed and is `queued` again; the stream has a `child_retrying` event, and the job has not
ended. It goes to a backend that works at that moment and has the required capabilities: first one on which it has not
failed in this run, then the one with the shortest queue. It does not return to a backend on which it failed with a
class that is retried only on another backend. Between two attempts it waits `DIRECTOR_RETRY_BACKOFF_SECONDS`, twice as
long each time, at most 60 s.

- **Out of memory**: the Director requests the backend to free its memory, and prefers the backend with the most GPU
  memory. A backend that ran out of memory once counts as not tried; after the second time, a smaller one is tried.
- **Timeout**: the prompt is stopped first. The next attempt starts when the prompt has ended, so that no two prompts of
  a job run at the same time. A prompt that still runs a minute after it was to stop hangs (`stalled`), and its job does
  not wait for it any longer. If the prompt completes after all, and its job is still queued, or the job's next attempt
  fails, the job gets that result.
- **Offline while a job runs**: after `DIRECTOR_MOVE_AFTER_SECONDS` without a response or a frame, the job is retried on
  another backend, if `retry_elsewhere`, `max_attempts` and `retry_on` allow it. Otherwise it waits for its backend until
  its `timeout_seconds` or `stall_seconds` are over, and fails as `backend_lost` if the backend is still offline. Both
  count as an attempt, and once against the backend. A job that the offline backend had accepted and not started moves too, and no attempt is
  counted. The prompt may still run there if only the network is broken: it is stopped when the backend is back. If the
  prompt has completed by then, and its job is still queued, or the job's next attempt fails, the job gets that result.
- **Never sent**: a queued job whose backend has been offline for `DIRECTOR_MOVE_AFTER_SECONDS`, or is draining, disabled
  or quarantined, moves to another backend if `retry_elsewhere` allows it. No attempt is counted.
- **Jobs of the pool** ([`count`](api.md#the-pool)): a failed job is queued in the pool again, for any candidate. A
  backend that failed it with a class that is retried only on another backend does not get it again in this run. After
  another failure the backend leaves the job for 60 s to other candidates, if one works. `node_or_model_missing` is not
  counted and is always queued again: the backend is [excluded](api.md#get-apibackendsidexclusions) from the workflow.
- An attempt of which nothing was executed (no connection, or a prompt that was forgotten before it started) does not
  count; five such attempts in a row count as one.

## Retry by a user

A user can retry a group that has ended, or one failed job while its group runs: on the same backend, on another one, or
on a named one. The pages and the command line propose another backend after
{better},
if a more suitable backend works. This attempt is made regardless of `max_attempts`, and counts as one attempt of the
run.

## Failure classes

*Retried*: where a retry may help, if the group allows it. *Counts*: several of these failures in a short time quarantine
the backend (`DIRECTOR_QUARANTINE_FAILURES`).
"""
_WHERE = {
    RetryTarget.ANY_BACKEND: "on the same backend or another",
    RetryTarget.OTHER_BACKEND: "only on another backend",
    RetryTarget.NEVER: "never",
}


def _listed(classes: Collection[FailureClass]) -> str:
    *most, last = (f"`{one.value}`" for one in FailureClass if one in classes)
    return f"{', '.join(most)} and {last}"


def _cell(text: str) -> str:
    return re.sub(r"([|<])", r"\\\1", text)


def _row(failure: FailureClass, kind: FailureKind) -> str:
    cells = [
        f"`{failure.value}`",
        _cell(kind.sentence),
        _WHERE[kind.retry],
        "yes" if kind.counts_against_backend else "no",
        f"`{kind.error_type.value}`",
    ]
    return f"| {' | '.join(cells)} |"


def _examples(failure: FailureClass) -> list[str]:
    lines = [f"- `{failure.value}`"]
    lines += [f"  - {_cell(one['seen'])} ({one['source']})" for one in EXAMPLES[failure]]
    return lines


def page() -> str:
    """Return the whole page."""
    lines = [
        _HEAD.format(better=_listed(BETTER_ELSEWHERE)),
        "| `failure_class` | Message to users | Retried | Counts | `error_type` |",
        "| --- | --- | --- | --- | --- |",
        *(_row(failure, kind) for failure, kind in TAXONOMY.items()),
        "",
        "## Examples",
        "",
        "`tests/contract/recordings` has the recordings of a real ComfyUI.",
        "",
        *(line for failure in TAXONOMY for line in _examples(failure)),
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
