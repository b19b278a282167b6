"""Groups, children, attempts, events and runners in Django's admin: to look at, cancel and retry."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.safestring import SafeString

from backends.models import Backend
from jobgroups.admin import backends  # noqa: F401 registers the backends' page
from jobgroups.admin.base import ReadOnlyAdmin, pretty, row_link, rows_link
from jobgroups.domain.states import Where
from jobgroups.domain.text import counted
from jobgroups.errors import ChildNotFound, GroupNotFinished, GroupNotFound, JobGroupsError
from jobgroups.models import (
    AbandonedPrompt,
    Attempt,
    ChildJob,
    GroupLabel,
    JobEvent,
    JobGroup,
    Lease,
    Notice,
    ReportedFile,
    Runner,
)
from jobgroups.services.groups import child_cancel, group_cancel
from jobgroups.services.rebinding import Choice
from jobgroups.services.retries import Retried, child_retry, group_retry

# Every list reads columns of its own table alone. A join with backends would hide the history of
# one that was deleted: the key outlives its row.


def _retry(
    page: ReadOnlyAdmin, request: HttpRequest, wanted: Mapping[str, Sequence[str] | None]
) -> None:
    """Retry children of groups (None: all that failed), and say what became of each group."""
    again = adopted = 0
    for group_id, job_ids in wanted.items():
        try:
            for done in _retried(group_id, job_ids, request.user.get_username()):
                again += len(done.job_ids)
                adopted += len(done.adopted_job_ids)
        except JobGroupsError as refused:
            page.message_user(request, f"Group {group_id}: {refused.detail}", messages.WARNING)
    if again or adopted:
        said = f"{counted(again, 'child waits', 'children wait')} again."
        if adopted:
            had = counted(adopted, "child has its picture", "children have their pictures")
            said += f" {had} after all, made by an earlier attempt."
        page.message_user(request, said, messages.SUCCESS)


def _retried(group_id: str, job_ids: Sequence[str] | None, by: str) -> Iterator[Retried]:
    """Retry a group or some of its children; while the group runs, these one by one."""
    how: dict[str, Any] = {"choice": Choice(where=Where.AUTO), "by": by}
    try:
        yield group_retry(group_id=group_id, job_ids=job_ids, **how)
    except GroupNotFinished:
        if job_ids is None:
            raise
        for job_id in job_ids:
            yield child_retry(group_id=group_id, job_id=job_id, **how)


@admin.register(JobGroup)
class JobGroupAdmin(ReadOnlyAdmin):
    """Every submission."""

    list_display = (
        "id",
        "status",
        "completed_count",
        "failed_count",
        "cancelled_count",
        "total_count",
        "run",
        "created_at",
        "completed_at",
        "children_link",
        "events_link",
    )
    list_filter = (
        "status",
        "seed_strategy",
        "partial_outputs",
        "accepted_without_runner",
        "created_at",
    )
    search_fields = ("id", "labels__value", "submitter", "idempotency_key")
    exclude = (
        "workflow_json",
        "parameters_json",
        "metadata_json",
        "warnings_json",
        "skipped_backends_json",
    )
    readonly_fields: ClassVar = [
        "children_link",
        "events_link",
        "metadata",
        "warnings",
        "skipped_backends",
        "parameters",
        "workflow",
    ]
    actions = ("cancel", "retry")

    @admin.display(description="children")
    def children_link(self, group: JobGroup) -> SafeString:
        """Return a link to the group's children."""
        return rows_link(ChildJob, "children", group__id__exact=group.id)

    @admin.display(description="events")
    def events_link(self, group: JobGroup) -> SafeString:
        """Return a link to the group's log."""
        text = counted(group.seq, "event", "events")
        return rows_link(JobEvent, text, group__id__exact=group.id)

    @admin.display
    def metadata(self, group: JobGroup) -> str:
        """Return what the user said of the group."""
        return pretty(group.metadata_json)

    @admin.display
    def warnings(self, group: JobGroup) -> str:
        """Return what the user was warned of."""
        return pretty(group.warnings_json)

    @admin.display
    def skipped_backends(self, group: JobGroup) -> str:
        """Return the backends that got no child, and why."""
        return pretty(group.skipped_backends_json)

    @admin.display
    def parameters(self, group: JobGroup) -> str:
        """Return the inputs that were set in every child."""
        return pretty(group.parameters_json)

    @admin.display
    def workflow(self, group: JobGroup) -> str:
        """Return the workflow as it was submitted."""
        return pretty(group.workflow_json)

    @admin.action(description="Cancel what is not final in them", permissions=["operate"])
    def cancel(self, request: HttpRequest, queryset: QuerySet[JobGroup]) -> None:
        """Cancel the groups; their running prompts are stopped by the runner."""
        cancelled = 0
        for group_id in list(queryset.values_list("pk", flat=True)):
            try:
                cancelled += group_cancel(group_id=group_id).interrupted
            except GroupNotFound:
                continue
        said = f"{counted(cancelled, 'child was', 'children were')} cancelled."
        self.message_user(request, said, messages.SUCCESS)

    @admin.action(description="Retry what failed in them", permissions=["operate"])
    def retry(self, request: HttpRequest, queryset: QuerySet[JobGroup]) -> None:
        """Open the next run of groups that have ended."""
        _retry(self, request, dict.fromkeys(queryset.values_list("pk", flat=True)))


@admin.register(ChildJob)
class ChildJobAdmin(ReadOnlyAdmin):
    """Every variation."""

    list_display = (
        "id",
        "group_link",
        "position",
        "backend_link",
        "seed",
        "status",
        "progress",
        "current_step",
        "error_type",
        "attempts_link",
        "queued_at",
        "completed_at",
    )
    list_filter = ("status", "error_type", "backend", "queued_at")
    search_fields = ("id", "group__id", "=seed", "error_message")
    ordering = ("-queued_at", "group", "position")
    exclude = (
        "group",
        "backend",
        "current_attempt",
        "outputs_json",
        "error_details_json",
        "warnings_json",
    )
    readonly_fields: ClassVar = [
        "group_link",
        "backend_link",
        "current_attempt_link",
        "attempts_link",
        "outputs",
        "error_details",
        "warnings",
    ]
    actions = ("cancel", "retry")

    @admin.display(description="group", ordering="group")
    def group_link(self, child: ChildJob) -> str:
        """Return a link to its group."""
        return row_link(JobGroup, child.group_id)

    @admin.display(description="backend", ordering="backend_id")
    def backend_link(self, child: ChildJob) -> str:
        """Return a link to its backend, which may be gone."""
        return row_link(Backend, child.backend_id)

    @admin.display(description="current attempt")
    def current_attempt_link(self, child: ChildJob) -> str:
        """Return a link to the attempt that decides it."""
        return row_link(Attempt, child.current_attempt_id)

    @admin.display(description="attempts")
    def attempts_link(self, child: ChildJob) -> SafeString:
        """Return a link to its attempts."""
        text = counted(child.attempt_count, "attempt", "attempts")
        return rows_link(Attempt, text, child__id__exact=child.id)

    @admin.display
    def outputs(self, child: ChildJob) -> str:
        """Return what it made."""
        return pretty(child.outputs_json)

    @admin.display
    def error_details(self, child: ChildJob) -> str:
        """Return node, traceback and the like."""
        return pretty(child.error_details_json)

    @admin.display
    def warnings(self, child: ChildJob) -> str:
        """Return what its user was warned of."""
        return pretty(child.warnings_json)

    @admin.action(description="Cancel those that are not final", permissions=["operate"])
    def cancel(self, request: HttpRequest, queryset: QuerySet[ChildJob]) -> None:
        """Cancel single children; the rest of their groups goes on."""
        cancelled = 0
        for job_id, group_id in list(queryset.values_list("pk", "group_id")):
            try:
                cancelled += child_cancel(group_id=group_id, job_id=job_id)
            except (GroupNotFound, ChildNotFound):
                continue
        said = f"{counted(cancelled, 'child was', 'children were')} cancelled."
        self.message_user(request, said, messages.SUCCESS)

    @admin.action(
        description="Retry them, also those that failed in a running group",
        permissions=["operate"],
    )
    def retry(self, request: HttpRequest, queryset: QuerySet[ChildJob]) -> None:
        """Retry these children alone: in the next run of their groups, or within the run of one that runs."""
        wanted: dict[str, list[str]] = defaultdict(list)
        for job_id, group_id in queryset.values_list("pk", "group_id"):
            wanted[group_id].append(job_id)
        _retry(self, request, wanted)


@admin.register(Attempt)
class AttemptAdmin(ReadOnlyAdmin):
    """Every try of a child on a backend."""

    list_display = (
        "prompt_id",
        "child_link",
        "number",
        "backend_link",
        "state",
        "is_counted",
        "error_type",
        "stop_reason",
        "created_at",
        "started_at",
        "ended_at",
    )
    list_filter = ("state", "is_counted", "stop_reason", "error_type", "backend", "created_at")
    search_fields = ("prompt_id", "client_id", "child__id", "child__group__id", "error_message")
    ordering = ("-id",)
    exclude = (
        "child",
        "backend",
        "node_outputs_json",
        "outputs_json",
        "error_details_json",
        "node_errors_json",
        "warnings_json",
    )
    readonly_fields: ClassVar = [
        "child_link",
        "backend_link",
        "outputs",
        "node_outputs",
        "error_details",
        "node_errors",
        "warnings",
    ]

    @admin.display(description="child", ordering="child")
    def child_link(self, attempt: Attempt) -> str:
        """Return a link to the child that it is a try of."""
        return row_link(ChildJob, attempt.child_id)

    @admin.display(description="backend", ordering="backend_id")
    def backend_link(self, attempt: Attempt) -> str:
        """Return a link to its backend, which may be gone."""
        return row_link(Backend, attempt.backend_id)

    @admin.display
    def outputs(self, attempt: Attempt) -> str:
        """Return what it made, as clients see it."""
        return pretty(attempt.outputs_json)

    @admin.display
    def node_outputs(self, attempt: Attempt) -> str:
        """Return what each node reported, as ComfyUI said it."""
        return pretty(attempt.node_outputs_json)

    @admin.display
    def error_details(self, attempt: Attempt) -> str:
        """Return node, traceback and the like."""
        return pretty(attempt.error_details_json)

    @admin.display
    def node_errors(self, attempt: Attempt) -> str:
        """Return the outputs that ComfyUI refused of a prompt that it accepted."""
        return pretty(attempt.node_errors_json)

    @admin.display
    def warnings(self, attempt: Attempt) -> str:
        """Return what is to be known of its result."""
        return pretty(attempt.warnings_json)


@admin.register(ReportedFile)
class ReportedFileAdmin(ReadOnlyAdmin):
    """Files that attempts reported and that no later attempt has replaced."""

    list_display = ("digest", "attempt_link", "executed", "origin")
    list_filter = ("executed",)
    search_fields = ("digest",)
    exclude = ("attempt",)
    readonly_fields: ClassVar = ["attempt_link"]

    @admin.display(description="attempt")
    def attempt_link(self, file: ReportedFile) -> str:
        """Return a link to the attempt that reported it."""
        return row_link(Attempt, file.attempt_id)


@admin.register(JobEvent)
class JobEventAdmin(ReadOnlyAdmin):
    """The logs of all groups."""

    list_display = ("__str__", "group_link", "seq", "run", "type", "created_at")
    list_filter = ("type", "created_at")
    search_fields = ("group__id",)
    ordering = ("-id",)
    exclude = ("group", "frame")
    readonly_fields: ClassVar = ["group_link", "as_sent"]

    @admin.display(description="group", ordering="group")
    def group_link(self, event: JobEvent) -> str:
        """Return a link to its group."""
        return row_link(JobGroup, event.group_id)

    @admin.display(description="frame")
    def as_sent(self, event: JobEvent) -> str:
        """Return the frame that clients get."""
        return pretty(event.frame)


@admin.register(AbandonedPrompt)
class AbandonedPromptAdmin(ReadOnlyAdmin):
    """Prompts that may yet turn up although their attempts were closed."""

    list_display = ("prompt_id", "attempt_link", "backend_link", "created_at", "expires_at")
    list_filter = ("backend", "expires_at")
    search_fields = ("prompt_id",)
    exclude = ("attempt", "backend")
    readonly_fields: ClassVar = ["attempt_link", "backend_link"]

    @admin.display(description="attempt")
    def attempt_link(self, prompt: AbandonedPrompt) -> str:
        """Return a link to the attempt that sent it."""
        return row_link(Attempt, prompt.attempt_id)

    @admin.display(description="backend", ordering="backend_id")
    def backend_link(self, prompt: AbandonedPrompt) -> str:
        """Return a link to the backend where it may turn up."""
        return row_link(Backend, prompt.backend_id)


@admin.register(GroupLabel)
class GroupLabelAdmin(ReadOnlyAdmin):
    """What groups are found by."""

    list_display = ("__str__", "group_link", "key", "value")
    search_fields = ("=key", "value", "group__id")
    ordering = ("-id",)
    exclude = ("group",)
    readonly_fields: ClassVar = ["group_link"]

    @admin.display(description="group", ordering="group")
    def group_link(self, label: GroupLabel) -> str:
        """Return a link to its group."""
        return row_link(JobGroup, label.group_id)


@admin.register(Runner)
class RunnerAdmin(ReadOnlyAdmin):
    """The processes that drive backends, those that ended too."""

    list_display = (
        "name",
        "host",
        "pid",
        "version",
        "started_at",
        "heartbeat_at",
        "stopped_at",
        "restarts",
        "last_error",
        "leases_link",
    )
    search_fields = ("name", "host", "last_error")
    readonly_fields: ClassVar = ["leases_link"]

    @admin.display(description="leases")
    def leases_link(self, runner: Runner) -> SafeString:
        """Return a link to the backends that it holds."""
        return rows_link(Lease, "leases", runner__exact=runner.name)


@admin.register(Lease)
class LeaseAdmin(ReadOnlyAdmin):
    """Which runner holds which backend, and until when."""

    list_display = ("__str__", "backend_link", "runner_link", "epoch", "expires_at")
    list_filter = ("runner",)
    search_fields = ("backend__id", "runner")
    exclude = ("backend", "runner")
    readonly_fields: ClassVar = ["backend_link", "runner_link"]

    @admin.display(description="backend", ordering="backend_id")
    def backend_link(self, lease: Lease) -> str:
        """Return a link to the backend."""
        return row_link(Backend, lease.backend_id)

    @admin.display(description="runner", ordering="runner")
    def runner_link(self, lease: Lease) -> str:
        """Return a link to the runner that holds it."""
        return row_link(Runner, lease.runner)


@admin.register(Notice)
class NoticeAdmin(ReadOnlyAdmin):
    """What people were told outside of the Director, or are to be told."""

    list_display = (
        "title",
        "kind",
        "created_at",
        "sent_at",
        "attempt_count",
        "next_attempt_at",
        "last_error",
    )
    list_filter = ("kind",)
    search_fields = ("title", "body")
