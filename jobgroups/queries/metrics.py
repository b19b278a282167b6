"""Gauges of the rows that are queued, active or due, for the metrics. Of ended rows, only partly
complete groups are read.
"""

from collections import Counter
from collections.abc import Mapping

from django.db.models import Count, Min, Q

from backends.queries import backend_list, backend_status
from backends.states import BackendState
from jobgroups.domain.clock import now
from jobgroups.domain.states import AttemptState, ChildStatus, GroupStatus, Placement
from jobgroups.models import (
    Attempt,
    Capture,
    ChildJob,
    FilesProcess,
    Notice,
    Runner,
    WebhookDelivery,
)
from jobgroups.queries.groups import open_groups
from jobgroups.queries.leases import HEARTBEAT_TIMEOUT, database_now
from jobgroups.queries.outputs import oldest_due_capture

Rows = Mapping[tuple[str, ...], float]
_OPEN = (GroupStatus.PENDING, GroupStatus.RUNNING, GroupStatus.PARTIAL_COMPLETE)


def farm_gauges() -> dict[str, Rows]:
    """Return the rows of each gauge of ``metrics.toml``: value by labels."""
    moment, at_database = now(), database_now()
    free = Q(current_attempt__isnull=True)
    # By open groups: SQLite has no statistics, and would choose the index of the current attempt,
    # which ended jobs lack too.
    waits = ChildJob.objects.filter(group__in=open_groups(), status=ChildStatus.QUEUED).order_by()
    counted = waits.values_list("backend_id").annotate(
        number=Count("id", filter=free), since=Min("queued_at", filter=free)
    )
    queued = {
        backend: (count, (moment - since).total_seconds())
        for backend, count, since in counted
        if count
    }
    pool, bound = queued.pop(None, (0, 0.0)), list(queued.values())
    active = Attempt.objects.filter(ended_at__isnull=True).order_by()
    prompts = Counter[tuple[str, ...]]()
    for backend_id, state, count in active.values_list("backend_id", "state").annotate(Count("id")):
        prompts[backend_id, "running" if state == AttemptState.RUNNING else "pending"] += count
    ours = {backend_id for backend_id, *_ in prompts}
    states = {
        row.id: backend_status(row, now=moment, ours=row.id in ours).state for row in backend_list()
    }
    groups = open_groups().order_by().values_list("status").annotate(Count("id"))
    alive = Runner.objects.filter(
        stopped_at__isnull=True, heartbeat_at__gt=at_database - HEARTBEAT_TIMEOUT
    )
    beats = dict(alive.values_list("name", "heartbeat_at"))
    due = {
        "captures": Capture.objects.filter(due_at__isnull=False),
        "notices": Notice.objects.filter(next_attempt_at__isnull=False),
        "webhooks": WebhookDelivery.objects.filter(due_at__isnull=False),
    }
    return {
        "queued_jobs": {
            (Placement.POOL,): pool[0],
            (Placement.BOUND,): sum(count for count, _ in bound),
        },
        "oldest_queued_seconds": {
            (Placement.POOL,): pool[1],
            (Placement.BOUND,): max((age for _, age in bound), default=0.0),
        },
        "backend_queued_jobs": {(backend_id,): count for backend_id, (count, _) in queued.items()},
        "backend_prompts": prompts,
        "backends": {(state,): list(states.values()).count(state) for state in BackendState},
        "backend_state": dict.fromkeys(states.items(), 1),
        "open_groups": {(status,): dict(groups).get(status, 0) for status in _OPEN},
        "runners": {(): len(beats)},
        "runner_heartbeat_age_seconds": {
            (name,): (at_database - at).total_seconds() for name, at in beats.items()
        },
        "files_processes": {
            (): FilesProcess.objects.filter(
                heartbeat_at__gt=at_database - HEARTBEAT_TIMEOUT
            ).count()
        },
        "oldest_due_capture_seconds": {(): (oldest_due_capture() or (0.0,))[0]},
        "pending_deliveries": {(kind,): rows.count() for kind, rows in due.items()},
    }
