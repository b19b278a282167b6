"""Estimates on the page of a group, and when jobs end: the queue of other groups counts too."""

import datetime as dt
import re
from typing import Any

import pytest
from django.test import Client

from backends.models import Backend
from backends.states import Hold
from jobgroups.domain.clock import now
from jobgroups.domain.estimates import TimingSample
from jobgroups.domain.leases import FencingToken
from jobgroups.models import Attempt, JobGroup, Timing
from jobgroups.queries import pool
from jobgroups.queries.etas import current_etas, group_etas
from jobgroups.queries.groups import group_snapshot
from jobgroups.services import runners, shares
from jobgroups.services.timings import timings_store
from tests.harness import factories
from tests.harness.factories import online

pytestmark = pytest.mark.django_db


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
        {"quarantined_at": dt.datetime(2026, 2, 1, 7, 0, tzinfo=dt.UTC)},
        {"enabled": False},
        {"reachability": "offline"},
        {"last_seen_at": dt.datetime(2026, 2, 1, 7, 0, tzinfo=dt.UTC)},
    ],
)
def test_estimate_is_missing_when_the_backend_is_not_schedulable(
    waits: JobGroup, stands: dict[str, Any]
) -> None:
    assert estimate(waits) == "about 40 s left"
    Backend.objects.update(**stands)
    assert estimate(waits) is None


def test_estimate_of_running_jobs_at_paused_and_unreachable_backends(waits: JobGroup) -> None:
    factories.begin(FencingToken("gpu-1", 1))
    Backend.objects.update(hold="pause")
    assert estimate(waits) in ("about 40 s left", "about 39 s left")
    Backend.objects.update(reachability="offline")
    assert estimate(waits) is None


def learned(group: JobGroup, **seconds: float) -> None:
    for backend_id, one in seconds.items():
        Timing.objects.create(
            workflow_digest=group.workflow_digest,
            backend_id=backend_id.replace("_", "-"),
            models_digest="",
            seconds=one,
            updated_at=now(),
        )


def started(group: JobGroup, seconds_ago: float) -> None:
    moment = now() - dt.timedelta(seconds=seconds_ago)
    Attempt.objects.filter(child__group=group).update(started_at=moment)


def test_bound_jobs_wait_for_those_of_other_groups() -> None:
    fence = online("gpu-1")
    first, second = factories.submit("gpu-1", "gpu-1"), factories.submit("gpu-1", "gpu-1")
    factories.begin(fence)
    started(first, 4)
    learned(first, gpu_1=10)
    etas = current_etas()
    found = [etas.of_group(one.id) for one in (first, second)]
    assert found == pytest.approx([16, 36], abs=0.5)
    jobs = list(second.children.order_by("position"))
    assert [etas.of_job(one, at) for at, one in enumerate(jobs, 2)] == pytest.approx(
        [26, 36], abs=0.5
    )


def test_no_end_is_known_of_bound_jobs_that_a_limit_keeps_from_running_side_by_side() -> None:
    fence = online("gpu-1")
    online("gpu-2")
    limited = factories.submit("gpu-1", "gpu-1", "gpu-2", max_running=1)
    factories.begin(fence)
    started(limited, 4)
    other = factories.submit("gpu-1", "gpu-2")
    learned(limited, gpu_1=10, gpu_2=10)
    etas = current_etas()
    assert etas.of_group(limited.id) is None
    # At most: they may overtake jobs that may not be sent.
    assert etas.of_group(other.id) == pytest.approx(26, abs=0.5)
    JobGroup.objects.filter(pk=limited.pk).update(max_running=2)
    pool._cache.forget()
    assert current_etas().of_group(limited.id) == pytest.approx(16, abs=0.5)


def test_end_behind_the_last_prompt_of_another_group_of_a_limited_submitter_is_known() -> None:
    fence = online("gpu-1")
    first = factories.submit("gpu-1", submitter="anna")
    factories.begin(fence)
    started(first, 4)
    shares.submitter_change(name="anna", max_running=1)
    second = factories.submit("gpu-1", submitter="anna")
    learned(first, gpu_1=10)
    assert current_etas().of_group(second.id) == pytest.approx(16, abs=0.5)


def test_jobs_of_the_pool_end_where_the_plan_puts_them() -> None:
    online("gpu-1")
    online("gpu-2")
    group = factories.submit_to_pool(4)
    assert current_etas().of_group(group.id) is None
    learned(group, gpu_1=10, gpu_2=30)
    pool._cache.forget()
    assert current_etas().of_group(group.id) == pytest.approx(30, abs=0.5)
    runners.runner_register(name="a", instance="1", version="1")
    shown = group_snapshot(group.id)
    assert shown["eta_seconds"] == pytest.approx(30, abs=0.5)
    ends = [one["eta_seconds"] for one in shown["child_jobs"]]
    assert ends[0] == pytest.approx(10, abs=0.5)
    assert ends == sorted(ends)


def test_a_group_has_an_estimate_at_once_although_a_reading_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pool, "_KEPT_S", 60.0)
    monkeypatch.setattr(pool, "READING_PART", float("inf"))
    runners.runner_register(name="a", instance="1", version="1")
    online("gpu-1")
    first = factories.submit("gpu-1")
    learned(first, gpu_1=10)
    assert group_etas([first.id]) == {first.id: pytest.approx(10, abs=0.5)}
    kept = current_etas()
    second = factories.submit("gpu-1")
    assert current_etas() is kept
    assert group_etas([second.id]) == {second.id: pytest.approx(20, abs=0.5)}


def test_nothing_is_known_of_a_backend_that_does_not_work_nor_without_a_runner() -> None:
    online("gpu-1")
    group = factories.submit("gpu-1")
    learned(group, gpu_1=10)
    assert group_etas([group.id]) == {}
    Backend.objects.update(hold=Hold.PAUSE)
    pool._cache.forget()
    assert current_etas().of_group(group.id) is None
