from __future__ import annotations

import datetime as dt
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from jobgroups.domain.clock import now
from jobgroups.domain.failures import FailureClass
from jobgroups.errors import AssetDeleted, AssetInUse, InvalidRequest
from jobgroups.models import Asset, AssetUse, JobGroup
from jobgroups.queries.groups import child_detail
from jobgroups.services import assets, retries, runners, stored_files
from jobgroups.services.cancellation import group_cancel
from jobgroups.services.purge import Limits, groups_purge
from tests.harness import factories

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("files_folder")]


def _files(files_folder: Path) -> list[str]:
    return [one.name for one in files_folder.rglob("*") if one.is_file() and one.suffix != ".lock"]


def _stored(content: bytes = b"cat") -> Asset:
    path = stored_files.incoming_folder() / "received"
    path.write_bytes(content)
    received = assets.ReceivedFile(
        path=path, name="cat.png", content_type="image/png", size_bytes=len(content), hash=blake3(content).hexdigest()
    )
    return assets.asset_store(received)[0]


def test_asset_of_an_open_group_stays_and_expires_after_it(files_folder: Path) -> None:
    used, unused = _stored(b"used"), _stored(b"unused")
    factories.online()
    group = factories.submit("gpu-1")
    assets.assets_use(group, [used.id])
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
    asset, other = _stored(), _stored(b"other")
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
    for retry in (retries.group_retry, partial(retries.child_retry, job_id=factories.only(group).id)):
        with pytest.raises(AssetDeleted, match="Node 7: the file of its input 'image' was deleted"):
            retry(group_id=group.id)
    assert (factories.fresh(group).run, factories.only(group).status) == (2, "failed")


def test_job_says_which_files_are_copied_before_it_is_sent() -> None:
    runners.runner_register(name="runner", instance="x", version="0")
    fence = factories.online()
    group = factories.submit("gpu-1", workflow=_graph(_stored().id))
    factories.claim(fence)
    child = child_detail(group.id, factories.only(group).id)
    assert child["waiting_reason"] == "Being sent to gpu-1. Its input file is copied there first: cat.png."


def test_submission_with_an_asset_that_was_just_deleted_is_refused() -> None:
    factories.online()
    group, asset = factories.submit("gpu-1"), _stored()
    assets.asset_delete(asset_id=asset.id)
    with pytest.raises(InvalidRequest):
        assets.assets_use(group, [asset.id])


def test_lost_file_comes_back_with_the_next_upload(files_folder: Path) -> None:
    asset = _stored()
    (files_folder / asset.stored_name).unlink()
    assert _stored() == asset
    assert (files_folder / asset.stored_name).read_bytes() == b"cat"


class _Killed(BaseException):
    """Ends the work at this moment."""


@pytest.mark.parametrize("is_upload", [True, False], ids=["upload", "deletion"])
def test_end_of_a_process_between_row_and_file_leaves_no_file(
    files_folder: Path, monkeypatch: pytest.MonkeyPatch, is_upload: bool
) -> None:
    asset = _stored(b"old")
    moved = stored_files.move_into_storage

    def die(*arguments: Any) -> None:
        if is_upload:
            moved(*arguments)
        raise _Killed

    monkeypatch.setattr(stored_files, "move_into_storage" if is_upload else "delete_file", die)
    with pytest.raises(_Killed):
        _stored(b"new") if is_upload else assets.asset_delete(asset_id=asset.id)
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
        asset = _stored(content)
        graph = {"7": {"class_type": "A", "inputs": {"any": _graph(asset.id)["7"]["inputs"]["image"]}}}
        group = factories.submit("gpu-1", workflow=graph)
        digests.add(group.workflow_digest)
        assert [one.asset_id for one in group.asset_uses.all()] == [asset.id]
    assert len(digests) == 1
