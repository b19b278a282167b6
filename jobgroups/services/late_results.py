"""Late results: an attempt succeeded after its child had continued without it.

Such a child is not rendered again; it completes with the late result. Used in the transaction that
would requeue or fail the child, with its group locked.
"""

import json
from collections.abc import Sequence

from backends.models import Backend
from jobgroups.domain.outputs import all_missing
from jobgroups.domain.states import AttemptState, ChildStatus
from jobgroups.events import log
from jobgroups.models import Attempt, ChildJob
from jobgroups.services.captures import captures_enqueue
from jobgroups.services.group_transaction import GroupTransaction, update_row


def late_results(children: Sequence[ChildJob]) -> dict[str, Attempt]:
    """Return the newest success of each child that has one, by the child's id.

    A prompt may succeed although its stop was requested: after a timeout, a cancel, or when another
    attempt replaced a hanging one. A success is left out if its files are gone or replaced, or its
    backend was deleted.
    """
    rows = Attempt.objects.filter(
        child__in=children,
        state=AttemptState.SUCCESS,
        failure_class="",
        outputs_json__isnull=False,
        backend__in=Backend.objects.values("pk"),
    )
    return {
        row.child_id: row
        for row in rows.order_by("number")
        if not all_missing(json.loads(row.outputs_json or "{}"))
    }


def late_result(child: ChildJob) -> Attempt | None:
    return late_results([child]).get(child.id)


def reinstate(child: ChildJob, attempt: Attempt) -> None:
    """Let an older attempt decide its child again: it was given up and has a result.

    Nothing is rendered twice. The child's row is locked, queued and without a current attempt, so
    no newer prompt of it was sent: a claim sets its attempt under the same lock before it sends.
    The child completes in this transaction and is never claimed again.
    """
    update_row(
        child,
        {"current_attempt_id": attempt.pk, "backend_id": attempt.backend_id, "not_before": None},
    )


def adopt_result(tx: GroupTransaction, child: ChildJob, attempt: Attempt) -> None:
    """Complete a queued child without a current attempt by the success of an earlier one.

    Its times are that attempt's.
    """
    reinstate(child, attempt)
    tx.start_child(child, attempt)
    tx.move_child(
        child,
        ChildStatus.COMPLETED,
        attempt=attempt,
        outputs_json=attempt.outputs_json,
        warnings_json=attempt.warnings_json,
        progress=100.0,
        outputs_reused=bool(json.loads(attempt.execution_json or "{}").get("outputs_reused")),
        completed_at=attempt.ended_at,
    )
    captures_enqueue([(child, attempt)])
    tx.add_event(log.child_completed(child))
