"""Faults of a prompt's run, its end and its submission, seen by a client."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

from backends.simulator import Simulator
from tests.simulator.artist import Artist, artist, soon, types
from tests.simulator.graphs import plain_image, sampler, text_to_image

BROKEN = (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, aiohttp.ClientPayloadError)


# a prompt's run


async def test_node_error_names_the_sampler_and_keeps_the_chosen_words(sim: Simulator, me: Artist) -> None:
    sim.fault("node_error", type="torch.OutOfMemoryError", message="CUDA out of memory", step=2)
    prompt_id, frames = await me.run(text_to_image())
    entry = await me.history(prompt_id)
    _, after = await me.run(text_to_image())
    error = next(f["data"] for f in frames if f["type"] == "execution_error")
    assert (error["node_id"], error["node_type"]) == ("3", "KSampler")
    assert error["exception_type"] == "torch.OutOfMemoryError"
    assert error["exception_message"].startswith("CUDA out of memory\nThis error means you ran")
    assert [f["data"]["value"] for f in frames if f["type"] == "progress"] == [1, 2]
    assert entry["status"]["status_str"] == "error"
    assert "execution_success" in types(after)


async def test_node_error_can_name_another_node(sim: Simulator, me: Artist) -> None:
    sim.fault("node_error", node="VAEDecode", type="ValueError", message="bad")
    _, frames = await me.run(text_to_image())
    error = next(f["data"] for f in frames if f["type"] == "execution_error")
    assert (error["node_id"], error["exception_message"]) == ("8", "bad\n")
    assert error["current_inputs"]["vae"] == ["<VAE object>"]


async def test_node_error_hits_a_prompt_that_samples_nothing(sim: Simulator, me: Artist) -> None:
    sim.fault("node_error")
    _, frames = await me.run(plain_image())
    assert "execution_error" in types(frames)


async def test_out_of_memory_has_the_message_of_pytorch(sim: Simulator, me: Artist) -> None:
    sim.fault("out_of_memory")
    _, frames = await me.run(text_to_image())
    error = next(f["data"] for f in frames if f["type"] == "execution_error")
    assert error["exception_type"] == "torch.OutOfMemoryError"
    assert error["exception_message"].startswith("CUDA out of memory. Tried to allocate")
    assert "TIPS" in error["exception_message"]


async def test_small_card_fails_at_large_images_only(sim: Simulator, me: Artist) -> None:
    sim.fault("out_of_memory", pixels=64 * 64, count=0)
    ends = [types((await me.run(text_to_image(side=side)))[1])[-3] for side in (64, 72)]
    assert ends == ["execution_success", "execution_error"]


async def test_broken_gpu_fails_each_prompt_until_a_restart(sim: Simulator) -> None:
    sim.fault("cuda_fatal")
    async with artist(sim) as me:
        for seed in (1, 2):
            _, frames = await me.run(text_to_image(seed=seed))
            error = next(f["data"] for f in frames if f["type"] == "execution_error")
            assert "illegal memory access" in error["exception_message"]
    await sim.restart()
    async with artist(sim) as me:
        _, frames = await me.run(text_to_image(seed=3))
    assert "execution_success" in types(frames)


async def test_audit_log_has_the_request_to_free_memory(sim: Simulator, me: Artist) -> None:
    asked = {"unload_models": True, "free_memory": True}
    async with me.session.post("/free", json=asked) as answer:
        assert answer.status == 200
    assert sim.audit_log.find("freed")["asked"] == asked  # type: ignore[index]


async def test_slow_adds_its_seconds(sim: Simulator, me: Artist) -> None:
    sim.fault("slow", seconds=0.3)
    start = asyncio.get_running_loop().time()
    await me.run(text_to_image())
    assert asyncio.get_running_loop().time() - start >= 0.3


async def test_stuck_prompt_goes_on_when_the_order_is_withdrawn(sim: Simulator, me: Artist) -> None:
    sim.fault("stuck", step=3)
    prompt_id = await me.queue(sampler())
    await me.until(lambda f: f["type"] == "progress" and f["data"]["value"] == 2)
    assert await me.receives_nothing()
    sim.clear_faults("stuck")
    assert "execution_success" in types(await me.until_end(prompt_id))


async def test_stuck_prompt_may_ignore_interrupts(sim: Simulator, me: Artist) -> None:
    sim.fault("stuck", interruptible=False)
    prompt_id = await me.queue(sampler())
    await me.until_type("executing")
    await me.interrupt(prompt_id)
    assert await me.receives_nothing()
    assert sim.state.queue.is_running(prompt_id)


async def test_uninterruptible_sampler_runs_to_its_end_and_the_next_node_is_named() -> None:
    async with Simulator(seconds=0.3) as sim, artist(sim) as me:
        sim.fault("uninterruptible")
        prompt_id = await me.queue(text_to_image())
        await me.until_type("progress")
        await me.interrupt(prompt_id)
        frames = await me.until_end(prompt_id)
    stopped = next(f["data"] for f in frames if f["type"] == "execution_interrupted")
    assert stopped["node_id"] == "8"
    assert [f["data"]["value"] for f in frames if f["type"] == "progress"][-1] == 4


async def test_interrupt_before_a_slow_start_is_lost(sim: Simulator, me: Artist) -> None:
    sim.fault("slow_start", seconds=0.3)
    prompt_id = await me.queue(sampler())
    await soon(lambda: sim.state.queue.is_running(prompt_id))
    await me.interrupt(prompt_id)
    assert "execution_success" in types(await me.until_end(prompt_id))
    told = sim.audit_log.find("interrupted")
    assert told is not None
    assert told["hit"] is True


async def test_lost_interrupt_is_answered_and_forgotten(sim: Simulator, me: Artist) -> None:
    sim.fault("interrupt_lost")
    prompt_id = await me.queue(sampler(steps=10, delay=0.03))
    await me.until_type("progress")
    await me.interrupt(prompt_id)
    assert "execution_success" in types(await me.until_end(prompt_id))


async def test_late_interrupt_hits_the_next_prompt(sim: Simulator, me: Artist) -> None:
    sim.fault("interrupt_late", seconds=0.3)
    first = await me.queue(sampler(1, steps=3, delay=0.05))
    second = await me.queue(sampler(2, steps=100, delay=0.05))
    await me.until_type("progress")
    await me.interrupt(first)
    assert "execution_success" in types(await me.until_end(first))
    assert "execution_interrupted" in types(await me.until_end(second))


# the end of a prompt


async def test_late_history_is_empty_between_success_and_the_end(sim: Simulator, me: Artist) -> None:
    sim.fault("late_history", seconds=0.3)
    prompt_id = await me.queue(sampler())
    await me.until_type("execution_success")
    assert await me.history(prompt_id) is None
    await me.until_end(prompt_id)
    assert await me.history(prompt_id) is not None


async def test_history_entry_can_come_after_all_frames(sim: Simulator, me: Artist) -> None:
    sim.fault("late_history_entry", seconds=0.3)
    prompt_id, _ = await me.run(sampler())
    assert await me.history(prompt_id) is None
    await soon(lambda: prompt_id in sim.state.queue.history)
    assert (await me.history(prompt_id))["status"]["completed"] is True


async def test_history_entry_can_stay_away(sim: Simulator, me: Artist) -> None:
    sim.fault("no_history")
    prompt_id, frames = await me.run(sampler())
    assert "execution_success" in types(frames)
    assert await me.history(prompt_id) is None
    assert await me.get("/queue") == {"queue_running": [], "queue_pending": []}


async def test_history_can_be_empty_for_some_answers(sim: Simulator, me: Artist) -> None:
    prompt_id, _ = await me.run(sampler())
    sim.fault("empty_history", count=2)
    seen = [await me.history(prompt_id) is None for _ in range(3)]
    assert seen == [True, True, False]


async def test_history_can_be_huge(sim: Simulator, me: Artist) -> None:
    sim.fault("huge_history", megabytes=3)
    async with me.session.get("/history") as answer:
        assert len(await answer.read()) > 3_000_000


async def test_other_client_clears_the_history_at_the_end_of_a_prompt(sim: Simulator, me: Artist) -> None:
    sim.fault("clear_history", at="ended")
    prompt_id, _ = await me.run(sampler())
    await soon(lambda: not sim.state.queue.history)
    assert await me.history(prompt_id) is None


# POST /prompt


async def test_lost_answer_breaks_the_connection_and_the_prompt_runs(sim: Simulator, me: Artist) -> None:
    sim.fault("lose_answer")
    with pytest.raises(BROKEN):
        await me.post(sampler(), prompt_id="mine")
    await sim.wait_for("ended", prompt_id="mine", outcome="success")


async def test_delayed_answer_comes_after_the_prompt_started(sim: Simulator, me: Artist) -> None:
    sim.fault("delay_answer", seconds=0.3)
    async with asyncio.TaskGroup() as group:
        answer = group.create_task(me.post(sampler(), prompt_id="mine"))
        await sim.wait_for("ended", prompt_id="mine")
        assert not answer.done()
    assert answer.result()[0] == 200


async def test_500_though_queued(sim: Simulator, me: Artist) -> None:
    sim.fault("prompt_500")
    status, text = await me.post(sampler(), prompt_id="mine")
    assert (status, text) == (500, "500 Internal Server Error\n\nServer got itself in trouble")
    await sim.wait_for("ended", prompt_id="mine", outcome="success")


async def test_late_post_lands_after_its_connection_died(sim: Simulator, me: Artist) -> None:
    sim.fault("late_post", seconds=0.3)
    with pytest.raises(BROKEN):
        await me.post(sampler(), prompt_id="mine")
    assert await me.get("/queue") == {"queue_running": [], "queue_pending": []}
    assert sim.prompts == []
    await sim.wait_for("accepted", prompt_id="mine")
    await sim.wait_for("ended", prompt_id="mine", outcome="success")
