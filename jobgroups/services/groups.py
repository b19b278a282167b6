"""Changes of a group by users that are no events: its name, whether the lists show it, and its
deletion.
"""

import datetime as dt
import json
from dataclasses import replace
from typing import Any

from django.db.models import Value
from django.db.models.functions import Coalesce

from jobgroups.database.retry import retried_transaction
from jobgroups.domain.access import Visibility
from jobgroups.domain.audit import Action
from jobgroups.domain.clock import now
from jobgroups.domain.outputs import SENT, reported_files
from jobgroups.domain.shapes.groups import Deletion
from jobgroups.errors import GroupNotFound, GroupOpen, GroupStopping
from jobgroups.events import log
from jobgroups.models import JobGroup
from jobgroups.services.audit import record
from jobgroups.services.captures import files_collect
from jobgroups.services.purge import ended_groups, files_of, groups_delete, unfinished_attempts
from jobgroups.services.revisions import groups_revise


@retried_transaction
def group_change(
    *,
    group_id: str,
    name: str | None = None,
    archived: bool | None = None,
    visibility: str | None = None,
    priority: int | None = None,
    **limits: int | dt.datetime | None,
) -> None:
    """Set the name of a group (empty: none), its visibility and its priority, and archive it or end
    that; None leaves each as it is.

    ``limits`` are ``max_running`` and ``start_after``; None ends a limit.

    Open pages are notified; who may not see the group any more is not sent more of it. Raises
    ``GroupNotFound``.
    """
    if not groups_revise([group_id]):
        raise GroupNotFound(group_id)
    fields: dict[str, object] = {} if name is None else {"name": name}
    if archived is not None:
        # A group that is archived already keeps the time.
        fields["archived_at"] = Coalesce("archived_at", Value(now())) if archived else None
    if visibility is not None:
        is_shared = visibility == Visibility.SHARED
        fields["shared_at"] = Coalesce("shared_at", Value(now())) if is_shared else None
    if priority is not None:
        fields["priority"] = priority
    fields |= limits
    if priority is not None or limits:
        log.notify_runners_on_commit(work_only=True)
    JobGroup.objects.filter(pk=group_id).update(**fields)
    recorded: dict[str, Any] = {
        key: "none" if value is None else value for key, value in limits.items()
    }
    record(
        Action.GROUP_CHANGED,
        group_id,
        name=name,
        archived=archived,
        visibility=visibility,
        priority=priority,
        **recorded,
    )
    log.publish_changed(group_id)


def group_deletion(*, group_id: str) -> Deletion:
    """Return what :func:`group_delete` would remove, or raise as it does."""
    group = JobGroup.objects.filter(pk=group_id).only("completed_at", "total_count").first()
    if group is None:
        raise GroupNotFound(group_id)
    if group.completed_at is None:
        raise GroupOpen(group_id)
    active = unfinished_attempts().filter(child__group=group_id)
    if backends := sorted(set(active.values_list("backend_id", flat=True))):
        raise GroupStopping(group_id, ", ".join(backends))
    starred = group.children.filter(starred=True).count()
    made = (
        group.children.filter(outputs_json__isnull=False)
        .order_by()
        .values_list("outputs_json", flat=True)
    )
    reported = (
        file for outputs in made.iterator() for file in reported_files(json.loads(outputs or "{}"))
    )
    kept = any(not file.get("missing") and file.get("type") != SENT for file in reported)
    files, size = files_of(group_id)
    return Deletion(
        jobs=group.total_count, starred=starred, files=files, bytes=size, kept_at_backends=kept
    )


def group_delete(*, group_id: str) -> Deletion:
    """Delete a group that has ended, with its jobs, events and captured files, also starred ones.

    Raises ``GroupNotFound``, ``GroupOpen``, or ``GroupStopping`` while one of its prompts may still
    run.
    """
    deletion = group_deletion(group_id=group_id)
    deleted, _, file_ids = groups_delete([group_id], ended_groups())
    if not deleted:
        # Another request was faster, or a retry has opened the group.
        group_deletion(group_id=group_id)
        raise GroupOpen(group_id)
    count, size = files_collect(file_ids)
    return replace(deletion, files=count, bytes=size)
