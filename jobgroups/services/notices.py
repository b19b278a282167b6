"""Notices are stored in the transaction of their cause. Nothing is sent here.

Without ``DIRECTOR_NOTIFY`` nothing is stored.
"""

from collections import Counter
from collections.abc import Sequence

from django.conf import settings

from backends.queries import backends_by_id
from jobgroups.domain import notices
from jobgroups.domain.clock import now
from jobgroups.domain.notices import Message, NoticeKind
from jobgroups.domain.states import ChildStatus
from jobgroups.models import Attempt, ChildJob, JobEvent, JobGroup, Notice


def is_enabled(kind: NoticeKind) -> bool:
    return bool(settings.DIRECTOR_NOTIFY) and kind in settings.DIRECTOR_NOTIFY_ON


def link_to(path: str) -> str:
    """Return the public address of a page; empty if ``DIRECTOR_PUBLIC_URL`` is not set."""
    return f"{settings.DIRECTOR_PUBLIC_URL}{path}" if settings.DIRECTOR_PUBLIC_URL else ""


def notice_enqueue(kind: NoticeKind, message: Message) -> Notice:
    moment = now()
    return Notice.objects.create(
        kind=kind,
        title=message.title,
        body=message.body,
        urgency=message.urgency,
        created_at=moment,
        next_attempt_at=moment,
    )


def enqueue_group_ended(group: JobGroup, children: Sequence[ChildJob]) -> None:
    """Enqueue a notice about the end of a group's run, in the transaction that ends it and has
    stored the group.
    """
    if not is_enabled(NoticeKind.GROUP_ENDED) or group.completed_at is None:
        return
    lost = [
        child for child in children if child.status in (ChildStatus.FAILED, ChildStatus.TIMEOUT)
    ]
    rows = backends_by_id(child.backend_id or "" for child in lost)
    names = {row.id: row.name for row in rows.values()}
    end = notices.GroupSummary(
        name=group.title,
        total=group.total_count,
        completed=group.completed_count,
        failed=group.failed_count,
        cancelled=group.cancelled_count,
        seconds=_seconds(group),
        stopped=sum(bool(child.stopped_by) for child in children),
        is_cancelled=group.cancelled_at is not None,
        late=_late(group),
        reasons=Counter(
            (child.failure_class, names.get(child.backend_id or "", child.backend_id or ""))
            for child in lost
        ),
    )
    message = notices.group_ended(end, link_to(f"/groups/{group.id}"))
    notice_enqueue(NoticeKind.GROUP_ENDED, message)


def _seconds(group: JobGroup) -> float:
    ended = group.completed_at or now()
    began = group.created_at
    if group.run > 1:
        opened = JobEvent.objects.filter(group=group, run=group.run).order_by("seq")
        # None yet: it ended in the transaction that opened it.
        began = opened.values_list("created_at", flat=True).first() or ended
    return max((ended - began).total_seconds(), 0.0)


def _late(group: JobGroup) -> int:
    """Return how many children completed in this run after an attempt of it had failed."""
    failed = Attempt.objects.filter(
        child__group=group, child__status=ChildStatus.COMPLETED, run=group.run
    )
    return failed.exclude(failure_class="").values("child_id").distinct().count()
