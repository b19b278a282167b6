"""Which job a file belongs to: the last attempt that has written it, by its backend's clock."""

import copy
import datetime as dt
import json
from functools import partial
from typing import Any, Final

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from backends.comfyui.outputs import collect_outputs
from jobgroups.domain.failures import FailureClass
from jobgroups.domain.leases import FencingToken
from jobgroups.domain.results import AttemptResult
from jobgroups.domain.states import AttemptState, ErrorType
from jobgroups.events.hub import hub
from jobgroups.models import Attempt, ChildJob, ReportedFile
from jobgroups.services import attempts, files, late_results
from tests.harness import factories
from tests.harness.database_work import database_work
from tests.harness.factories import online
from tests.harness.races import race

pytestmark = pytest.mark.django_db

NOON: Final = dt.datetime(2026, 2, 1, 12, tzinfo=dt.UTC)
NAME: Final = "shot_00001_.png"


def begin(fence: FencingToken) -> Attempt:
    factories.submit(fence.backend_id)
    claimed = factories.claim(fence, depth=9)
    factories.start(claimed, fence)
    return claimed


def result(
    *items: dict[str, str],
    prompt_id: str = "",
    at: float | None = None,
    cached: bool = False,
    state: AttemptState = AttemptState.SUCCESS,
) -> AttemptResult:
    """Return the end of an attempt with these files, ``at`` seconds after noon by its backend's
    clock.
    """
    reported: Any = {"9": {"images": list(items)}}
    return AttemptResult(
        state=state,
        outputs=collect_outputs(reported, "http://gpu.test:8188", prompt_id),
        node_outputs=reported,
        executed=frozenset() if cached else frozenset({"9"}),
        backend_ended_at=None if at is None else NOON + dt.timedelta(seconds=at),
        error_type=None if state is AttemptState.SUCCESS else ErrorType.COMFYUI,
    )


def end(claimed: Attempt, fence: FencingToken, *items: dict[str, str], **fields: Any) -> None:
    ended = result(*(items or ({"filename": NAME},)), prompt_id=claimed.prompt_id, **fields)
    assert attempts.attempt_ended(attempt_id=claimed.pk, fence=fence, end=ended)


def reasons(claimed: Attempt) -> list[str | None]:
    """Return the reason of each output of a job, None where it is not missing."""
    child = ChildJob.objects.get(pk=claimed.child_id)
    attempt = Attempt.objects.get(pk=claimed.pk)
    shown, kept = (json.loads(row.outputs_json or "{}")["images"] for row in (child, attempt))
    assert shown == kept
    assert all(bool(one.get("missing")) == ("reason" in one) for one in shown)
    return [one.get("reason") for one in shown]


def test_later_job_replaces_the_file_of_an_earlier_one() -> None:
    fence = online()
    first, second = begin(fence), begin(fence)
    end(first, fence, {"filename": NAME}, {"filename": "other.png"}, at=0)
    end(second, fence, at=9)
    assert reasons(first) == ["replaced", None]
    assert reasons(second) == [None]
    third = begin(fence)
    end(third, fence, at=20)
    assert reasons(second) == ["replaced"]
    assert ReportedFile.objects.count() == 2


def test_failed_job_replaces_the_files_that_it_wrote() -> None:
    fence = online()
    first, second = begin(fence), begin(fence)
    end(first, fence, at=0)
    end(second, fence, at=9, state=AttemptState.ERROR)
    assert reasons(first) == ["replaced"]


def test_cached_result_replaces_nothing_and_shares_the_file() -> None:
    fence = online()
    first, again, later = begin(fence), begin(fence), begin(fence)
    end(first, fence, at=0)
    end(again, fence, at=9, cached=True)
    assert (reasons(first), reasons(again)) == ([None], [None])
    end(later, fence, at=20)
    assert (reasons(first), reasons(again)) == (["replaced"], ["replaced"])


@pytest.mark.parametrize("cached", [False, True])
def test_result_that_is_stored_late_does_not_replace_a_later_one(cached: bool) -> None:
    fence = online()
    first, second = begin(fence), begin(fence)
    end(second, fence, at=9)
    end(first, fence, at=0, cached=cached)
    assert reasons(second) == [None]
    assert reasons(first) == ["replaced"]
    child = ChildJob.objects.get(pk=first.child_id)
    assert child.warnings_json.count("was replaced: a later job wrote") == 1
    attempt = Attempt.objects.get(pk=first.pk)
    assert attempt.failure_class == FailureClass.OUTPUT_GONE
    assert attempt.backend_ended_at == NOON


def test_order_is_kept_when_the_backend_clock_is_set_back() -> None:
    fence = online()
    first = begin(fence)
    end(first, fence, at=0)
    second = begin(fence)
    end(second, fence, at=-3600)
    assert (reasons(first), reasons(second)) == (["replaced"], [None])


@pytest.mark.parametrize(
    ("cached", "at", "replaced"),
    [(True, 9, None), (False, None, "replaced")],
    ids=["a cached result names the file", "no backend clock: the order of storing decides"],
)
def test_result_that_is_stored_late_keeps_its_file(
    cached: bool, at: float | None, replaced: str | None
) -> None:
    fence = online()
    first, second = begin(fence), begin(fence)
    end(second, fence, at=at, cached=cached)
    end(first, fence, at=0)
    assert (reasons(first), reasons(second)) == ([None], [replaced])


def test_file_is_identified_by_backend_folder_and_type() -> None:
    fence, other = online(), online("gpu-2")
    first = begin(fence)
    end(first, fence, {"filename": NAME, "subfolder": "a"})
    elsewhere = begin(other)
    end(elsewhere, other, {"filename": NAME, "subfolder": "a"})
    for item in ({"filename": NAME}, {"filename": NAME, "subfolder": "a", "type": "temp"}):
        end(begin(fence), fence, item)
    assert (reasons(first), reasons(elsewhere)) == ([None], [None])


@pytest.mark.parametrize("folder", ["a/b", "a/b/", "a\\b", "./a//b", "a/c/../b"])
def test_spellings_of_a_folder_are_equal(folder: str) -> None:
    fence = online()
    first = begin(fence)
    end(first, fence, {"filename": NAME, "subfolder": "a/b", "type": "output"})
    end(begin(fence), fence, {"filename": NAME, "subfolder": folder})
    assert reasons(first) == ["replaced"]


def test_input_file_is_never_replaced() -> None:
    fence = online()
    first, second = begin(fence), begin(fence)
    for claimed in (first, second):
        end(claimed, fence, {"filename": "in.png", "type": "input"})
    assert (reasons(first), reasons(second)) == ([None], [None])


def test_retry_does_not_replace_the_files_of_its_job() -> None:
    fence = online()
    factories.submit("gpu-1", max_attempts=2)
    first = factories.begin(fence)
    end(first, fence, state=AttemptState.ERROR)
    ChildJob.objects.update(not_before=None)
    second = factories.begin(fence)
    assert second.child_id == first.child_id
    end(second, fence)
    assert reasons(second) == [None]
    end(begin(fence), fence)
    assert reasons(second) == ["replaced"]


def test_result_with_replaced_files_is_not_adopted() -> None:
    fence = online()
    first = begin(fence)
    end(first, fence)
    child = ChildJob.objects.get(pk=first.child_id)
    assert late_results.late_result(child) is not None
    end(begin(fence), fence)
    assert late_results.late_result(child) is None


def test_result_needs_three_more_statements_for_its_files() -> None:
    fence = online()
    counted = []
    for items in ([], [{"filename": f"{number}.png"} for number in range(100)]):
        claimed, ended = begin(fence), result(*items)
        with CaptureQueriesContext(connection) as queries:
            attempts.attempt_ended(attempt_id=claimed.pk, fence=fence, end=ended)
        counted.append(len(queries))
    assert counted[1] - counted[0] == 3


def test_file_from_the_cache_costs_as_much_as_with_few_jobs_that_have_it() -> None:
    fence = online()
    first, again = begin(fence), begin(fence)
    end(first, fence, at=0)
    end(again, fence, at=9, cached=True)
    shared, costs = ReportedFile.objects.get(attempt=again), []
    for count in (10, 1_000):
        more = [copy.copy(Attempt.objects.get(pk=again.pk)) for _ in range(count)]
        for number, attempt in enumerate(more, count):
            attempt.pk, attempt.number, attempt.prompt_id = None, number, str(number)
        Attempt.objects.bulk_create(more)
        ReportedFile.objects.bulk_create(
            ReportedFile(attempt=attempt, digest=shared.digest, executed=False) for attempt in more
        )
        claimed = begin(fence)
        with database_work() as work:
            end(claimed, fence, at=20, cached=True)
        assert reasons(claimed) == [None]
        costs.append(work)
    assert costs[1].statements == costs[0].statements
    assert costs[1].steps <= 1.2 * costs[0].steps, costs


def test_second_result_records_no_files() -> None:
    fence = online()
    first = begin(fence)
    end(first, fence, at=0)
    second = begin(fence)
    end(second, fence, at=9)
    again = result({"filename": NAME})
    assert not attempts.attempt_ended(attempt_id=first.pk, fence=fence, end=again)
    assert reasons(second) == [None]


def test_replaced_output_is_published_without_an_event(
    monkeypatch: pytest.MonkeyPatch, django_capture_on_commit_callbacks: Any
) -> None:
    published: list[Any] = []
    fence = online()
    first, second = begin(fence), begin(fence)
    end(first, fence, at=0)
    group = ChildJob.objects.get(pk=first.child_id).group
    monkeypatch.setattr(hub, "publish", published.append)
    with django_capture_on_commit_callbacks(execute=True):
        end(second, fence, at=9)
    (message,) = [one for one in published if one.replaced]
    assert (message.group_id, message.replaced) == (group.id, (first.child_id,))
    assert factories.fresh(group).seq == group.seq


def test_output_replaced_marks_one_job_once() -> None:
    fence = online()
    first, again = begin(fence), begin(fence)
    end(first, fence, at=0)
    end(again, fence, at=1, cached=True)
    digest = ReportedFile.objects.filter(attempt=first.pk).get().digest
    for _ in range(2):
        files.output_replaced(job_id=first.child_id, digest=digest)
    assert (reasons(first), reasons(again)) == (["replaced"], [None])
    files.output_replaced(job_id="j_none", digest=digest)


@pytest.mark.django_db(transaction=True)
def test_concurrent_results_give_the_file_to_one_job() -> None:
    fence = online()
    for _ in range(5):
        pair = [begin(fence), begin(fence)]
        race(*(partial(end, claimed, fence, at=at) for at, claimed in enumerate(pair)))
        assert [reasons(one) for one in pair] == [["replaced"], [None]]
