"""What a workflow last took on a backend: of whose attempts, how many, and at what cost."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from backends.models import Backend
from jobgroups.domain.clock import now
from jobgroups.domain.leases import FencingToken
from jobgroups.domain.states import AttemptState
from jobgroups.models import Attempt, JobGroup
from jobgroups.queries import estimates
from tests.harness import factories

pytestmark = pytest.mark.django_db

STARTED = dt.datetime(2026, 2, 1, 7, tzinfo=dt.UTC)


@pytest.fixture
def fence() -> FencingToken:
    factories.backend(reachability="online", last_seen_at=now() + dt.timedelta(hours=1))
    return factories.lease()


def rendered(
    fence: FencingToken, seconds: float, state: AttemptState = AttemptState.SUCCESS, **fields: Any
) -> JobGroup:
    """Render a group of one, in so many seconds."""
    group = factories.submit(fence.backend_id, **fields)
    claimed = factories.claim(fence)
    factories.start(claimed, fence)
    assert factories.finish(claimed, fence, state)
    ended = STARTED + dt.timedelta(seconds=seconds)
    Attempt.objects.filter(pk=claimed.attempt_id).update(started_at=STARTED, ended_at=ended)
    return group


def test_estimate_is_the_median_of_at_least_three_runs(fence: FencingToken) -> None:
    client = Client(headers={"host": "localhost"})
    for seconds in (10, 40):
        rendered(fence, seconds)
    waits = factories.submit()
    part = f"/parts/groups/{waits.id}"
    assert "estimate" not in client.get(part).content.decode()
    waits.delete()
    rendered(fence, 90)
    waits = factories.submit()
    part = f"/parts/groups/{waits.id}"
    assert "about 40 s left" in client.get(part).content.decode()


@pytest.mark.parametrize(
    "stands",
    [
        {"hold": "pause"},
        {"hold": "drain"},
        {"quarantined_at": STARTED},
        {"enabled": False},
        {"reachability": "offline"},
        {"last_seen_at": STARTED},  # nobody looks
    ],
    ids=lambda stands: next(iter(stands)) + str(stands.get("hold", "")),
)
def test_estimate_is_missing_when_the_backend_is_not_schedulable(fence: FencingToken, stands: dict[str, Any]) -> None:
    for _ in range(3):
        rendered(fence, 40)
    part = f"/parts/groups/{factories.submit().id}"
    client = Client(headers={"host": "localhost"})
    assert "about 40 s left" in client.get(part).content.decode()
    Backend.objects.update(**stands)
    assert "estimate" not in client.get(part).content.decode()


def test_estimate_of_running_jobs_at_paused_and_unreachable_backends(fence: FencingToken) -> None:
    for _ in range(3):
        rendered(fence, 40)
    part = f"/parts/groups/{factories.submit().id}"
    client = Client(headers={"host": "localhost"})
    factories.start(factories.claim(fence), fence)
    Backend.objects.update(hold="pause")
    assert "about 40 s left" in client.get(part).content.decode()
    Backend.objects.update(reachability="offline")
    assert "estimate" not in client.get(part).content.decode()


def test_estimate_ignores_failed_attempts(fence: FencingToken) -> None:
    digest = rendered(fence, 10).workflow_digest
    rendered(fence, 10)
    for _ in range(3):
        rendered(fence, 500, AttemptState.ERROR)
    assert estimates.medians([digest]) == {}
    rendered(fence, 10)
    assert estimates.medians([digest]) == {(digest, "gpu-1"): 10.0}


def test_estimate_uses_the_newest_twenty_runs(fence: FencingToken) -> None:
    for _ in range(19):
        rendered(fence, 1)
    digest = rendered(fence, 1).workflow_digest
    for _ in range(11):
        rendered(fence, 100)
    assert estimates.medians([digest]) == {(digest, "gpu-1"): 100.0}


def test_estimate_ignores_other_workflows_and_backends(fence: FencingToken) -> None:
    factories.backend("gpu-2")
    other = factories.lease("gpu-2")
    for _ in range(3):
        digest = rendered(fence, 10).workflow_digest
        longer = rendered(other, 70, parameters={"steps": 90}).workflow_digest
    assert digest != longer
    assert estimates.medians([digest, longer]) == {(digest, "gpu-1"): 10.0, (longer, "gpu-2"): 70.0}


def test_estimate_ignores_groups_without_a_digest(fence: FencingToken) -> None:
    for _ in range(3):
        rendered(fence, 10)
    JobGroup.objects.update(workflow_digest="")
    assert estimates.medians([""]) == {}


@pytest.mark.skipif(connection.vendor != "sqlite", reason="the plan is read as SQLite writes it")
def test_estimate_reads_only_by_index(fence: FencingToken) -> None:
    digest = rendered(fence, 10).workflow_digest
    with CaptureQueriesContext(connection) as asked:
        estimates.medians([digest])
    assert len(asked) == 1
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN QUERY PLAN {asked[0]['sql']}")
        plan = [row[3] for row in cursor.fetchall()]
    assert "SEARCH jobgroups_jobgroup USING INDEX group_workflow (workflow_digest=?)" in plan
    assert not [step for step in plan if step.startswith("SCAN") or "TEMP B-TREE" in step], plan
