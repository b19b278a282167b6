"""Backends outside their hours: nothing is claimed for them, jobs wait, and estimates know when they
open.
"""

import datetime as dt

import pytest

from backends.models import Backend
from backends.queries import backend_status
from backends.states import BackendState
from jobgroups.domain.clock import now
from jobgroups.models import Timing
from jobgroups.queries import pool
from jobgroups.queries.backends import serialize_backend
from jobgroups.queries.etas import current_etas
from jobgroups.queries.groups import group_snapshot
from jobgroups.queries.pool import pool_backends, pool_snapshot
from jobgroups.runner.context import desired_state
from jobgroups.services import expiry, runners
from tests.db.test_claim_sets import claim_all, request
from tests.db.test_order import next_job
from tests.harness import factories

pytestmark = pytest.mark.django_db(transaction=True)


def around(begin: float, end: float) -> str:
    """Return hours that begin and end so many minutes from now (UTC), at whole minutes."""
    begins, ends = (now() + dt.timedelta(minutes=minutes) for minutes in (begin, end))
    return f"{begins:%H:%M}-{ends:%H:%M}"


CLOSED = (60, 120)
OPEN = (-60, 60)


def set_hours(hours: str) -> None:
    Backend.objects.filter(pk="gpu-1").update(hours=hours)


@pytest.mark.parametrize("in_pool", [False, True], ids=["bound", "pool"])
def test_closed_backend_claims_nothing_and_finishes_what_it_has(in_pool: bool) -> None:
    fence = factories.online("gpu-1")
    group = factories.submit_to_pool(3) if in_pool else factories.submit(*["gpu-1"] * 3)
    assert next_job(fence) == group.id
    claimed = group.children.exclude(current_attempt=None).get().current_attempt
    assert claimed is not None
    set_hours(around(*CLOSED))
    assert claim_all([request(fence, group if in_pool else None)]) == []
    factories.start(claimed, fence)
    factories.finish(claimed, fence)
    set_hours(around(*OPEN))
    assert claim_all([request(fence, group if in_pool else None)]) != []


def test_closed_backend_is_shown_as_paused_until_it_opens() -> None:
    factories.online("gpu-1")
    runners.runner_register(name="runner", instance="i", version="1")
    set_hours(around(*CLOSED))
    group = factories.submit("gpu-1")
    row = factories.row()
    status = backend_status(row, now=now())
    assert (status.state, status.is_closed) == (BackendState.PAUSED, True)
    shown = serialize_backend(row)
    assert "Outside its hours: it opens " in shown["status_reason"]
    assert shown["opens_at"] is not None
    (child,) = group_snapshot(group.id)["child_jobs"]
    assert child["waiting_reason"] == f"gpu-1: {status.reason}"
    values = Backend.objects.values().get()
    assert not desired_state(values).is_schedulable
    assert desired_state({**values, "hours": around(*OPEN)}).is_schedulable
    set_hours("mon 07:00-07:00")
    shown = serialize_backend(factories.row())
    assert (shown["opens_at"], shown["limitations"][-1]) == (
        None,
        "Its hours never open: it gets no job.",
    )


@pytest.mark.parametrize("in_pool", [False, True], ids=["bound", "pool"])
def test_estimates_know_when_a_backend_opens(in_pool: bool) -> None:
    factories.online("gpu-1")
    group = factories.submit_to_pool(1) if in_pool else factories.submit("gpu-1")
    digest = group.workflow_digest
    Timing.objects.create(
        workflow_digest=digest, backend_id="gpu-1", seconds=10.0, runs=3, updated_at=now()
    )
    pool._cache.forget()
    assert current_etas().of_group(group.id) == pytest.approx(10, abs=1)
    set_hours(around(*CLOSED))
    pool._cache.forget()
    assert current_etas().of_group(group.id) == pytest.approx(3610, abs=61)


@pytest.mark.parametrize("in_pool", [False, True], ids=["bound", "pool"])
def test_queued_limit_stands_still_while_every_backend_is_closed(in_pool: bool) -> None:
    fence = factories.online("gpu-1")
    group = factories.submit_to_pool(1) if in_pool else factories.submit("gpu-1")

    def expire() -> int:
        if not in_pool:
            return expiry.children_expire(fence=fence, limit_s=86_400)
        overdue = pool_snapshot(pool_backends()).overdue(now() - dt.timedelta(days=1))
        return sum(expiry.pool_expire(variant_id=one, limit_s=86_400) for one in overdue)

    queued_at = now() - dt.timedelta(hours=30)
    group.children.update(queued_at=queued_at)
    group.variants.update(queued_at=queued_at)
    # Open for twelve hours a day: at most 18 of the last 30 hours.
    set_hours("00:00-12:00")
    assert expire() == 0
    if in_pool:
        factories.online("gpu-2")
        assert expire() == 1
    else:
        set_hours("")
        assert expire() == 1
