import datetime as dt
import itertools
import re
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import urlencode

import pytest
from django.db import connection

from backends.models import Backend
from backends.services import backend_observed
from director.cli.failures import failure_lines
from director.client.decode import parser
from jobgroups.domain.access import EVERYBODY
from jobgroups.domain.clock import now
from jobgroups.domain.failures import FailureClass
from jobgroups.domain.leases import FencingToken
from jobgroups.domain.shapes.backends import Failures
from jobgroups.domain.states import AttemptState, ChildStatus, RetryScope
from jobgroups.models import Attempt, ChildJob, JobGroup
from jobgroups.queries import failures as failing
from jobgroups.services import attempts, cancellation, expiry, retries
from tests.api.conftest import Api
from tests.harness import factories

pytestmark = pytest.mark.django_db

_numbers = itertools.count()


@pytest.fixture(autouse=True)
def backends() -> None:
    factories.backend("gpu-1")
    factories.backend("gpu-2")


def group(*backend_ids: str, workflow: str = "a" * 16, name: str = "shot_001") -> list[ChildJob]:
    made = factories.submit(*backend_ids, metadata={"name": name})
    JobGroup.objects.filter(pk=made.pk).update(workflow_digest=workflow)
    return list(ChildJob.objects.filter(group=made).order_by("position"))


def attempt(child: ChildJob, cause: str, *, ago: float = 60, backend: str = "") -> Attempt:
    moment = now() - dt.timedelta(seconds=ago)
    return Attempt.objects.create(
        child=child,
        number=1 + child.attempts.count(),
        run=1,
        backend_id=backend or child.backend_id or "",
        prompt_id=f"prompt-{next(_numbers)}",
        client_id="c",
        epoch=1,
        state=AttemptState.ERROR,
        created_at=moment,
        ended_at=moment,
        error_message=f"{cause} happened",
        failure_class=cause,
    )


def end(child: ChildJob, status: ChildStatus, by: Attempt | None = None, cause: str = "") -> None:
    """Have a child end; without an attempt, it was never sent."""
    completed = status is ChildStatus.COMPLETED
    ChildJob.objects.filter(pk=child.pk).update(
        status=status,
        completed_at=by.ended_at if by else now(),
        current_attempt=by,
        outputs_json='{"images": []}' if completed else None,
        failure_class=by.failure_class if by else cause,
        error_message=None if completed else by.error_message if by else "away too long",
    )


def lose(child: ChildJob, cause: str, **fields: Any) -> Attempt:
    by = attempt(child, cause, **fields)
    end(child, ChildStatus.FAILED, by)
    return by


def report(api: Api, path: str = "/api/failures") -> dict[str, Any]:
    answer = api.get(path)
    assert answer.status_code == 200, answer.content
    found: dict[str, Any] = answer.json()
    return found


def keys(rows: list[dict[str, Any]]) -> list[tuple[str, str, int, int]]:
    names = ("failure_class", "backend_id", "failures", "failed_jobs")
    return [tuple(row[name] for name in names) for row in rows]


def test_failures_are_grouped_by_class_backend_and_workflow(api: Api) -> None:
    oom, node = FailureClass.OUT_OF_MEMORY, FailureClass.NODE_ERROR
    first, second, third = group("gpu-1", "gpu-1", "gpu-2")
    lose(first, node, ago=300)
    lose(second, node, ago=100)
    lose(third, oom, ago=10)
    (other,) = group("gpu-1", workflow="b" * 16, name="other")
    lose(other, node)
    # A newer group with the same workflow and without failures does not change the names.
    group("gpu-1", name="unhurt")
    found = report(api)["results"]
    assert keys(found) == [(node, "gpu-1", 2, 2), (oom, "gpu-2", 1, 1), (node, "gpu-1", 1, 1)]
    assert [row["workflow_name"] for row in found] == ["shot_001", "shot_001", "other"]
    assert found[0]["first_at"] < found[0]["last_at"]
    assert found[1]["example"] == {
        "job_group_id": third.group_id,
        "job_id": third.id,
        "attempt": 1,
        "message": "out_of_memory happened",
        "at": found[1]["last_at"],
    }


def test_failed_job_counts_for_its_last_failure(api: Api) -> None:
    child, waits = group("gpu-1", "gpu-1")
    attempt(child, FailureClass.OUT_OF_MEMORY)
    attempt(waits, FailureClass.OUT_OF_MEMORY)
    lose(child, FailureClass.TIMEOUT, backend="gpu-2")
    rows = report(api)["results"]
    assert keys(rows) == [
        (FailureClass.TIMEOUT, "gpu-2", 1, 1),
        (FailureClass.OUT_OF_MEMORY, "gpu-1", 2, 0),
    ]
    assert [row["retrying"] for row in rows] == [0, 1]


def test_job_that_was_never_sent_is_counted(api: Api) -> None:
    (child,) = group("gpu-1")
    end(child, ChildStatus.FAILED, cause=FailureClass.UNREACHABLE)
    (row,) = report(api)["results"]
    assert keys([row]) == [(FailureClass.UNREACHABLE, "gpu-1", 1, 1)]
    assert row["example"]["attempt"] is None
    assert row["example"]["message"] == "away too long"
    assert failing.lost_count(EVERYBODY) == 1


def test_failure_without_a_message_is_listed_by_its_group(api: Api) -> None:
    (child,) = group("gpu-1")
    lose(child, FailureClass.UNREACHABLE)
    Attempt.objects.update(error_message=None)
    ChildJob.objects.update(error_message=None)
    assert failure_lines(parser(Failures)(report(api)))[-1].split()[-1] == child.group_id


def test_failures_are_limited_to_the_window(api: Api) -> None:
    for child, hours in zip(group(*["gpu-1"] * 4), (0.9, 23, 160, 170), strict=True):
        lose(child, FailureClass.NODE_ERROR, ago=hours * 3600)
    for window, seen in {"1h": 1, "1d": 2, "7d": 3}.items():
        (row,) = report(api, f"/api/failures?window={window}")["results"]
        assert row["failures"] == seen


def test_long_report_is_cut(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failing, "MAX_ROWS", 1)
    monkeypatch.setattr(failing, "MAX_FAILURES", 2)
    first, second, third = group("gpu-1", "gpu-2", "gpu-1")
    lose(first, FailureClass.NODE_ERROR, ago=10)
    lose(second, FailureClass.NODE_ERROR, ago=20)
    lose(third, FailureClass.TIMEOUT, ago=30)
    found = report(api)
    assert len(found["results"]) == 1
    assert (found["left_out"], found["only_newest"]) == (1, 2)


def test_failed_jobs_of_a_row_are_listed_by_group(api: Api) -> None:
    def listed(workflow: str = "") -> list[tuple[str, str, str, bool, bool, list[str]]]:
        where = f"failure_class=node_error&backend_id=gpu-1{workflow}"
        groups = report(api, f"/api/failures/jobs?{where}")["groups"]
        return [tuple(one.values()) for one in groups]

    ended, other = group("gpu-1", "gpu-2")
    lose(ended, FailureClass.NODE_ERROR)
    lose(other, FailureClass.NODE_ERROR)
    JobGroup.objects.filter(pk=ended.group_id).update(status="failed", completed_at=now())
    (unsent,) = group("gpu-1", name="shot_002")
    end(unsent, ChildStatus.FAILED, cause=FailureClass.NODE_ERROR)
    (elsewhere,) = group("gpu-1", workflow="b" * 16, name="c")
    lose(elsewhere, FailureClass.NODE_ERROR)
    rows = [
        (unsent.group_id, "shot_002", "bound", True, False, [unsent.id]),
        (ended.group_id, "shot_001", "bound", True, True, [ended.id]),
    ]
    assert listed(f"&workflow={'a' * 16}") == rows
    assert listed() == [(elsewhere.group_id, "c", "bound", True, False, [elsewhere.id]), *rows]
    assert listed("&workflow=") == []


def test_navigation_counts_failed_jobs_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failing, "MAX_COUNT", 2)
    for child, count in zip(group(*["gpu-1"] * 3), (1, 2, 2), strict=True):
        lose(child, FailureClass.NODE_ERROR)
        assert failing.lost_count(EVERYBODY) == count


def test_each_query_of_failures_uses_its_index() -> None:
    if connection.vendor == "postgresql":
        pytest.skip("PostgreSQL chooses indexes by statistics, which a table with one row lacks")
    (child,) = group("gpu-1")
    lose(child, FailureClass.NODE_ERROR)
    since = now() - dt.timedelta(days=1)
    indexes = ("child_failed", "attempt_failed_newest", "attempt_failed_newest")
    for rows, index in zip(failing._sources(EVERYBODY, since), indexes, strict=True):
        assert index in rows.explain()


def test_row_is_labelled_with_the_groups_of_its_failures(api: Api) -> None:
    (unnamed,) = ChildJob.objects.filter(group=factories.submit("gpu-1"))
    digest = JobGroup.objects.get(pk=unnamed.group_id).workflow_digest
    lose(unnamed, FailureClass.NODE_ERROR, ago=60)
    group("gpu-1", workflow=digest, name="another shot, which did not fail")
    (row,) = report(api)["results"]
    assert (row["workflow_name"], row["groups"]) == ("out", 1)
    (named,) = group("gpu-1", workflow=digest, name="shot_007")
    lose(named, FailureClass.NODE_ERROR, ago=10)
    (row,) = report(api)["results"]
    assert (row["workflow_name"], row["groups"]) == ("shot_007 and 1 more group", 2)


# Each state is reached through the services by which runners and users reach it.

Step = Callable[[FencingToken], object]


def _queue(*backend_ids: str, **fields: Any) -> Step:
    return lambda _: factories.submit(*backend_ids or ("gpu-1",), **fields)


def _online(backend_id: str = "gpu-1") -> Step:
    return lambda _: backend_observed(backend_id=backend_id, reachable=True)


def _begin(fence: FencingToken) -> Attempt:
    ChildJob.objects.update(not_before=None)
    return factories.begin(fence)


def _run(result: AttemptState) -> Step:
    return lambda fence: factories.finish(_begin(fence), fence, result)


def _time_out(fence: FencingToken) -> None:
    factories.time_out(_begin(fence), fence)


def _stall(fence: FencingToken) -> None:
    attempts.attempt_stalled(attempt_id=Attempt.objects.get().id, fence=fence)


def _stop(fence: FencingToken) -> None:
    end = factories.end(AttemptState.INTERRUPTED)
    attempts.attempt_ended(attempt_id=Attempt.objects.get().id, fence=fence, end=end)


def _retry_job(_: FencingToken) -> None:
    failed = ChildJob.objects.get(position=0)
    retries.child_retry(group_id=failed.group_id, job_id=failed.id)


def _of_group(service: Callable[..., object]) -> Step:
    return lambda _: service(group_id=JobGroup.objects.get().id)


def _give_up(**fields: Any) -> Step:
    waited = {"away_s": 600, "reason": "refused", **fields}
    return lambda fence: expiry.children_fail_unavailable(fence=fence, **waited)


def _expire(fence: FencingToken) -> None:
    expiry.children_expire(fence=fence, limit_s=-1)


_cancel, _retry = _of_group(cancellation.group_cancel), _of_group(retries.group_retry)
_FAIL, _SUCCEED = _run(AttemptState.ERROR), _run(AttemptState.SUCCESS)
_FAILED = [_queue(), _FAIL]
_WAITING = [_queue(max_attempts=2), _FAIL]
_RETRIED = [*_FAILED, _online(), _retry]
_TWO = ("gpu-1", "gpu-2")
_ELSEWHERE = _queue(*_TWO, max_attempts=2, retry_elsewhere=RetryScope.GROUP)

#: Steps, and then: failed jobs, failures of them and of others, failures that were recovered.
_STATES: dict[str, tuple[list[Step], int, int, int]] = {
    "failed": (_FAILED, 1, 1, 0),
    "timed out": ([_queue(), _time_out], 1, 1, 0),
    "timed out and hangs": ([_queue(), _time_out, _stall], 1, 1, 0),
    "timed out and stopped": ([_queue(), _time_out, _stop], 1, 1, 0),
    "given up, sent": ([_queue(), factories.accept, _give_up()], 1, 1, 0),
    "stalled, sent": ([_queue(), factories.accept, _give_up(kind=FailureClass.STALLED)], 1, 1, 0),
    "given up, not sent": ([_queue(), _give_up()], 1, 1, 0),
    "disabled, not sent": (
        [_queue(), lambda fence: expiry.children_fail_disabled(fence=fence)],
        1,
        1,
        0,
    ),
    "queued for too long": ([_queue(), _expire], 1, 1, 0),
    "queued for too long, sent": ([_queue(), factories.claim, _expire], 1, 1, 0),
    "recovered": ([*_WAITING, _SUCCEED], 0, 0, 1),
    "failed twice": ([*_WAITING, _FAIL], 1, 2, 0),
    "waits for a retry": (_WAITING, 0, 1, 0),
    "hangs and waits elsewhere": ([_online("gpu-2"), _ELSEWHERE, _time_out], 0, 1, 0),
    "cancelled": ([_queue(), _cancel], 0, 0, 0),
    "cancelled before a retry": ([*_WAITING, _cancel], 0, 1, 0),
    "retried": (_RETRIED, 0, 1, 0),
    "retried and failed": ([*_RETRIED, _FAIL], 1, 2, 0),
    "retried and completed": ([*_RETRIED, _SUCCEED], 0, 0, 1),
    "retried while running": ([_online(), _queue(*_TWO), _FAIL, _retry_job], 0, 1, 0),
    "backend removed": ([*_FAILED, lambda _: Backend.objects.all().delete()], 1, 1, 0),
}


@pytest.mark.parametrize(("steps", "lost", "failures", "recovered"), _STATES.values(), ids=_STATES)
def test_api_page_navigation_and_cli_count_the_same(
    api: Api, steps: list[Step], lost: int, failures: int, recovered: int
) -> None:
    fence = factories.lease()
    for step in steps:
        step(fence)
    found = report(api)
    listed = report(api, "/api/job-groups")["results"]
    assert sum(one["failed_count"] for one in listed) == lost
    assert found["failed_jobs"] == lost
    assert sum(row["failed_jobs"] for row in found["results"]) == lost
    assert sum(row["failures"] for row in found["results"]) == failures
    assert sum(row["failures"] for row in found["recovered"]) == recovered
    behind = [
        report(api, "/api/failures/jobs?" + urlencode({name: row[name] for name in _ROW_KEY}))
        for row in found["results"]
    ]
    assert sum(len(one["job_ids"]) for answer in behind for one in answer["groups"]) == lost
    page = api.client.get("/failures", headers={"host": "localhost:9820"}).content.decode()
    said = re.search(r'<span class="bad">(\d+) jobs? failed</span>', page)
    assert int(said[1] if said else 0) == lost
    tally = re.search(r'class="tally"[^>]*>(\d+)<', page)
    assert int(tally[1] if tally else 0) == lost
    first = "\n".join(failure_lines(parser(Failures)(found)))
    jobs = "1 job failed" if lost == 1 else f"{lost} jobs failed"
    assert jobs in first if failures + recovered else first == "Nothing failed in the last day."


_ROW_KEY: Final = ("failure_class", "backend_id", "workflow")
