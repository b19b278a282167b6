"""Jobs of the pool go to whichever candidate is free, and a machine that fails costs the others
nothing.
"""

from collections import Counter
from typing import Any

from backends.models import Backend
from backends.states import Hold
from jobgroups.database.threads import DatabaseThreads
from jobgroups.domain.states import RetryScope
from jobgroups.models import JobGroup, Timing, Variant
from jobgroups.runner.pool import Pool
from jobgroups.services import backends
from jobgroups.services.claims import ClaimResult
from tests.harness.farm import Farm, in_thread, until, until_row
from tests.harness.graphs import text_to_image


async def to_pool(farm: Farm, count: int, *candidates: str, **fields: Any) -> JobGroup:
    fields = {"retry_elsewhere": RetryScope.GROUP, "max_attempts": 2, **fields}
    return await farm.submit(*(candidates or ("*",)), count=count, **fields)


async def made_by(farm: Farm, group: JobGroup) -> Counter[str]:
    return Counter(child.backend_id for child in await farm.children(group))


async def test_two_machines_load_a_model_each_when_the_runner_has_just_started(farm: Farm) -> None:
    for name in ("gpu-1", "gpu-2"):
        await farm.backend(name, seconds=0.2, load_seconds=1.0)
    models = ("tiny_sd15.safetensors", "random_sd15.safetensors")
    groups = [await to_pool(farm, 3, workflow=text_to_image(checkpoint=model)) for model in models]
    await farm.runner()
    made = []
    for group in groups:
        await farm.finished(group)
        made.append(await made_by(farm, group))
    assert sorted(made, key=str) == [{"gpu-1": 3}, {"gpu-2": 3}]


async def test_a_bypass_by_a_claim_during_a_reading_of_the_queue_is_stored(farm: Farm) -> None:
    await farm.backend("gpu-1")
    runner = await farm.runner()
    tiny, random = (
        text_to_image(checkpoint=model)
        for model in ("tiny_sd15.safetensors", "random_sd15.safetensors")
    )
    await farm.finished(await to_pool(farm, 1, workflow=tiny))
    await until_row(Timing.objects.exclude(models_digest=""))
    await farm.stop(runner)
    older = await to_pool(farm, 1, workflow=random)
    await to_pool(farm, 1, workflow=tiny)
    pool = Pool(DatabaseThreads(threads=1, name="pool"), give_up_s=60, queued_limit_s=60)

    async def read() -> None:
        pool.is_stale = True
        await until(lambda: pool.next_reading_in == 0)
        await pool.refresh()

    await pool.read_backends()
    await read()
    choice = pool.schedule.choose("gpu-1", prompts=0)
    await read()
    assert choice is not None
    pool.settle("gpu-1", choice, ClaimResult(from_pool=True))
    await read()
    assert await Variant.objects.filter(group=older, bypassed_at__isnull=False).aexists()


async def test_a_machine_that_joins_takes_jobs_that_wait(farm: Farm) -> None:
    await farm.start("slow", seconds=60.0)
    group = await to_pool(farm, 6)
    await farm.status_of(group, "running")
    await farm.backend("late", seconds=0.05)
    farm.wake()
    # The slow one renders a job, and another one may wait there.
    await until(lambda: len(farm.recorded("ended", "late")) >= 4)
    await farm.cancel(group)


async def test_a_backend_is_deleted_while_jobs_of_the_pool_wait(farm: Farm) -> None:
    await farm.backend("gone", seconds=0.3)
    await in_thread(Backend.objects.filter(pk="gone").update)(hold=Hold.PAUSE)
    await farm.runner()
    group = await to_pool(farm, 2)
    await in_thread(backends.backend_delete)(backend_id="gone")
    await farm.backend("other", seconds=0.05)
    farm.wake()
    assert (await farm.finished(group)).status == "completed"


async def test_jobs_without_any_candidate_fail_after_the_limit(farm: Farm) -> None:
    await farm.backend(seconds=0.05)
    await farm.runner(give_up_s=1.0)
    group = await to_pool(farm, 3, "tag:none")

    async def marked() -> bool:
        return (await in_thread(Variant.objects.get)(group=group)).unplaced_since is not None

    await until(marked)
    done = await farm.finished(group)
    assert done.status == "failed"
    assert {c.failure_class for c in await farm.children(group)} == {"unreachable"}


async def test_jobs_that_waited_a_day_time_out(farm: Farm) -> None:
    await farm.backend(seconds=0.05)
    await in_thread(Backend.objects.update)(hold=Hold.PAUSE)
    await farm.runner(queued_limit_s=1)
    group = await to_pool(farm, 3)
    done = await farm.finished(group)
    assert done.status == "failed"
    assert {c.status for c in await farm.children(group)} == {"timeout"}
