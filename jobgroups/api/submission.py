"""From the body of a submission to the stored group."""

import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Final

from django.conf import settings

from backends.capabilities import needed_capabilities
from jobgroups import workflow
from jobgroups.api.backend_selection import Selection, select_backends, select_candidates
from jobgroups.api.conversion import converted_body
from jobgroups.api.permissions import check_priority
from jobgroups.api.requests import payloads
from jobgroups.api.workflow_check import JobKinds, check, has_partner_nodes
from jobgroups.domain.access import Principal
from jobgroups.domain.pool import ANY_BACKEND
from jobgroups.domain.states import PartialOutputs
from jobgroups.errors import NoOnlineBackends, RunnerAbsent
from jobgroups.models import JobGroup
from jobgroups.queries import leases
from jobgroups.queries.assets import check_references
from jobgroups.services import runners
from jobgroups.services.submission import Submission, Submitted, group_replay, group_submit
from jobgroups.services.write_start import check_until
from jobgroups.workflow.seeds import MAX_SEED

#: Seconds for the probes and the inventory of a submission to the pool.
_CHECK_SECONDS: Final = 2.0
#: Seconds without an event of its prompt after which a job without a limit of its time ends.
_STALL_SECONDS: Final = 3_600


def submit_body(
    body: dict[str, Any], key: str | None, owner: Mapping[str, Any], principal: Principal
) -> Submitted:
    """Store the group of a body; with a known idempotency key, return the group of that key.

    ``owner`` has the fields of the submission that say whose it is. It may
    refer to what ``principal`` sees.

    The result of the first request is returned also if no runner is alive now, or none of the
    backends that described the node classes of a workflow in the editor's format.

    Raises what :func:`submit` raises, and:
        IdempotencyConflict, GroupDeleted: as ``group_replay`` raises them.
        InvalidRequest: the body is wrong.
    """
    digest = ""
    if key:
        digest = payloads.digest(body)
        submitter = owner.get("submitter") or str(body.get("submitter") or "").strip()
        made = group_replay(
            submitter=submitter, owner_id=owner.get("owner_id"), key=key, digest=digest
        )
        if made is not None:
            return made
    converted, warnings, editor = converted_body(body)
    submission = payloads.submission(converted, key, warnings=warnings)
    check_priority(principal, submission.priority)
    whole = replace(submission, editor_json=editor, idempotency_digest=digest, **owner)
    return submit(whole, principal)


def submit(submission: Submission, principal: Principal) -> Submitted:
    """Store the group of a submission whose idempotency key is not known.

    1. The runner: without one nothing is stored, unless a setting allows it.
    2. The backends: selected, after a probe of those without a recent response. In the pool at
      least one candidate
       must be able to execute the workflow, as far as that is known.
    3. Group, children and event 1 in one transaction.

    Raises:
        RunnerAbsent: no runner is alive, and one could store its heartbeat.
        NoOnlineBackends: none of the named backends can take a child, or one of the jobs of a
            batch.
        InvalidRequest: an asset that the workflow refers to does not exist for the principal.
    """
    alive = leases.runner_alive()
    if not (alive or settings.DIRECTOR_ACCEPT_WITHOUT_RUNNER):
        runners.heartbeat_check()
        raise RunnerAbsent
    return group_submit(submission=choose(submission, principal), runner_alive=alive)


class NotExecutable(Exception):
    """No answering backend takes a workflow.

    Attributes:
        entries: of the backends that answer, as ``check`` returns them.
        skipped: by backend, a sentence.
    """

    def __init__(self, entries: list[dict[str, Any]], skipped: Mapping[str, str]) -> None:
        self.entries = entries
        self.skipped = skipped


def submit_to_any(submission: Submission, principal: Principal) -> JobGroup:
    """Store a job unless backends that answer refuse it; one waits for backends that are all away.

    Raises what :func:`submit` raises, but ``NotExecutable`` for ``NoOnlineBackends``.
    """
    try:
        return submit(replace(submission, may_wait=True), principal).group
    except NoOnlineBackends as refused:
        skipped = refused.extra["skipped_backends"]
    entries = check(JobKinds(submission.template), submission.backend_ids, (), may_wait=True)[
        "backends"
    ]
    answering = [entry for entry in entries if entry["state_reason"] is None]
    if answering:
        raise NotExecutable(
            answering, {backend["backend_id"]: backend["reason"] for backend in skipped}
        )
    return group_submit(
        submission=replace(submission, skipped_backends=skipped), runner_alive=leases.runner_alive()
    ).group


def one_job(graph: workflow.Workflow) -> dict[str, Any]:
    """Return the fields of a submission of one job of the pool, of a client that knows no limit of
    a job's time. The job keeps the seeds of its workflow.
    """
    parameters, base_seed = _own_seeds(graph)
    return {
        "workflow_json": graph,
        "backend_ids": [ANY_BACKEND],
        "count": 1,
        "parameters": parameters,
        "base_seed": base_seed,
        "stall_seconds": _STALL_SECONDS,
    }


def _own_seeds(graph: workflow.Workflow) -> tuple[dict[str, dict[str, Any]], int | None]:
    """Return parameters and a base seed with which a job keeps the seeds of its workflow."""
    slots = workflow.build_template(graph).seed_slots
    values = [graph[node_id]["inputs"][name] for node_id, name in slots]
    base = next((value for value in values if type(value) is int and 0 <= value <= MAX_SEED), None)
    parameters: dict[str, dict[str, Any]] = {}
    for (node_id, name), value in zip(slots, values, strict=True):
        if type(value) is not int or value != base:
            parameters.setdefault(node_id, {})[name] = value
    return parameters, base


def choose(
    submission: Submission, principal: Principal, kinds: JobKinds | None = None
) -> Submission:
    """Return the submission with the backends that were selected and skipped.

    Raises ``NoOnlineBackends`` or, for an asset that does not exist, ``InvalidRequest``. ``kinds``
    are those of its jobs, if the caller has them.
    """
    until = check_until(_CHECK_SECONDS)
    check_references(submission.references, principal)
    if submission.count is None:
        selection, is_paid = _select_named(submission, until)
    else:
        kinds = kinds or JobKinds(submission.template, submission.batch)
        selection, is_paid = _select_able(submission, kinds, until)
    if not selection.backend_ids:
        raise NoOnlineBackends(selection.skipped)
    chosen = replace(submission, skipped_backends=selection.skipped, uses_partner_nodes=is_paid)
    if submission.count is None:
        chosen = replace(chosen, backend_ids=selection.backend_ids)
    return chosen


def _select_named(submission: Submission, until: float) -> tuple[Selection, bool | None]:
    """Select the named backends that take jobs, and return whether the workflow has partner nodes.

    One backend is queried for its node classes: jobs that are bound to many are stored without
    waiting for all.
    """
    selection = select_backends(submission.backend_ids, submission.required_capabilities)
    is_paid = has_partner_nodes(submission.workflow, selection.rows[:1], until=until)
    if is_paid:
        needed = needed_capabilities(
            submission.required_capabilities, is_paid, has_own_key=bool(submission.secret)
        )
        selection = select_backends(submission.backend_ids, needed)
    return selection, is_paid


def _select_able(
    submission: Submission, kinds: JobKinds, until: float
) -> tuple[Selection, bool | None]:
    """Select the candidates that can execute a job, or of which that is not known; see
    ``_select_named``.

    Raises ``NoOnlineBackends`` if none of them can execute one of the jobs of a batch.
    """
    required = submission.required_capabilities
    select = partial(
        select_candidates,
        submission.backend_ids,
        excluded=kinds.excluded,
        may_wait=submission.may_wait,
    )
    selection = select(required)
    in_part = submission.partial_outputs == PartialOutputs.ACCEPT
    refused = kinds.refusals(selection.rows, until=until, in_part=in_part)
    # The answers are kept.
    is_paid = has_partner_nodes(kinds.workflow, selection.rows, until=time.monotonic())
    if is_paid:
        needed = needed_capabilities(required, is_paid, has_own_key=bool(submission.secret))
        selection = select(needed)
    able = [
        name for name in selection.backend_ids if len(refused.get(name, ())) < len(kinds.examples)
    ]
    skipped = list(selection.skipped)
    skipped += [
        {"backend_id": name, "reason": refused[name][0]}
        for name in selection.backend_ids
        if name not in able
    ]
    for kind in refused.get(able[0], ()) if able else ():
        if all(kind in refused.get(name, ()) for name in able):
            of_job = [
                {"backend_id": name, "reason": f"{kinds.describe_job(kind)}: {refused[name][kind]}"}
                for name in able
            ]
            raise NoOnlineBackends([*skipped, *of_job])
    return replace(selection, backend_ids=able, skipped=skipped), is_paid
