"""From a checked submission to the stored group."""

from __future__ import annotations

from dataclasses import replace

from django.conf import settings

from jobgroups.api.backend_selection import select_backends
from jobgroups.errors import NoOnlineBackends, RunnerAbsent
from jobgroups.queries import leases
from jobgroups.services.submission import Submission, Submitted, group_replay, group_submit


def submit(submission: Submission) -> Submitted:
    """Store the group; with a known idempotency key, return the group of that key.

    1. The key: the result of the first request is returned, also if no runner is alive now.
    2. The runner: without one nothing is stored, unless a setting allows it.
    3. The backends: selected, after a probe of those without a recent response.
    4. Group, children and event 1 in one transaction.

    Raises:
        IdempotencyConflict: the key was used with another body.
        RunnerAbsent: no runner is alive.
        NoOnlineBackends: none of the named backends can take a child.
    """
    if (replay := _replay(submission)) is not None:
        return replay
    alive = leases.runner_alive()
    if not (alive or settings.DIRECTOR_ACCEPT_WITHOUT_RUNNER):
        raise RunnerAbsent
    selection = select_backends(submission.backend_ids, submission.required_capabilities)
    if not selection.backend_ids:
        raise NoOnlineBackends(selection.skipped)
    chosen = replace(submission, backend_ids=selection.backend_ids, skipped_backends=selection.skipped)
    return group_submit(submission=chosen, runner_alive=alive)


def _replay(submission: Submission) -> Submitted | None:
    if submission.idempotency_key is None:
        return None
    return group_replay(
        submitter=submission.submitter, key=submission.idempotency_key, digest=submission.idempotency_digest
    )
