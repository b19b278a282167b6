"""Pauses by users: of a group, of a submitter, of the whole farm. Claims read the rows, and runners
take back what waits at backends.
"""

import datetime as dt
from typing import Final

from django.db.models import Q, QuerySet

from jobgroups.database.retry import retried_transaction
from jobgroups.domain.audit import Action
from jobgroups.domain.clock import now
from jobgroups.domain.pauses import FARM, target_of_submitter
from jobgroups.errors import GroupNotFound
from jobgroups.events import log
from jobgroups.models import Pause
from jobgroups.services.audit import record
from jobgroups.services.revisions import groups_revise, open_group_revise

#: Days for which an ended pause is kept: the queued limit stands still for at most 30.
_KEPT_DAYS: Final = 31


@retried_transaction
def group_pause(
    *, group_id: str, reason: str = "", until: dt.datetime | None = None, by: str = ""
) -> None:
    """Have nothing of a group sent; see :func:`queue_pause`. Raises ``GroupNotFound``, or
    ``GroupEnded``.
    """
    open_group_revise(group_id)
    _pause(group_id, Action.GROUP_PAUSED, group_id, reason=reason, until=until, by=by)
    log.publish_changed(group_id)


@retried_transaction
def group_resume(*, group_id: str, by: str = "") -> None:
    """End the pause of a group; not those of its submitter and of the farm. Raises
    ``GroupNotFound``.
    """
    if not groups_revise([group_id]):
        raise GroupNotFound(group_id)
    if _resume(group_id):
        record(Action.GROUP_RESUMED, group_id, by=by)
        log.publish_changed(group_id)


@retried_transaction
def submitter_pause(
    *, name: str, reason: str = "", until: dt.datetime | None = None, by: str = ""
) -> None:
    """Have nothing of the groups of a submitter sent; see :func:`queue_pause`."""
    target = target_of_submitter(name)
    _pause(target, Action.SUBMITTER_PAUSED, name, reason=reason, until=until, by=by)


@retried_transaction
def submitter_resume(*, name: str, by: str = "") -> None:
    if _resume(target_of_submitter(name)):
        record(Action.SUBMITTER_RESUMED, name, by=by)


@retried_transaction
def queue_pause(*, reason: str = "", until: dt.datetime | None = None, by: str = "") -> None:
    """Have nothing sent to any backend.

    What waits at a backend is taken back, unless it is paid; what runs continues. A repeated request
    replaces the end, and the reason and the name if it has them.

    Args:
        until: when the pause ends by itself; None: when a user ends it.
    """
    _pause(FARM, Action.QUEUE_PAUSED, "", reason=reason, until=until, by=by)


@retried_transaction
def queue_resume(*, by: str = "") -> None:
    if _resume(FARM):
        record(Action.QUEUE_RESUMED, "", by=by)


@retried_transaction
def pauses_forget() -> None:
    """Delete pauses that ended long ago."""
    Pause.objects.filter(ends_at__lt=now() - dt.timedelta(days=_KEPT_DAYS)).delete()


def _active(target: str) -> QuerySet[Pause]:
    lasts = Q(ends_at__isnull=True) | Q(ends_at__gt=now())
    return Pause.objects.filter(lasts, target=target)


def _pause(
    target: str, action: Action, name: str, *, reason: str, until: dt.datetime | None, by: str
) -> None:
    given = {name: text for name, text in (("reason", reason), ("by", by)) if text}
    if not _active(target).update(ends_at=until, **given):
        Pause.objects.create(target=target, began_at=now(), ends_at=until, reason=reason, by=by)
    record(action, name, by=by, reason=reason, until=until)
    log.notify_runners_on_commit(work_only=True)


def _resume(target: str) -> bool:
    """End the pauses of a target; return whether there were some."""
    ended = _active(target).update(ends_at=now()) > 0
    if ended:
        log.notify_runners_on_commit(work_only=True)
    return ended
