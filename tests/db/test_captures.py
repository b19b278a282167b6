"""Assets and captures: their rows, their files, and what deletes them."""

from __future__ import annotations

import datetime as dt
import json
import re
import uuid
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from io import StringIO
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from blake3 import blake3
from django.core.management import CommandError, call_command
from django.db import connection, transaction
from pytest_django import Settings

from backends.errors import InvalidRequest
from jobgroups.domain.clock import now
from jobgroups.domain.failures import FailureClass
from jobgroups.domain.leases import FencingToken
from jobgroups.domain.states import RetryScope
from jobgroups.errors import AssetDeleted, AssetInUse
from jobgroups.models import (
    Asset,
    AssetUse,
    Attempt,
    Capture,
    ChildJob,
    FilesProcess,
    JobGroup,
    StoredFile,
)
from jobgroups.queries.groups import child_detail
from jobgroups.queries.outputs import claimed_captures, due_backends, due_captures, stored_captures
from jobgroups.services import assets, attempts, captures, files, retries, runners, stored_files
from jobgroups.services.cancellation import group_cancel
from jobgroups.services.capture_sets import Copy, captures_store
from jobgroups.services.files_processes import files_end, files_forget, files_heartbeat
from jobgroups.services.groups import group_deletion
from jobgroups.services.leases import lease_release
from jobgroups.services.purge import Limits, groups_purge, groups_purgeable
from jobgroups.services.stars import child_star
from tests.db.test_files import NAME, begin, end, reasons
from tests.harness import factories
from tests.harness.database_work import DatabaseWork, database_work

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("files_folder")]


def _files(folder: Path) -> list[str]:
    return [one.name for one in folder.rglob("*") if one.is_file() and one.suffix != ".lock"]


def _store(capture: Capture, content: bytes = b"cat", *, in_set: bool = False) -> Capture:
    path = stored_files.incoming_folder() / f"received-{capture.pk}"
    path.write_bytes(content)
    digest = blake3(content).hexdigest()
    file = StoredFile(blake3=digest, sha256=digest, size_bytes=len(content))
    if in_set:
        captures_store([Copy(capture.pk, capture.child.group_id, path, file)])
    else:
        captures.capture_store(capture_id=capture.pk, path=path, file=file)
    path.unlink(missing_ok=True)
    capture.refresh_from_db()
    return capture


def _completed(fence: FencingToken, **ended: Any) -> Capture:
    """Complete a job with one file, and return its capture."""
    claimed = begin(fence)
    end(claimed, fence, **ended)
    return Capture.objects.get(child=claimed.child_id)


def test_captures_of_a_job_are_stored_with_its_end() -> None:
    fence = factories.online()
    claimed = begin(fence)
    end(claimed, fence, {"filename": "a.png"}, {"filename": "b.png", "subfolder": "x"})
    assert list(Capture.objects.values_list("number", "node_id", "backend_id")) == [
        (0, "9", "gpu-1"),
        (1, "9", "gpu-1"),
    ]


def _overtake(first: FencingToken, second: FencingToken) -> tuple[JobGroup, Attempt, Attempt]:
    """Return a job whose first attempt may still succeed while its second one is active."""
    group = factories.submit("gpu-1", max_attempts=2, retry_elsewhere=RetryScope.ANY)
    late = factories.begin(first)
    factories.time_out(late, first)
    factories.stall(late, first)
    return group, late, factories.claim(second)


def _succeed(claimed: Attempt, fence: FencingToken, content: str, **fields: Any) -> None:
    """End an attempt with a picture that came as a frame."""
    sent = {
        "filename": f"{content}.png",
        "subfolder": "",
        "type": "websocket",
        "url": f"/api/{content}",
    }
    file = StoredFile(
        id=str(uuid.uuid4()), blake3=content, sha256="s", size_bytes=3, created_at=now()
    )
    reported = {"7": {"images": [sent]}, **fields}
    outputs = {
        "images": [one for node in reported.values() for one in node["images"]],
        "prompt_id": claimed.prompt_id,
    }
    factories.finish(
        claimed, fence, outputs=outputs, node_outputs=reported, files={f"{content}.png": file}
    )


@pytest.mark.usefixtures("no_backoff")
def test_pictures_of_a_late_success_are_those_of_the_job_that_it_completes() -> None:
    first, second = factories.farm(2)
    group, late, newer = _overtake(first, second)
    _succeed(late, first, "a")
    assert list(stored_captures()) == []  # the job has no outputs yet
    factories.start(newer, second)
    # Its own success has no file that could be used.
    factories.finish(newer, second, failure=FailureClass.OUTPUT_GONE, files={})
    assert factories.only(group).status == "completed"
    (capture,) = Capture.objects.all()
    assert (capture.number, capture.node_id, capture.backend_id, capture.due_at) == (
        0,
        "7",
        "gpu-1",
        None,
    )
    assert capture.file == StoredFile.objects.get(blake3="a")
    assert list(stored_captures()) == []  # its backend has no file to read again
    deletion = group_deletion(group_id=group.id)
    assert (deletion.files, deletion.bytes, deletion.kept_at_backends) == (1, 3, False)


@pytest.mark.usefixtures("no_backoff")
def test_pictures_of_an_older_prompt_that_completes_its_job_replace_those_of_a_newer_one() -> None:
    fence = factories.online("gpu-1")
    group, old = factories.claiming(fence, max_attempts=3)
    factories.abandon(old, fence)
    newer = factories.begin(fence)
    factories.evict(fence)
    assert attempts.abandoned_prompt_found(attempt_id=old.pk, fence=fence)
    _succeed(newer, fence, "newer")
    _succeed(old, fence, "old")
    child = factories.only(group)
    assert (child.status, child.current_attempt_id) == ("completed", old.pk)
    assert Capture.objects.get().file == StoredFile.objects.get(blake3="old")


@pytest.mark.usefixtures("no_backoff")
def test_pictures_of_a_late_success_remain_when_an_older_one_succeeds_later() -> None:
    first, second, third = factories.farm(3)
    group, oldest, older = _overtake(first, second)
    JobGroup.objects.update(max_attempts=3)
    factories.start(older, second)
    factories.time_out(older, second)
    factories.stall(older, second)
    newest = factories.claim(third)
    _succeed(older, second, "older")
    _succeed(oldest, first, "oldest")
    factories.start(newest, third)
    factories.fail(newest, third)
    assert factories.only(group).current_attempt_id == older.pk
    assert Capture.objects.get().file == StoredFile.objects.get(blake3="older")


@pytest.mark.usefixtures("no_backoff")
def test_file_of_a_late_success_with_pictures_is_replaced_before_its_job_is_completed() -> None:
    first, second = factories.farm(2)
    _overtake(first, second)
    late = Attempt.objects.get(number=1)
    _succeed(late, first, "a", **{"9": {"images": [{"filename": NAME, "url": "/a"}]}})
    other = begin(first)
    end(other, first)
    late.refresh_from_db()
    assert [one.get("missing", False) for one in json.loads(late.outputs_json or "")["images"]] == [
        False,
        True,
    ]


def test_same_content_twice_at_one_moment_is_stored_once(
    files_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fence = factories.online()
    first, second = _completed(fence), _completed(fence, cached=True)
    moved = stored_files.move_into_storage

    def after_another(names: dict[Path, str]) -> None:
        moved(names)
        if second.file_id is None:
            monkeypatch.undo()
            _store(second)

    monkeypatch.setattr(stored_files, "move_into_storage", after_another)
    assert _store(first).file == second.file
    assert _files(files_folder) == [Path(second.file.stored_name).name]  # type: ignore[union-attr]
    assert JobGroup.objects.get(pk=first.child.group_id).revision >= 1


def test_second_copy_of_one_capture_is_dropped(files_folder: Path) -> None:
    capture = _completed(factories.online())
    _store(capture, b"first")
    before = JobGroup.objects.get().revision
    assert _store(capture, b"second").file.blake3 == blake3(b"first").hexdigest()  # type: ignore[union-attr]
    assert (StoredFile.objects.count(), len(_files(files_folder))) == (1, 1)
    assert JobGroup.objects.get().revision == before


def test_captured_output_is_not_replaced_by_a_later_job(files_folder: Path) -> None:
    fence = factories.online()
    first, second = begin(fence), begin(fence)
    end(first, fence, at=0)
    _store(Capture.objects.get(), b"first")
    end(second, fence, at=9)
    assert reasons(first) == [None]
    _store(Capture.objects.get(child=second.child_id), b"second")
    assert (reasons(first), reasons(second)) == ([None], [None])


def test_output_that_was_copied_too_late_is_replaced_when_the_later_job_is_captured(
    files_folder: Path,
) -> None:
    """The later job had written the file before the copy, within the second of its date."""
    fence = factories.online()
    first, second, cached = begin(fence), begin(fence), begin(fence)
    end(first, fence, at=0)
    _store(Capture.objects.get(), b"second")
    end(second, fence, at=0.5)
    end(cached, fence, at=2, cached=True)
    for claimed in (cached, second):
        _store(Capture.objects.get(child=claimed.child_id), b"second")
    assert [reasons(one) for one in (first, second, cached)] == [["replaced"], [None], [None]]


@pytest.mark.parametrize("is_filled", [True, False], ids=["", "captured by the previous release"])
def test_output_that_was_copied_too_late_is_replaced_once(
    files_folder: Path, monkeypatch: pytest.MonkeyPatch, is_filled: bool
) -> None:
    """The file of each job has the same name and content, as in a folder that is emptied after each
    job.
    """
    fence = factories.online()
    replaced, mark = [], files.output_replaced

    def noted(*, job_id: str, digest: str) -> None:
        replaced.append(job_id)
        mark(job_id=job_id, digest=digest)

    monkeypatch.setattr(files, "output_replaced", noted)
    jobs = []
    for moment in range(4):
        jobs.append(begin(fence))
        end(jobs[-1], fence, at=moment * 9)
        _store(Capture.objects.get(child=jobs[-1].child_id))
        if not is_filled:
            Capture.objects.filter(digest__gt="").update(digest=None)
    assert [reasons(one) for one in jobs] == [*[["replaced"]] * 3, [None]]
    assert replaced == [one.child_id for one in jobs[:3]]


def test_digests_of_old_captures_are_filled_in_parts(
    files_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fence = factories.online()
    for moment in range(3):
        claimed = begin(fence)
        end(
            claimed,
            fence,
            {"filename": f"{moment}.png"},
            {"filename": "b.png", "subfolder": "x"},
            at=moment * 9,
        )
    written = list(Capture.objects.order_by("pk").values_list("pk", "digest"))
    Capture.objects.update(digest=None)
    monkeypatch.setattr(captures, "_AT_ONCE", 4)
    assert [captures.captures_fill() for _ in range(3)] == [4, 2, 0]
    filled = dict(Capture.objects.values_list("pk", "digest"))
    # The second file of all but the last job was replaced.
    assert [filled[key] or "replaced" for key, _ in written] == [
        "replaced" if number in (1, 3) else digest for number, (_, digest) in enumerate(written)
    ]


def test_ten_thousandth_capture_of_a_content_costs_as_much_as_the_hundredth(
    files_folder: Path,
) -> None:
    """Masks and black pictures are equal, and each job has written its own."""
    fence = factories.online()
    first = _store(_completed(fence))
    costs: list[DatabaseWork] = []
    for jobs in (1, 99):
        for job in range(jobs):
            end(
                begin(fence),
                fence,
                *({"filename": f"{jobs}-{job}-{number}.png"} for number in range(100)),
            )
        Capture.objects.filter(file=None).update(file=first.file, due_at=None)
        for in_set in (False, True):
            claimed = begin(fence)
            end(claimed, fence, {"filename": f"mask_{jobs}_{in_set}.png"})
            mask = Capture.objects.select_related("child").get(child=claimed.child_id)
            with database_work() as work:
                _store(mask, in_set=in_set)
            costs.append(work)
    assert StoredFile.objects.get().captures.count() > 10_000
    for before, after in zip(costs[:2], costs[2:], strict=True):
        assert after.statements == before.statements
        assert after.steps <= 1.2 * before.steps, costs


def test_output_that_was_replaced_meanwhile_is_not_captured(files_folder: Path) -> None:
    fence = factories.online()
    first, second = begin(fence), begin(fence)
    end(first, fence, at=0)
    end(second, fence, at=9)
    assert _store(Capture.objects.get(child=first.child_id)).file is None
    assert (_files(files_folder), reasons(first)) == ([], ["replaced"])


def test_purge_deletes_rows_and_files_that_no_other_job_shares(files_folder: Path) -> None:
    fence = factories.online()
    old, shared, starred, young = (_completed(fence) for _ in range(4))
    ChildJob.objects.update(outputs_json=json.dumps(factories.OUTPUTS))
    for capture, content in ((old, b"1"), (shared, b"2"), (starred, b"3"), (young, b"2")):
        _store(capture, content)
    ago = now() - dt.timedelta(days=9)
    JobGroup.objects.exclude(pk=young.child.group_id).update(completed_at=ago, created_at=ago)
    child_star(group_id=starred.child.group_id, job_id=starred.child_id, starred=True)
    limits = Limits(age=dt.timedelta(days=2))
    counted, _ = groups_purgeable(limits)
    assert (counted.groups, counted.files, counted.bytes) == (2, 1, 1)
    assert list(groups_purge(limits)) == [counted]
    assert captures.files_collect() == (0, 0)
    left = {capture.file.stored_name for capture in Capture.objects.select_related("file")}  # type: ignore[union-attr]
    assert left == {one.stored_name for one in StoredFile.objects.all()}
    assert sorted(_files(files_folder)) == sorted(Path(name).name for name in left)


def test_capture_is_left_to_the_runner_that_leases_its_backend() -> None:
    fence = factories.online()
    capture = _completed(fence)
    assert (due_backends(runner="other"), due_backends(runner="runner")) == ([], ["gpu-1"])
    # A disabled backend has no lease.
    lease_release(fence=fence)
    assert due_backends(runner="other") == ["gpu-1"]
    ((found, file),) = due_captures(backend_ids=["gpu-1"], limit=9)["gpu-1"]
    assert (found, file.filename) == (capture.pk, "shot_00001_.png")
    captures.capture_postpone(capture_id=found, first=5, longest=600, reason="It does not answer.")
    assert (due_backends(runner="runner"), due_captures(backend_ids=["gpu-1"], limit=9)) == ([], {})


def test_runner_leaves_captures_to_the_processes_of_files_while_one_is_alive() -> None:
    capture = _completed(factories.online())
    files_heartbeat(instance="a", version="0")
    files_heartbeat(instance="b", version="0")
    assert (due_backends(runner="runner"), due_captures(backend_ids=["gpu-1"], limit=9)) == ([], {})
    assert due_backends(runner=None) == ["gpu-1"]
    files_end(instance="a")
    assert due_backends(runner="runner") == []
    FilesProcess.objects.update(heartbeat_at=now() - dt.timedelta(seconds=11))
    assert due_backends(runner="runner") == ["gpu-1"]
    assert [found for found, _ in due_captures(backend_ids=["gpu-1"], limit=9)["gpu-1"]] == [
        capture.pk
    ]
    files_forget()
    FilesProcess.objects.update(heartbeat_at=now() - dt.timedelta(seconds=3_700))
    files_forget()
    assert not FilesProcess.objects.exists()


def test_claimed_capture_is_due_again_for_no_process_until_its_claim_ends(
    files_folder: Path,
) -> None:
    fence = factories.online()
    first, second = _completed(fence).pk, _completed(fence, cached=True).pk
    claims = [
        captures.captures_claim(backend_ids=["gpu-1"], limit=1, seconds=60.0) for _ in range(3)
    ]
    assert claims == [[first], [second], []]
    assert due_backends(runner=None) == []
    ((found, file),) = claimed_captures([second])["gpu-1"]
    assert (found, file.filename) == (second, "shot_00001_.png")
    _store(Capture.objects.get(pk=first))
    # A process that ends releases what it has not copied.
    captures.captures_hold(ids=[first, second], seconds=0.0)
    assert captures.captures_claim(backend_ids=["gpu-1"], limit=9, seconds=60.0) == [second]
    captures.captures_hold(ids=[second], seconds=3_600.0)
    Capture.objects.filter(due_at__lt=now() + dt.timedelta(minutes=50)).update(due_at=now())
    assert captures.captures_claim(backend_ids=["gpu-1"], limit=9, seconds=60.0) == []


@pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite has one writer")
def test_claims_at_the_same_moment_share_the_captures() -> None:
    fence = factories.online()
    first, second = _completed(fence).pk, _completed(fence, cached=True).pk

    def claim() -> list[int]:
        try:
            return captures.captures_claim(backend_ids=["gpu-1"], limit=1, seconds=60.0)
        finally:
            connection.close()

    with ThreadPoolExecutor(1) as thread, transaction.atomic():
        Capture.objects.select_for_update().get(pk=first)
        # It does not wait for the row that another process claims.
        assert thread.submit(claim).result(10.0) == [second]
    assert claim() == [first]


def test_processes_that_claim_side_by_side_get_each_capture_once() -> None:
    fence = factories.online()
    due = sorted(_completed(fence).pk for _ in range(12))
    begin = Barrier(4)

    def claim_all() -> list[int]:
        claimed: list[int] = []
        try:
            begin.wait(10.0)
            while found := captures.captures_claim(backend_ids=["gpu-1"], limit=2, seconds=60.0):
                claimed += found
        finally:
            connection.close()
        return claimed

    with ThreadPoolExecutor(4) as threads:
        claims = [threads.submit(claim_all) for _ in range(4)]
    # On PostgreSQL a row that is being claimed is skipped.
    assert sorted([pk for one in claims for pk in one.result()]) == due


def test_backlog_of_a_backend_costs_the_captures_of_others_nothing() -> None:
    capture, other = _completed(factories.online()), _completed(factories.online("gpu-2"))
    Capture.objects.filter(pk=other.pk).update(due_at=now())
    costs = []
    for count in (10, 3_000):
        numbers = range(count, 2 * count)
        Capture.objects.bulk_create(
            Capture(
                child_id=capture.child_id,
                number=number,
                backend_id="gpu-1",
                created_at=now(),
                due_at=capture.due_at,
            )
            for number in numbers
        )
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                cursor.execute("ANALYZE jobgroups_capture")  # as it does by itself
        with database_work() as work:
            assert due_backends(runner="runner") == ["gpu-1", "gpu-2"]
            assert [
                found for found, _ in due_captures(backend_ids=["gpu-2"], limit=9)["gpu-2"]
            ] == [other.pk]
        costs.append(work)
    assert costs[1].statements == costs[0].statements
    assert costs[1].steps <= 1.2 * costs[0].steps, costs


def test_request_of_an_unknown_group_or_without_captures_is_refused(settings: Settings) -> None:
    with pytest.raises(CommandError, match="no group jg_nobody"):
        call_command("capture", "jg_nobody")
    settings.DIRECTOR_CAPTURE = False
    with pytest.raises(CommandError, match="DIRECTOR_CAPTURE=1"):
        call_command("capture")
    factories.finish(begin(fence := factories.online()), fence)
    assert not Capture.objects.exists()


def test_old_jobs_are_captured_on_request() -> None:
    fence = factories.online()
    captured, given_up, old = (_completed(fence, at=number) for number in (0, 3, 6))
    ChildJob.objects.update(outputs_json=json.dumps(factories.OUTPUTS))
    _store(captured)
    captures.capture_give_up(capture_id=given_up.pk, reason="It is gone.")
    old.delete()
    for group, count in (([captured.child.group_id], 0), ([], 2), ([], 0)):
        out = StringIO()
        call_command("capture", *group, "--json", stdout=out)
        assert json.loads(out.getvalue()) == {"requested": count}
    assert Capture.objects.filter(due_at__isnull=False).count() == 2


def test_refused_deletion_of_an_asset_names_the_groups(files_folder: Path) -> None:
    asset = factories.asset()
    factories.online()
    groups = [factories.submit("gpu-1") for _ in range(5)]
    JobGroup.objects.update(name="shot {1}")
    ids = [group.id for group in groups]
    of_three = ", ".join(f"shot {{1}} ({pk})" for pk in ids[:3])
    for group, text in zip(
        groups,
        (
            f"The group shot {{1}} ({ids[0]}) needs the file and has not ended. Cancel it or wait",
            f"2 groups need the file and have not ended: shot {{1}} ({ids[0]}), shot",
            f"ended: {of_three}. Cancel them or wait for their end.",
            f"4 groups need the file and have not ended: {of_three} and 1 more.",
            f"ended: {of_three} and 2 more. Cancel",
        ),
        strict=True,
    ):
        with transaction.atomic():
            assets.assets_use(group, [("workflow_json.7.inputs.image", asset.id)])
        with pytest.raises(AssetInUse, match=re.escape(text)):
            assets.asset_delete(asset_id=asset.id)


def test_asset_of_an_open_group_stays_and_expires_after_it(files_folder: Path) -> None:
    used, unused = factories.asset(b"used"), factories.asset(b"unused")
    factories.online()
    group = factories.submit("gpu-1")
    with transaction.atomic():
        assets.assets_use(group, [("workflow_json.7.inputs.image", used.id)])
    with pytest.raises(AssetInUse):
        assets.asset_delete(asset_id=used.id)
    later = now() + dt.timedelta(days=1)
    assert assets.assets_expire(before=later) == 1
    assert not Asset.objects.filter(pk=unused.id).exists()
    group_cancel(group_id=group.id)
    ago = now() - dt.timedelta(days=9)
    JobGroup.objects.update(completed_at=ago, created_at=ago)
    assert sum(done.groups for done in groups_purge(Limits(age=dt.timedelta(days=2)))) == 1
    assert not AssetUse.objects.exists()
    assert assets.assets_expire(before=later) == 1
    assert _files(files_folder) == []


def test_retry_needs_the_assets_of_the_group_and_keeps_them() -> None:
    fence = factories.online()
    asset, other = factories.asset(), factories.asset(b"other")
    reference = _graph(other.id)["7"]["inputs"]["image"]
    group = factories.submit("gpu-1", workflow=_graph(asset.id), parameters={"7.image": reference})
    fail = partial(factories.fail, fence=fence, failure=FailureClass.NODE_ERROR)
    fail(factories.begin(fence))
    assets.asset_delete(asset_id=asset.id)  # replaced by the parameter
    retries.group_retry(group_id=group.id)
    with pytest.raises(AssetInUse):
        assets.asset_delete(asset_id=other.id)
    fail(factories.begin(fence))
    assets.asset_delete(asset_id=other.id)
    for retry in (
        retries.group_retry,
        partial(retries.child_retry, job_id=factories.only(group).id),
    ):
        with pytest.raises(AssetDeleted, match="Node 7: the file of its input 'image' was deleted"):
            retry(group_id=group.id)
    assert (factories.fresh(group).run, factories.only(group).status) == (2, "failed")


def test_job_says_which_files_are_copied_before_it_is_sent() -> None:
    runners.runner_register(name="runner", instance="x", version="0")
    fence = factories.online()
    group = factories.submit("gpu-1", workflow=_graph(factories.asset().id))
    factories.claim(fence)
    child = child_detail(group.id, factories.only(group).id)
    assert (
        child["waiting_reason"]
        == "Being sent to gpu-1. Its input file is copied there first: cat.png."
    )


def test_submission_with_an_asset_that_was_just_deleted_is_refused() -> None:
    factories.online()
    group, asset = factories.submit("gpu-1"), factories.asset()
    assets.asset_delete(asset_id=asset.id)
    with pytest.raises(InvalidRequest), transaction.atomic():
        assets.assets_use(group, [("workflow_json.7.inputs.image", asset.id)])


def test_lost_file_comes_back_with_the_next_upload(files_folder: Path) -> None:
    asset = factories.asset()
    (files_folder / asset.stored_name).unlink()
    assert factories.asset() == asset
    assert (files_folder / asset.stored_name).read_bytes() == b"cat"


class _Killed(BaseException):
    """Ends the work at this moment."""


@pytest.mark.parametrize("is_upload", [True, False], ids=["upload", "deletion"])
def test_end_of_a_process_between_row_and_file_leaves_no_file(
    files_folder: Path, monkeypatch: pytest.MonkeyPatch, is_upload: bool
) -> None:
    asset = factories.asset(b"old")
    moved = stored_files.move_into_storage

    def die(*arguments: Any) -> None:
        if is_upload:
            moved(*arguments)
        raise _Killed

    monkeypatch.setattr(stored_files, "move_into_storage" if is_upload else "delete_file", die)
    with pytest.raises(_Killed):
        factories.asset(b"new") if is_upload else assets.asset_delete(asset_id=asset.id)
    monkeypatch.undo()
    stored_files.clean()
    assert len(_files(files_folder)) == (3 if is_upload else 2)  # the process still has its lock
    stored_files._incoming.cache_clear()
    stored_files.clean()
    assert _files(files_folder) == ([Path(asset.stored_name).name] if is_upload else [])


def _graph(asset_id: str) -> dict[str, Any]:
    reference = {"__type": "core/ASSET", "info": {"id": asset_id}}
    return {"7": {"class_type": "LoadImage", "inputs": {"image": reference}}}


def test_submission_to_an_unknown_asset_is_refused_and_names_the_input() -> None:
    factories.online()
    for fields in (
        {"workflow": _graph("gone")},
        {
            "workflow": {"7": {"class_type": "LoadImage", "inputs": {"image": "cat.png"}}},
            "parameters": {"image": _graph("gone")["7"]["inputs"]["image"]},
        },
        {"workflow": {"7": {"class_type": "A", "inputs": {"image": {"__type": "core/ASSET"}}}}},
    ):
        with pytest.raises(InvalidRequest) as refused:
            factories.submit("gpu-1", **fields)
        assert refused.value.extra["errors"][0]["field"] == "workflow_json.7.inputs.image"
    assert not JobGroup.objects.exists()


def test_workflows_that_differ_in_their_assets_have_one_digest() -> None:
    factories.online()
    digests = set()
    for content in (b"1", b"2"):
        asset = factories.asset(content)
        graph = {
            "7": {"class_type": "A", "inputs": {"any": _graph(asset.id)["7"]["inputs"]["image"]}}
        }
        group = factories.submit("gpu-1", workflow=graph)
        digests.add(group.workflow_digest)
        assert [one.asset_id for one in group.asset_uses.all()] == [asset.id]
    assert len(digests) == 1
