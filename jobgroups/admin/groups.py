"""Groups, jobs, attempts, events, runners and notices in the admin: users view, cancel and retry them."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest

from backends.models import Backend
from jobgroups import models
from jobgroups.admin.base import JsonText, Link, ListLink, ReadOnlyAdmin
from jobgroups.domain.states import Where
from jobgroups.domain.text import pluralize
from jobgroups.errors import ChildNotFound, GroupNotFinished, GroupNotFound, JobGroupsError
from jobgroups.services.assignment import Choice
from jobgroups.services.cancellation import child_cancel, group_cancel
from jobgroups.services.retries import Retried, child_retry, group_retry

# Columns of the lists by subject.
_COUNTS = ("completed_count", "failed_count", "cancelled_count", "total_count")
_PLACE = ("group_link", "position", "backend_link", "is_bound")
_PROGRESS = ("status", "progress", "current_step")
_RESULT = ("state", "is_counted", "error_type", "stop_reason")
_PROCESS = ("host", "pid", "version")

# Every list reads columns of its own table alone. A join with backends would hide the history of a deleted
# backend: the key outlives its row.


def _retry(page: ReadOnlyAdmin, request: HttpRequest, wanted: Mapping[str, Sequence[str] | None]) -> None:
    """Retry jobs of groups (None: all failed ones), and report the result of each group."""
    queued = adopted = 0
    for group_id, job_ids in wanted.items():
        try:
            for retried in _retried(group_id, job_ids, request.user.get_username()):
                queued += len(retried.job_ids)
                adopted += len(retried.adopted_job_ids)
        except JobGroupsError as error:
            page.message_user(request, f"Group {group_id}: {error.detail}", messages.WARNING)
    if queued or adopted:
        text = f"{pluralize(queued, 'job is', 'jobs are')} queued again."
        if adopted:
            text += f" {pluralize(adopted, 'job has', 'jobs have')} the result of an earlier attempt."
        page.message_user(request, text, messages.SUCCESS)


def _retried(group_id: str, job_ids: Sequence[str] | None, by: str) -> Iterator[Retried]:
    """Retry a group or some of its jobs; while the group runs, these one by one."""
    how: dict[str, Any] = {"choice": Choice(where=Where.AUTO), "by": by}
    try:
        yield group_retry(group_id=group_id, job_ids=job_ids, **how)
    except GroupNotFinished:
        if job_ids is None:
            raise
        for job_id in job_ids:
            yield child_retry(group_id=group_id, job_id=job_id, **how)


def _report_cancelled(page: ReadOnlyAdmin, request: HttpRequest, count: int) -> None:
    text = f"{pluralize(count, 'job was', 'jobs were')} cancelled."
    page.message_user(request, text, messages.SUCCESS)


class VariantInline(admin.TabularInline):  # type: ignore[type-arg]  # generic in the stubs alone
    """The variants of a group of the pool."""

    model = models.Variant
    fields = ("number", "queued_at", "candidates", "workflow_digest", "unplaced_since")
    readonly_fields = fields
    can_delete = False
    extra = 0

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(models.JobGroup)
class JobGroupAdmin(ReadOnlyAdmin):
    list_display = ("id", "status", "placement", *_COUNTS, "run", "created_at", "completed_at", "jobs", "log")
    list_filter = ("status", "placement", "seed_strategy", "partial_outputs", "accepted_without_runner", "created_at")
    search_fields = ("id", "labels__value", "submitter", "idempotency_key")
    actions = ("cancel", "retry")
    inlines = (VariantInline,)

    jobs = ListLink("jobs", "group__id__exact", models.ChildJob)
    log = ListLink("events", "group__id__exact", models.JobEvent, lambda group: pluralize(group.seq, "event"))
    metadata = JsonText("metadata", "metadata_json")
    warnings = JsonText("warnings", "warnings_json")
    skipped_backends = JsonText("skipped backends", "skipped_backends_json")
    parameters = JsonText("parameters", "parameters_json")
    workflow = JsonText("workflow", "workflow_json")

    @admin.action(description="Cancel the jobs that are not final", permissions=["operate"])
    def cancel(self, request: HttpRequest, queryset: QuerySet[models.JobGroup]) -> None:
        """Cancel groups; the runner stops their running prompts."""
        cancelled = 0
        for group_id in list(queryset.values_list("pk", flat=True)):
            try:
                cancelled += group_cancel(group_id=group_id).interrupted
            except GroupNotFound:
                continue
        _report_cancelled(self, request, cancelled)

    @admin.action(description="Retry the failed jobs", permissions=["operate"])
    def retry(self, request: HttpRequest, queryset: QuerySet[models.JobGroup]) -> None:
        """Start the next run of groups that have ended."""
        _retry(self, request, dict.fromkeys(queryset.values_list("pk", flat=True)))


@admin.register(models.ChildJob)
class ChildJobAdmin(ReadOnlyAdmin):
    list_display = ("id", *_PLACE, "seed", *_PROGRESS, "error_type", "attempts_link", "queued_at", "completed_at")
    list_filter = ("status", "is_bound", "error_type", "backend", "queued_at")
    search_fields = ("id", "group__id", "=seed", "error_message")
    ordering = ("-queued_at", "group", "position")
    actions = ("cancel", "retry")

    group_link = Link("group", "group_id", models.JobGroup)
    backend_link = Link("backend", "backend_id", Backend)
    variant_link = Link("variant", "variant_id", models.Variant)
    current_attempt_link = Link("current attempt", "current_attempt_id", models.Attempt)
    attempts_link = ListLink(
        "attempts", "child__id__exact", models.Attempt, lambda child: pluralize(child.attempt_count, "attempt")
    )
    outputs = JsonText("outputs", "outputs_json")
    error_details = JsonText("error details", "error_details_json")
    warnings = JsonText("warnings", "warnings_json")

    @admin.action(description="Cancel those that are not final", permissions=["operate"])
    def cancel(self, request: HttpRequest, queryset: QuerySet[models.ChildJob]) -> None:
        """Cancel single jobs; the other jobs of their groups go on."""
        cancelled = 0
        for job_id, group_id in list(queryset.values_list("pk", "group_id")):
            try:
                cancelled += child_cancel(group_id=group_id, job_id=job_id)
            except (GroupNotFound, ChildNotFound):
                continue
        _report_cancelled(self, request, cancelled)

    @admin.action(description="Retry them, also those that failed in a running group", permissions=["operate"])
    def retry(self, request: HttpRequest, queryset: QuerySet[models.ChildJob]) -> None:
        """Retry single jobs: in the next run of their groups, or within the current run."""
        wanted: dict[str, list[str]] = defaultdict(list)
        for job_id, group_id in queryset.values_list("pk", "group_id"):
            wanted[group_id].append(job_id)
        _retry(self, request, wanted)


@admin.register(models.Variant)
class VariantAdmin(ReadOnlyAdmin):
    """What the jobs of each group of the pool require, and their place in the line."""

    list_display = ("__str__", "group_link", "number", "queued_at", "unplaced_since", "jobs")
    list_filter = ("queued_at", "unplaced_since")
    search_fields = ("group__id", "workflow_digest")
    ordering = ("-id",)

    group_link = Link("group", "group_id", models.JobGroup)
    jobs = ListLink("jobs", "variant__id__exact", models.ChildJob)


@admin.register(models.Attempt)
class AttemptAdmin(ReadOnlyAdmin):
    list_display = (
        "prompt_id",
        "child_link",
        "number",
        "backend_link",
        *_RESULT,
        "created_at",
        "started_at",
        "ended_at",
    )
    list_filter = ("state", "is_counted", "stop_reason", "error_type", "backend", "created_at")
    search_fields = ("prompt_id", "client_id", "child__id", "child__group__id", "error_message")
    ordering = ("-id",)

    child_link = Link("job", "child_id", models.ChildJob)
    backend_link = Link("backend", "backend_id", Backend)
    outputs = JsonText("outputs", "outputs_json")
    node_outputs = JsonText("node outputs", "node_outputs_json")
    error_details = JsonText("error details", "error_details_json")
    node_errors = JsonText("node errors", "node_errors_json")
    execution = JsonText("execution", "execution_json")
    warnings = JsonText("warnings", "warnings_json")


@admin.register(models.ReportedFile)
class ReportedFileAdmin(ReadOnlyAdmin):
    """Files that attempts reported and that no later attempt has replaced."""

    list_display = ("digest", "attempt_link", "executed", "origin")
    list_filter = ("executed",)
    search_fields = ("digest",)

    attempt_link = Link("attempt", "attempt_id", models.Attempt)


@admin.register(models.JobEvent)
class JobEventAdmin(ReadOnlyAdmin):
    list_display = ("__str__", "group_link", "seq", "run", "type", "created_at")
    list_filter = ("type", "created_at")
    search_fields = ("group__id",)
    ordering = ("-id",)

    group_link = Link("group", "group_id", models.JobGroup)
    json = JsonText("frame", "frame")


@admin.register(models.AbandonedPrompt)
class AbandonedPromptAdmin(ReadOnlyAdmin):
    """Prompts that may still appear at a backend although their attempts were closed."""

    list_display = ("prompt_id", "attempt_link", "backend_link", "created_at", "expires_at")
    list_filter = ("backend", "expires_at")
    search_fields = ("prompt_id",)

    attempt_link = Link("attempt", "attempt_id", models.Attempt)
    backend_link = Link("backend", "backend_id", Backend)


@admin.register(models.GroupLabel)
class GroupLabelAdmin(ReadOnlyAdmin):
    """Metadata by which groups are found."""

    list_display = ("__str__", "group_link", "key", "value")
    search_fields = ("=key", "value", "group__id")
    ordering = ("-id",)

    group_link = Link("group", "group_id", models.JobGroup)


@admin.register(models.Asset)
class AssetAdmin(ReadOnlyAdmin):
    """Uploaded input files."""

    list_display = ("name", "size_bytes", "content_type", "created_at", "used_at")
    search_fields = ("id", "hash", "name")


@admin.register(models.AssetUse)
class AssetUseAdmin(ReadOnlyAdmin):
    """Which groups refer to which assets."""

    list_display = ("__str__", "group_link", "asset_link")
    search_fields = ("group__id", "asset__id", "asset__name")

    group_link = Link("group", "group_id", models.JobGroup)
    asset_link = Link("asset", "asset_id", models.Asset)


@admin.register(models.Capture)
class CaptureAdmin(ReadOnlyAdmin):
    """Outputs of completed jobs: to be copied into the storage, stored there, or given up."""

    list_display = ("__str__", "child_link", "number", "backend_link", "file_link", "due_at", "tries", "reason")
    list_filter = ("backend", "created_at", "due_at")
    search_fields = ("child__id", "child__group__id", "reason")
    ordering = ("-id",)

    child_link = Link("job", "child_id", models.ChildJob)
    backend_link = Link("backend", "backend_id", Backend)
    file_link = Link("file", "file_id", models.StoredFile)


@admin.register(models.StoredFile)
class StoredFileAdmin(ReadOnlyAdmin):
    """Contents of captured outputs."""

    list_display = ("blake3", "size_bytes", "width", "height", "duration", "created_at", "captures")
    search_fields = ("id", "blake3", "sha256")

    captures = ListLink("captures", "file__id__exact", models.Capture)


@admin.register(models.Runner)
class RunnerAdmin(ReadOnlyAdmin):
    """Runner processes, including those that have ended."""

    list_display = ("name", *_PROCESS, "started_at", "heartbeat_at", "stopped_at", "restarts", "last_error", "leases")
    search_fields = ("name", "host", "last_error")

    leases = ListLink("leases", "runner__exact", models.Lease)


@admin.register(models.Lease)
class LeaseAdmin(ReadOnlyAdmin):
    """Which runner holds which backend, and until when."""

    list_display = ("__str__", "backend_link", "runner_link", "epoch", "expires_at")
    list_filter = ("runner",)
    search_fields = ("backend__id", "runner")

    backend_link = Link("backend", "backend_id", Backend)
    runner_link = Link("runner", "runner", models.Runner)


@admin.register(models.Notice)
class NoticeAdmin(ReadOnlyAdmin):
    """Notices that were delivered, or are to be delivered."""

    list_display = ("title", "kind", "created_at", "sent_at", "attempt_count", "next_attempt_at", "last_error")
    list_filter = ("kind",)
    search_fields = ("title", "body")
