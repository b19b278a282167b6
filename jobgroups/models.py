"""Groups, children, attempts, events, runners, leases and notices: fields, constraints, indexes.

Only ``services`` write these rows. The CHECK constraints repeat the tables of ``domain.states``: the database
rejects what an unexpected error would store.

A column of a later release has a ``db_default``: while a farm is upgraded, the previous release still inserts
rows without it. A renamed attribute keeps its column (``db_column``) for the same reason.

Data of users and of ComfyUI is stored as JSON *text* (``…_json``), so that every database returns it unchanged,
with the order of its keys.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import ClassVar

from django.db import models
from django.db.models import F, Q

from backends.models import Backend
from jobgroups.domain.failures import FailureClass
from jobgroups.domain.states import (
    ATTEMPT_ENDED,
    CHILD_FINAL,
    AttemptState,
    ChildStatus,
    GroupStatus,
    PartialOutputs,
    RetryScope,
    StopReason,
)


def _values(members: type[StrEnum]) -> list[str]:
    return [member.value for member in members]


def _choices(members: type[StrEnum]) -> list[tuple[str, str]]:
    return [(member.value, member.value) for member in members]


def _known(name: str, field: str, members: type[StrEnum]) -> models.CheckConstraint:
    """Return a constraint: the field has one of the members' values."""
    return models.CheckConstraint(name=name, condition=Q(**{f"{field}__in": _values(members)}))


def _ended_has_time(
    name: str, field: str, ended: Iterable[str], members: type[StrEnum], time: str
) -> models.CheckConstraint:
    """Return a constraint: the time is null until the field has one of the ended values."""
    final = {f"{field}__in": sorted(map(str, ended)), f"{time}__isnull": False}
    active = {f"{field}__in": sorted({*_values(members)} - {*ended}), f"{time}__isnull": True}
    return models.CheckConstraint(name=name, condition=Q(**final) | Q(**active))


class JobGroup(models.Model):
    """One submission: a workflow, and one child for each entry of the named backends.

    Its row is the lock of the whole group: a writer locks it first, then children, then attempts.
    """

    id = models.CharField(primary_key=True, max_length=15)
    created_at = models.DateTimeField()
    completed_at = models.DateTimeField(null=True, blank=True)
    status = models.CharField(max_length=16, choices=_choices(GroupStatus))
    #: Number of its last event, assigned under the row lock: the order of seq is the order of commit.
    seq = models.BigIntegerField(default=0)
    #: A retry by a user starts the next run; ``cancelled_at`` and ``completed_at`` belong to the current one.
    run = models.IntegerField(default=1)
    cancelled_at = models.DateTimeField(null=True, blank=True)
    #: Whether a runner has claimed a child in any run: distinguishes ``pending`` from ``running``.
    has_claimed_child = models.BooleanField(default=False, db_column="claimed")
    accepted_without_runner = models.BooleanField(default=False)

    # The request.
    workflow_json = models.TextField()
    #: Digest of the workflow without its seeds; groups with one digest are compared in estimates and failures.
    workflow_digest = models.CharField(max_length=16, blank=True, default="", db_default="")
    parameters_json = models.TextField(default="{}")
    metadata_json = models.TextField(default="{}")
    seed_strategy = models.CharField(max_length=16)
    base_seed = models.BigIntegerField()
    timeout_seconds = models.IntegerField()
    required_capabilities = models.JSONField(default=list, blank=True)
    submitter = models.CharField(max_length=150, blank=True, default="")
    #: Limit of counted attempts of a child within one run.
    max_attempts = models.IntegerField(default=1, db_default=1)
    #: On which backends other than its own a child may be retried.
    retry_elsewhere = models.CharField(
        max_length=8, choices=_choices(RetryScope), default=RetryScope.NEVER.value, db_default=RetryScope.NEVER.value
    )
    #: Failure classes after which a child is retried; null: all that allow it.
    retry_on = models.JSONField(null=True, blank=True)
    #: What happens to a child if ComfyUI refuses some of its outputs and executes the others.
    partial_outputs = models.CharField(
        max_length=8,
        choices=_choices(PartialOutputs),
        default=PartialOutputs.ACCEPT.value,
        db_default=PartialOutputs.ACCEPT.value,
    )

    # The response.
    warnings_json = models.TextField(default="[]")
    skipped_backends_json = models.TextField(default="[]")
    idempotency_key = models.CharField(max_length=255, null=True, blank=True)  # noqa: DJ001 null = not given, so that the unique constraint ignores it
    #: SHA-256 of the request body: distinguishes a repeated request from another one with the same key.
    idempotency_digest = models.CharField(max_length=64, blank=True, default="")

    # Derived from the children in the transaction that changes a child: a list of groups reads no child.
    total_count = models.IntegerField()
    completed_count = models.IntegerField(default=0)
    failed_count = models.IntegerField(default=0)
    cancelled_count = models.IntegerField(default=0)

    class Meta:
        verbose_name = "group"
        ordering: ClassVar = ["-created_at", "-id"]
        constraints: ClassVar = [
            _known("group_status_known", "status", GroupStatus),
            models.CheckConstraint(
                name="group_open_has_no_end",
                condition=~Q(status__in=[GroupStatus.PENDING, GroupStatus.RUNNING]) | Q(completed_at__isnull=True),
            ),
            models.CheckConstraint(
                name="group_end_has_time",
                condition=~Q(status__in=[GroupStatus.COMPLETED, GroupStatus.FAILED]) | Q(completed_at__isnull=False),
            ),
            models.CheckConstraint(
                name="group_counts_fit", condition=Q(total_count__gte=F("completed_count") + F("failed_count"))
            ),
            models.UniqueConstraint(name="group_idempotency_key", fields=["submitter", "idempotency_key"]),
            models.CheckConstraint(name="group_max_attempts", condition=Q(max_attempts__gte=1, max_attempts__lte=10)),
            _known("group_retry_elsewhere_known", "retry_elsewhere", RetryScope),
            _known("group_partial_outputs_known", "partial_outputs", PartialOutputs),
        ]
        indexes: ClassVar = [
            # Estimates: the last runs of a workflow.
            models.Index(name="group_workflow", fields=["workflow_digest", "-created_at"]),
            # GET /api/job-groups: newest first, and by status.
            models.Index(name="group_newest", fields=["-created_at", "-id"]),
            models.Index(name="group_status_newest", fields=["status", "-created_at", "-id"]),
        ]

    def __str__(self) -> str:
        return self.id


class GroupLabel(models.Model):
    """One top-level scalar of a group's metadata, so that ``?metadata.scene=`` uses an index."""

    group = models.ForeignKey(JobGroup, on_delete=models.CASCADE, related_name="labels")
    key = models.CharField(max_length=100)
    #: As text: ``3`` and ``"3"`` are found by the same query.
    value = models.CharField(max_length=200)

    class Meta:
        constraints: ClassVar = [models.UniqueConstraint(name="label_once", fields=["group", "key"])]
        indexes: ClassVar = [models.Index(name="label_lookup", fields=["key", "value", "group"])]

    def __str__(self) -> str:
        return f"{self.key}={self.value}"


class ChildJob(models.Model):
    """One variation: the group's workflow with one seed, on one backend."""

    id = models.CharField(primary_key=True, max_length=14)
    group = models.ForeignKey(JobGroup, on_delete=models.CASCADE, related_name="children")
    #: Its position in the group, from 0; seeds are assigned in this order.
    position = models.IntegerField()
    #: The id outlives its backend: the history of a deleted backend stays readable. Null: not assigned.
    backend = models.ForeignKey(
        Backend, on_delete=models.DO_NOTHING, db_constraint=False, null=True, related_name="children"
    )
    seed = models.BigIntegerField()
    status = models.CharField(max_length=16, choices=_choices(ChildStatus), default=ChildStatus.QUEUED.value)
    #: The group's run in which it was last queued.
    run = models.IntegerField(default=1)
    current_attempt = models.ForeignKey("Attempt", on_delete=models.SET_NULL, null=True, blank=True, related_name="+")
    #: All attempts, counted or not.
    attempt_count = models.IntegerField(default=0)
    #: Attempts of this run that ended without being counted; limited, see ``services.outcomes``.
    uncounted_attempts = models.IntegerField(default=0, db_column="uncharged_count")
    #: Not claimed before this time (backoff between attempts).
    not_before = models.DateTimeField(null=True, blank=True)

    progress = models.FloatField(default=0.0)
    current_step = models.CharField(max_length=200, null=True, blank=True)  # noqa: DJ001 null in the API
    steps_completed = models.IntegerField(default=0)
    steps_total = models.IntegerField(default=0)

    outputs_json = models.TextField(null=True, blank=True)  # noqa: DJ001 null in the API
    error_message = models.TextField(null=True, blank=True)  # noqa: DJ001 null in the API
    error_type = models.CharField(max_length=32, null=True, blank=True)  # noqa: DJ001 null in the API
    error_details_json = models.TextField(null=True, blank=True)  # noqa: DJ001 null in the API
    #: A ``FailureClass``; empty without a failure.
    failure_class = models.CharField(
        max_length=24, blank=True, default="", db_default="", choices=_choices(FailureClass)
    )
    warnings_json = models.TextField(default="[]")
    #: Whether a user marked it with a star.
    starred = models.BooleanField(default=False)

    queued_at = models.DateTimeField()
    started_at = models.DateTimeField(null=True, blank=True)
    completed_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        verbose_name = "job"
        ordering: ClassVar = ["group", "position"]
        constraints: ClassVar = [
            models.UniqueConstraint(name="child_position", fields=["group", "position"]),
            _known("child_status_known", "status", ChildStatus),
            _ended_has_time("child_final_has_time", "status", CHILD_FINAL, ChildStatus, "completed_at"),
            models.CheckConstraint(
                name="child_result_iff_completed",
                condition=Q(status=ChildStatus.COMPLETED, outputs_json__isnull=False)
                | (~Q(status=ChildStatus.COMPLETED) & Q(outputs_json__isnull=True)),
            ),
            models.CheckConstraint(
                name="child_running_has_attempt",
                condition=~Q(status=ChildStatus.RUNNING) | Q(current_attempt__isnull=False),
            ),
            models.CheckConstraint(name="child_progress_percent", condition=Q(progress__gte=0, progress__lte=100)),
        ]
        indexes: ClassVar = [
            # A claim: the oldest queued child of a backend.
            models.Index(
                name="child_waiting",
                fields=["backend", "queued_at", "group", "position"],
                condition=Q(status=ChildStatus.QUEUED, current_attempt__isnull=True),
            ),
            # Open children of a backend: deletion, disabling, waiting reasons.
            models.Index(name="child_backend_status", fields=["backend", "status"]),
            # Deriving a group's status and counts.
            models.Index(name="child_group_status", fields=["group", "status"]),
            # Failed jobs of the last day: every page shows their number.
            models.Index(name="child_failed", fields=["-completed_at"], condition=~Q(failure_class="")),
        ]

    def __str__(self) -> str:
        return self.id


class Attempt(models.Model):
    """One attempt of a child on one backend, with a prompt id that is used once.

    The row is committed before the prompt is sent, so that the Director knows each of its prompts.
    """

    id = models.BigAutoField(primary_key=True)
    child = models.ForeignKey(ChildJob, on_delete=models.CASCADE, related_name="attempts")
    #: From 1, over all runs of the child.
    number = models.IntegerField()
    run = models.IntegerField()
    backend = models.ForeignKey(Backend, on_delete=models.DO_NOTHING, db_constraint=False, related_name="attempts")
    prompt_id = models.CharField(max_length=64, unique=True)
    #: The socket that receives the prompt's events; a runner that takes over opens one with the same id.
    client_id = models.CharField(max_length=200)
    #: Epoch of the lease with which it was claimed.
    epoch = models.BigIntegerField()
    state = models.CharField(max_length=16, choices=_choices(AttemptState), default=AttemptState.INTENT.value)
    #: Whether it counts against ``max_attempts``; false if nothing of it was executed.
    is_counted = models.BooleanField(default=True, db_column="charged")

    created_at = models.DateTimeField()
    uncertain_since = models.DateTimeField(null=True, blank=True)
    accepted_at = models.DateTimeField(null=True, blank=True)
    started_at = models.DateTimeField(null=True, blank=True)
    ended_at = models.DateTimeField(null=True, blank=True)
    #: Its end by the clock that dates its backend's files: the time in ComfyUI's history, later if a file
    #: server's clock is ahead. Null: not in the history.
    backend_ended_at = models.DateTimeField(null=True, blank=True)

    #: A pending stop: the runner deletes or interrupts the prompt until its end is known.
    stop_requested_at = models.DateTimeField(null=True, blank=True)
    stop_reason = models.CharField(max_length=16, blank=True, default="", choices=_choices(StopReason))

    #: ComfyUI's ``node_errors`` of an accepted prompt, ``{}`` if it refused no output. Null: not known yet, as
    #: the response was lost.
    node_errors_json = models.TextField(null=True, blank=True)  # noqa: DJ001 null = not known
    #: ComfyUI's ``{node: output}`` as reported by the nodes; used if the history was cleared.
    node_outputs_json = models.TextField(default="{}")
    #: Outputs in the API's form; a failed attempt keeps the outputs that it has made.
    outputs_json = models.TextField(null=True, blank=True)  # noqa: DJ001 null in the API
    error_message = models.TextField(null=True, blank=True)  # noqa: DJ001 null in the API
    error_type = models.CharField(max_length=32, null=True, blank=True)  # noqa: DJ001 null in the API
    error_details_json = models.TextField(null=True, blank=True)  # noqa: DJ001 null in the API
    #: A ``FailureClass``; empty without a failure.
    failure_class = models.CharField(
        max_length=24, blank=True, default="", db_default="", choices=_choices(FailureClass)
    )
    #: Sentences about parts of the prompt that ComfyUI did not execute. They are stored at once: ComfyUI sends
    #: some of them once and has no query for them.
    warnings_json = models.TextField(default="[]", db_default="[]")

    class Meta:
        ordering: ClassVar = ["child", "number"]
        constraints: ClassVar = [
            models.UniqueConstraint(name="attempt_number", fields=["child", "number"]),
            _known("attempt_state_known", "state", AttemptState),
            _ended_has_time("attempt_ended_has_time", "state", ATTEMPT_ENDED, AttemptState, "ended_at"),
            models.CheckConstraint(
                name="attempt_stop_has_reason",
                condition=Q(stop_requested_at__isnull=True, stop_reason="")
                | (Q(stop_requested_at__isnull=False) & ~Q(stop_reason="")),
            ),
        ]
        indexes: ClassVar = [
            # Recovery, slots and stops: the active attempts of a backend.
            models.Index(name="attempt_active", fields=["backend", "id"], condition=Q(ended_at__isnull=True)),
            # Failures of the last day, and of a backend's last minutes.
            models.Index(name="attempt_failed", fields=["backend", "-ended_at"], condition=~Q(failure_class="")),
        ]

    def __str__(self) -> str:
        return self.prompt_id

    @property
    def is_stopping(self) -> bool:
        """Return whether its stop is pending."""
        return self.stop_requested_at is not None and self.ended_at is None


class ReportedFile(models.Model):
    """A file at a backend that an attempt reported, until a later attempt replaces the file.

    ComfyUI reuses the name of a removed file (comfyui-protocol.md, trap 9). By these rows the transaction that ends the later
    attempt finds the earlier one.
    """

    id = models.BigAutoField(primary_key=True)
    # The unique constraint below serves as its index.
    attempt = models.ForeignKey(Attempt, on_delete=models.CASCADE, related_name="reported_files", db_index=False)
    #: Digest of the backend's id and ComfyUI's type, subfolder and name: see ``outputs.file_digest``.
    digest = models.CharField(max_length=32)
    #: Whether the attempt has written the file; otherwise it comes from ComfyUI's cache.
    executed = models.BooleanField()
    #: Digest of the node that has written the file: see ``workflow.origins``; empty: not known.
    origin = models.CharField(max_length=32, blank=True, default="", db_default="")

    class Meta:
        ordering: ClassVar = ["id"]
        constraints: ClassVar = [
            models.UniqueConstraint(name="file_once_per_attempt", fields=["attempt", "digest"]),
            # Of two concurrent ends of attempts that wrote one file, the second waits here for the first.
            models.UniqueConstraint(name="file_written_by_one", fields=["digest"], condition=Q(executed=True)),
        ]
        indexes: ClassVar = [models.Index(name="file_digest", fields=["digest"])]

    def __str__(self) -> str:
        return self.digest


class AbandonedPrompt(models.Model):
    """A prompt id that may still appear at a backend although its attempt was closed.

    Kept for 24 h. A pending prompt is deleted. A running prompt is adopted if its child is queued and no stop was
    requested, else interrupted.
    """

    attempt = models.OneToOneField(Attempt, on_delete=models.CASCADE, related_name="abandoned")
    backend = models.ForeignKey(Backend, on_delete=models.CASCADE, related_name="abandoned_prompts")
    prompt_id = models.CharField(max_length=64, unique=True)
    created_at = models.DateTimeField(db_column="since")
    expires_at = models.DateTimeField(db_column="until")

    class Meta:
        ordering: ClassVar = ["created_at"]

    def __str__(self) -> str:
        return self.prompt_id


class JobEvent(models.Model):
    """One event of a group's log, as it is sent to clients. Progress is not stored."""

    group = models.ForeignKey(JobGroup, on_delete=models.CASCADE, related_name="events")
    seq = models.BigIntegerField()
    run = models.IntegerField()
    type = models.CharField(max_length=32)
    #: The frame as it is sent: ``{"type": …, "seq": …, "run": …, …}``.
    frame = models.TextField()
    created_at = models.DateTimeField()

    class Meta:
        ordering: ClassVar = ["group", "seq"]
        constraints: ClassVar = [
            models.UniqueConstraint(name="event_seq", fields=["group", "seq"]),
            models.UniqueConstraint(
                name="event_group_complete_once_per_run", fields=["group", "run"], condition=Q(type="group_complete")
            ),
            models.CheckConstraint(name="event_seq_from_1", condition=Q(seq__gte=1)),
        ]

    def __str__(self) -> str:
        return f"{self.type} {self.seq}"


class Runner(models.Model):
    """A process that drives backends. It is alive while its heartbeat is younger than 10 s."""

    #: The process that holds the lock on the name (a file or advisory lock) may take over its leases.
    name = models.CharField(primary_key=True, max_length=100)
    instance = models.CharField(max_length=32)
    host = models.CharField(max_length=255)
    pid = models.IntegerField()
    version = models.CharField(max_length=32)
    started_at = models.DateTimeField()
    heartbeat_at = models.DateTimeField()
    stopped_at = models.DateTimeField(null=True, blank=True)
    #: Restarts within the process after an unexpected error, and the last error.
    restarts = models.IntegerField(default=0)
    last_error = models.CharField(max_length=500, blank=True, default="")
    last_error_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering: ClassVar = ["name"]

    def __str__(self) -> str:
        return self.name


class Lease(models.Model):
    """A runner's time-limited right to a backend. Every write of the runner is checked against the epoch.

    A table of its own: the backend's row is written with every observation, and a writer's ``FOR SHARE`` on the
    lease must not wait for that.
    """

    backend = models.OneToOneField(Backend, on_delete=models.CASCADE, primary_key=True, related_name="lease")
    #: Name of the runner; empty: unclaimed.
    runner = models.CharField(max_length=100, blank=True, default="")
    epoch = models.BigIntegerField(default=0)
    expires_at = models.DateTimeField(null=True, blank=True, db_column="until")

    class Meta:
        ordering: ClassVar = ["backend"]

    def __str__(self) -> str:
        return f"{self.backend_id} epoch {self.epoch}"


class Notice(models.Model):
    """A message to users outside of the Director, delivered in the background with retries.

    It is stored in the transaction of its cause: no notice is lost, none reports what was rolled back.
    """

    id = models.BigAutoField(primary_key=True)
    #: ``group_ended``, ``backend_trouble``, ``queue_empty``.
    kind = models.CharField(max_length=24)
    title = models.CharField(max_length=250)
    body = models.TextField()
    created_at = models.DateTimeField()
    #: Null after it was delivered or given up.
    next_attempt_at = models.DateTimeField(null=True, blank=True, db_column="next_try_at")
    attempt_count = models.IntegerField(default=0, db_column="tries")
    sent_at = models.DateTimeField(null=True, blank=True)
    last_error = models.CharField(max_length=500, blank=True, default="")
    #: Name of the runner that delivers it now; empty while no runner does.
    claimed_by = models.CharField(max_length=100, blank=True, default="", db_default="")
    #: Order within a merged message; see ``domain.notices.Urgency``.
    urgency = models.SmallIntegerField(default=2, db_default=2)
    #: Marks of the services that accepted it while another one did not, separated by blanks.
    delivered_to = models.TextField(blank=True, default="", db_default="", db_column="taken_by")

    class Meta:
        ordering: ClassVar = ["id"]
        indexes: ClassVar = [
            models.Index(name="notice_due", fields=["next_attempt_at"], condition=Q(next_attempt_at__isnull=False))
        ]

    def __str__(self) -> str:
        return self.title
