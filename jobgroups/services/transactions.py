"""Transactions on a group and on an attempt: the only write path, with one lock order and a fencing
check.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from django.db import transaction
from django.db.models import F

from jobgroups.database.retry import retry_on_conflict
from jobgroups.database.statements import KEY, PreparedQuery
from jobgroups.domain.leases import FencingToken
from jobgroups.domain.states import ChildStatus
from jobgroups.errors import GroupNotFound
from jobgroups.events import log
from jobgroups.log_context import bound, note_cause
from jobgroups.models import UNREAD, Attempt, ChildJob, JobGroup
from jobgroups.services import notices
from jobgroups.services.group_transaction import GroupTransaction
from jobgroups.services.leases import verify_fence

T = TypeVar("T")

_locked_group: Final = PreparedQuery(
    lambda: JobGroup.objects.select_for_update().filter(pk=KEY).defer(*UNREAD).order_by()
)


@contextmanager
def group_transaction(
    group_id: str, *, fence: FencingToken | None = None
) -> Iterator[GroupTransaction]:
    """Open a transaction that locks the lease (if fenced) and the group's row, in this order.

    It updates the group's status and stores the events when the block ends. Raises ``LeaseLost`` if
    the fencing token is no longer valid (nothing was written), or ``GroupNotFound``.
    """
    with transaction.atomic():
        verify_fence(fence)
        group = _locked_group.first(group_id)
        if group is None:
            raise GroupNotFound(group_id)
        tx = GroupTransaction(group)
        note_cause(group_id)
        with bound(group=group_id):
            yield tx
            children = tx.flush()
            if children is not None:
                notices.enqueue_group_ended(group, children)


_group_of_attempt: Final = PreparedQuery(
    lambda: (
        Attempt.objects.filter(pk=KEY)
        .only("child_id")
        .annotate(group_id=F("child__group_id"))
        .order_by()
    )
)
_locked_child: Final = PreparedQuery(
    lambda: ChildJob.objects.select_for_update().filter(pk=KEY).order_by()
)
_locked_attempt: Final = PreparedQuery(
    lambda: Attempt.objects.select_for_update().filter(pk=KEY).order_by()
)


@contextmanager
def attempt_transaction(
    attempt_id: int, fence: FencingToken | None
) -> Iterator[tuple[GroupTransaction, ChildJob, Attempt]]:
    """Lock lease, group, child and attempt in this order, and load the last two under the lock.

    If the attempt ends and its child is queued, the runners are notified: the child may wait for
    another backend, and only for this end, since no two of its prompts run at once.
    """
    stored_attempt: Any = _group_of_attempt.get(attempt_id)
    with group_transaction(stored_attempt.group_id, fence=fence) as tx:
        child = _locked_child.get(stored_attempt.child_id)
        attempt = _locked_attempt.get(attempt_id)
        was_over = attempt.ended_at is not None
        with bound(
            group=stored_attempt.group_id,
            job=child.id,
            attempt=attempt.number,
            backend=attempt.backend_id,
        ):
            yield tx, child, attempt
        if not was_over and attempt.ended_at is not None and is_free(child):
            log.notify_runners_on_commit()


def attempt_write(work: Callable[..., T]) -> Callable[..., T]:
    """Make a service of what a fenced transaction on an attempt does; repeat it after a conflict.

    The service takes ``attempt_id``, ``fence`` and the fields of ``work`` by name.
    """

    @functools.wraps(work)
    def service(*, attempt_id: int, fence: FencingToken, **fields: Any) -> T:
        with attempt_transaction(attempt_id, fence) as (tx, child, attempt):
            return work(tx, child, attempt, **fields)

    return retry_on_conflict(service)


def is_free(child: ChildJob) -> bool:
    return child.status == ChildStatus.QUEUED and child.current_attempt_id is None
