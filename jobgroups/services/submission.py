"""Stores a submission: its group with the children and event 1, or the group of its idempotency
key.
"""

import datetime as dt
import json
import logging
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from django.db import IntegrityError
from django.db.models import Manager

from jobgroups import workflow
from jobgroups.database.retry import retried_transaction
from jobgroups.database.statements import (
    KEY,
    Insertion,
    Parameter,
    PreparedQuery,
    PreparedValues,
    insert,
    insert_with_keys,
    update_where,
)
from jobgroups.domain.access import Visibility
from jobgroups.domain.audit import Action
from jobgroups.domain.clock import now
from jobgroups.domain.states import ChildStatus, GroupStatus, PartialOutputs, Placement, RetryScope
from jobgroups.domain.turns import DEFAULT_PRIORITY
from jobgroups.errors import GroupDeleted, IdempotencyConflict, PromptIdConflict, QueueFull
from jobgroups.events import log
from jobgroups.log_context import bound, note_cause
from jobgroups.models import (
    NO_TIMEOUT,
    ChildJob,
    DeletedSubmission,
    GroupLabel,
    JobGroup,
    ListenerPrompt,
    Submitter,
    Variant,
    share_name,
)
from jobgroups.queries.groups import is_large, open_groups, submitted_backends
from jobgroups.serializers import to_json
from jobgroups.services.assets import assets_use
from jobgroups.services.audit import record
from jobgroups.services.backends import lock_backends
from jobgroups.services.listener_prompts import put_in_order
from jobgroups.services.write_start import begin_write
from jobgroups.workflow import WorkflowTemplate, seeds
from jobgroups.workflow.batch import Batch, BatchJob, VariantKey
from jobgroups.workflow.seed_inputs import NO_SEED

logger = logging.getLogger(__name__)
M = TypeVar("M", JobGroup, DeletedSubmission)

IDEMPOTENCY_TTL: Final = dt.timedelta(hours=24)  #: How long an idempotency key is remembered.


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What a program sent to the ComfyUI listener beside the workflow.

    Attributes:
        owner, prompt_id, digest, client_id, outputs: as of ``ListenerPrompt``.
        fields: as ``JobGroup.prompt_fields_json``.
        program: as ``JobGroup.program``.
        number: its place in the owner's own order; None: the last one.
        is_front: whether it comes before the owner's other waiting prompts.
    """

    owner: str
    prompt_id: str
    digest: str
    client_id: str
    outputs: Sequence[str]
    fields: Mapping[str, Any]
    program: str
    number: float | None = None
    is_front: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """A submission whose form was checked; its backends were chosen."""

    workflow: dict[str, Any]
    template: WorkflowTemplate  #: The workflow with its parameters.
    #: One child for each entry; with ``count`` the candidates of the pool.
    backend_ids: Sequence[str]
    #: Children of the pool; None: each child is bound to the backend of its entry.
    count: int | None = None
    parameters: dict[str, Any] = field(default_factory=dict)
    editor_json: str | None = None  #: As ``JobGroup.editor_json``.
    seed_strategy: str = "random"
    base_seed: int | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    timeout_seconds: int | None = 300  #: None: a job may run for any time.
    stall_seconds: int | None = None  #: Seconds without an event after which a job ends; None: any.
    #: Days after the end of the group until it is deleted; None: those of the installation.
    retention_days: int | None = None
    required_capabilities: Sequence[str] = ()
    #: Whether ComfyUI marks a node as a partner's; None: not known.
    uses_partner_nodes: bool | None = None
    max_attempts: int = 1  #: Charged attempts that a child may have within a run.
    retry_elsewhere: RetryScope = RetryScope.NEVER
    #: Failure classes after which a child is tried again; None: all that may be.
    retry_on: Sequence[str] | None = None
    partial_outputs: PartialOutputs = PartialOutputs.ACCEPT
    batch: Batch | None = None  #: The jobs with inputs of their own, as many as ``count``.
    #: The numbers of ``completed`` or ``failed`` jobs at which the rest of the group ends; None: it
    #: does not.
    stop_when: Mapping[str, int] | None = None
    #: ``{"url", "events"}``; None: those of the installation alone.
    webhook: Mapping[str, Any] | None = None
    #: ``{"backend_id", "reason"}`` for each entry of the request that was left out.
    skipped_backends: Sequence[Mapping[str, str]] = ()
    #: Warnings that the request's form gave rise to; those of the workflow come behind them.
    warnings: Sequence[str] = ()
    submitter: str = ""
    owner_id: int | None = None  #: The account that submits; None: there are no accounts.
    address: str = ""  #: Of the client: its share is used if there is no ``submitter``.
    priority: int = DEFAULT_PRIORITY
    max_running: int | None = None  #: Prompts at once; None: any number.
    start_after: dt.datetime | None = None  #: Nothing is sent before; None: at once.
    name: str = ""
    visibility: str = Visibility.PRIVATE  #: One of ``Visibility``.
    idempotency_key: str | None = None
    idempotency_digest: str = ""
    #: A key of Comfy.org for its partner nodes, which is stored nowhere; empty: that of the
    #: installation is used.
    secret: str = field(default="", repr=False)
    origin: Origin | None = None  #: Of a prompt of the ComfyUI listener; None: it is none.
    may_wait: bool = False  #: Whether it is accepted although all candidates are away.

    @property
    def references(self) -> list[tuple[str, str]]:
        """The references to assets: the path in the request and the asset's id of each."""
        of_jobs = () if self.batch is None else self.batch.assets.items()
        return [*self.template.references, *((path, asset_id) for asset_id, path in of_jobs)]


@dataclass(frozen=True, slots=True)
class Submitted:
    group: JobGroup
    children: list[ChildJob]  #: Of a large group none.
    replayed: bool = False  #: Whether this is an earlier submission with the same idempotency key.


_variant_ids: Final = PreparedValues(
    lambda: Variant.objects.filter(group=KEY).order_by().values_list("number", "id")
)


def group_replay(
    *, submitter: str, owner_id: int | None, key: str, digest: str
) -> Submitted | None:
    """Return the group that this idempotency key made within 24 h, if any.

    Raises ``IdempotencyConflict`` if it made one out of another body, or for the same submitter and
    no or another account, ``GroupDeleted`` if that group was deleted.
    """
    stored: list[JobGroup | DeletedSubmission] = [*_with_key(_groups, submitter, key)]
    for row in stored or _with_key(_deleted, submitter, key):
        is_foreign = owner_id is not None and getattr(row, "owner_id", owner_id) != owner_id
        if is_foreign or row.idempotency_digest != digest:
            how = "with another body"
            if is_foreign:
                how = "by another account of this name, or without accounts"
            raise IdempotencyConflict(
                f"This Idempotency-Key was used within 24 h {how}; use a new key."
            )
        if isinstance(row, DeletedSubmission):
            raise GroupDeleted
        return _replay(row)
    return None


def prompt_replay(origin: Origin) -> Submitted | None:
    """Return the group that an owner's prompt id made before, if any.

    Raises ``PromptIdConflict`` if it made one out of another body.
    """
    made = _prompts.first(owner=origin.owner, prompt_id=origin.prompt_id)
    if made is None:
        return None
    if made.digest != origin.digest:
        raise PromptIdConflict(origin.prompt_id)
    return _replay(made.group)


_prompts: Final = PreparedQuery(
    lambda: (
        ListenerPrompt.objects.filter(owner=Parameter("owner"), prompt_id=Parameter("prompt_id"))
        .select_related("group")
        .order_by()
    )
)


def _replay(group: JobGroup) -> Submitted:
    if is_large(group):
        return Submitted(group, [], replayed=True)
    children = list(group.children.order_by("position"))
    first = submitted_backends(group)
    for child in children:
        # In memory alone: the answer is the first one's, wherever they have gone since.
        child.backend_id = first[child.id]
    return Submitted(group, children, replayed=True)


def _with_key(rows: PreparedQuery[M], submitter: str, key: str) -> list[M]:
    return rows(key, submitter=submitter, valid_from=now() - IDEMPOTENCY_TTL)


def _of_key(rows: Manager[M], bound: str) -> PreparedQuery[M]:
    """Return a query of the rows with a key, of one submitter, whose creation has a bound: ``gt``
    or ``lte``.
    """
    values = {"submitter": Parameter("submitter"), f"created_at__{bound}": Parameter("valid_from")}
    return PreparedQuery(lambda: rows.filter(idempotency_key=KEY, **values).order_by())


_groups: Final = _of_key(JobGroup.objects, "gt")
_expired: Final = _of_key(JobGroup.objects, "lte")
_deleted: Final = _of_key(DeletedSubmission.objects, "gt")


def group_submit(*, submission: Submission, runner_alive: bool) -> Submitted:
    """Store a group with its children and event 1, and notify the runners. Once this returns, it
    will end.

    Args:
        submission: its backends take children, or its candidates do.
        runner_alive: without a live runner the group is ``pending`` until one claims a child.

    Raises:
        InvalidRequest: an asset that the workflow refers to does not exist.
        IdempotencyConflict: its key was used with another body.
        GroupDeleted: the group of its key was deleted.
        Conflict: a backend was removed since it was chosen.
        QueueFull: its submitter may not have so many queued jobs.
        Overloaded: the write has not begun in time.
    """
    template = submission.template
    base = seeds.random_base() if submission.base_seed is None else submission.base_seed
    group = _group_row(submission, base, runner_alive)
    group.warnings_json = to_json(warnings_of(submission))
    group.workflow_digest = template.digests[0]
    summary = workflow.summary(template.workflow)
    group.summary_json, group.prompt = to_json(summary), summary.get("prompt", "")
    children = _child_rows(group, submission, jobs_of(submission, base))
    variants: list[Variant] = []
    if submission.count is not None:
        keys = [template.digests] if submission.batch is None else submission.batch.variants
        variants = _variants(group, submission, keys)
    # Before the transaction, which keeps other writers waiting.
    rows = Insertion(children, later="variant_id" if variants else "")
    note_cause(group.id)
    try:
        _store(group, rows, submission, variants)
    except IntegrityError:
        # Two requests with one key at the same moment: the other one was first.
        if submission.origin and (earlier := prompt_replay(submission.origin)):
            return earlier
        replay = submission.idempotency_key and group_replay(
            submitter=submission.submitter,
            owner_id=submission.owner_id,
            key=submission.idempotency_key,
            digest=submission.idempotency_digest,
        )
        if not replay:
            raise
        return replay
    with bound(group=group.id):
        logger.info("%s: submitted (%d jobs)", group.id, group.total_count)
    return Submitted(group, [] if is_large(group) else children)


@retried_transaction
def _store(
    group: JobGroup, children: Insertion, submission: Submission, variants: Sequence[Variant]
) -> None:
    begin_write()
    _check_queue(group)
    if not variants:
        lock_backends(submission.backend_ids)
    if group.idempotency_key is not None:
        for older in _with_key(_expired, group.submitter, group.idempotency_key):
            update_where(JobGroup, older.pk, {"idempotency_key": None})
    group.seq = 0
    # Before the row, which has their number: the database checks the reference at the commit.
    log.append_events((group, [log.group_created(group)]))
    insert([group])
    if group.idempotency_key is not None and _with_key(
        _deleted, group.submitter, group.idempotency_key
    ):
        raise IntegrityError("The group of this key was deleted since the request began.")
    if submission.origin is not None:
        _store_origin(group, submission.origin)
    assets_use(group, submission.references)
    if variants:
        insert(variants)
        ids = dict(_variant_ids(group.id))
        of_child = (
            [0] * group.total_count if submission.batch is None else submission.batch.variant_of
        )
        children.execute(variant_id=[ids[number] for number in of_child])
    else:
        children.execute()
    insert(_labels(group, submission.metadata))
    record(
        Action.GROUP_SUBMITTED,
        group.id,
        by=group.submitter,
        jobs=group.total_count,
        submitter=group.submitter,
    )
    if submission.secret:
        log.send_key_on_commit(group.id, submission.secret)
    log.notify_runners_on_commit(work_only=True)


def _store_origin(group: JobGroup, origin: Origin) -> None:
    prompt = ListenerPrompt(
        group=group,
        owner=origin.owner,
        prompt_id=origin.prompt_id,
        digest=origin.digest,
        client_id=origin.client_id,
        number=origin.number,
        outputs_json=to_json(list(origin.outputs)),
        created_at=group.created_at,
    )
    insert_with_keys([prompt], by="prompt_id")
    if origin.is_front:
        prompt.number = -prompt.pk
        update_where(ListenerPrompt, prompt.pk, {"number": prompt.number})
    put_in_order(prompt, group)
    log.notify_prompt_on_commit(group.id, owner=origin.owner, client_id=origin.client_id)


def _check_queue(group: JobGroup) -> None:
    """Raise ``QueueFull`` if a group has more jobs than its submitter may have queued."""
    limited = _limited_submitter.first(group.share_name)
    if limited is None:
        return
    groups = open_groups().alias(share=share_name()).filter(share=limited.name)
    queued = ChildJob.objects.filter(group__in=groups, status=ChildStatus.QUEUED).count()
    if queued + group.total_count > limited.max_queued:
        raise QueueFull(limited.name, queued, group.total_count, limited.max_queued)


#: Its row is locked: submissions of one submitter at the same moment count each other's jobs.
_limited_submitter: Final[PreparedQuery[Any]] = PreparedQuery(
    lambda: (
        Submitter.objects.filter(pk=KEY, max_queued__isnull=False)
        .only("name", "max_queued")
        .select_for_update(no_key=True)
    )
)


def _group_row(submission: Submission, base_seed: int, runner_alive: bool) -> JobGroup:
    moment = now()
    return JobGroup(
        id=f"jg_{secrets.token_hex(6)}",
        created_at=moment,
        waiting_since=moment,
        status=(GroupStatus.RUNNING if runner_alive else GroupStatus.PENDING).value,
        accepted_without_runner=not runner_alive,
        workflow_json=to_json(submission.workflow),
        parameters_json=to_json(submission.parameters),
        editor_json=submission.editor_json,
        metadata_json=to_json(submission.metadata),
        sweep_json=None if submission.batch is None else _json_or_none(submission.batch.sweep),
        seed_strategy=submission.seed_strategy,
        base_seed=base_seed,
        timeout_seconds=NO_TIMEOUT
        if submission.timeout_seconds is None
        else submission.timeout_seconds,
        stall_seconds=submission.stall_seconds,
        retention_days=submission.retention_days,
        required_capabilities=list(submission.required_capabilities),
        uses_partner_nodes=submission.uses_partner_nodes,
        has_secret=bool(submission.secret),
        max_attempts=submission.max_attempts,
        retry_elsewhere=submission.retry_elsewhere.value,
        retry_on=None if submission.retry_on is None else list(submission.retry_on),
        partial_outputs=submission.partial_outputs.value,
        stop_when_json=_json_or_none(submission.stop_when),
        prompt_fields_json=None if submission.origin is None else to_json(submission.origin.fields),
        program=None if submission.origin is None else submission.origin.program,
        webhook_json=_json_or_none(submission.webhook),
        submitter=submission.submitter,
        owner_id=submission.owner_id,
        shared_at=moment if submission.visibility == Visibility.SHARED else None,
        priority=submission.priority,
        max_running=submission.max_running,
        start_after=submission.start_after,
        share_of=submission.submitter or submission.address,
        name=submission.name,
        placement=(Placement.BOUND if submission.count is None else Placement.POOL).value,
        skipped_backends_json=to_json(list(submission.skipped_backends)),
        idempotency_key=submission.idempotency_key,
        idempotency_digest=submission.idempotency_digest,
        total_count=submission.count or len(submission.backend_ids),
    )


def jobs_of(submission: Submission, base_seed: int) -> Sequence[BatchJob]:
    """Return the jobs that a submission makes, with their seeds."""
    if submission.batch is not None:
        return submission.batch.jobs
    total = submission.count or len(submission.backend_ids)
    strategy = seeds.SeedStrategy(submission.seed_strategy)
    return [BatchJob(seed, None) for seed in seeds.seeds(strategy, base_seed, total)]


def warnings_of(submission: Submission) -> list[str]:
    """Return the warnings of a submission; a workflow without a seed is right if its jobs differ
    otherwise.
    """
    differ = submission.batch is not None and all(job.variation for job in submission.batch.jobs)
    return [
        *submission.warnings,
        *(
            warning
            for warning in submission.template.warnings
            if not (differ and warning == NO_SEED)
        ),
    ]


def _variants(group: JobGroup, submission: Submission, keys: Sequence[VariantKey]) -> list[Variant]:
    return [
        Variant(
            group=group,
            number=number,
            queued_at=group.created_at,
            candidates=list(submission.backend_ids),
            workflow_digest=digest,
            models_digest=models,
        )
        for number, (digest, models) in enumerate(keys)
    ]


def _child_rows(
    group: JobGroup, submission: Submission, jobs: Sequence[BatchJob]
) -> list[ChildJob]:
    bound: Sequence[str | None] = (
        submission.backend_ids if submission.count is None else [None] * len(jobs)
    )
    return [
        ChildJob(
            id=f"j_{secrets.token_hex(6)}",
            group=group,
            position=position,
            backend_id=backend_id,
            is_bound=backend_id is not None,
            seed=job.seed,
            variation_json=_json_or_none(job.variation),
            metadata_json=_json_or_none(job.metadata),
            queued_at=group.created_at,
            group_created_at=group.created_at,
        )
        for position, (backend_id, job) in enumerate(zip(bound, jobs, strict=True))
    ]


def _json_or_none(value: object) -> str | None:
    return None if value is None else to_json(value)


def _labels(group: JobGroup, metadata: dict[str, Any]) -> list[GroupLabel]:
    return [
        GroupLabel(group=group, key=key, value=label_text(value), group_created_at=group.created_at)
        for key, value in metadata.items()
        if isinstance(value, str | int | float)
        and len(key) <= 100
        and len(label_text(value)) <= 200
    ]


def label_text(value: str | float) -> str:
    """Return how a metadata scalar is written in a query: ``3``, ``true``, ``shot_001``."""
    return value if isinstance(value, str) else json.dumps(value)
