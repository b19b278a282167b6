"""The runner measures successful jobs, and stores how long they took."""

import pytest

from jobgroups.models import Timing
from tests.harness.farm import Farm, in_thread, until, until_row
from tests.harness.graphs import text_to_image

pytestmark = pytest.mark.django_db(transaction=True)


async def test_seconds_and_loads_of_jobs_are_measured_unless_every_node_was_cached(farm: Farm) -> None:
    await farm.start(seconds=0.4)

    async def render(seed: int, checkpoint: str) -> str:
        graph = text_to_image(checkpoint=checkpoint)
        group = await farm.completes(workflow=graph, seed_strategy="sequential", base_seed=seed)
        return group.workflow_digest

    one, other = "tiny_sd15.safetensors", "random_sd15.safetensors"
    digest = await render(1, one)
    row = await until_row(Timing.objects.filter(workflow_digest=digest))
    assert (row.backend_id, row.load_seconds, row.runs) == ("gpu-1", None, 0)
    assert 0.35 < row.seconds < 1.5
    # The same once more: cached. The round that would store it is over when the next job is stored.
    await in_thread(Timing.objects.all().delete)()
    await render(1, one)
    assert await render(2, one) == digest
    await until(in_thread(Timing.objects.filter(runs=1).exists))
    assert 0.35 < (await in_thread(Timing.objects.get)()).seconds < 1.5
    assert await render(3, other) != digest
    await render(4, one)
    row = await until_row(Timing.objects.filter(load_seconds__isnull=False))
    assert (row.workflow_digest, row.runs) == (digest, 1)
    assert row.load_seconds < 0.5
    unknown = await until_row(Timing.objects.exclude(workflow_digest=digest))
    assert (unknown.runs, unknown.models_digest == row.models_digest) == (0, False)
