"""Groups, children, attempts, events, runners, leases and notices: fields, constraints, indexes.

Only ``services`` write these rows. The CHECK constraints repeat the tables of ``domain.states``:
the database rejects what an unexpected error would store.

A column of a later release has a ``db_default``: while a farm is upgraded, the previous release
still inserts rows without it. A renamed attribute keeps its column (``db_column``) for the same
reason.

Data of users and of ComfyUI is stored as JSON *text* (``…_json``), so that every database returns
it unchanged, with the order of its keys.
"""

import json
from collections.abc import Iterable
from enum import StrEnum
from typing import Any, Final

from django.conf import settings
from django.db import models
from django.db.models import F, Q, Value
from django.db.models.functions import Coalesce, NullIf

from backends.capabilities import needed_capabilities
from backends.models import Backend, time_or_null
from jobgroups.domain.access import Visibility
from jobgroups.domain.exclusions import ExclusionKind
from jobgroups.domain.failures import FailureClass
from jobgroups.domain.retry_policy import RetryPolicy
from jobgroups.domain.states import (
    ATTEMPT_ENDED,
    CHILD_FINAL,
    AttemptState,
    ChildStatus,
    GroupStatus,
    PartialOutputs,
    Placement,
    RetryScope,
    StopReason,
)
from jobgroups.domain.text import group_title

#: ``timeout_seconds`` of a group whose jobs may run for any time: 68 years, since the previous
#: release reads no null.
NO_TIMEOUT: Final = 2**31 - 1
#: The long columns of ``JobGroup``, which few callers need.
LONG: Final = ("workflow_json", "parameters_json", "editor_json", "prompt_fields_json")
#: Of them the columns that only the sending of a prompt needs.
UNREAD: Final = ("editor_json", "prompt_fields_json")
TITLE: Final = ("name", "metadata_json", "summary_json")  #: The columns of ``JobGroup.title``.


def share_name(group: str = "") -> Coalesce:
    """Return ``JobGroup.share_name`` in SQL; ``group`` is the path to the group, as ``child__group__``."""
    return Coalesce(NullIf(f"{group}share_of", Value("")), f"{group}submitter")


def _values(members: type[StrEnum]) -> list[str]:
    return [member.value for member in members]


def _choices(members: type[StrEnum]) -> list[tuple[str, str]]:
    return [(member.value, member.value) for member in members]


def _text_or_null() -> "models.TextField[str | None, str | None]":
    """Return a column whose null differs from an empty text, as in the API."""
    return models.TextField(null=True, blank=True)


def _owner() -> "models.ForeignKey[Any, Any]":
    """Return the column of an account; null: there were no accounts."""
    return models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.DO_NOTHING,
        db_constraint=False,
        db_index=False,
        null=True,
        blank=True,
        related_name="+",
    )


def _known_values(name: str, field: str, members: type[StrEnum]) -> models.CheckConstraint:
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
    completed_at = time_or_null()
    status = models.CharField(max_length=16, choices=_choices(GroupStatus))
    #: Number of its last event, assigned under the row lock: the order of seq is the order of
    #: commit.
    seq = models.BigIntegerField(default=0)
    #: A retry by a user starts the next run; ``cancelled_at`` and ``completed_at`` belong to the
    #: current one.
    run = models.IntegerField(default=1)
    #: Increases with each change of what its answers show that is no event: progress, a star, a
    #: captured file.
    revision = models.BigIntegerField(default=0, db_default=0)
    cancelled_at = time_or_null()
    #: Whether a runner has claimed a child in any run: distinguishes ``pending`` from ``running``.
    has_claimed_child = models.BooleanField(default=False, db_column="claimed")
    accepted_without_runner = models.BooleanField(default=False)
    #: As a user called it.
    name = models.CharField(max_length=200, blank=True, default="", db_default="")
    archived_at = time_or_null()  #: When a user moved it out of the lists.

    # The request.
    workflow_json = models.TextField()
    #: What its prompt has beside the workflow: ``extra_data`` without keys, and
    #: ``partial_execution_targets``, as a program sent them to the ComfyUI listener. Null: it came
    #: through the API.
    prompt_fields_json = _text_or_null()
    #: The program that sent it to the ComfyUI listener, by its ``User-Agent``; null as above.
    program = models.CharField(max_length=100, null=True, blank=True)  # noqa: DJ001 see priority
    #: Digest of the workflow without its seeds; groups with one digest are compared in estimates
    #: and failures.
    workflow_digest = models.CharField(max_length=16, blank=True, default="", db_default="")
    parameters_json = models.TextField(default="{}")
    #: The editor's workflow for pictures: ``{"workflow", "places"}``, see ``workflow.embedded``.
    #: Null: there is none.
    editor_json = _text_or_null()
    #: What ``workflow.summary`` finds; ``prompt`` is the positive prompt again, for searches.
    summary_json = models.TextField(default="{}", db_default="{}")
    prompt = models.TextField(blank=True, default="", db_default="")
    metadata_json = models.TextField(default="{}")
    #: ``{"url", "events"}`` as submitted; null: its events are sent to the installation's webhooks
    #: alone.
    webhook_json = _text_or_null()
    #: Whether its jobs are sent with a key of its submitter, which processes keep in memory and no
    #: table has.
    has_secret = models.BooleanField(default=False, db_default=False)
    #: ``{"mode", "axes": [{"input", "values"}]}``; null: its jobs are not a sweep.
    sweep_json = _text_or_null()
    #: ``{"completed", "failed"}``: the numbers of jobs at which the rest of the group ends; null:
    #: it does not.
    stop_when_json = _text_or_null()
    stopped_at = time_or_null()  #: When ``stop_when`` ended the rest; it does so once.
    seed_strategy = models.CharField(max_length=16)
    base_seed = models.BigIntegerField()
    #: From the start of a job; ``NO_TIMEOUT``: only ``stall_seconds`` ends it.
    timeout_seconds = models.IntegerField()
    #: A job ends after so many seconds without an event of its prompt; null: it does not.
    stall_seconds = models.IntegerField(null=True, blank=True)
    #: Days after its end until it is deleted; null: those of the installation.
    retention_days = models.IntegerField(null=True, blank=True)
    required_capabilities = models.JSONField(default=list, blank=True)
    #: Whether ComfyUI marks a node of the workflow as a partner's, who is paid; null: not known.
    uses_partner_nodes = models.BooleanField(null=True, blank=True)
    submitter = models.CharField(max_length=150, blank=True, default="")
    #: The account that submitted it; null: there were no accounts.
    owner = _owner()
    shared_at = time_or_null()  #: When every account was permitted to see it; null: it is private.

    # Its turn in the queue, see ``domain.turns``.
    #: Null in rows of the previous release: the default. Such a column is added without making the
    #: table again on SQLite.
    priority = models.SmallIntegerField(null=True, blank=True)
    #: Whose share of the farm it uses: its submitter, else the address of the client. Null in rows
    #: of the previous release: the submitter.
    share_of = models.CharField(max_length=150, blank=True, null=True)  # noqa: DJ001 see priority
    #: What counts instead of the queueing time in the order of the submitter; null: nothing does.
    ordered_at = time_or_null()
    #: When an operator brought it to the front of its level; null: no operator did.
    front_at = time_or_null()
    #: Since when no backend has a job of it, from which its level rises; null: a backend has one,
    #: or had one a moment ago.
    waiting_since = time_or_null()
    max_running = models.IntegerField(null=True, blank=True)  #: Prompts at once; null: any number.
    start_after = time_or_null()  #: Nothing is sent before; null: at once.

    #: Whether each child was submitted to a backend, or waits for any candidate.
    placement = models.CharField(
        max_length=8,
        choices=_choices(Placement),
        default=Placement.BOUND.value,
        db_default=Placement.BOUND.value,
    )
    #: Limit of counted attempts of a child within one run.
    max_attempts = models.IntegerField(default=1, db_default=1)
    #: On which backends other than its own a child may be retried.
    retry_elsewhere = models.CharField(
        max_length=8,
        choices=_choices(RetryScope),
        default=RetryScope.NEVER.value,
        db_default=RetryScope.NEVER.value,
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
    #: SHA-256 of the request body: distinguishes a repeated request from another one with the same
    #: key.
    idempotency_digest = models.CharField(max_length=64, blank=True, default="")

    # Derived from the children in the transaction that changes a child: a list of groups reads no
    # child.
    total_count = models.IntegerField()
    completed_count = models.IntegerField(default=0)
    failed_count = models.IntegerField(default=0)
    cancelled_count = models.IntegerField(default=0)

    class Meta:
        verbose_name = "group"
        ordering = ["-created_at", "-id"]
        constraints = [
            _known_values("group_status_known", "status", GroupStatus),
            models.CheckConstraint(
                name="group_open_has_no_end",
                condition=~Q(status__in=[GroupStatus.PENDING, GroupStatus.RUNNING])
                | Q(completed_at__isnull=True),
            ),
            models.CheckConstraint(
                name="group_end_has_time",
                condition=~Q(status__in=[GroupStatus.COMPLETED, GroupStatus.FAILED])
                | Q(completed_at__isnull=False),
            ),
            models.CheckConstraint(
                name="group_counts_fit",
                condition=Q(total_count__gte=F("completed_count") + F("failed_count")),
            ),
            models.UniqueConstraint(
                name="group_idempotency_key", fields=["submitter", "idempotency_key"]
            ),
            models.CheckConstraint(
                name="group_max_attempts", condition=Q(max_attempts__gte=1, max_attempts__lte=10)
            ),
            _known_values("group_retry_elsewhere_known", "retry_elsewhere", RetryScope),
            _known_values("group_partial_outputs_known", "partial_outputs", PartialOutputs),
            _known_values("group_placement_known", "placement", Placement),
        ]
        indexes = [
            # The lists: without the index, a page that few groups match reads all of them.
            models.Index(
                name="group_listed",
                fields=["-created_at", "-id"],
                condition=Q(archived_at__isnull=True),
            ),
            models.Index(
                name="group_archived",
                fields=["-created_at", "-id"],
                condition=Q(archived_at__isnull=False),
            ),
            # Estimates: the last runs of a workflow.
            models.Index(name="group_workflow", fields=["workflow_digest", "-created_at"]),
            # GET /api/job-groups: newest first, and by status.
            models.Index(name="group_newest", fields=["-created_at", "-id"]),
            models.Index(name="group_status_newest", fields=["status", "-created_at", "-id"]),
            models.Index(name="group_submitter_newest", fields=["submitter", "-created_at", "-id"]),
            # The lists of an account that sees its own work and what is shared.
            models.Index(name="group_owner_newest", fields=["owner", "-created_at", "-id"]),
            models.Index(
                name="group_shared",
                fields=["-created_at", "-id"],
                condition=Q(shared_at__isnull=False),
            ),
            # The pool's queue.
            models.Index(
                name="group_pool_open",
                fields=["created_at", "id"],
                condition=Q(completed_at__isnull=True, placement=Placement.POOL),
            ),
        ]

    def __str__(self) -> str:
        return self.id

    @property
    def visibility(self) -> Visibility:
        """Return who sees it where people see their own work alone."""
        return Visibility.PRIVATE if self.shared_at is None else Visibility.SHARED

    @property
    def title(self) -> str:
        """Return what users call it: its name, else what its metadata or its workflow name, else
        its id.
        """
        title = self.name or group_title(
            json.loads(self.metadata_json), json.loads(self.summary_json)
        )
        return title or self.id

    @property
    def share_name(self) -> str:
        """Return the submitter whose share it uses, and whose limits and pauses count."""
        return self.share_of or self.submitter

    @property
    def time_limit(self) -> int | None:
        return None if self.timeout_seconds == NO_TIMEOUT else self.timeout_seconds

    @property
    def needed_capabilities(self) -> list[str]:
        return needed_capabilities(
            self.required_capabilities, self.uses_partner_nodes, has_own_key=self.has_secret
        )

    @property
    def retry_policy(self) -> RetryPolicy:
        return RetryPolicy(
            max_attempts=self.max_attempts,
            elsewhere=RetryScope(self.retry_elsewhere),
            retry_on=None if self.retry_on is None else frozenset(map(FailureClass, self.retry_on)),
            is_paid=bool(self.uses_partner_nodes),
        )


class ListenerPrompt(models.Model):
    """A prompt that a program sent to the ComfyUI listener: its group has one job.

    Its owner alone sees and ends it at the listener, also without accounts.
    """

    id = models.BigAutoField(primary_key=True)
    group = models.OneToOneField(JobGroup, on_delete=models.CASCADE, related_name="listener_prompt")
    #: ``api.listener.owner``: an account, or the address of the client and its ``Comfy-User``.
    owner = models.CharField(max_length=200)
    prompt_id = models.CharField(max_length=36)  #: The client's; backends have others.
    digest = models.CharField(max_length=64)  #: SHA-256 of the body of the request.
    client_id = models.CharField(max_length=200, blank=True, default="")
    #: Its place in the owner's own order, as ComfyUI counts prompts; null: its ``id``.
    number = models.FloatField(null=True, blank=True)
    outputs_json = models.TextField(default="[]")  #: The ids of the nodes to execute.
    created_at = models.DateTimeField()
    #: When its end was sent to a socket of its client; null: it was not.
    presented_at = time_or_null()
    hidden_at = time_or_null()  #: When its owner removed it from the history.

    class Meta:
        verbose_name = "prompt of the ComfyUI listener"
        ordering = ["id"]
        constraints = [
            models.UniqueConstraint(name="listener_prompt_id", fields=["owner", "prompt_id"])
        ]
        indexes = [
            models.Index(name="listener_prompt_newest", fields=["owner", "-id"]),
            models.Index(name="listener_prompt_client", fields=["owner", "client_id", "-id"]),
        ]

    def __str__(self) -> str:
        return self.prompt_id


class InputFile(models.Model):
    """The name of an asset as a program uploaded it to the ComfyUI listener.

    A workflow has the name, which becomes a reference to the asset.
    """

    id = models.BigAutoField(primary_key=True)
    owner = models.CharField(max_length=200)  #: As of ``ListenerPrompt``.
    #: ``input``, ``temp`` or ``output``, as ComfyUI's, or ``domain.listener_files.IMAGES``.
    folder = models.CharField(max_length=16)
    path = models.CharField(max_length=400)  #: Below the folder, with slashes.
    asset = models.ForeignKey("Asset", on_delete=models.CASCADE, related_name="input_files")
    created_at = models.DateTimeField()

    class Meta:
        verbose_name = "input file of the ComfyUI listener"
        ordering = ["id"]
        constraints = [
            models.UniqueConstraint(name="input_file_path", fields=["owner", "folder", "path"])
        ]

    def __str__(self) -> str:
        return self.path


class EditorSetting(models.Model):
    """A setting of ComfyUI's editor at the ComfyUI listener."""

    id = models.BigAutoField(primary_key=True)
    owner = models.CharField(max_length=200)  #: As of ``ListenerPrompt``.
    name = models.CharField(max_length=200)
    value_json = models.TextField()

    class Meta:
        verbose_name = "setting of ComfyUI's editor"
        ordering = ["id"]
        constraints = [
            models.UniqueConstraint(name="editor_setting_name", fields=["owner", "name"])
        ]

    def __str__(self) -> str:
        return self.name


class DeletedSubmission(models.Model):
    """The idempotency key of a group that was deleted while the key was valid: a repeated request
    renders nothing.
    """

    submitter = models.CharField(max_length=150, blank=True, default="")
    idempotency_key = models.CharField(max_length=255)
    idempotency_digest = models.CharField(max_length=64)
    created_at = models.DateTimeField()  #: That of the group.

    class Meta:
        ordering = ["-created_at"]
        constraints = [
            models.UniqueConstraint(
                name="deleted_submission_key", fields=["submitter", "idempotency_key"]
            )
        ]

    def __str__(self) -> str:
        return self.idempotency_key


class GroupLabel(models.Model):
    """One top-level scalar of a group's metadata, so that ``?metadata.scene=`` uses an index."""

    group = models.ForeignKey(JobGroup, on_delete=models.CASCADE, related_name="labels")
    key = models.CharField(max_length=100)
    #: As text: ``3`` and ``"3"`` are found by the same query.
    value = models.CharField(max_length=200)
    #: That of the group, by which lists are ordered; null in rows of the previous release, until
    #: ``group_times_fill``.
    group_created_at = time_or_null()

    class Meta:
        constraints = [models.UniqueConstraint(name="label_once", fields=["group", "key"])]
        indexes = [
            models.Index(name="label_lookup", fields=["key", "value", "group"]),
            models.Index(
                name="label_newest", fields=["key", "value", "-group_created_at", "-group"]
            ),
            models.Index(
                name="label_unfilled", fields=["id"], condition=Q(group_created_at__isnull=True)
            ),
        ]

    def __str__(self) -> str:
        return f"{self.key}={self.value}"


class Variant(models.Model):
    """The children of one group of the pool that have the same workflow: what a free backend
    chooses from.
    """

    id = models.BigAutoField(primary_key=True)
    group = models.ForeignKey(JobGroup, on_delete=models.CASCADE, related_name="variants")
    number = models.IntegerField()
    queued_at = models.DateTimeField()  #: Its position in the queue: the start of the group's run.
    candidates = models.JSONField()  #: ``["*"]``, or ids and ``tag:…`` in any mix, as submitted.
    workflow_digest = models.CharField(max_length=16, blank=True, default="")
    #: Digest of the model files that the workflow names; empty: it names none.
    models_digest = models.CharField(max_length=16, blank=True, default="", db_default="")
    #: Since when backends take later variants whose models they have loaded; null: none does.
    bypassed_at = time_or_null()
    #: Since when no candidate has been able to take its jobs; null while one is.
    unplaced_since = time_or_null()

    class Meta:
        ordering = ["group", "number"]
        constraints = [models.UniqueConstraint(name="variant_number", fields=["group", "number"])]
        indexes = [
            # A runner reads the few marked variants.
            models.Index(
                name="variant_unplaced",
                fields=["unplaced_since"],
                condition=Q(unplaced_since__isnull=False),
            )
        ]

    def __str__(self) -> str:
        return f"{self.group_id} variant {self.number}"


class ChildJob(models.Model):
    """One variation: the group's workflow with one seed, on one backend."""

    id = models.CharField(primary_key=True, max_length=14)
    group = models.ForeignKey(JobGroup, on_delete=models.CASCADE, related_name="children")
    #: Its position in the group, from 0; seeds are assigned in this order.
    position = models.IntegerField()
    #: The id outlives its backend: the history of a deleted backend stays readable. Null: no
    #: backend has claimed it.
    backend = models.ForeignKey(
        Backend,
        on_delete=models.DO_NOTHING,
        db_constraint=False,
        null=True,
        related_name="children",
    )
    #: Whether it waits for its own backend alone; otherwise for any candidate of its variant.
    is_bound = models.BooleanField(default=True, db_default=True)
    #: Null: its group does not use the pool. Both are deleted with their group; a constraint would
    #: need an index of all children.
    variant = models.ForeignKey(
        Variant,
        on_delete=models.DO_NOTHING,
        db_constraint=False,
        db_index=False,
        null=True,
        blank=True,
        related_name="children",
    )
    seed = models.BigIntegerField()
    #: The inputs that it sets beside those of its group, ``{"3.cfg": 7}``; null: it differs by its
    #: seed alone.
    variation_json = _text_or_null()
    metadata_json = _text_or_null()
    #: ``stop_when``: the condition of its group cancelled it, no user; empty: another cause, or it
    #: is not cancelled.
    stopped_by = models.CharField(max_length=16, blank=True, default="", db_default="")
    status = models.CharField(
        max_length=16, choices=_choices(ChildStatus), default=ChildStatus.QUEUED.value
    )
    run = models.IntegerField(default=1)  #: The group's run in which it was last queued.
    current_attempt = models.ForeignKey(
        "Attempt", on_delete=models.SET_NULL, null=True, blank=True, related_name="+"
    )
    attempt_count = models.IntegerField(default=0)  #: All attempts, counted or not.
    #: Attempts of this run that ended without being counted; limited, see ``services.outcomes``.
    uncounted_attempts = models.IntegerField(default=0, db_column="uncharged_count")
    #: Not claimed before this time (backoff between attempts).
    not_before = time_or_null()

    progress = models.FloatField(default=0.0)
    current_step = models.CharField(max_length=200, null=True, blank=True)  # noqa: DJ001 null in the API
    steps_completed = models.IntegerField(default=0)
    steps_total = models.IntegerField(default=0)

    outputs_json = _text_or_null()
    error_message = _text_or_null()
    error_type = models.CharField(max_length=32, null=True, blank=True)  # noqa: DJ001 null in the API
    error_details_json = _text_or_null()
    #: A ``FailureClass``; empty without a failure.
    failure_class = models.CharField(
        max_length=24, blank=True, default="", db_default="", choices=_choices(FailureClass)
    )
    warnings_json = models.TextField(default="[]")
    #: Whether ComfyUI executed nothing for its outputs: every node was cached.
    outputs_reused = models.BooleanField(default=False, db_default=False)
    starred = models.BooleanField(default=False)  #: Whether a user marked it with a star.

    queued_at = models.DateTimeField()
    started_at = time_or_null()
    completed_at = time_or_null()
    #: As that of ``GroupLabel``.
    group_created_at = time_or_null()
    #: More than ``seq`` + ``revision`` of its group before its last change, or that of a captured
    #: file; set by triggers (``database.triggers``). Null: it has not changed since the triggers
    #: exist.
    changed = models.BigIntegerField(null=True, blank=True, editable=False)

    class Meta:
        verbose_name = "job"
        ordering = ["group", "position"]
        constraints = [
            models.UniqueConstraint(name="child_position", fields=["group", "position"]),
            _known_values("child_status_known", "status", ChildStatus),
            _ended_has_time(
                "child_final_has_time", "status", CHILD_FINAL, ChildStatus, "completed_at"
            ),
            models.CheckConstraint(
                name="child_result_iff_completed",
                condition=Q(status=ChildStatus.COMPLETED, outputs_json__isnull=False)
                | (~Q(status=ChildStatus.COMPLETED) & Q(outputs_json__isnull=True)),
            ),
            models.CheckConstraint(
                name="child_running_has_attempt",
                condition=~Q(status=ChildStatus.RUNNING) | Q(current_attempt__isnull=False),
            ),
            models.CheckConstraint(
                name="child_bound_or_in_pool", condition=Q(is_bound=True) | Q(variant__isnull=False)
            ),
            models.CheckConstraint(
                name="child_progress_percent", condition=Q(progress__gte=0, progress__lte=100)
            ),
        ]
        indexes = [
            # A claim: the oldest queued child of a backend.
            models.Index(
                name="child_waiting",
                fields=["backend", "queued_at", "group", "position"],
                condition=Q(status=ChildStatus.QUEUED, current_attempt__isnull=True),
            ),
            # A claim from the pool: the first queued child of a variant.
            models.Index(
                name="child_pool_waiting",
                fields=["variant", "position"],
                condition=Q(
                    status=ChildStatus.QUEUED, current_attempt__isnull=True, is_bound=False
                ),
            ),
            # Open children of a backend: deletion, disabling, waiting reasons.
            models.Index(name="child_backend_status", fields=["backend", "status"]),
            # The groups of a backend, newest first.
            models.Index(
                name="child_backend_newest", fields=["backend", "-group_created_at", "-group"]
            ),
            models.Index(
                name="child_unfilled", fields=["id"], condition=Q(group_created_at__isnull=True)
            ),
            # Deriving a group's status and counts.
            models.Index(name="child_group_status", fields=["group", "status"]),
            models.Index(name="child_seed", fields=["seed"]),  # The search of groups by seed.
            # The outputs of all groups, newest first.
            models.Index(
                name="child_output_newest",
                fields=["-completed_at", "-id"],
                condition=Q(outputs_json__isnull=False),
            ),
            # Failed jobs of the last day: every page shows their number.
            models.Index(
                name="child_failed", fields=["-completed_at"], condition=~Q(failure_class="")
            ),
        ]

    def __str__(self) -> str:
        return self.id

    @property
    def seconds(self) -> float | None:
        """For how long it executed; None: it has not started, or not ended."""
        if self.started_at is None or self.completed_at is None:
            return None
        attempt = self.current_attempt
        if attempt is not None and attempt.execution_seconds is not None:
            return attempt.execution_seconds
        return (self.completed_at - self.started_at).total_seconds()


class Attempt(models.Model):
    """One attempt of a child on one backend, with a prompt id that is used once.

    The row is committed before the prompt is sent, so that the Director knows each of its prompts.
    """

    id = models.BigAutoField(primary_key=True)
    child = models.ForeignKey(ChildJob, on_delete=models.CASCADE, related_name="attempts")
    number = models.IntegerField()  #: From 1, over all runs of the child.
    run = models.IntegerField()
    backend = models.ForeignKey(
        Backend, on_delete=models.DO_NOTHING, db_constraint=False, related_name="attempts"
    )
    #: The variant of a child of the pool: the queue is counted without a join.
    variant_id = models.BigIntegerField(null=True, blank=True)
    prompt_id = models.CharField(max_length=64, unique=True)
    #: The socket that receives the prompt's events; a runner that takes over opens one with the
    #: same id.
    client_id = models.CharField(max_length=200)
    epoch = models.BigIntegerField()  #: Epoch of the lease with which it was claimed.
    state = models.CharField(
        max_length=16, choices=_choices(AttemptState), default=AttemptState.INTENT.value
    )
    #: Whether it counts against ``max_attempts``; false if nothing of it was executed.
    is_counted = models.BooleanField(default=True, db_column="charged")

    created_at = models.DateTimeField()
    uncertain_since = time_or_null()
    accepted_at = time_or_null()
    started_at = time_or_null()
    ended_at = time_or_null()
    #: Its end by the clock that dates its backend's files: the time in ComfyUI's history, later if
    #: a file server's clock is ahead. Null: not in the history.
    backend_ended_at = time_or_null()
    #: For how long it executed, by its backend's clock, or by that of the runner that saw its
    #: events. Null: not known, and of attempts of earlier versions.
    execution_seconds = models.FloatField(null=True, blank=True)

    #: A pending stop: the runner deletes or interrupts the prompt until its end is known.
    stop_requested_at = time_or_null()
    stop_reason = models.CharField(
        max_length=16, blank=True, default="", choices=_choices(StopReason)
    )

    #: ComfyUI's ``node_errors`` of an accepted prompt, ``{}`` if it refused no output. Null: not
    #: known yet, as the response was lost.
    node_errors_json = _text_or_null()
    #: ComfyUI's ``{node: output}`` as reported by the nodes; used if the history was cleared.
    node_outputs_json = models.TextField(default="{}")
    #: Outputs in the API's form; a failed attempt keeps the outputs that it has made.
    outputs_json = _text_or_null()
    error_message = _text_or_null()
    error_type = models.CharField(max_length=32, null=True, blank=True)  # noqa: DJ001 null in the API
    error_details_json = _text_or_null()
    #: A ``FailureClass``; empty without a failure.
    failure_class = models.CharField(
        max_length=24, blank=True, default="", db_default="", choices=_choices(FailureClass)
    )
    #: Sentences about parts of the prompt that ComfyUI did not execute. They are stored at once:
    #: ComfyUI sends some of them once and has no query for them.
    warnings_json = models.TextField(default="[]", db_default="[]")
    #: What is known of the execution, see ``AttemptResult.execution``. Null: ComfyUI reported no
    #: end.
    execution_json = _text_or_null()

    class Meta:
        ordering = ["child", "number"]
        constraints = [
            models.UniqueConstraint(name="attempt_number", fields=["child", "number"]),
            _known_values("attempt_state_known", "state", AttemptState),
            _ended_has_time(
                "attempt_ended_has_time", "state", ATTEMPT_ENDED, AttemptState, "ended_at"
            ),
            models.CheckConstraint(
                name="attempt_stop_has_reason",
                condition=Q(stop_requested_at__isnull=True, stop_reason="")
                | (Q(stop_requested_at__isnull=False) & ~Q(stop_reason="")),
            ),
        ]
        indexes = [
            # Recovery, slots and stops: the active attempts of a backend.
            models.Index(
                name="attempt_active", fields=["backend", "id"], condition=Q(ended_at__isnull=True)
            ),
            # Failures of a backend's last minutes, and of the last day.
            models.Index(
                name="attempt_failed",
                fields=["backend", "-ended_at"],
                condition=~Q(failure_class=""),
            ),
            models.Index(
                name="attempt_failed_newest", fields=["-ended_at"], condition=~Q(failure_class="")
            ),
            # The usage of some days.
            models.Index(name="attempt_ended", fields=["ended_at"]),
            # What each backend did in the last day and hour: no row is read.
            models.Index(
                name="attempt_succeeded",
                fields=["backend", "ended_at", "started_at", "variant_id", "execution_seconds"],
                condition=Q(state=AttemptState.SUCCESS),
            ),
        ]

    def __str__(self) -> str:
        return self.prompt_id

    @property
    def is_stopping(self) -> bool:
        return self.stop_requested_at is not None and self.ended_at is None


class Submitter(models.Model):
    """What a submitter may use of the farm, and has used of it lately.

    The seconds of backends until ``ShareCount.counted_until`` are counted here, each with half the
    weight for each half-life that passes.
    """

    name = models.CharField(primary_key=True, max_length=150)
    weight = models.FloatField(default=1.0, db_default=1.0)
    used_seconds = models.FloatField(default=0.0, db_default=0.0, editable=False)
    used_at = models.DateTimeField(null=True, blank=True, editable=False)  #: When they counted so.
    max_running = models.IntegerField(null=True, blank=True)  #: Prompts at once; null: any number.
    max_queued = models.IntegerField(null=True, blank=True)  #: Queued jobs; null: any number.

    class Meta:
        ordering = ["name"]
        constraints = [models.CheckConstraint(name="submitter_weight", condition=Q(weight__gt=0))]

    def __str__(self) -> str:
        return self.name


class Pause(models.Model):
    """A time in which nothing is sent of a group, of a submitter, or of the whole farm.

    Rows that have ended are kept while the queued limit may need them.
    """

    id = models.BigAutoField(primary_key=True)
    #: The id of a group; of a submitter the name, and of the farm nothing, behind a sign: see
    #: ``domain.pauses``.
    target = models.CharField(max_length=151)
    began_at = models.DateTimeField()
    #: When it ends by itself, or was ended; null: when a user ends it.
    ends_at = time_or_null()
    reason = models.CharField(max_length=500, blank=True, default="")
    by = models.CharField(max_length=150, blank=True, default="")

    class Meta:
        ordering = ["-began_at", "-id"]
        indexes = [models.Index(name="pause_target", fields=["target", "ends_at"])]

    def __str__(self) -> str:
        return f"{self.target} since {self.began_at:%Y-%m-%d %H:%M:%S}"


class ShareCount(models.Model):
    """The one row that says until when the attempts that have ended are counted in ``Submitter``."""

    id = models.SmallIntegerField(primary_key=True, default=1)
    counted_until = models.DateTimeField()

    def __str__(self) -> str:
        return self.counted_until.isoformat()


class UsageDay(models.Model):
    """A day (UTC) whose usage is summed up. Its sums hold as long as the ids of its attempts have
    the same sum.
    """

    day = models.CharField(primary_key=True, max_length=10)
    begins_at = models.DateTimeField()
    ends_at = models.DateTimeField()
    id_sum = models.BigIntegerField()

    def __str__(self) -> str:
        return self.day


class UsageSum(models.Model):
    """The measures of ``queries.usage`` of a day, for one value of each dimension in ``by``."""

    day = models.ForeignKey(UsageDay, on_delete=models.CASCADE, db_index=False)
    #: Names of dimensions in their order, with commas; or ``RETURNING``.
    by = models.CharField(max_length=150)
    by_0 = models.CharField(max_length=200, blank=True, default="")
    by_1 = models.CharField(max_length=200, blank=True, default="")
    by_2 = models.CharField(max_length=200, blank=True, default="")
    gpu_seconds = models.FloatField(default=0)
    attempts = models.IntegerField(default=0)
    jobs = models.IntegerField(default=0)
    failures = models.IntegerField(default=0)
    retries = models.IntegerField(default=0)

    class Meta:
        indexes = [models.Index(name="usage_sum_day", fields=["day", "by"])]

    def __str__(self) -> str:
        return f"{self.day_id} {self.by}"


class ReportedFile(models.Model):
    """A file at a backend that an attempt reported, until a later attempt replaces the file.

    ComfyUI reuses the name of a removed file (comfyui-protocol.md, trap 9). By these rows the
    transaction that ends the later attempt finds the earlier one.
    """

    id = models.BigAutoField(primary_key=True)
    # The unique constraint below serves as its index.
    attempt = models.ForeignKey(
        Attempt, on_delete=models.CASCADE, related_name="reported_files", db_index=False
    )
    #: Digest of the backend's id and ComfyUI's type, subfolder and name: see
    #: ``outputs.file_digest``.
    digest = models.CharField(max_length=32)
    #: Whether the attempt has written the file; otherwise it comes from ComfyUI's cache.
    executed = models.BooleanField()
    #: Digest of the node that has written the file: see ``workflow.origins``; empty: not known.
    origin = models.CharField(max_length=32, blank=True, default="", db_default="")

    class Meta:
        ordering = ["id"]
        constraints = [
            models.UniqueConstraint(name="file_once_per_attempt", fields=["attempt", "digest"]),
            # Of two concurrent ends of attempts that wrote one file, the second waits here for the
            # first.
            models.UniqueConstraint(
                name="file_written_by_one", fields=["digest"], condition=Q(executed=True)
            ),
        ]
        indexes = [models.Index(name="file_digest", fields=["digest"])]

    def __str__(self) -> str:
        return self.digest


class Exclusion(models.Model):
    """A workflow that a backend cannot run, learned from failures of jobs of the pool. See
    ``domain.exclusions``.
    """

    id = models.BigAutoField(primary_key=True)
    # The unique constraint below serves as its index. The previous release deletes backends without
    # these rows.
    backend = models.ForeignKey(
        Backend,
        on_delete=models.CASCADE,
        db_constraint=False,
        related_name="exclusions",
        db_index=False,
    )
    workflow_digest = models.CharField(max_length=16, blank=True)
    #: 0: every variant with the digest. Otherwise one: what is missing is content, which digests
    #: leave out.
    variant_id = models.BigIntegerField(default=0)
    kind = models.CharField(max_length=16, choices=_choices(ExclusionKind))
    #: Failures since it began; 0: the first 500, after which the backend is not excluded yet.
    count = models.IntegerField(default=1)
    #: That of the jobs of the workflow if every candidate is excluded; ``""``: that of ``kind``.
    failure_class = models.CharField(max_length=32, blank=True, default="", db_default="")
    reason = models.TextField(blank=True)  #: What ComfyUI said last.
    since = models.DateTimeField()
    last_at = models.DateTimeField()

    class Meta:
        ordering = ["backend", "id"]
        constraints = [
            models.UniqueConstraint(
                name="exclusion_once", fields=["backend", "workflow_digest", "variant_id", "kind"]
            ),
            _known_values("exclusion_kind_known", "kind", ExclusionKind),
        ]

    def __str__(self) -> str:
        return f"{self.backend_id} {self.kind} {self.workflow_digest}"


class Timing(models.Model):
    """The seconds of a workflow on a backend, learned from its jobs: a hint for the pool and for
    estimates.
    """

    id = models.BigAutoField(primary_key=True)
    workflow_digest = models.CharField(max_length=16)
    # The unique constraint below does not begin with it; deletes of backends are rare.
    backend = models.ForeignKey(
        Backend,
        on_delete=models.CASCADE,
        db_constraint=False,
        related_name="timings",
        db_index=False,
    )
    #: Digest of the model files that the workflow names, ``""`` without any.
    models_digest = models.CharField(max_length=16, blank=True)
    #: Moving average of the seconds with loaded models; while ``runs`` is 0, with the load.
    seconds = models.FloatField(null=True, blank=True)
    #: Moving average of the additional seconds of a job that ran after other models.
    load_seconds = models.FloatField(null=True, blank=True)
    runs = models.IntegerField(default=0)  #: Number of jobs that were measured with loaded models.
    updated_at = models.DateTimeField(db_index=True)  #: When the last job was stored.

    class Meta:
        ordering = ["workflow_digest", "backend"]
        constraints = [
            models.UniqueConstraint(name="timing_once", fields=["workflow_digest", "backend"])
        ]

    def __str__(self) -> str:
        return f"{self.workflow_digest} on {self.backend_id}"


class Asset(models.Model):
    """An uploaded file, stored once by its content. Its name is data of a user and names no file
    here.
    """

    id = models.CharField(primary_key=True, max_length=36)  #: A UUID, as in ComfyUI's assets API.
    hash = models.CharField(max_length=64, unique=True)  #: BLAKE3 in hexadecimal digits.
    name = models.CharField(max_length=255)
    content_type = models.CharField(max_length=100)
    size_bytes = models.BigIntegerField()
    created_at = models.DateTimeField()
    #: Last upload of the same content, or last submission that refers to it.
    used_at = models.DateTimeField(db_index=True)
    #: Whether ``AssetRecord`` rows, or ids of images that a program put at the ComfyUI listener,
    #: alone name it: it is deleted with the last of them.
    is_recorded_only = models.BooleanField(default=False, db_default=False)
    #: The account that alone uploaded it; null: several did, or there were no accounts.
    owner = _owner()

    class Meta:
        ordering = ["-created_at", "-id"]
        indexes = [models.Index(name="asset_newest", fields=["-created_at", "-id"])]

    def __str__(self) -> str:
        return self.name

    @property
    def stored_name(self) -> str:
        """The name in the storage: two rows never share a file, so that a deletion hits no newer
        upload.
        """
        return f"assets/{self.hash}-{self.id}"


class AssetOwner(models.Model):
    """An upload of an account: its own name and time over content that others may have, too."""

    id = models.BigAutoField(primary_key=True)
    # As of ``Exclusion.backend``.
    asset = models.ForeignKey(
        Asset, on_delete=models.CASCADE, db_constraint=False, related_name="owners"
    )
    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.DO_NOTHING,
        db_constraint=False,
        db_index=False,
        related_name="+",
    )
    name = models.CharField(max_length=255)
    created_at = models.DateTimeField()

    class Meta:
        ordering = ["-created_at", "-id"]
        constraints = [models.UniqueConstraint(name="asset_owner_once", fields=["owner", "asset"])]

    def __str__(self) -> str:
        return self.name


class AssetRecord(models.Model):
    """An asset as the Comfy API v2 knows it: an id and a path over content that several of them may
    share.
    """

    id = models.CharField(primary_key=True, max_length=36)  #: A UUID.
    asset = models.ForeignKey(Asset, on_delete=models.CASCADE, related_name="records")
    file_path = models.CharField(max_length=1024)
    #: The account that made it; null: there were no accounts.
    owner = _owner()
    idempotency_key = models.CharField(max_length=255, null=True, blank=True, unique=True)
    created_at = models.DateTimeField()

    class Meta:
        ordering = ["-created_at", "-id"]

    def __str__(self) -> str:
        return self.file_path


class AssetUse(models.Model):
    """A group whose workflow refers to an asset. An open group keeps its assets."""

    id = models.BigAutoField(primary_key=True)
    asset = models.ForeignKey(Asset, on_delete=models.CASCADE, related_name="uses")
    # As of ``Exclusion.backend``.
    group = models.ForeignKey(
        JobGroup,
        on_delete=models.CASCADE,
        db_constraint=False,
        related_name="asset_uses",
        db_index=False,
    )

    class Meta:
        ordering = ["group", "asset"]
        constraints = [models.UniqueConstraint(name="asset_use_once", fields=["group", "asset"])]

    def __str__(self) -> str:
        return f"{self.group_id} uses {self.asset_id}"


class StoredFile(models.Model):
    """The content of captured outputs, stored once. It is deleted after its last capture."""

    id = models.CharField(primary_key=True, max_length=36)
    blake3 = models.CharField(max_length=64, unique=True)  #: In hexadecimal digits.
    #: In hexadecimal digits; empty: it is still to be computed. The previous release reads no null.
    sha256 = models.CharField(max_length=64, db_index=True)
    size_bytes = models.BigIntegerField()
    width = models.IntegerField(null=True, blank=True)  #: Pixels; null: not known.
    height = models.IntegerField(null=True, blank=True)  #: Pixels; null: not known.
    duration = models.FloatField(null=True, blank=True)  #: Seconds; null: not known.
    created_at = models.DateTimeField()

    class Meta:
        ordering = ["-created_at", "-id"]

    def __str__(self) -> str:
        return self.blake3

    @property
    def stored_name(self) -> str:
        """The name in the storage: two rows never share a file, so that a deletion hits no newer
        file.
        """
        return f"results/{self.blake3}-{self.id}"


class Capture(models.Model):
    """The copy of one output of a completed job into the storage: pending (``due_at``), stored
    (``file``) or given up.
    """

    id = models.BigAutoField(primary_key=True)
    # As of ``Exclusion.backend``.
    child = models.ForeignKey(
        ChildJob,
        on_delete=models.CASCADE,
        db_constraint=False,
        related_name="captures",
        db_index=False,
    )
    number = models.IntegerField()  #: The number of the file in the API.
    #: The node that reported it; empty: not known.
    node_id = models.CharField(max_length=200, blank=True, default="")
    backend = models.ForeignKey(
        Backend, on_delete=models.DO_NOTHING, db_constraint=False, related_name="+", db_index=False
    )
    #: Digest of the file, as of a :class:`ReportedFile`; empty: the output is marked as replaced.
    #: Null: the previous release wrote the row, and the digest is not filled in yet.
    digest = models.CharField(max_length=32, null=True, blank=True)  # noqa: DJ001
    created_at = models.DateTimeField()
    due_at = time_or_null()  #: Not copied before this time; null: it is not pending.
    tries = models.IntegerField(default=0)  #: Failed tries.
    file = models.ForeignKey(
        StoredFile, on_delete=models.PROTECT, null=True, blank=True, related_name="captures"
    )
    #: Why the last try failed, or what is doubtful about the copy.
    reason = models.TextField(blank=True, default="")

    class Meta:
        ordering = ["child", "number"]
        constraints = [
            models.UniqueConstraint(name="capture_once", fields=["child", "number"]),
            models.CheckConstraint(
                name="capture_pending_or_stored",
                condition=Q(due_at__isnull=True) | Q(file__isnull=True),
            ),
        ]
        indexes = [
            models.Index(name="capture_due", fields=["due_at"], condition=Q(due_at__isnull=False)),
            # The backlog of one backend costs the others nothing.
            models.Index(
                name="capture_due_at",
                fields=["backend", "due_at"],
                condition=Q(due_at__isnull=False),
            ),
            models.Index(name="capture_digest", fields=["digest", "file"]),
        ]

    def __str__(self) -> str:
        return f"{self.child_id} {self.number}"


class AbandonedPrompt(models.Model):
    """A prompt id that may still appear at a backend although its attempt was closed.

    Kept for 24 h. A pending prompt is deleted. A running prompt is adopted if its child is queued
    and no stop was requested, else interrupted.
    """

    attempt = models.OneToOneField(Attempt, on_delete=models.CASCADE, related_name="abandoned")
    backend = models.ForeignKey(Backend, on_delete=models.CASCADE, related_name="abandoned_prompts")
    prompt_id = models.CharField(max_length=64, unique=True)
    created_at = models.DateTimeField(db_column="since")
    expires_at = models.DateTimeField(db_column="until")

    class Meta:
        ordering = ["created_at"]

    def __str__(self) -> str:
        return self.prompt_id


class JobEvent(models.Model):
    """One event of a group's log, as it is sent to clients. Progress is not stored."""

    group = models.ForeignKey(JobGroup, on_delete=models.CASCADE, related_name="events")
    seq = models.BigIntegerField()
    run = models.IntegerField()
    type = models.CharField(max_length=32)
    frame = models.TextField()  #: The frame as it is sent: ``{"type": …, "seq": …, "run": …, …}``.
    created_at = models.DateTimeField()

    class Meta:
        ordering = ["group", "seq"]
        constraints = [
            models.UniqueConstraint(name="event_seq", fields=["group", "seq"]),
            models.UniqueConstraint(
                name="event_group_complete_once_per_run",
                fields=["group", "run"],
                condition=Q(type="group_complete"),
            ),
            models.CheckConstraint(name="event_seq_from_1", condition=Q(seq__gte=1)),
        ]

    def __str__(self) -> str:
        return f"{self.type} {self.seq}"


class WebhookDelivery(models.Model):
    """One event of a group on its way to one webhook: due (``due_at``), delivered, or given up.

    It is stored in the transaction of its event. Those of one group and URL are delivered in the
    order of their ids.
    """

    id = models.BigAutoField(primary_key=True)
    # As of ``Exclusion.backend``.
    group = models.ForeignKey(
        JobGroup,
        on_delete=models.CASCADE,
        db_constraint=False,
        related_name="webhook_deliveries",
        db_index=False,
    )
    seq = models.BigIntegerField()  #: That of the event.
    type = models.CharField(max_length=32)
    url = models.CharField(max_length=1000)
    #: ``webhook-id``: a receiver drops repeated ones by it.
    message_id = models.CharField(max_length=64, unique=True)
    created_at = models.DateTimeField()
    due_at = time_or_null()  #: Not sent before this time; null: it is not pending.
    attempt_count = models.IntegerField(default=0)
    #: Name of the runner that delivers it now; empty while no runner does.
    claimed_by = models.CharField(max_length=100, blank=True, default="")
    delivered_at = time_or_null()
    #: HTTP status of the last answer; null: there was none.
    last_status = models.IntegerField(null=True, blank=True)
    last_error = models.CharField(max_length=500, blank=True, default="")

    class Meta:
        ordering = ["id"]
        constraints = [models.UniqueConstraint(name="webhook_once", fields=["group", "seq", "url"])]
        indexes = [
            models.Index(name="webhook_due", fields=["due_at"], condition=Q(due_at__isnull=False)),
            models.Index(name="webhook_created", fields=["created_at"]),
        ]

    def __str__(self) -> str:
        return self.message_id


class Runner(models.Model):
    """A process that drives backends. It is alive while its heartbeat is younger than 10 s."""

    #: The process that holds the lock on the name (a file or advisory lock) may take over its
    #: leases.
    name = models.CharField(primary_key=True, max_length=100)
    instance = models.CharField(max_length=32)
    host = models.CharField(max_length=255)
    pid = models.IntegerField()
    version = models.CharField(max_length=32)
    started_at = models.DateTimeField()
    heartbeat_at = models.DateTimeField()
    stopped_at = time_or_null()
    #: Restarts within the process after an unexpected error, and the last error.
    restarts = models.IntegerField(default=0)
    last_error = models.CharField(max_length=500, blank=True, default="")
    last_error_at = time_or_null()

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class FilesProcess(models.Model):
    """A process that copies outputs instead of the runners. It is alive while its heartbeat is
    younger than 10 s.

    Its row goes with its orderly end, and an hour after its last heartbeat.
    """

    instance = models.CharField(primary_key=True, max_length=32)
    host = models.CharField(max_length=255)
    pid = models.IntegerField()
    version = models.CharField(max_length=32)
    started_at = models.DateTimeField()
    heartbeat_at = models.DateTimeField()

    class Meta:
        ordering = ["-heartbeat_at"]
        verbose_name_plural = "files processes"

    def __str__(self) -> str:
        return self.name

    @property
    def name(self) -> str:
        return f"files {self.pid} on {self.host}"


class Lease(models.Model):
    """A runner's time-limited right to a backend. Every write of the runner is checked against the
    epoch.

    A table of its own: the backend's row is written with every observation, and a writer's ``FOR
    SHARE`` on the lease must not wait for that.
    """

    backend = models.OneToOneField(
        Backend, on_delete=models.CASCADE, primary_key=True, related_name="lease"
    )
    #: Name of the runner; empty: unclaimed.
    runner = models.CharField(max_length=100, blank=True, default="")
    epoch = models.BigIntegerField(default=0)
    expires_at = models.DateTimeField(null=True, blank=True, db_column="until")

    class Meta:
        ordering = ["backend"]

    def __str__(self) -> str:
        return f"{self.backend_id} epoch {self.epoch}"


class Notice(models.Model):
    """A message to users outside of the Director, delivered in the background with retries.

    It is stored in the transaction of its cause: no notice is lost, none reports what was rolled
    back.
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
    sent_at = time_or_null()
    last_error = models.CharField(max_length=500, blank=True, default="")
    #: Name of the runner that delivers it now; empty while no runner does.
    claimed_by = models.CharField(max_length=100, blank=True, default="", db_default="")
    #: Order within a merged message; see ``domain.notices.Urgency``.
    urgency = models.SmallIntegerField(default=2, db_default=2)
    #: Marks of the services that accepted it while another one did not, separated by blanks.
    delivered_to = models.TextField(blank=True, default="", db_default="", db_column="taken_by")

    class Meta:
        ordering = ["id"]
        indexes = [
            models.Index(
                name="notice_due",
                fields=["next_attempt_at"],
                condition=Q(next_attempt_at__isnull=False),
            )
        ]

    def __str__(self) -> str:
        return self.title


class AuditEntry(models.Model):
    """What a request did, in the record of who did what; see ``services.audit``."""

    id = models.BigAutoField(primary_key=True)
    created_at = models.DateTimeField()
    #: The name of the account; without accounts the name that the request gave.
    actor = models.CharField(max_length=200, blank=True, default="")
    address = models.CharField(max_length=200, blank=True, default="")
    token_id = models.CharField(max_length=16, blank=True, default="")
    action = models.CharField(max_length=40)  #: One of ``domain.audit.Action``.
    target = models.CharField(max_length=200, blank=True, default="")
    details_json = models.TextField(default="{}")

    class Meta:
        ordering = ["-created_at", "-id"]
        verbose_name_plural = "audit entries"
        indexes = [
            models.Index(name="audit_newest", fields=["-created_at", "-id"]),
            models.Index(name="audit_actor_newest", fields=["actor", "-created_at", "-id"]),
            models.Index(name="audit_target_newest", fields=["target", "-created_at", "-id"]),
        ]

    def __str__(self) -> str:
        return f"{self.action} {self.target}".rstrip()
