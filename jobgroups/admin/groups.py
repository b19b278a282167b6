"""Groups, jobs, attempts, events, runners and notices in the admin: users view, cancel and retry
them.
"""

import tomllib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from backends.errors import RequestError
from jobgroups import models
from jobgroups.admin.base import (
    Column,
    JsonText,
    Link,
    ListLink,
    ReadOnlyAdmin,
    action,
    register_rows,
)
from jobgroups.domain.access import Visibility
from jobgroups.domain.shapes.groups import Deletion, RetryResult
from jobgroups.domain.states import Where
from jobgroups.domain.text import pluralize
from jobgroups.errors import GroupNotFinished
from jobgroups.services.assignment import Choice
from jobgroups.services.cancellation import child_cancel, group_cancel
from jobgroups.services.groups import group_change, group_delete, group_deletion
from jobgroups.services.pauses import group_pause, group_resume, submitter_pause, submitter_resume
from jobgroups.services.retries import child_retry, group_retry
from jobgroups.services.shares import group_next
from jobgroups.services.webhooks import delivery_replay

# Every list reads columns of its own table alone. A join with backends would hide the history of a
# deleted backend: the key outlives its row.


def _retry(
    page: ReadOnlyAdmin, request: HttpRequest, wanted: Mapping[str, Sequence[str] | None]
) -> None:
    """Retry jobs of groups (None: all failed ones), and report the result of each group."""
    queued = adopted = 0
    for group_id, job_ids in wanted.items():
        try:
            for retried in _retried(group_id, job_ids, request.user.get_username()):
                queued += len(retried.job_ids)
                adopted += len(retried.adopted_job_ids)
        except RequestError as error:
            page.message_user(request, f"Group {group_id}: {error.detail}", messages.WARNING)
    if queued or adopted:
        text = f"{pluralize(queued, 'job is', 'jobs are')} queued again."
        if adopted:
            text += (
                f" {pluralize(adopted, 'job has', 'jobs have')} the result of an earlier attempt."
            )
        page.message_user(request, text, messages.SUCCESS)


def _retried(group_id: str, job_ids: Sequence[str] | None, by: str) -> Iterator[RetryResult]:
    """Retry a group or some of its jobs; while the group runs, these one by one."""
    how: dict[str, Any] = {"choice": Choice(where=Where.AUTO), "by": by}
    try:
        yield group_retry(group_id=group_id, job_ids=job_ids, **how)
    except GroupNotFinished:
        if job_ids is None:
            raise
        for job_id in job_ids:
            yield child_retry(group_id=group_id, job_id=job_id, **how)


_delete = action("Delete", "deleted", group_delete)


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
    keys: ClassVar = {"group_id": "pk"}
    noun = ("group is", "groups are")
    listed_columns = (
        "id title status placement priority completed_count failed_count cancelled_count total_count "
        "run created_at stopped_at completed_at archived_at shared_at jobs log"
    )
    list_filter = (
        *(
            "status",
            "placement",
            "seed_strategy",
            "partial_outputs",
            "accepted_without_runner",
            "created_at",
        ),
        ("program", admin.EmptyFieldListFilter),
        ("archived_at", admin.EmptyFieldListFilter),
        ("shared_at", admin.EmptyFieldListFilter),
    )
    search_fields = ("id", "name", "prompt", "labels__value", "submitter", "idempotency_key")
    inlines = (VariantInline,)

    jobs = ListLink("jobs", "group__id__exact", models.ChildJob)
    log = ListLink(
        "events", "group__id__exact", models.JobEvent, lambda group: pluralize(group.seq, "event")
    )

    cancel = action(
        "Cancel the jobs that are not final",
        "cancelled",
        lambda group_id: group_cancel(group_id=group_id).interrupted,
        noun=("job was", "jobs were"),
    )

    @admin.action(description="Retry the failed jobs", permissions=["operate"])
    def retry(self, request: HttpRequest, queryset: QuerySet[models.JobGroup]) -> None:
        """Start the next run of groups that have ended."""
        _retry(self, request, dict.fromkeys(queryset.values_list("pk", flat=True)))

    next_ = action("Start next: to the front of their level", "next", group_next, in_level=True)
    pause = action("Pause: send nothing of them", "paused", group_pause)
    resume = action("Resume", "resumed", group_resume)
    archive = action(
        "Archive: leave them out of the lists", "archived", group_change, archived=True
    )
    unarchive = action("Show them in the lists again", "in the lists", group_change, archived=False)
    share = action(
        "Share: every account sees them", "shared", group_change, visibility=Visibility.SHARED
    )
    unshare = action(
        "Make them private again", "private", group_change, visibility=Visibility.PRIVATE
    )

    @admin.action(
        description="Delete those that have ended, with their files …", permissions=["operate"]
    )
    def delete(
        self, request: HttpRequest, queryset: QuerySet[models.JobGroup]
    ) -> HttpResponse | None:
        """Show what will be deleted; delete it when that is confirmed."""
        if "confirmed" in request.POST:
            _delete(self, request, queryset)
            return None
        deletions: list[tuple[models.JobGroup, Deletion | str]] = []
        for group in queryset:
            try:
                deletions.append((group, group_deletion(group_id=group.pk)))
            except RequestError as error:
                deletions.append((group, error.detail))
        context = self.admin_site.each_context(request) | {
            "title": "Delete groups?",
            "opts": self.opts,
            "deletions": deletions,
        }
        return render(request, "admin/delete_groups.html", context)


@admin.register(models.ChildJob)
class ChildJobAdmin(ReadOnlyAdmin):
    keys: ClassVar = {"group_id": "group_id", "job_id": "pk"}
    listed_columns = (
        "id group_link position backend_link is_bound seed status progress current_step "
        "error_type attempts_link queued_at completed_at"
    )
    list_filter = ("status", "stopped_by", "is_bound", "error_type", "backend", "queued_at")
    search_fields = ("id", "group__id", "=seed", "error_message")
    ordering = ("-queued_at", "group", "position")

    attempts_link = ListLink(
        "attempts",
        "child__id__exact",
        models.Attempt,
        lambda child: pluralize(child.attempt_count, "attempt"),
    )

    cancel = action(
        "Cancel those that are not final", "cancelled", child_cancel, noun=("job was", "jobs were")
    )

    @admin.action(
        description="Retry them, also those that failed in a running group", permissions=["operate"]
    )
    def retry(self, request: HttpRequest, queryset: QuerySet[models.ChildJob]) -> None:
        """Retry single jobs: in the next run of their groups, or within the current run."""
        wanted: dict[str, list[str]] = defaultdict(list)
        for job_id, group_id in queryset.values_list("pk", "group_id"):
            wanted[group_id].append(job_id)
        _retry(self, request, wanted)


@admin.register(models.WebhookDelivery)
class WebhookDeliveryAdmin(ReadOnlyAdmin):
    keys: ClassVar = {"delivery_id": "pk"}
    noun = ("delivery is", "deliveries are")
    listed_columns = (
        "__str__ group_link seq type url due_at attempt_count delivered_at last_status last_error"
    )
    list_filter = ("type", "created_at", "due_at", "delivered_at")
    search_fields = ("group__id", "url", "message_id")
    ordering = ("-id",)

    replay = action("Send again", "due now", delivery_replay)


@admin.register(models.Submitter)
class SubmitterAdmin(ReadOnlyAdmin):
    """What submitters have used of the farm lately, their weights and limits."""

    keys: ClassVar = {"name": "pk"}
    noun = ("submitter is", "submitters are")
    listed_columns = "name weight max_running max_queued used_seconds used_at"
    search_fields = ("name",)

    pause = action("Pause: send nothing of their groups", "paused", submitter_pause)
    resume = action("Resume", "resumed", submitter_resume)


#: Columns of the pages in ``rows.toml`` that are no fields.
_COLUMNS: Final[dict[str, dict[str, Column]]] = {
    "Variant": {"jobs": ListLink("jobs", "variant__id__exact", models.ChildJob)},
    "JobEvent": {"json": JsonText("frame", "frame")},
    "StoredFile": {"captures": ListLink("captures", "file__id__exact", models.Capture)},
    "Runner": {"leases": ListLink("leases", "runner__exact", models.Lease)},
    "Lease": {"runner_link": Link("runner", "runner", models.Runner)},
}
for _name, _options in tomllib.loads(
    Path(__file__).with_name("rows.toml").read_text(encoding="utf-8")
).items():
    register_rows(getattr(models, _name), **_options, columns=_COLUMNS.get(_name, {}))
