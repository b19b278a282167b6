"""`--gc-pause`: right after a prompt nothing is answered for a moment, and then not for 10 s."""

import time

import pytest

from backends.simulator import Simulator, worker
from tests.harness.graphs import plain_image
from tests.simulator.artist import Artist, artist

PAUSE = 0.25


async def answer_time(me: Artist) -> float:
    start = time.monotonic()
    await me.get("/prompt")
    return time.monotonic() - start


async def test_first_prompt_and_freed_memory_pause_the_answers_and_the_next_prompt_does_not() -> None:
    async with Simulator(gc_pause=PAUSE) as sim, artist(sim) as me:
        await me.run(plain_image())
        assert await answer_time(me) > PAUSE / 2
        await me.run(plain_image(2))
        assert await answer_time(me) < PAUSE / 2
        await me.free(free_memory=True)
        assert await answer_time(me) > PAUSE / 2


async def test_pause_put_off_comes_when_the_ten_seconds_are_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "GC_INTERVAL", 0.5)
    async with Simulator(gc_pause=PAUSE) as sim, artist(sim) as me:
        await me.run(plain_image())
        await me.get("/prompt")
        await me.run(plain_image(2))
        assert sim.state.awake.is_set()
        end = time.monotonic() + 5
        while await answer_time(me) < PAUSE / 4:
            assert time.monotonic() < end
