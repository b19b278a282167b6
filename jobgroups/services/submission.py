"""Submit a group, cancel it or one child of it."""

import datetime as dt
import json
import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from django.db import IntegrityError

from jobgroups import workflow
from jobgroups.database.retry import retried_transaction
from jobgroups.database.statements import Insertion, insert, insert_returning_id
from jobgroups.domain.clock import now
from jobgroups.domain.states import GroupStatus, PartialOutputs, Placement, RetryScope
from jobgroups.errors import IdempotencyConflict
from jobgroups.events import log
from jobgroups.models import NO_TIMEOUT, ChildJob, GroupLabel, JobGroup, Variant
from jobgroups.queries.assets import known_references
from jobgroups.queries.groups import submitted_backends
from jobgroups.serializers import to_json
from jobgroups.services.assets import assets_use
from jobgroups.services.backends import lock_backends
from jobgroups.workflow import seeds

IDEMPOTENCY_TTL: Final = dt.timedelta(hours=24)  #: How long an idempotency key is remembered.


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """A submission whose form was checked; its backends were chosen."""

    workflow: dict[str, Any]
    backend_ids: Sequence[str]  #: One child for each entry; with ``count`` the candidates of the pool.
    count: int | None = None  #: Children of the pool; None: each child is bound to the backend of its entry.
    parameters: dict[str, Any] = field(default_factory=dict)
    seed_strategy: str = "random"
    base_seed: int | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    timeout_seconds: int | None = 300  #: None: a job may run for any time.
    stall_seconds: int | None = None  #: Seconds without an event after which a job ends; None: any.
    #: Days after the end of the group until it is deleted; None: those of the installation.
    retention_days: int | None = None
    required_capabilities: Sequence[str] = ()
    uses_partner_nodes: bool | None = None  #: Whether ComfyUI marks a node as a partner's; None: not known.
    max_attempts: int = 1  #: Charged attempts that a child may have within a run.
    retry_elsewhere: RetryScope = RetryScope.NEVER
    retry_on: Sequence[str] | None = None  #: Failure classes after which a child is tried again; None: all that may be.
    partial_outputs: PartialOutputs = PartialOutputs.ACCEPT
    #: ``{"backend_id", "reason"}`` for each entry of the request that was left out.
    skipped_backends: Sequence[Mapping[str, str]] = ()
    #: Warnings that the request's form gave rise to; those of the workflow come behind them.
    warnings: Sequence[str] = ()
    submitter: str = ""
    idempotency_key: str | None = None
    idempotency_digest: str = ""


@dataclass(frozen=True, slots=True)
class Submitted:
    """What a submission led to."""

    group: JobGroup
    children: list[ChildJob]
    replayed: bool = False  #: Whether this is an earlier submission with the same idempotency key.


def group_replay(*, submitter: str, key: str, digest: str) -> Submitted | None:
    """Return the group that this idempotency key made within 24 h, if any.

    Raises ``IdempotencyConflict`` if it made one out of another body.
    """
    group = JobGroup.objects.filter(
        submitter=submitter, idempotency_key=key, created_at__gt=now() - IDEMPOTENCY_TTL
    ).first()
    if group is None:
        return None
    if group.idempotency_digest != digest:
        raise IdempotencyConflict("This Idempotency-Key was used within 24 h with another body; use a new key.")
    children = list(group.children.order_by("position"))
    first = submitted_backends(group)
    for child in children:
        # In memory alone: the answer is the first one's, wherever they have gone since.
        child.backend_id = first[child.id]
    return Submitted(group, children, replayed=True)


def group_submit(*, submission: Submission, runner_alive: bool) -> Submitted:
    """Store a group with its children and event 1, and ring. Once this returns, it will end.

    Args:
        submission: its backends take children, or its candidates do.
        runner_alive: without a live runner the group is ``pending`` until one claims a child.

    Raises:
        workflow.ParameterInvalid: a parameter does not fit the workflow.
        InvalidRequest: an asset that the workflow refers to does not exist.
        IdempotencyConflict: its key was used with another body.
        Conflict: a backend was removed since it was chosen.
    """
    prepared = workflow.build_template(submission.workflow, submission.parameters)
    asset_ids = known_references(prepared.workflow)
    base = submission.base_seed
    if base is None:
        base = secrets.randbelow(seeds.MAX_SEED + 1)
    total = submission.count or len(submission.backend_ids)
    dealt = seeds.seeds(seeds.SeedStrategy(submission.seed_strategy), base, total)
    group = _group_row(submission, base, runner_alive)
    group.warnings_json = to_json([*submission.warnings, *prepared.warnings])
    group.workflow_digest = workflow.digest(prepared)
    if submission.count is None:
        backends: Sequence[str | None] = submission.backend_ids
        variant = None
    else:
        backends = [None] * submission.count
        variant = Variant(
            group=group,
            number=0,
            queued_at=group.created_at,
            candidates=list(submission.backend_ids),
            workflow_digest=group.workflow_digest,
            models_digest=workflow.models_digest(prepared.workflow),
        )
    children = _child_rows(group, backends, dealt)
    # Before the transaction, which keeps other writers waiting.
    rows = Insertion(children)
    try:
        _store(group, rows, submission, variant, asset_ids)
    except IntegrityError:
        # Two requests with one key at the same moment: the other one was first.
        replay = submission.idempotency_key and group_replay(
            submitter=submission.submitter, key=submission.idempotency_key, digest=submission.idempotency_digest
        )
        if not replay:
            raise
        return replay
    return Submitted(group, children)


@retried_transaction
def _store(
    group: JobGroup, children: Insertion, submission: Submission, variant: Variant | None, asset_ids: Collection[str]
) -> None:
    if variant is None:
        lock_backends(submission.backend_ids)
    if group.idempotency_key is not None:
        used = JobGroup.objects.filter(submitter=group.submitter, idempotency_key=group.idempotency_key)
        used.filter(created_at__lte=now() - IDEMPOTENCY_TTL).update(idempotency_key=None)
    group.seq = 0
    insert([group])
    assets_use(group, asset_ids)
    if variant is None:
        children.execute()
    else:
        insert_returning_id(variant)
        children.execute(variant_id=variant.pk)
    insert(_labels(group, submission.metadata))
    log.append_events(group, [log.group_created(group)])
    log.notify_runners_on_commit(work_only=True)


def _group_row(submission: Submission, base_seed: int, runner_alive: bool) -> JobGroup:
    return JobGroup(
        id=f"jg_{secrets.token_hex(6)}",
        created_at=now(),
        status=(GroupStatus.RUNNING if runner_alive else GroupStatus.PENDING).value,
        accepted_without_runner=not runner_alive,
        workflow_json=to_json(submission.workflow),
        parameters_json=to_json(submission.parameters),
        metadata_json=to_json(submission.metadata),
        seed_strategy=submission.seed_strategy,
        base_seed=base_seed,
        timeout_seconds=NO_TIMEOUT if submission.timeout_seconds is None else submission.timeout_seconds,
        stall_seconds=submission.stall_seconds,
        retention_days=submission.retention_days,
        required_capabilities=list(submission.required_capabilities),
        uses_partner_nodes=submission.uses_partner_nodes,
        max_attempts=submission.max_attempts,
        retry_elsewhere=submission.retry_elsewhere.value,
        retry_on=None if submission.retry_on is None else list(submission.retry_on),
        partial_outputs=submission.partial_outputs.value,
        submitter=submission.submitter,
        placement=(Placement.BOUND if submission.count is None else Placement.POOL).value,
        skipped_backends_json=to_json(list(submission.skipped_backends)),
        idempotency_key=submission.idempotency_key,
        idempotency_digest=submission.idempotency_digest,
        total_count=submission.count or len(submission.backend_ids),
    )


def _child_rows(group: JobGroup, backend_ids: Sequence[str | None], dealt: list[int]) -> list[ChildJob]:
    return [
        ChildJob(
            id=f"j_{secrets.token_hex(6)}",
            group=group,
            position=position,
            backend_id=backend_id,
            is_bound=backend_id is not None,
            seed=seed,
            queued_at=group.created_at,
        )
        for position, (backend_id, seed) in enumerate(zip(backend_ids, dealt, strict=True))
    ]


def _labels(group: JobGroup, metadata: dict[str, Any]) -> list[GroupLabel]:
    return [
        GroupLabel(group=group, key=key, value=label_text(value))
        for key, value in metadata.items()
        if isinstance(value, str | int | float) and len(key) <= 100 and len(label_text(value)) <= 200
    ]


def label_text(value: str | float) -> str:
    """Return how a metadata scalar is written in a query: ``3``, ``true``, ``shot_001``."""
    return value if isinstance(value, str) else json.dumps(value)
