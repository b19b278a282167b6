"""A submission from its checked form to the stored group."""

from __future__ import annotations

from django.conf import settings

from jobgroups.api.backend_selection import choose
from jobgroups.api.requests.payloads import Asked
from jobgroups.errors import NoOnlineBackends, RunnerAbsent
from jobgroups.queries import leases
from jobgroups.services.groups import Submission, Submitted, group_replay, group_submit


def submit(asked: Asked) -> Submitted:
    """Store the group; with a known idempotency key, find the one it made.

    1. The key: what it has made is answered again, whoever is alive now.
    2. The runner: without one nothing is stored, unless a setting accepts it.
    3. The backends: chosen, the doubtful ones asked.
    4. Group, children and event 1 in one transaction.

    Raises:
        IdempotencyConflict: the key was used with another body.
        RunnerAbsent: no runner is alive.
        NoOnlineBackends: none of the named backends can take a child.
    """
    if (replay := _replay(asked)) is not None:
        return replay
    alive = leases.runner_alive()
    if not (alive or settings.DIRECTOR_ACCEPT_WITHOUT_RUNNER):
        raise RunnerAbsent
    choice = choose(asked.backend_ids, asked.required_capabilities)
    if not choice.backend_ids:
        raise NoOnlineBackends(choice.skipped)
    submission = Submission(
        workflow=asked.workflow,
        backend_ids=choice.backend_ids,
        parameters=asked.parameters,
        seed_strategy=asked.seed_strategy,
        base_seed=asked.base_seed,
        metadata=asked.metadata,
        timeout_seconds=asked.timeout_seconds,
        required_capabilities=asked.required_capabilities,
        max_attempts=asked.max_attempts,
        retry_elsewhere=asked.retry_elsewhere,
        retry_on=asked.retry_on,
        partial_outputs=asked.partial_outputs,
        skipped_backends=choice.skipped,
        warnings=asked.warnings,
        submitter=asked.submitter,
        idempotency_key=asked.idempotency_key,
        idempotency_digest=asked.idempotency_digest,
    )
    return group_submit(submission=submission, runner_alive=alive)


def _replay(asked: Asked) -> Submitted | None:
    if asked.idempotency_key is None:
        return None
    return group_replay(
        submitter=asked.submitter, key=asked.idempotency_key, digest=asked.idempotency_digest
    )
