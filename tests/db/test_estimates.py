"""Estimates on the page of a group, from the learned times of its workflow."""

import datetime as dt
import re
from typing import Any

import pytest
from django.test import Client

from backends.models import Backend
from jobgroups.domain.clock import now
from jobgroups.domain.estimates import TimingSample
from jobgroups.domain.leases import FencingToken
from jobgroups.models import JobGroup
from jobgroups.queries import pool
from jobgroups.services import runners
from jobgroups.services.timings import timings_store
from tests.harness import factories

pytestmark = pytest.mark.django_db

STARTED = dt.datetime(2026, 2, 1, 7, tzinfo=dt.UTC)


@pytest.fixture
def waits() -> JobGroup:
    """Return a group that waits at gpu-1, whose workflow took 40 s there."""
    factories.backend(reachability="online", last_seen_at=now() + dt.timedelta(hours=1))
    factories.lease()
    runners.runner_register(name="runner", instance="1", version="1")
    group = factories.submit()
    timings_store([TimingSample(group.workflow_digest, "gpu-1", "", 40, True)])
    return group


def estimate(group: JobGroup) -> str | None:
    """Return the estimate on the page of a group."""
    pool._cache.forget()
    answer = Client(headers={"host": "localhost"}).get(f"/parts/groups/{group.id}")
    found = re.search(r"about [^<]* left", answer.content.decode())
    return found[0] if found else None


@pytest.mark.parametrize(
    "stands",
    [
        {"hold": "pause"},
        {"hold": "drain"},
        {"quarantined_at": STARTED},
        {"enabled": False},
        {"reachability": "offline"},
        {"last_seen_at": STARTED},
    ],
    ids=str,
)
def test_estimate_is_missing_when_the_backend_is_not_schedulable(waits: JobGroup, stands: dict[str, Any]) -> None:
    assert estimate(waits) == "about 40 s left"
    Backend.objects.update(**stands)
    assert estimate(waits) is None


def test_estimate_of_running_jobs_at_paused_and_unreachable_backends(waits: JobGroup) -> None:
    factories.begin(FencingToken("gpu-1", 1))
    Backend.objects.update(hold="pause")
    assert estimate(waits) == "about 40 s left"
    Backend.objects.update(reachability="offline")
    assert estimate(waits) is None
