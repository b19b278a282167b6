"""Input files are put on the backend before a prompt is sent, also those of a variation."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from backends.simulator import Simulator
from jobgroups.domain.states import RetryScope
from jobgroups.errors import AssetInUse
from jobgroups.models import Asset, AssetUse, JobGroup
from jobgroups.queries.provenance import job_provenance
from jobgroups.runner import inputs
from jobgroups.services import assets
from jobgroups.workflow import build_template
from jobgroups.workflow.batch import Batch, jobs_of
from tests.harness import factories
from tests.harness.bucket import BucketServer
from tests.harness.farm import Farm, in_thread, session_of, until
from tests.harness.graphs import png

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("files_folder")]

CONTENT = png(comment="x" * 20_000)


@in_thread
def _stored() -> Asset:
    return factories.asset(CONTENT, "../cat.PNG")


def _graph(asset: Asset) -> dict[str, Any]:
    reference = {"__type": "core/ASSET", "info": {"id": asset.id}}
    return {
        "1": {"class_type": "LoadImage", "inputs": {"image": reference}},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }


def _file(sim: Simulator, asset: Asset) -> Path:
    return Path(sim.state.folders.of("input"), "director", f"{asset.hash}.png")


def _uploads(sim: Simulator) -> int:
    return [one["kind"] for one in sim.audit_log.entries].count("uploaded")


async def test_asset_is_put_once_on_each_backend_of_its_jobs(farm: Farm) -> None:
    sims = [await farm.backend(name) for name in ("gpu-1", "gpu-2")]
    asset = await _stored()
    await farm.runner()
    await farm.completes(*["gpu-1", "gpu-2"] * 3, workflow=_graph(asset))
    assert [_uploads(sim) for sim in sims] == [1, 1]
    for sim in sims:
        assert _file(sim, asset).read_bytes() == CONTENT
    assert await in_thread(AssetUse.objects.count)() == 1


async def test_image_is_put_again_for_each_prompt_also_on_another_backend(farm: Farm) -> None:
    first = await farm.backend("gpu-1", krita=True)
    second = await farm.backend("gpu-2", krita=True)
    first.fault("out_of_memory", count=1)
    asset = await _stored()
    graph = _graph(asset)
    # The same content is a file, and an image under an id.
    graph["3"] = {
        "class_type": "ETN_LoadImageCache",
        "inputs": {"id": graph["1"]["inputs"]["image"]},
    }
    graph["4"] = {
        "class_type": "ETN_SaveImageCache",
        "inputs": {"images": ["3", 0], "format": "PNG"},
    }
    await farm.runner(seen=["gpu-1", "gpu-2"])
    fields = {"max_attempts": 2, "retry_elsewhere": RetryScope.ANY}
    group = await farm.submit("gpu-1", workflow=graph, **fields)
    assert (await farm.finished(group)).status == "completed"
    (child,) = await farm.children(group)
    record = await in_thread(job_provenance)(group.id, child.id)
    assert record["workflow"]["3"]["inputs"] == {"id": asset.hash}
    for sim in (first, second):
        puts = [entry["id"] for entry in sim.audit_log.entries if entry["kind"] == "image_put"]
        assert puts == [asset.hash]
        assert _file(sim, asset).read_bytes() == CONTENT


async def test_file_that_is_not_whole_is_replaced(farm: Farm) -> None:
    sim, asset = await farm.backend(), await _stored()
    _file(sim, asset).parent.mkdir()
    _file(sim, asset).write_bytes(CONTENT[:1000])
    await farm.runner()
    await farm.completes("gpu-1", workflow=_graph(asset))
    assert _file(sim, asset).read_bytes() == CONTENT


async def test_upload_that_fails_is_repeated_and_then_fails_the_job(farm: Farm) -> None:
    sim, asset = await farm.backend(), await _stored()
    await farm.runner()
    # 0: every upload, since a new attempt, as after a lost connection, has three of its own.
    for broken, status in ((2, "completed"), (0, "failed")):
        sim.faults.inject("status", route="/upload/image", method="POST", count=broken, status=500)
        _file(sim, asset).unlink(missing_ok=True)
        group = await farm.submit("gpu-1", workflow=_graph(asset))
        assert (await farm.finished(group)).status == status
    (child,) = await farm.children(group)
    assert child.failure_class == "unreachable"
    assert "cat.PNG cannot be put on the backend" in child.error_message


async def test_job_goes_to_the_backend_that_takes_the_length_of_its_file(farm: Farm) -> None:
    small, large = await farm.backend(max_upload_bytes=10_000), await farm.backend("gpu-2")
    asset = await _stored()
    await farm.runner()
    group = await farm.submit("gpu-1", workflow=_graph(asset))
    child = await farm.failed(group)
    assert child.failure_class == "node_or_model_missing"
    assert "--max-upload-size 1 or more" in child.error_message
    await farm.completes("gpu-1", "gpu-2", workflow=_graph(asset), count=4)
    assert (_uploads(small), _uploads(large)) == (0, 1)


async def test_cancelled_job_stops_its_upload(farm: Farm) -> None:
    sim, asset = await farm.backend(), await _stored()
    session = await session_of(await farm.runner())
    late = sim.fault("slow_http", route="/view", method="HEAD", seconds=60)
    group = await farm.submit("gpu-1", workflow=_graph(asset))
    await until(lambda: late.left == 0)
    await farm.cancel(group)
    (driver,) = session.attempts.drivers.values()
    await until(lambda: driver.machine.stop_pending)
    sim.clear_faults()
    assert (await farm.finished(group)).status == "cancelled"
    await farm.settled(group)
    assert (_uploads(sim), _file(sim, asset).exists()) == (0, False)


async def test_job_waits_ten_minutes_for_the_storage_of_its_asset(
    farm: Farm, bucket: BucketServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await farm.backend()
    asset = await _stored()
    await farm.runner()
    bucket.refuses = {"GET"}
    group = await farm.submit("gpu-1", workflow=_graph(asset))
    await until(
        lambda: sum(path.endswith(asset.stored_name) for _, path, _ in bucket.requests) > 4, 20.0
    )
    bucket.refuses = set()
    assert (await farm.finished(group)).status == "completed"
    await farm.backend("gpu-2")
    bucket.refuses = {"GET"}
    monkeypatch.setattr(inputs, "_STORAGE_PAUSES", 0)
    group = await farm.submit("gpu-2", workflow=_graph(asset))
    child = await farm.failed(group)
    assert (child.failure_class, "(SlowDown)" in child.error_message) == ("unreachable", True)


async def test_job_fails_if_its_asset_was_lost(farm: Farm, files_folder: Path) -> None:
    await farm.backend()
    asset = await _stored()
    (files_folder / asset.stored_name).unlink()
    await farm.runner()
    group = await farm.submit("gpu-1", workflow=_graph(asset))
    child = await farm.failed(group)
    assert (child.failure_class, "is lost" in child.error_message) == ("workflow_refused", True)


async def test_record_has_the_hash_of_an_input_also_after_its_deletion(farm: Farm) -> None:
    await farm.backend()
    asset = await _stored()
    await farm.runner()
    group = await farm.submit(workflow=_graph(asset))
    await farm.finished(group)
    await in_thread(assets.asset_delete)(asset_id=asset.id)
    (child,) = await farm.children(group)
    record = await in_thread(job_provenance)(group.id, child.id)
    assert record["inputs"] == [
        {"node_id": "1", "input": "image", "asset_id": asset.id, "hash": f"blake3:{asset.hash}"}
    ]
    assert record["workflow"]["1"]["inputs"]["image"] == f"director/{asset.hash}.png"


async def to_pool(farm: Farm, batch: Batch, workflow: Any = None) -> JobGroup:
    return await farm.submit(
        "*", count=len(batch.jobs), batch=batch, base_seed=5, workflow=workflow, max_attempts=1
    )


async def received(farm: Farm) -> list[dict[str, Any]]:
    """Return the workflows of the prompts that backends have executed."""
    async with httpx.AsyncClient() as client:
        found = [(await client.get(f"{sim.url}/history")).json() for sim in farm.sims.values()]
    return [one["prompt"][2] for history in found for one in history.values()]


async def test_asset_in_a_variation_is_put_on_the_backend_and_kept_while_the_group_is_open(
    farm: Farm,
) -> None:
    sim, asset = await farm.backend(), await _stored()
    graph = _graph(asset)
    reference, graph["1"]["inputs"]["image"] = graph["1"]["inputs"]["image"], "example.png"
    batch = jobs_of(
        build_template(graph), [{"parameters": {"1.image": reference}}], "random", 5, 100
    )
    group = await to_pool(farm, batch, graph)
    with pytest.raises(AssetInUse):
        await in_thread(assets.asset_delete)(asset_id=asset.id)
    await farm.runner()
    assert (await farm.finished(group)).status == "completed"
    assert _file(sim, asset).read_bytes() == CONTENT
    [sent] = await received(farm)
    assert sent["1"]["inputs"]["image"] == f"director/{asset.hash}.png"
