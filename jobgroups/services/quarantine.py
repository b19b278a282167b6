"""Automatic quarantine: a failure may quarantine its backend, a success ends a probation.

Runs in the transaction that stores the failure or the success, so that no claim is stored between a
failure and its consequence. ``outcomes`` calls it for each end, and where a failure is stored
without an end.
"""

import datetime as dt
import logging
from typing import Final

from django.conf import settings
from django.db.models import Q

from backends.models import Backend
from backends.services import MAX_REASON
from backends.states import QuarantineRules, counts_since, quarantine_for, reason_for
from jobgroups import metrics
from jobgroups.domain.clock import now
from jobgroups.domain.failures import TAXONOMY, FailureClass
from jobgroups.domain.states import AttemptState
from jobgroups.domain.text import failure_label
from jobgroups.events import log
from jobgroups.models import Attempt
from jobgroups.store.attempts import end_probations

logger = logging.getLogger(__name__)

#: Failure classes that speak against the backend.
COUNTED_FAILURES: Final = frozenset(
    failure.value for failure, kind in TAXONOMY.items() if kind.counts_against_backend
)


def rules() -> QuarantineRules:
    return QuarantineRules(
        failures=settings.DIRECTOR_QUARANTINE_FAILURES,
        window=dt.timedelta(minutes=settings.DIRECTOR_QUARANTINE_MINUTES),
        duration=dt.timedelta(minutes=settings.DIRECTOR_QUARANTINE_FORGIVE_MINUTES),
    )


def record_result(attempt: Attempt) -> None:
    """Record the current state of an attempt, which this transaction has stored.

    A counted failure may quarantine the backend, also of an attempt that has not ended and ignores
    its stop. A success ends a probation. Other states are no evidence about the backend.
    """
    if attempt.failure_class:
        metrics.count_on_commit(metrics.failures, attempt.failure_class, attempt.backend_id)
    if attempt.failure_class in COUNTED_FAILURES:
        _count(attempt)
    elif attempt.state == AttemptState.SUCCESS:
        end_probations([attempt.backend_id])


def _count(attempt: Attempt) -> None:
    # The row's lock first: two failures at once would each not see the other, and count one too
    # few. Its holder waits for no other backend's and no other group's; no key, for submissions
    # share that.
    row = Backend.objects.select_for_update(no_key=True).filter(pk=attempt.backend_id).first()
    if row is None or row.quarantined_at is not None:
        return
    moment = now()
    its_rules = rules()
    failures = _counted_since(row, counts_since(its_rules, moment, row.failures_reset_at))
    lasts = quarantine_for(its_rules, failures=failures, consecutive=row.consecutive_quarantines)
    if lasts is None:
        return
    label = f"{failure_label(attempt.failure_class)}."
    reason = reason_for(failures, its_rules.window, row.consecutive_quarantines, label)
    Backend.objects.filter(pk=row.pk).update(
        quarantined_at=moment,
        quarantine_until=moment + lasts,
        quarantine_reason=reason[:MAX_REASON],
        quarantine_by="",
        consecutive_quarantines=row.consecutive_quarantines + 1,
    )
    logger.warning("%s: quarantined for %s (%s)", row.id, lasts, reason)
    # What waits there may go elsewhere now.
    log.notify_runners_on_commit()


def _counted_since(row: Backend, since: dt.datetime) -> int:
    failed = Attempt.objects.filter(backend_id=row.id, failure_class__in=COUNTED_FAILURES)
    # An attempt that hangs, or was given up because its backend is offline, failed when its stop
    # was requested. Its end says nothing: a person may have restarted and released the backend
    # before it.
    open_ended = Q(failure_class__in=[FailureClass.STALLED, FailureClass.BACKEND_LOST])
    stopped = Q(open_ended, stop_requested_at__isnull=False)
    return failed.filter(
        Q(stopped, stop_requested_at__gt=since) | Q(~stopped, ended_at__gt=since)
    ).count()
