"""Encoded answers: each write changes the version, and what is kept of an earlier answer is still
true.
"""

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from jobgroups.errors import GroupNotFound
from jobgroups.models import Capture, ChildJob, JobGroup, ReportedFile
from jobgroups.queries.group_status import (
    OUTLOOK_SECONDS,
    group_versions,
    read_head,
    read_job,
    read_page,
    read_status,
)
from jobgroups.queries.groups import child_detail, group_snapshot
from jobgroups.services import attempts, files
from jobgroups.services.cancellation import child_cancel, group_cancel
from jobgroups.services.captures import captures_request
from jobgroups.services.progress import ProgressRow, progress_flush
from jobgroups.services.retries import group_retry
from jobgroups.services.stars import child_star
from tests.db.test_captures import _store
from tests.db.test_files import NAME, end
from tests.harness import factories

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("files_folder")]


@pytest.fixture
def group() -> JobGroup:
    """A group of three jobs: the first is completed and has an output, the second runs, the third
    waits.
    """
    fences = factories.farm(3)
    group = factories.submit("gpu-1", "gpu-2", "gpu-3")
    end(factories.begin(fences[0]), fences[0], {"filename": NAME})
    factories.begin(fences[1])
    return group


def _jobs(group: JobGroup) -> list[ChildJob]:
    return list(group.children.order_by("position"))


def _progress(group: JobGroup) -> None:
    job = _jobs(group)[1]
    progress_flush(
        rows=[ProgressRow(job.id, job.current_attempt_id or 0, 50.0, "KSampler", 10, 20)]
    )


def _capture(group: JobGroup) -> None:
    _store(Capture.objects.get(child__group=group))


def _request_captures(group: JobGroup) -> None:
    Capture.objects.filter(child__group=group).delete()
    captures_request(group_id=group.id)


def _replace(group: JobGroup) -> None:
    (job, *_) = _jobs(group)
    digest = ReportedFile.objects.get(attempt=job.current_attempt_id).digest
    files.output_replaced(job_id=job.id, digest=digest)


def _overwrite(group: JobGroup) -> None:
    """Have a job of another group write the same file at the same backend."""
    fence = factories.lease("gpu-1")
    other, claimed = factories.running(fence)
    end(claimed, fence, {"filename": NAME})
    assert other.pk != group.pk


def _star(group: JobGroup, *, starred: bool = True) -> None:
    child_star(group_id=group.id, job_id=_jobs(group)[0].id, starred=starred)


#: In an order in which each is possible.
WRITES: dict[str, Callable[[JobGroup], object]] = {
    "progress": _progress,
    "star": _star,
    "no star": lambda group: _star(group, starred=False),
    "request of captures": _request_captures,
    "capture": _capture,
    "cancel of a job": lambda group: child_cancel(group_id=group.id, job_id=_jobs(group)[2].id),
    "cancel of the group": lambda group: group_cancel(group_id=group.id),
    "retry": lambda group: group_retry(group_id=group.id),
}


def _plain(body: bytes) -> Any:
    """Return an answer without what it may show for a second after it has changed."""
    answer = json.loads(body)
    for job in (answer, *answer.get("child_jobs", ())):
        job.update({name: None for name in ("waiting_reason", "eta_seconds") if name in job})
    return answer


def test_every_write_changes_the_version_and_the_kept_answer(group: JobGroup) -> None:
    kept = read_status(group.id, None)
    for name, write in WRITES.items():
        write(group)
        before, kept = kept, read_status(group.id, kept)
        assert kept.version != before.version, name
        assert group_versions([group.id]) == {group.id: kept.version}, name
        assert _plain(kept.body) == _plain(json.dumps(group_snapshot(group.id)).encode()), name
        assert _plain(kept.body) == _plain(read_status(group.id, None).body), name


@pytest.mark.parametrize("write", [_replace, _overwrite])
def test_replaced_output_changes_the_version(
    group: JobGroup, write: Callable[[JobGroup], object]
) -> None:
    kept = read_status(group.id, None)
    write(group)
    after = read_status(group.id, kept)
    assert after.version != kept.version
    assert json.loads(after.body)["child_jobs"][0]["outputs"]["images"][0]["missing"]


def test_rejection_of_an_abandoned_prompt_changes_the_version() -> None:
    """The prompt had ended for its job, so that the kept answer does not expire."""
    fence = factories.online()
    group, abandoned = factories.claiming(fence)
    factories.abandon(abandoned, fence)
    end(factories.begin(fence), fence)
    kept = read_job(group.id, abandoned.child_id, None)
    assert kept.expires_at > kept.read_at + OUTLOOK_SECONDS
    attempts.abandoned_prompt_found(attempt_id=abandoned.pk, fence=fence)
    after = read_job(group.id, abandoned.child_id, None)
    assert json.loads(after.body)["attempts"][0]["stop_reason"] == "superseded"
    assert after.version != kept.version


def test_jobs_that_have_not_changed_are_not_encoded_again(group: JobGroup) -> None:
    before = read_status(group.id, None)
    _star(group)
    after = read_status(group.id, before)
    assert [one is other for one, other in zip(after.jobs, before.jobs, strict=True)] == [
        False,
        True,
        True,
    ]
    later = read_status(group.id, dataclasses.replace(after, expires_at=after.read_at))
    again = [one is other for one, other in zip(later.jobs, after.jobs, strict=True)]
    assert again == [True, False, False], "outlooks of open jobs are a second old at most"
    assert later.expires_at > after.expires_at == before.expires_at


def test_reading_an_unchanged_group_takes_few_queries(group: JobGroup) -> None:
    group_cancel(group_id=group.id)
    ended = read_status(group.id, None)
    with CaptureQueriesContext(connection) as queries:
        read_status(group.id, ended)
    assert len(queries) == 2


def test_answers_equal_those_of_the_queries(group: JobGroup) -> None:
    (first, *_) = _jobs(group)
    status = _plain(read_status(group.id, None).body)
    assert list(status)[:3] == ["job_group_id", "status", "child_jobs"]
    assert _plain(read_job(group.id, first.id, None).body) == _plain(
        json.dumps(child_detail(group.id, first.id)).encode()
    )
    assert _plain(read_head(group.id, None).body) == {**status, "child_jobs": []}
    pages = [read_page(group.id, first, 2, None) for first in (0, 2, 4)]
    assert [one.last for one in pages] == [1, None, None]
    assert [job for one in pages for job in _plain(one.body)["child_jobs"]] == status["child_jobs"]
    assert read_page(group.id, 0, 3, None).last is None


def test_group_that_is_deleted_while_it_is_read_is_not_found(group: JobGroup) -> None:
    group_cancel(group_id=group.id)
    kept = read_status(group.id, None)

    doomed = [group.id]

    def delete_before_jobs(execute: Callable[..., Any], sql: str, *args: Any) -> Any:
        if doomed and f'FROM "{ChildJob._meta.db_table}"' in sql:
            JobGroup.objects.filter(pk=doomed.pop()).delete()
        return execute(sql, *args)

    with connection.execute_wrapper(delete_before_jobs), pytest.raises(GroupNotFound):
        read_status(group.id, kept)


def test_ended_group_keeps_no_estimate(group: JobGroup) -> None:
    kept = dataclasses.replace(read_status(group.id, None), eta_seconds=5.0)
    _star(group)
    assert json.loads(read_status(group.id, kept).body)["eta_seconds"] == 5.0
    group_cancel(group_id=group.id)
    assert json.loads(read_status(group.id, kept).body)["eta_seconds"] is None
