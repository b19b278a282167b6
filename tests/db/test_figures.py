"""What backends did in the last day and hour, read from the attempts."""

import datetime as dt

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from jobgroups.domain.clock import now
from jobgroups.domain.failures import FailureClass
from jobgroups.domain.figures import Figures
from jobgroups.models import Attempt
from jobgroups.queries.figures import read_figures
from tests.harness import factories

pytestmark = pytest.mark.django_db


def _ended(hours: float, seconds: float, attempt: Attempt) -> None:
    """Move an attempt into the past."""
    end = now() - dt.timedelta(hours=hours)
    times = {"started_at": end - dt.timedelta(seconds=seconds), "ended_at": end}
    Attempt.objects.filter(pk=attempt.pk).update(**times)


def test_figures_count_attempts_of_a_day_also_those_that_were_retried_elsewhere() -> None:
    first, second = factories.farm(2)
    group = factories.submit_to_pool(6)
    for hours, seconds in ((0.2, 10.0), (0.9, 20.0), (1.1, 99.0), (25.0, 99.0)):
        attempt = factories.claim_from_pool(first, group)
        factories.start(attempt, first)
        factories.finish(attempt, first)
        _ended(hours, seconds, attempt)
    # It fails on the first backend, and the second one completes it.
    attempt = factories.claim_from_pool(first, group)
    factories.start(attempt, first)
    factories.fail(attempt, first, FailureClass.CUDA_FATAL)
    attempt = factories.claim_from_pool(second, group)
    factories.start(attempt, second)
    factories.finish(attempt, second)
    _ended(0.5, 60.0, attempt)
    # Without a variant its workflow is that of the group.
    _, attempt = factories.running(second)
    factories.finish(attempt, second)
    _ended(0.5, 30.0, attempt)
    found = read_figures()
    assert found["gpu-1"] == Figures(
        completed_day=3, failed_day=1, seconds_per_job=15.0, relative_seconds=0.33
    )
    assert found["gpu-2"] == Figures(
        completed_day=2, failed_day=0, seconds_per_job=45.0, relative_seconds=3.0
    )


def test_figures_take_as_many_queries_for_many_backends() -> None:
    factories.farm(1)
    with CaptureQueriesContext(connection) as few:
        read_figures()
    for number in range(2, 9):
        factories.online(f"gpu-{number}")
    with CaptureQueriesContext(connection) as many:
        read_figures()
    assert len(few) == len(many) == 3
