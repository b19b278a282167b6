"""What /api/jobs and the other routes of newer versions do that no recording shows."""

import pytest

from backends.simulator import Simulator
from tests.harness.graphs import partner, plain_image, sampler, text_to_image
from tests.simulator.artist import Artist, artist, the, types

UNKNOWN = "852594f4-55c9-47cc-b29d-a7bfcdf752da"


async def cancel(me: Artist, prompt_id: str) -> bool:
    async with me.session.post(f"/api/jobs/{prompt_id}/cancel") as answer:
        assert answer.status == 200
        return bool((await answer.json())["cancelled"])


async def status(me: Artist, prompt_id: str) -> str:
    return str((await me.get(f"/api/jobs/{prompt_id}"))["status"])


@pytest.mark.parametrize(
    ("version", "job", "cancelled"),
    [
        ("0.3.64", (404, "application/octet-stream"), (405, "text/plain")),
        ("0.6.0", (404, "application/json"), (405, "text/plain")),
        ("0.26.0", (404, "application/json"), (200, "application/json")),
    ],
)
async def test_routes_exist_since_the_version_that_has_them(
    version: str, job: tuple[int, str], cancelled: tuple[int, str]
) -> None:
    async with Simulator(version=version) as sim, artist(sim) as me:
        async with me.session.get(f"/api/jobs/{UNKNOWN}") as answer:
            assert (answer.status, answer.content_type) == job
        async with me.session.post(f"/api/jobs/{UNKNOWN}/cancel") as answer:
            assert (answer.status, answer.content_type) == cancelled


async def test_cancel_signals_again_until_the_prompt_ends() -> None:
    async with Simulator(version="0.33.0") as sim, artist(sim) as me:
        sim.fault("stuck", interruptible=False)
        prompt_id = await me.queue(text_to_image())
        await me.until(lambda frame: frame["type"] == "executing" and frame["data"]["node"] == "3")
        assert [await cancel(me, prompt_id), await cancel(me, prompt_id)] == [True, True]
        sim.clear_faults()
        assert "execution_interrupted" in types(await me.until_end(prompt_id))
        assert await cancel(me, prompt_id) is False
        assert await status(me, prompt_id) == "cancelled"
        assert [entry["hit"] for entry in sim.audit_log.entries if entry["kind"] == "interrupted"] == [True, True]


async def test_cancel_before_the_execution_begins_is_answered_true_and_forgotten() -> None:
    async with Simulator(version="0.33.0") as sim, artist(sim) as me:
        sim.fault("slow_start", seconds=2.0)
        prompt_id = await me.queue(sampler())
        for _ in ("queued", "taken"):
            await me.until_type("status")
        assert await status(me, prompt_id) == "in_progress"
        assert await cancel(me, prompt_id) is True
        assert "execution_success" in types(await me.until_end(prompt_id))
        assert await status(me, prompt_id) == "completed"


async def test_interrupted_jobs_are_failures_before_there_were_cancelled_ones() -> None:
    async with Simulator(version="0.8.0", seconds=5.0) as sim, artist(sim) as me:
        prompt_id = await me.queue(text_to_image())
        await me.until_type("executing")
        await me.interrupt(prompt_id)
        await me.until_end(prompt_id)
        job = await me.get(f"/api/jobs/{prompt_id}")
        assert job["status"] == "failed"
        assert "previewable_outputs_count" not in job
        async with me.session.get("/api/jobs?status=cancelled") as answer:
            assert answer.status == 400


@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_jobs_are_sorted_by_their_duration(order: str) -> None:
    async with Simulator(version="0.33.0") as sim, artist(sim) as me:
        for delay in (0.05, 0.0, 0.1):
            await me.run(sampler(delay=delay))
        jobs = (await me.get(f"/api/jobs?sort_by=execution_duration&sort_order={order}"))["jobs"]
    durations = [job["execution_end_time"] - job["execution_start_time"] for job in jobs]
    assert len(set(durations)) > 1
    assert durations == sorted(durations, reverse=order == "desc")


async def test_poisoned_job_in_the_history_does_not_hide_the_queue() -> None:
    async with Simulator(version="0.33.0", seconds=5.0) as sim, artist(sim) as me:
        await me.run(plain_image(), extra_data={"extra_pnginfo": None})
        prompt_id = await me.queue(text_to_image())
        listed = await me.get("/api/jobs?status=pending,in_progress")
        assert [job["id"] for job in listed["jobs"]] == [prompt_id]
        async with me.session.get("/api/jobs") as answer:
            assert answer.status == 500


@pytest.mark.parametrize(("version", "is_shown"), [("0.3.67", True), ("0.3.68", False)])
async def test_keys_of_partner_nodes_are_not_shown_in_newer_queues(version: str, is_shown: bool) -> None:
    async with Simulator(version=version, seconds=5.0) as sim, artist(sim) as me:
        await me.queue(text_to_image(), extra_data={"api_key_comfy_org": "secret"})
        assert ("secret" in str(await me.get("/queue"))) is is_shown


@pytest.mark.parametrize(("key", "outcome"), [("", "error"), ("secret", "success")])
async def test_partner_node_needs_a_key(key: str, outcome: str) -> None:
    async with Simulator(version="0.33.0") as sim, artist(sim) as me:
        assert (await me.get("/object_info/TestPartner"))["TestPartner"]["api_node"] is True
        await me.run(partner(), extra_data={"api_key_comfy_org": key} if key else {})
        history = await me.get("/history")
    ended = sim.audit_log.find("ended")
    assert ended is not None
    assert ended["outcome"] == outcome
    assert ended.get("message", "") == ("" if key else "Unauthorized: Please login first to use this node.")
    assert "secret" not in str([entry["prompt"] for entry in history.values()])


@pytest.mark.parametrize(("method", "previews"), [("auto", 4), ("none", 0), ("nonsense", 0)])
async def test_prompt_chooses_its_previews(method: str, previews: int) -> None:
    async with Simulator(version="0.33.0") as sim, artist(sim) as me:
        _, frames = await me.run(text_to_image(steps=4), extra_data={"preview_method": method})
        assert types(frames).count("binary") == previews


@pytest.mark.parametrize(("version", "has_tips"), [("0.3.64", False), ("0.33.0", True)])
async def test_exhausted_memory_of_an_accelerator_has_tips_in_newer_versions(version: str, has_tips: bool) -> None:
    async with Simulator(version=version) as sim, artist(sim) as me:
        sim.fault("node_error", type="torch.AcceleratorError", message="CUDA error: out of memory")
        _, frames = await me.run(text_to_image())
        message = the("execution_error", frames)["exception_message"]
        assert ("This error means you ran out of memory on your GPU." in message) is has_tips
