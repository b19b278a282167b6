"""Retries within a run, by the policy of the group, and moves and retries by a user."""

from typing import Any

from jobgroups.domain.shapes.groups import MoveResult
from jobgroups.domain.states import RetryScope
from jobgroups.models import Attempt, JobGroup
from jobgroups.queries import work
from jobgroups.services.moves import child_move
from tests.harness.farm import SOON_STUCK, Farm, both_versions, in_thread, until, until_row


async def submit(farm: Farm, *names: str, **fields: Any) -> JobGroup:
    """Submit a group that lets its children be tried three times, on any of its backends."""
    fields = {"max_attempts": 3, "retry_elsewhere": RetryScope.GROUP, **fields}
    return await farm.submit(*names, **fields)


async def outcome(farm: Farm, group: JobGroup, within: float = 30.0) -> list[tuple[str, str, str]]:
    """Wait for the group's end; return backend, state and failure class of each attempt."""
    await farm.finished(group, within)
    assert (await farm.types(group)).count("group_complete") == 1
    await farm.settled(group, within)
    return await farm.outcomes(group)


async def test_out_of_memory_is_tried_again_here_after_the_memory_was_freed(farm: Farm) -> None:
    sim = await farm.backend("gpu-1", vram_gb=8)
    sim.fault("out_of_memory", count=1)
    await farm.runner()
    group = await submit(farm, "gpu-1", retry_elsewhere=RetryScope.NEVER)
    assert [state for _, state, _ in await outcome(farm, group)] == ["error", "success"]
    kinds = farm.kinds("gpu-1")
    again = len(kinds) - 1 - kinds[::-1].index("accepted")
    assert kinds.index("freed") < again
    freed = sim.audit_log.find("freed")
    assert freed is not None
    assert freed["body"] == {"unload_models": True, "free_memory": True}


async def test_a_backend_that_does_not_answer_to_freeing_keeps_no_end_from_being_stored(
    farm: Farm,
) -> None:
    sim = await farm.backend("gpu-1")
    sim.fault("out_of_memory", count=1)
    sim.fault("hang_http", route="/free", count=0)
    await farm.runner()
    group = await farm.submit("gpu-1")
    assert await outcome(farm, group) == [("gpu-1", "error", "out_of_memory")]


async def test_a_timeout_is_made_good_elsewhere_after_its_prompt_was_stopped(farm: Farm) -> None:
    sim = await farm.backend("gpu-1")
    await farm.backend("gpu-2")
    sim.fault("stuck", step=2)
    await farm.runner(seen=["gpu-1", "gpu-2"])
    group = await submit(farm, "gpu-1", retry_elsewhere=RetryScope.ANY, timeout_seconds=1)
    assert await outcome(farm, group) == [("gpu-1", "timeout", "timeout"), ("gpu-2", "success", "")]
    ended = sim.audit_log.find("ended")
    began = farm.sims["gpu-2"].audit_log.find("started")
    assert ended is not None
    assert began is not None
    assert ended["time"] < began["time"], "two prompts of one child ran at once"


async def test_a_machine_that_hangs_keeps_its_child_from_elsewhere_for_a_minute_only(
    farm: Farm,
) -> None:
    sim = await farm.backend("gpu-1")
    await farm.backend("gpu-2")
    sim.fault("stuck", step=2, interruptible=False)
    await farm.runner(seen=["gpu-1", "gpu-2"], intervals=SOON_STUCK)
    group = await submit(farm, "gpu-1", retry_elsewhere=RetryScope.ANY, timeout_seconds=1)
    done = await farm.finished(group, 40)
    assert done.status == "completed"
    rows = [(row.backend_id, row.failure_class) for row in await farm.attempts(group)]
    assert rows == [("gpu-1", "stalled"), ("gpu-2", "")]
    # It lets go in the end: what it made is kept with its attempt, and decides nothing.
    sim.clear_faults()
    [first, second] = await farm.settled(group)
    assert first.ended_at > second.ended_at
    assert (await farm.types(group)).count("child_completed") == 1


async def test_files_that_are_gone_are_made_again_after_the_cache_was_emptied(farm: Farm) -> None:
    sim = await farm.start("gpu-1")
    first = await farm.submit("gpu-1", base_seed=7)
    await farm.finished(first)
    for file in sim.output_folder.iterdir():
        file.unlink()
    # The same seed: ComfyUI answers from its cache, with a name behind which nothing is.
    group = await submit(farm, "gpu-1", base_seed=7, retry_elsewhere=RetryScope.NEVER)
    assert await outcome(farm, group) == [
        ("gpu-1", "success", "output_gone"),
        ("gpu-1", "success", ""),
    ]
    [child] = await farm.children(group)
    assert (child.status, child.warnings_json) == ("completed", "[]")
    assert [file.suffix for file in sim.output_folder.iterdir()] == [".png"]


async def pending(farm: Farm, **options: Any) -> tuple[JobGroup, Any]:
    """Have a job stand in the queue of gpu-1 behind the group's other one, which runs until faults
    are cleared.
    """
    (await farm.backend("gpu-1", **options)).fault("stuck")
    await farm.start("gpu-2", seconds=0.2)
    group = await farm.running("gpu-1", "gpu-1")
    waiting = group.children.filter(status="queued", current_attempt__state="accepted")
    return group, await until_row(waiting)


async def move(farm: Farm, group: JobGroup, child: Any) -> MoveResult:
    done: MoveResult = await in_thread(child_move)(
        group_id=group.id, job_id=child.id, backend_id="gpu-2", by="anna"
    )
    farm.wake()
    return done


@both_versions
async def test_a_pending_prompt_is_removed_before_the_job_is_sent_elsewhere(
    farm: Farm, version: str
) -> None:
    group, child = await pending(farm, version=version)
    done = await move(farm, group, child)
    assert done.removing_from == "gpu-1"
    await until_row(group.children.filter(pk=child.pk, status="completed"))
    farm.sims["gpu-1"].clear_faults()
    assert (await farm.finished(group)).status == "completed"
    places = {one.pk: one.backend_id for one in await farm.children(group)}
    assert sorted(places.values()) == ["gpu-1", "gpu-2"]
    assert places[child.pk] == "gpu-2"
    assert len(farm.recorded("started", "gpu-1")) == 1, "what ran there was left alone"
    assert "interrupted" not in farm.kinds("gpu-1")
    assert len(farm.recorded("started", "gpu-2")) == 1
    rows = [(one.backend_id, one.state, one.is_counted) for one in await farm.settled(group)]
    assert ("gpu-1", "interrupted", False) in rows
    removed = [one for one in await farm.attempts(group) if one.stop_reason == "moved"]
    sent = [one for one in await farm.attempts(group) if one.backend_id == "gpu-2"]
    assert removed[0].ended_at <= sent[0].created_at


async def test_a_stop_that_was_read_before_its_move_was_void_stops_nothing(farm: Farm) -> None:
    """One database thread reads the pending stops while another one stores the prompt's start."""
    group, child = await pending(farm)
    for running in list(farm._tasks):
        await farm.kill(running)
    await move(farm, group, child)
    _, stops = await in_thread(work.pending_work)()
    # The moved job's prompt follows, and runs until the end of the test.
    sim = farm.sims["gpu-1"]
    sim.clear_faults()
    sim.fault("stuck")
    await until(lambda: len(farm.recorded("started", "gpu-1")) == 2)
    service = await farm.runner()
    attempts = Attempt.objects.filter(child__group=group)
    await until(in_thread(lambda: not attempts.exclude(stop_reason="").exists()))
    service._sessions["gpu-1"].attempts.request_stop(stops["gpu-1"])
    sim.clear_faults()
    assert (await farm.finished(group)).status == "completed"
    assert "interrupted" not in farm.kinds("gpu-1")
    assert farm.recorded("accepted", "gpu-2") == []
