"""What a submission would make: its jobs with inputs and seeds, its backends and its time. Nothing
is stored.
"""

from collections import Counter
from dataclasses import replace
from typing import Any

from jobgroups.api.submission import choose
from jobgroups.api.workflow_check import JobKinds, check
from jobgroups.domain.access import Principal
from jobgroups.domain.clock import now
from jobgroups.domain.pool import Needs, OpenVariant, PoolSnapshot
from jobgroups.domain.states import Placement
from jobgroups.domain.waiting_reasons import held_reason
from jobgroups.queries.etas import current_etas, latest
from jobgroups.queries.leases import halt_reason
from jobgroups.queries.pauses import current_pauses
from jobgroups.queries.pool import pool_backends, room_of
from jobgroups.queries.similar import known_digests
from jobgroups.services.submission import Submission, jobs_of, warnings_of
from jobgroups.workflow.seeds import random_base
from jobgroups.workflow.template import WorkflowTemplate, varied


def plan(submission: Submission, principal: Principal) -> dict[str, Any]:
    """Return the plan of a submission, as the API's JSON object; raise what the submission would."""
    base = random_base() if submission.base_seed is None else submission.base_seed
    kinds, is_pool = JobKinds(submission.template, submission.batch), submission.count is not None
    chosen = choose(replace(submission, base_seed=base), principal, kinds)
    jobs, batch = jobs_of(chosen, base), submission.batch
    named = list(dict.fromkeys(submission.backend_ids))
    backends = check(kinds, named, submission.required_capabilities)["backends"]
    bound = Counter(chosen.backend_ids)
    for backend in backends:
        if batch is None:
            backend["jobs"] = (
                (len(jobs) if is_pool else bound[backend["backend_id"]])
                if backend["can_run"]
                else 0
            )
    reason = _no_eta_reason(chosen, len(jobs))
    eta = _eta(chosen, len(jobs)) if reason is None else None
    return {
        "total_count": len(jobs),
        "placement": (Placement.POOL if is_pool else Placement.BOUND).value,
        "seed_strategy": submission.seed_strategy,
        "base_seed": base,
        "sweep": batch and batch.sweep,
        "jobs": [
            {
                "seed": job.seed,
                "variation": job.variation,
                "metadata": job.metadata,
                "backend_id": None if is_pool else chosen.backend_ids[at],
            }
            for at, job in enumerate(jobs)
        ],
        "backends": backends,
        "skipped_backends": list(chosen.skipped_backends),
        "warnings": warnings_of(submission),
        "eta_seconds": eta and round(eta, 1),
        "eta_reason": reason,
    }


def _no_eta_reason(chosen: Submission, total: int) -> str | None:
    """Return why not all jobs would be sent at their turn, None if they would."""
    share = chosen.submitter or chosen.address
    if held := held_reason(current_pauses().of("", share), chosen.start_after, now=now()):
        return held
    if total > (chosen.max_running or total):
        return f"At most {chosen.max_running} of the jobs may be at backends at once."
    if total > room_of(share, current_etas().current.snapshot):
        return f"{share} has a limit, and not all of the jobs fit beside its others."
    return halt_reason() or None


def _eta(chosen: Submission, total: int) -> float | None:
    """Return the seconds until the last job would end behind all that waits; None: a time is not
    known.
    """
    etas, template = current_etas(), chosen.template
    snapshot = etas.current.snapshot
    ends: list[float | None] = []
    if chosen.count is None:
        (digest,) = known_digests(template.digests[:1], lambda _: template, snapshot.estimates)
        for name, jobs in Counter(chosen.backend_ids).items():
            seconds = snapshot.estimates.seconds(digest, name)
            free = etas.free.get(name)
            ends.append(None if seconds is None or free is None else free + jobs * seconds)
    else:
        keys, of_job, batch = [template.digests], [0] * total, chosen.batch
        if batch is not None:
            keys, of_job = list(batch.variants), list(batch.variant_of)
        numbers = Counter(of_job)

        def template_of(number: int) -> WorkflowTemplate:
            return varied(template, batch and batch.jobs[of_job.index(number)].variation)

        digests = known_digests([digest for digest, _ in keys], template_of, snapshot.estimates)
        needs, backends = (
            Needs(tuple(chosen.backend_ids), tuple(chosen.required_capabilities)),
            pool_backends(),
        )
        variants = [
            OpenVariant(
                variant_id=-1 - number,
                group_id="",
                number=number,
                queued_at=now(),
                needs=needs,
                workflow_digest=digest,
                models_digest=models,
                unsent=numbers[number],
            )
            for number, (digest, (_, models)) in enumerate(zip(digests, keys, strict=True))
        ]
        queue = [*snapshot.variants, *variants]
        whole = PoolSnapshot(
            queue,
            backends,
            estimates=snapshot.estimates,
            prompts=snapshot.prompts,
            rooms=snapshot.rooms,
        )
        ends_of_variants = [whole.ends(variant.variant_id) for variant in variants]
        ends = [
            None if variant_ends is None else variant_ends.last for variant_ends in ends_of_variants
        ]
    return latest(ends)
