"""Groups, jobs, attempts, events, runners and notices in the admin: users view, cancel and retry them."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest

from jobgroups import models
from jobgroups.admin.base import JsonText, Link, ListLink, ReadOnlyAdmin, register_rows
from jobgroups.domain.states import Where
from jobgroups.domain.text import pluralize
from jobgroups.errors import ChildNotFound, GroupNotFinished, GroupNotFound, JobGroupsError
from jobgroups.services.assignment import Choice
from jobgroups.services.cancellation import child_cancel, group_cancel
from jobgroups.services.retries import Retried, child_retry, group_retry

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
    shown = "id status placement completed_count failed_count cancelled_count total_count run created_at completed_at jobs log"
    list_filter = ("status", "placement", "seed_strategy", "partial_outputs", "accepted_without_runner", "created_at")
    search_fields = ("id", "labels__value", "submitter", "idempotency_key")
    actions = ("cancel", "retry")
    inlines = (VariantInline,)

    jobs = ListLink("jobs", "group__id__exact", models.ChildJob)
    log = ListLink("events", "group__id__exact", models.JobEvent, lambda group: pluralize(group.seq, "event"))

    @admin.action(description="Cancel the jobs that are not final", permissions=["operate"])
    def cancel(self, request: HttpRequest, queryset: QuerySet[models.JobGroup]) -> None:
        """Cancel groups; the runner stops their running prompts."""
        cancelled = 0
        for group_id in list(queryset.values_list("pk", flat=True)):
            with suppress(GroupNotFound):
                cancelled += group_cancel(group_id=group_id).interrupted
        _report_cancelled(self, request, cancelled)

    @admin.action(description="Retry the failed jobs", permissions=["operate"])
    def retry(self, request: HttpRequest, queryset: QuerySet[models.JobGroup]) -> None:
        """Start the next run of groups that have ended."""
        _retry(self, request, dict.fromkeys(queryset.values_list("pk", flat=True)))


@admin.register(models.ChildJob)
class ChildJobAdmin(ReadOnlyAdmin):
    shown = "id group_link position backend_link is_bound seed status progress current_step error_type attempts_link queued_at completed_at"
    list_filter = ("status", "is_bound", "error_type", "backend", "queued_at")
    search_fields = ("id", "group__id", "=seed", "error_message")
    ordering = ("-queued_at", "group", "position")
    actions = ("cancel", "retry")

    attempts_link = ListLink(
        "attempts", "child__id__exact", models.Attempt, lambda child: pluralize(child.attempt_count, "attempt")
    )

    @admin.action(description="Cancel those that are not final", permissions=["operate"])
    def cancel(self, request: HttpRequest, queryset: QuerySet[models.ChildJob]) -> None:
        """Cancel single jobs; the other jobs of their groups go on."""
        cancelled = 0
        for job_id, group_id in list(queryset.values_list("pk", "group_id")):
            with suppress(GroupNotFound, ChildNotFound):
                cancelled += child_cancel(group_id=group_id, job_id=job_id)
        _report_cancelled(self, request, cancelled)

    @admin.action(description="Retry them, also those that failed in a running group", permissions=["operate"])
    def retry(self, request: HttpRequest, queryset: QuerySet[models.ChildJob]) -> None:
        """Retry single jobs: in the next run of their groups, or within the current run."""
        wanted: dict[str, list[str]] = defaultdict(list)
        for job_id, group_id in queryset.values_list("pk", "group_id"):
            wanted[group_id].append(job_id)
        _retry(self, request, wanted)


# What the jobs of each group of the pool require, and their place in the line.
register_rows(
    models.Variant,
    "__str__ group_link number queued_at unplaced_since jobs",
    filters="queued_at unplaced_since",
    search="group__id workflow_digest",
    ordering="-id",
    jobs=ListLink("jobs", "variant__id__exact", models.ChildJob),
)
register_rows(
    models.Attempt,
    "prompt_id child_link number backend_link state is_counted error_type stop_reason created_at started_at ended_at",
    filters="state is_counted stop_reason error_type backend created_at",
    search="prompt_id client_id child__id child__group__id error_message",
    ordering="-id",
)
# Files that attempts reported and that no later attempt has replaced.
register_rows(models.ReportedFile, "digest attempt_link executed origin", filters="executed", search="digest")
register_rows(
    models.JobEvent,
    "__str__ group_link seq run type created_at",
    filters="type created_at",
    search="group__id",
    ordering="-id",
    json=JsonText("frame", "frame"),
)
# Prompts that may still appear at a backend although their attempts were closed.
register_rows(
    models.AbandonedPrompt,
    "prompt_id attempt_link backend_link created_at expires_at",
    filters="backend expires_at",
    search="prompt_id",
)
# Metadata by which groups are found.
register_rows(models.GroupLabel, "__str__ group_link key value", search="=key value group__id", ordering="-id")
register_rows(models.Asset, "name size_bytes content_type created_at used_at", search="id hash name")
register_rows(models.AssetUse, "__str__ group_link asset_link", search="group__id asset__id asset__name")
# Outputs of completed jobs: to be copied into the storage, stored there, or given up.
register_rows(
    models.Capture,
    "__str__ child_link number backend_link file_link due_at tries reason",
    filters="backend created_at due_at",
    search="child__id child__group__id reason",
    ordering="-id",
)
register_rows(
    models.StoredFile,
    "blake3 size_bytes width height duration created_at captures",
    search="id blake3 sha256",
    captures=ListLink("captures", "file__id__exact", models.Capture),
)
register_rows(
    models.Runner,
    "name host pid version started_at heartbeat_at stopped_at restarts last_error leases",
    search="name host last_error",
    leases=ListLink("leases", "runner__exact", models.Lease),
)
register_rows(
    models.Lease,
    "__str__ backend_link runner_link epoch expires_at",
    filters="runner",
    search="backend__id runner",
    runner_link=Link("runner", "runner", models.Runner),
)
register_rows(
    models.Notice,
    "title kind created_at sent_at attempt_count next_attempt_at last_error",
    filters="kind",
    search="title body",
)
