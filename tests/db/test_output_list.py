"""The list of the outputs of all groups."""

import datetime as dt
from copy import copy
from typing import Any, Final

import pytest
from django.db import connection

from jobgroups.domain.access import EVERYBODY, Principal, Right
from jobgroups.domain.clock import now
from jobgroups.domain.leases import FencingToken
from jobgroups.domain.states import AttemptState
from jobgroups.models import Capture, ChildJob, JobGroup, StoredFile
from jobgroups.queries.output_list import OutputFilter, models, output_list
from tests.harness import factories as make
from tests.harness.database_work import database_work

pytestmark = pytest.mark.django_db

PROMPT: Final = {"6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a lighthouse at dusk"}}}
MODEL: Final = {"4": {"class_type": "Loader", "inputs": {"ckpt_name": 'dream "8".safetensors'}}}


def _file(name: str, **fields: Any) -> dict[str, Any]:
    return {"filename": name, "url": f"http://gpu-1.test:8188/view?filename={name}", **fields}


def _made(fence: FencingToken, *names: str, **fields: Any) -> ChildJob:
    """Complete a job of a new group with files of these names."""
    group, claimed = make.running(fence, **fields)
    outputs = {"images": [_file(name) for name in names], "text": ["a caption"]}
    assert make.finish(claimed, fence, outputs=outputs)
    return make.only(group)


def _names(cursor: str | None = None, limit: int = 50, **filters: Any) -> list[str]:
    """Return the names of the files of all pages."""
    wanted = OutputFilter(**{"principal": EVERYBODY, **filters})
    page = output_list(wanted, cursor=cursor, limit=limit)
    assert len(page.results) <= limit
    names = [output["filename"] for output in page.results]
    return names + (_names(page.next_cursor, limit, **filters) if page.next_cursor else [])


def test_outputs_are_listed_by_jobs_newest_first_on_pages_of_any_size() -> None:
    fence = make.online()
    child = _made(fence, "a.png", "b.mp4", "c.txt", "d.webp")
    _, failed = make.running(fence)
    make.finish(failed, fence, AttemptState.ERROR)
    _made(fence, "notes.txt")
    newer = _made(fence, "e.png")
    # Two jobs may complete within the same millisecond.
    ChildJob.objects.filter(pk=newer.pk).update(completed_at=child.completed_at)
    wanted = ["a.png", "b.mp4", "d.webp"]
    wanted = ["e.png", *wanted] if newer.pk > child.pk else [*wanted, "e.png"]
    for limit in (1, 2, 3, 4, 50):
        assert _names(limit=limit) == wanted


def test_file_that_was_replaced_is_left_out() -> None:
    fence = make.online()
    group, claimed = make.running(fence)
    files = [_file("a.png", missing=True, reason="replaced"), _file("b.png")]
    make.finish(claimed, fence, outputs={"images": files})
    (output,) = output_list(OutputFilter(principal=EVERYBODY), cursor=None, limit=9).results
    assert (output["filename"], output["number"]) == ("b.png", 1)
    assert output["file_url"].endswith(f"/{group.pk}/jobs/{output['job_id']}/outputs/1")


def test_outputs_of_others_are_listed_once_they_are_shared() -> None:
    child = _made(make.online(), "a.png")
    limited = Principal(Right.SUBMIT, user_id=1, sees_all=False)
    for shared_at, names in ((None, []), (now(), ["a.png"])):
        JobGroup.objects.filter(pk=child.group_id).update(shared_at=shared_at)
        assert _names(principal=limited) == names
    assert models(limited) == []


def test_filters_find_their_outputs() -> None:
    fence, other = make.online(), make.online("gpu-2")
    old = _made(fence, "old.png", workflow={**make.WORKFLOW, **PROMPT}, submitter="anna")
    moment = now() - dt.timedelta(days=1)
    ChildJob.objects.filter(pk=old.pk).update(completed_at=moment, starred=True)
    JobGroup.objects.filter(pk=old.group_id).update(archived_at=now())
    _made(other, "new.png", "new.mp4", workflow={**make.WORKFLOW, **MODEL})
    file = StoredFile.objects.create(
        id="f", blake3="f" * 64, size_bytes=9, width=64, height=48, created_at=now()
    )
    Capture.objects.filter(child=old.pk).delete()
    Capture.objects.create(
        child=old, number=0, backend_id="gpu-1", created_at=now(), digest="", file=file
    )
    both = ["new.png", "new.mp4"]
    for filters, found in (
        ({"text": "dusk LIGHTHOUSE"}, ["old.png"]),
        ({"text": "dusk owl"}, []),
        ({"model": 'DREAM "8"'}, both),
        ({"model": "dream"}, []),
        ({"kind": "image"}, ["new.png", "old.png"]),
        ({"kind": "video"}, ["new.mp4"]),
        ({"size": (64, 48)}, ["old.png"]),
        ({"size": (48, 64)}, []),
        ({"starred": True}, ["old.png"]),
        ({"starred": False}, both),
        ({"group": old.group_id}, ["old.png"]),
        ({"submitter": "anna"}, ["old.png"]),
        ({"backend": "gpu-2"}, both),
        ({"completed_after": moment}, [*both, "old.png"]),
        ({"completed_before": moment}, []),
        ({"completed_before": now() - dt.timedelta(hours=1)}, ["old.png"]),
    ):
        assert _names(**filters) == found, filters
    assert models(EVERYBODY) == ['dream "8"']


def test_page_reads_no_more_of_many_outputs_than_of_few() -> None:
    child, costs = _made(make.online(), "a.png"), []
    for count in (500, 6_000):
        jobs = []
        for number in range(count, 2 * count):
            job = copy(child)
            job.pk, job.position, job.current_attempt_id = f"j_{number}", number, None
            job.completed_at = now() - dt.timedelta(seconds=number)
            jobs.append(job)
        ChildJob.objects.bulk_create(jobs)
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                cursor.execute("ANALYZE jobgroups_childjob")  # as it does by itself
        with database_work() as work:
            page = output_list(OutputFilter(principal=EVERYBODY), cursor=None, limit=50)
            assert len(page.results) == 50
        costs.append(work)
    # A page of a kind that none has ends after a number of jobs, and the next one continues there.
    videos = OutputFilter(principal=EVERYBODY, kind="video")
    page = output_list(videos, cursor=None, limit=50)
    assert (page.results, page.next_cursor is not None) == ([], True)
    assert _names(kind="video") == []
    assert costs[1].statements == costs[0].statements
    assert costs[1].steps <= 1.2 * costs[0].steps, costs
