"""`--gc-pause`: right after a prompt nothing is answered for a moment, and then not for 10 s."""

from __future__ import annotations

import time

import pytest

from backends.simulator import Simulator, garbage
from tests.simulator.artist import Artist, artist
from tests.simulator.graphs import plain_image, sampler

PAUSE = 0.25


async def answer_time(me: Artist) -> float:
    start = time.monotonic()
    await me.get("/prompt")
    return time.monotonic() - start


async def test_first_prompt_pauses_the_answers_and_the_next_within_ten_seconds_does_not() -> None:
    async with Simulator(gc_pause=PAUSE) as sim, artist(sim) as me:
        await me.run(plain_image())
        assert await answer_time(me) > PAUSE / 2
        assert await answer_time(me) < PAUSE / 2
        await me.run(plain_image(2))
        assert await answer_time(me) < PAUSE / 2


async def test_next_prompt_waits_for_the_end_of_the_pause() -> None:
    async with Simulator(gc_pause=PAUSE) as sim, artist(sim) as me:
        first = await me.queue(sampler(steps=1, delay=0.2))
        second = await me.queue(plain_image())
        await me.until_end(first)
        start = time.monotonic()
        await me.until_end(second)
        assert time.monotonic() - start > PAUSE / 2


async def test_pause_put_off_comes_when_the_ten_seconds_are_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(garbage, "INTERVAL", 0.5)
    async with Simulator(gc_pause=PAUSE) as sim, artist(sim) as me:
        await me.run(plain_image())
        await me.get("/prompt")
        await me.run(plain_image(2))
        assert sim.state.awake.is_set()
        end = time.monotonic() + 5
        while await answer_time(me) < PAUSE / 4:
            assert time.monotonic() < end


async def test_freed_memory_is_collected_at_once() -> None:
    async with Simulator(gc_pause=PAUSE) as sim, artist(sim) as me:
        await me.run(plain_image())
        await me.get("/prompt")
        async with me.session.post("/free", json={"free_memory": True}) as answer:
            assert answer.status == 200
        assert await answer_time(me) > PAUSE / 2


async def test_without_the_option_nothing_pauses(me: Artist) -> None:
    await me.run(plain_image())
    assert await answer_time(me) < 0.1


async def test_server_that_dies_in_its_pause_comes_back_awake() -> None:
    async with Simulator(gc_pause=60.0) as sim, artist(sim) as me:
        await me.run(plain_image())
        await sim.restart()
        async with artist(sim) as again:
            assert await answer_time(again) < 1.0
