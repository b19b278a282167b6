"""The outbox: notices are enqueued by time, claimed, delivered, retried or given up.

Several runners may use it. A claim locks all due notices until it is stored, so that each is
delivered by one runner.
"""

import datetime as dt
from collections.abc import Collection, Sequence
from typing import Final

from django.db.models import Exists, F, OuterRef, Q, Value
from django.db.models.functions import Concat

from backends.models import Backend, Reachability
from backends.queries import unique_names
from jobgroups.database.retry import retried_transaction, retry_on_conflict
from jobgroups.domain import notices
from jobgroups.domain.clock import now
from jobgroups.domain.notices import NoticeIntervals, NoticeKind
from jobgroups.domain.states import CHILD_OPEN
from jobgroups.models import ChildJob, JobEvent, JobGroup, Notice
from jobgroups.queries.groups import open_groups
from jobgroups.services.notices import is_enabled, link_to, notice_enqueue

_MOST: Final = 500  #: Notices in one message at most.
_NEWS: Final = dt.timedelta(hours=1)  #: An older end is not reported any more.


def enqueue_backend_notices(pace: NoticeIntervals) -> int:
    """Enqueue a notice for each backend in trouble without one; return how many."""
    if not is_enabled(NoticeKind.BACKEND_TROUBLE):
        return 0
    waits = ChildJob.objects.filter(backend=OuterRef("pk"), status__in=CHILD_OPEN)
    away = Q(
        Exists(waits),
        enabled=True,
        reachability=Reachability.OFFLINE,
        unreachable_since__lte=now() - dt.timedelta(seconds=pace.trouble_after),
    )
    rows = Backend.objects.filter(away | Q(quarantined_at__isnull=False)).order_by("id")
    # Runs every few seconds while the trouble lasts: only a new one takes a lock.
    names = unique_names()
    return sum(
        _notice_trouble(row.pk, name)
        for row in rows
        if _untold_since(row, name := names.get(row.pk, row.pk)) is not None
    )


def _untold_since(row: Backend, name: str) -> dt.datetime | None:
    """Return since when a backend is in trouble; None if it is not, or if a notice of this trouble
    was enqueued.
    """
    if row.quarantined_at is not None:
        since, title = (row.quarantined_at, notices.quarantine_title(name))
    elif row.unreachable_since is not None:
        since = row.unreachable_since
        title = notices.away_title(name, answers=_answers(row, since))
    else:
        return None
    return None if Notice.objects.filter(title=title, created_at__gte=since).exists() else since


def _answers(row: Backend, since: dt.datetime) -> bool:
    """Whether an unavailable backend has responded."""
    return row.last_seen_at is not None and row.last_seen_at > since


@retried_transaction
def _notice_trouble(backend_id: str, name: str) -> int:
    # The lock prevents that two runners enqueue the same notice.
    row = Backend.objects.select_for_update().filter(pk=backend_id).first()
    since = None if row is None else _untold_since(row, name)
    if row is None or since is None:
        return 0
    link = link_to("/backends")
    if row.quarantined_at is not None:
        message = notices.backend_quarantined(
            name, row.quarantine_reason, row.quarantine_by, row.quarantine_until, link
        )
    else:
        waiting = ChildJob.objects.filter(backend=row, status__in=CHILD_OPEN).count()
        if not waiting:
            return 0
        seconds, answers = (now() - since).total_seconds(), _answers(row, since)
        message = notices.backend_away(
            name, seconds, row.status_reason, waiting, link, answers=answers
        )
    notice_enqueue(NoticeKind.BACKEND_TROUBLE, message)
    return 1


def enqueue_queue_empty(pace: NoticeIntervals) -> bool:
    """Enqueue a notice after the last group has ended; return whether this call did."""
    if not is_enabled(NoticeKind.QUEUE_EMPTY):
        return False
    # Where something is left to do, something else is the last that happened, or soon will be.
    last = JobEvent.objects.order_by("-id").only("type", "group_id", "created_at").first()
    moment = now()
    if last is None or last.type != "group_complete" or last.created_at < moment - _NEWS:
        return False
    if last.created_at > moment - dt.timedelta(seconds=pace.idle):
        return False
    not_since = min(last.created_at, moment - dt.timedelta(seconds=pace.empty_every))
    if _emptiness_told(not_since) or open_groups().exists():
        return False
    return _notice_emptiness(last.group_id, not_since)


def _emptiness_told(since: dt.datetime) -> bool:
    return Notice.objects.filter(kind=NoticeKind.QUEUE_EMPTY, created_at__gt=since).exists()


@retried_transaction
def _notice_emptiness(group_id: str, not_since: dt.datetime) -> bool:
    # The lock prevents that two runners enqueue the same notice.
    group = JobGroup.objects.select_for_update().filter(pk=group_id).first()
    if group is None or _emptiness_told(not_since):
        return False
    notice_enqueue(NoticeKind.QUEUE_EMPTY, notices.queue_empty(group.title, link_to("/")))
    return True


def notices_claim(*, pace: NoticeIntervals, by: str) -> list[Notice]:
    """Claim the due notices for the runner ``by``, unless a message was sent a moment ago."""
    if not Notice.objects.filter(next_attempt_at__lte=now()).exists():
        return []
    return _claim(pace, by)


@retried_transaction
def _claim(pace: NoticeIntervals, by: str) -> list[Notice]:
    waiting = list(
        Notice.objects.select_for_update().filter(next_attempt_at__isnull=False).order_by("id")
    )
    moment = now()
    recent = Notice.objects.filter(sent_at__gt=moment - dt.timedelta(seconds=pace.min_interval))
    due = [
        notice for notice in waiting if notice.next_attempt_at and notice.next_attempt_at <= moment
    ]
    if recent.exists() or any(notice.claimed_by for notice in set(waiting).difference(due)):
        return []
    claimed = Notice.objects.filter(pk__in=[notice.pk for notice in due[:_MOST]])
    until = moment + dt.timedelta(seconds=pace.claim)
    claimed.update(next_attempt_at=until, attempt_count=F("attempt_count") + 1, claimed_by=by)
    return list(claimed)


@retry_on_conflict
def notices_delivered_to(*, mark: str, ids: Collection[int]) -> None:
    """Record that one of several services, by its mark, accepted notices; a retry skips it."""
    pending = Notice.objects.filter(pk__in=ids, sent_at=None).exclude(delivered_to__contains=mark)
    pending.update(delivered_to=Concat("delivered_to", Value(f" {mark}")))


@retried_transaction
def notices_delivered(ids: Collection[int]) -> None:
    """Record that notices were delivered. Notices that wait for a failed service are due now."""
    moment = now()
    pending = Notice.objects.filter(pk__in=ids, sent_at=None)
    pending.update(
        sent_at=moment, next_attempt_at=None, claimed_by="", last_error="", delivered_to=""
    )
    put_off = Notice.objects.filter(next_attempt_at__gt=moment, attempt_count__gt=0)
    put_off.filter(claimed_by="").update(next_attempt_at=moment)


@retried_transaction
def notices_failed(failed: Sequence[Notice], *, pace: NoticeIntervals, error: str) -> list[int]:
    """Postpone notices that a service refused; return the ids of those that are given up."""
    moment = now()
    given_up: list[int] = []
    for notice in failed:
        rows = Notice.objects.filter(pk=notice.id, sent_at=None)
        if (moment - notice.created_at).total_seconds() >= pace.give_up:
            rows.update(next_attempt_at=None, claimed_by="", last_error=f"Given up: {error}"[:500])
            given_up.append(notice.id)
            continue
        again = moment + dt.timedelta(seconds=pace.pause_after(notice.attempt_count))
        rows.update(next_attempt_at=again, claimed_by="", last_error=error[:500])
    return given_up


@retry_on_conflict
def notices_forget_old(pace: NoticeIntervals) -> int:
    old = Notice.objects.filter(created_at__lt=now() - dt.timedelta(seconds=pace.retention))
    return old.delete()[0]
