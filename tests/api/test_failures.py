"""What failed lately: counted once each, the worst first, and what recovered apart."""

from __future__ import annotations

import datetime as dt
import itertools
from typing import Any

import pytest
from django.db import connection

from backends.models import Backend
from jobgroups import failing
from jobgroups.clock import now
from jobgroups.failures import FailureClass
from jobgroups.models import Attempt, ChildJob, JobGroup
from jobgroups.states import AttemptState, ChildStatus
from tests import farm
from tests.api.conftest import Api, wrong_fields

pytestmark = pytest.mark.django_db

_numbers = itertools.count()


@pytest.fixture(autouse=True)
def backends() -> None:
    """Two backends; nobody has counted anything yet."""
    failing._counted.clear()
    farm.backend("gpu-1")
    farm.backend("gpu-2")


def group(*backend_ids: str, workflow: str = "a" * 16, name: str = "shot_001") -> list[ChildJob]:
    """Return the children of a group with a workflow of this digest."""
    made = farm.submit(*backend_ids, metadata={"name": name})
    JobGroup.objects.filter(pk=made.pk).update(workflow_digest=workflow)
    return list(ChildJob.objects.filter(group=made).order_by("position"))


def attempt(child: ChildJob, cause: str, *, ago: float = 60, backend: str = "") -> Attempt:
    """Store an attempt of a child that failed."""
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
    """Have a child end."""
    completed = status is ChildStatus.COMPLETED
    ChildJob.objects.filter(pk=child.pk).update(
        status=status,
        completed_at=now(),
        current_attempt=by,
        outputs_json='{"images": []}' if completed else None,
        failure_class=cause if by is None else by.failure_class,
        error_message=None if completed else "away too long",
    )


def lose(child: ChildJob, cause: str, **fields: Any) -> Attempt:
    """Have a child fail by one attempt."""
    by = attempt(child, cause, **fields)
    end(child, ChildStatus.FAILED, by)
    return by


def close(child: ChildJob) -> None:
    """Have a child's group be over."""
    JobGroup.objects.filter(pk=child.group_id).update(status="failed", completed_at=now())


def asked(api: Api, path: str = "/api/failures") -> dict[str, Any]:
    answer = api.get(path)
    assert answer.status_code == 200, answer.content
    found: dict[str, Any] = answer.json()
    return found


def keys(rows: list[dict[str, Any]]) -> list[tuple[str, str, int, int]]:
    names = ("failure_class", "backend_id", "failures", "failed_jobs")
    return [tuple(row[name] for name in names) for row in rows]


def test_nothing_failed(api: Api) -> None:
    found = asked(api)
    assert (found["window"], found["results"], found["recovered"]) == ("1d", [], [])
    assert (found["left_out"], found["only_newest"]) == (0, None)


def test_failures_are_grouped_by_cause_backend_and_workflow_the_worst_first(api: Api) -> None:
    oom, node = FailureClass.OUT_OF_MEMORY, FailureClass.NODE_ERROR
    first, second, third = group("gpu-1", "gpu-1", "gpu-2")
    lose(first, node, ago=300)
    lose(second, node, ago=100)
    last = lose(third, oom, ago=10)
    (other,) = group("gpu-1", workflow="b" * 16, name="other")
    lose(other, node)
    found = asked(api)["results"]
    assert keys(found) == [
        (node, "gpu-1", 2, 2),
        (oom, "gpu-2", 1, 1),
        (node, "gpu-1", 1, 1),
    ]
    assert [row["workflow_name"] for row in found] == ["shot_001", "shot_001", "other"]
    # Another group with the same workflow, newer and unhurt, lends its name to nobody's failures.
    group("gpu-1", name="unhurt")
    assert [row["workflow_name"] for row in asked(api)["results"]] == [
        "shot_001",
        "shot_001",
        "other",
    ]
    assert found[0]["first_at"] < found[0]["last_at"]
    assert found[1]["example"] == {
        "job_group_id": third.group_id,
        "job_id": third.id,
        "attempt": 1,
        "message": "out_of_memory happened",
        "at": found[1]["last_at"],
    }
    assert last.ended_at is not None


def test_a_job_is_lost_to_the_failure_that_ended_it_and_to_no_other(api: Api) -> None:
    (child,) = group("gpu-1")
    attempt(child, FailureClass.OUT_OF_MEMORY)
    lose(child, FailureClass.TIMEOUT, backend="gpu-2")
    assert keys(asked(api)["results"]) == [
        (FailureClass.TIMEOUT, "gpu-2", 1, 1),
        (FailureClass.OUT_OF_MEMORY, "gpu-1", 1, 0),
    ]


def test_what_recovered_stands_apart_and_what_is_tried_again_is_said(api: Api) -> None:
    done, waits = group("gpu-1", "gpu-1")
    attempt(done, FailureClass.NODE_ERROR)
    end(done, ChildStatus.COMPLETED)
    attempt(waits, FailureClass.NODE_ERROR)
    found = asked(api)
    assert keys(found["recovered"]) == [(FailureClass.NODE_ERROR, "gpu-1", 1, 0)]
    assert keys(found["results"]) == [(FailureClass.NODE_ERROR, "gpu-1", 1, 0)]
    assert found["results"][0]["retrying"] == 1


def test_a_job_that_was_never_sent_is_counted_too(api: Api) -> None:
    (child,) = group("gpu-1")
    end(child, ChildStatus.FAILED, cause=FailureClass.UNREACHABLE)
    (row,) = asked(api)["results"]
    assert keys([row]) == [(FailureClass.UNREACHABLE, "gpu-1", 1, 1)]
    assert row["example"]["attempt"] is None
    assert row["example"]["message"] == "away too long"
    assert failing.lost_count() == 1


def test_the_failures_of_a_backend_that_was_removed_are_counted(api: Api) -> None:
    (child,) = group("gpu-1")
    lose(child, FailureClass.NODE_ERROR)
    Backend.objects.filter(pk="gpu-1").delete()
    assert keys(asked(api)["results"]) == [(FailureClass.NODE_ERROR, "gpu-1", 1, 1)]


@pytest.mark.parametrize(("window", "seen"), [("1h", 1), ("1d", 2), ("7d", 3)])
def test_only_the_window_is_looked_at(api: Api, window: str, seen: int) -> None:
    hour, day, week, long_ago = group(*["gpu-1"] * 4)
    for child, hours in ((hour, 0.9), (day, 23), (week, 160), (long_ago, 170)):
        lose(child, FailureClass.NODE_ERROR, ago=hours * 3600)
    (row,) = asked(api, f"/api/failures?window={window}")["results"]
    assert row["failures"] == seen


def test_more_than_a_page_is_cut_and_said(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failing, "MOST_ROWS", 1)
    monkeypatch.setattr(failing, "MOST_FAILURES", 2)
    first, second, third = group("gpu-1", "gpu-2", "gpu-1")
    lose(first, FailureClass.NODE_ERROR, ago=10)
    lose(second, FailureClass.NODE_ERROR, ago=20)
    lose(third, FailureClass.TIMEOUT, ago=30)
    found = asked(api)
    assert len(found["results"]) == 1
    assert (found["left_out"], found["only_newest"]) == (1, 2)


def test_the_jobs_behind_a_row_are_named_by_group_the_open_ones_as_such(api: Api) -> None:
    ended, other = group("gpu-1", "gpu-2")
    lose(ended, FailureClass.NODE_ERROR)
    lose(other, FailureClass.NODE_ERROR)
    close(ended)
    (unsent,) = group("gpu-1", name="shot_002")
    end(unsent, ChildStatus.FAILED, cause=FailureClass.NODE_ERROR)
    (elsewhere,) = group("gpu-1", workflow="b" * 16)
    lose(elsewhere, FailureClass.NODE_ERROR)
    where = f"failure_class=node_error&backend_id=gpu-1&workflow={'a' * 16}"
    assert asked(api, f"/api/failures/jobs?{where}")["groups"] == [
        {
            "job_group_id": unsent.group_id,
            "name": "shot_002",
            "finished": False,
            "job_ids": [unsent.id],
        },
        {
            "job_group_id": ended.group_id,
            "name": "shot_001",
            "finished": True,
            "job_ids": [ended.id],
        },
    ]


@pytest.mark.parametrize(
    ("path", "field", "message"),
    [
        ("/api/failures?window=2d", "window", "Must be one of 1h, 1d, 7d."),
        ("/api/failures?since=now", "since", "Is not a parameter of this path."),
        ("/api/failures/jobs?failure_class=node_error", "backend_id", "Is required."),
        ("/api/failures/jobs?backend_id=gpu-1", "failure_class", "Is required."),
        ("/api/failures/jobs?backend_id=a&failure_class=oom", "failure_class", None),
    ],
)
def test_what_makes_no_sense_is_refused(
    api: Api, path: str, field: str, message: str | None
) -> None:
    wrong = wrong_fields(api.get(path))
    assert message is None or wrong[field] == message
    assert field in wrong


def test_the_navigation_counts_lost_jobs_up_to_a_hundred(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, done = group("gpu-1", "gpu-1", "gpu-1")
    lose(first, FailureClass.NODE_ERROR)
    attempt(done, FailureClass.NODE_ERROR)
    end(done, ChildStatus.COMPLETED)
    assert failing.lost_count() == 1
    lose(second, FailureClass.NODE_ERROR)
    assert failing.lost_count() == 1, "remembered"
    failing._counted.clear()
    assert failing.lost_count() == 2
    failing._counted.clear()
    monkeypatch.setattr(failing, "MOST_COUNTED", 1)
    assert failing.lost_count() == 1


def test_the_aggregate_goes_through_its_index() -> None:
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL enable_seqscan = off")
    (child,) = group("gpu-1")
    lose(child, FailureClass.NODE_ERROR)
    since = now() - dt.timedelta(days=1)
    assert "attempt_failed" in failing._failed(since).explain()
