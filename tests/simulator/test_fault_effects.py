"""Faults that no other test would detect: the runner's tests pass, too, where a fault has no
effect.
"""

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any

import aiohttp
import pytest

from backends.simulator import Simulator
from backends.simulator.faults import Fault, FaultError, Faults, parse_fault
from tests.harness.graphs import plain_image, sampler, text_to_image
from tests.simulator.artist import PATIENCE, Artist, artist, soon, steps, the, types

BROKEN = (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, aiohttp.ClientPayloadError)
GRAPHS = {"picture": plain_image(), "sampler": text_to_image()}
NOTHING = {"queue_running": [], "queue_pending": []}


@pytest.mark.parametrize(
    ("name", "options", "graph", "error"),
    [
        (
            "node_error",
            {"type": "torch.OutOfMemoryError", "message": "no", "step": 2},
            "sampler",
            {"node_id": "3", "node_type": "KSampler", "exception_type": "torch.OutOfMemoryError"},
        ),
        (
            "node_error",
            {"node": "VAEDecode", "type": "ValueError", "message": "bad"},
            "sampler",
            {"node_id": "8", "exception_message": "bad\n"},
        ),
        ("node_error", {}, "picture", {}),
        (
            "out_of_memory",
            {},
            "sampler",
            {"node_id": "3", "exception_type": "torch.OutOfMemoryError"},
        ),
    ],
)
async def test_failing_node_is_the_chosen_one_and_fails_once(
    name: str, options: Any, graph: str, error: dict[str, Any], sim: Simulator, me: Artist
) -> None:
    sim.fault(name, **options)
    prompt_id, frames = await me.run(GRAPHS[graph])
    event = the("execution_error", frames)
    assert error.items() <= event.items()
    assert ("TIPS" in event["exception_message"]) == ("OutOfMemory" in event["exception_type"])
    if "step" in options:
        assert steps(frames) == [1, 2]
    assert (await me.history(prompt_id))["status"]["status_str"] == "error"
    assert "execution_success" in types((await me.run(GRAPHS[graph]))[1])


async def test_small_card_fails_at_large_images_only(sim: Simulator, me: Artist) -> None:
    sim.fault("out_of_memory", pixels=64 * 64, count=0)
    for side, end in ((64, "execution_success"), (72, "execution_error")):
        assert end in types((await me.run(text_to_image(side=side)))[1])


@pytest.mark.parametrize(
    ("name", "options", "end"),
    [
        ("interrupt_lost", {}, "execution_success"),
        ("slow_start", {"seconds": 60}, "execution_success"),
        ("uninterruptible", {}, "execution_interrupted"),
    ],
)
async def test_interrupt_comes_too_early_too_late_or_never(
    name: str, options: dict[str, Any], end: str, sim: Simulator, me: Artist
) -> None:
    sim.fault(name, **options)
    sim.fault("stuck", step=2, interruptible=False)
    prompt_id = await me.queue(sampler(steps=10))
    if name == "slow_start":
        await soon(lambda: sim.state.queue.is_running(prompt_id))
    else:
        await me.until_type("progress")
    await me.interrupt(prompt_id)
    sim.clear_faults()
    frames = await me.until_end(prompt_id)
    assert end in types(frames)
    assert steps(frames)[-1] == 10
    if name == "uninterruptible":
        assert the(end, frames)["node_id"] == "2"


async def test_sampling_is_slow_until_the_order_is_cleared(sim: Simulator, me: Artist) -> None:
    sim.fault("slow", seconds=600)
    prompt_id = await me.queue(sampler(steps=2))
    await me.until(lambda frame: frame["type"] == "executing" and frame["data"]["node"] == "1")
    sim.clear_faults()
    assert steps(await me.until_end(prompt_id)) == [1, 2]


async def test_late_history_is_empty_between_success_and_the_end(
    sim: Simulator, me: Artist
) -> None:
    sim.fault("late_history", seconds=60)
    prompt_id = await me.queue(sampler())
    await me.until_type("execution_success")
    assert await me.history(prompt_id) is None
    sim.clear_faults()
    await me.until_end(prompt_id)
    assert await me.history(prompt_id) is not None


async def test_history_entry_comes_after_all_frames_or_never(sim: Simulator, me: Artist) -> None:
    sim.fault("late_history_entry", seconds=60)
    prompt_id, _ = await me.run(sampler(1))
    assert await me.history(prompt_id) is None
    sim.clear_faults()
    await soon(lambda: prompt_id in sim.state.queue.history)
    sim.fault("no_history")
    prompt_id, frames = await me.run(sampler(2))
    assert "execution_success" in types(frames)
    assert await me.history(prompt_id) is None
    assert sim.state.queue.history


@pytest.mark.parametrize(
    ("name", "options", "answer"),
    [
        ("lose_answer", {}, None),
        ("prompt_500", {}, 500),
        ("other_500", {"queued": True, "workflow": "TestSampler"}, 500),
    ],
)
async def test_prompt_is_executed_although_its_answer_is_lost_or_wrong(
    name: str, options: Any, answer: int | None, sim: Simulator, me: Artist
) -> None:
    sim.fault(name, **options)
    status = None
    with contextlib.suppress(*BROKEN):
        status, _ = await me.post(sampler(), prompt_id="mine")
    assert status == answer
    assert sim.audit_log.find("accepted")
    await sim.wait_for("ended", prompt_id="mine", outcome="success")


async def test_prompt_is_queued_after_its_connection_broke(sim: Simulator, me: Artist) -> None:
    sim.fault("late_post", seconds=60)
    with pytest.raises(BROKEN):
        await me.post(sampler(), prompt_id="mine")
    assert sim.prompts == []
    sim.clear_faults()
    await sim.wait_for("ended", prompt_id="mine", outcome="success")


async def test_prompt_ends_before_its_answer(sim: Simulator, me: Artist) -> None:
    sim.fault("delay_answer", seconds=60)
    async with asyncio.TaskGroup() as tasks:
        posting = tasks.create_task(me.post(sampler(), prompt_id="mine"))
        await sim.wait_for("ended", prompt_id="mine", outcome="success")
        assert not posting.done()
        sim.clear_faults()
    assert posting.result()[0] == 200


@pytest.mark.parametrize(
    ("name", "status", "kind"),
    [
        ("html", 200, "text/html"),
        ("nonsense", 200, "application/json"),
        ("wrong_json", 200, "application/json"),
        ("redirect", 302, "application/octet-stream"),
        ("status", 503, "text/plain"),
    ],
)
async def test_wrong_answer_of_one_route(
    name: str, status: int, kind: str, sim: Simulator, me: Artist
) -> None:
    options = {"status": 503} if name == "status" else {}
    sim.fault(name, route="/queue", **options)
    await me.get("/system_stats")
    async with me.session.get("/api/queue", allow_redirects=False) as answer:
        assert (answer.status, answer.content_type) == (status, kind)
    assert await me.get("/queue") == NOTHING


async def test_connection_breaks_before_and_within_an_answer(sim: Simulator, me: Artist) -> None:
    sim.fault("reset_http", route="/queue", count=2)  # the client tries a GET twice
    sim.fault("cut", route="/object_info")
    for path in ("/queue", "/object_info"):
        with pytest.raises(BROKEN):
            await me.get(path)


@pytest.mark.parametrize(("part", "size"), [(0.5, 50), (1.0, 100)])
async def test_part_of_a_file_without_its_length_looks_whole(
    part: float, size: int, sim: Simulator, me: Artist
) -> None:
    (sim.output_folder / "a.png").write_bytes(bytes(100))
    sim.fault("truncate", route="/view", method="GET", part=part)
    async with me.session.get("/view?filename=a.png") as answer:
        assert (answer.status, len(await answer.read())) == (200, size)
        assert answer.headers.keys().isdisjoint({"Content-Length", "Transfer-Encoding"})


async def test_hanging_route_never_answers_and_a_slow_one_late(sim: Simulator, me: Artist) -> None:
    sim.fault("hang_http", route="/history")
    sim.fault("slow_http", route="/queue", seconds=0.3)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await me.get("/history")
    start = asyncio.get_running_loop().time()
    assert await me.get("/queue") == NOTHING
    assert asyncio.get_running_loop().time() - start >= 0.3


async def test_slow_view_is_the_same_file_late(sim: Simulator, me: Artist) -> None:
    (sim.output_folder / "a.png").write_bytes(bytes(3_000))
    found = []
    for rate in (0, 10_000):
        if rate:
            sim.fault("slow_view", bytes_per_second=rate)
        start = asyncio.get_running_loop().time()
        async with me.session.get("/view?filename=a.png") as answer:
            facts = [
                answer.headers.get(name)
                for name in ("ETag", "Last-Modified", "Content-Type", "Content-Length")
            ]
            found.append((answer.status, facts, await answer.read()))
    assert found[0] == found[1]
    assert (
        asyncio.get_running_loop().time() - start >= 0.15
    )  # a tenth of a second before each part but the first


async def test_dropped_sockets_end_without_a_close_frame(sim: Simulator, me: Artist) -> None:
    sim.fault("drop_sockets", at="step", step=2)
    prompt_id = await me.queue(sampler())
    assert (await me.until(lambda frame: frame["type"] == "closed"))[-1]["closed"] == 1006
    await sim.wait_for("ended", prompt_id=prompt_id, outcome="success")


@pytest.mark.parametrize("name", ["stall_sockets", "deaf"])
async def test_silent_socket_stays_open(name: str, sim: Simulator, me: Artist) -> None:
    async with artist(sim, "other") as other:
        sim.fault(name, client_id="artist")
        prompt_id = await me.queue(sampler())
        await sim.wait_for("ended", prompt_id=prompt_id)
        assert await me.receives_nothing()
        assert not me.socket.closed
        await other.until_type("status")


async def order(me: Artist, body: Any) -> tuple[int, Any]:
    async with me.session.post("/simulator/faults", json=body) as answer:
        return answer.status, await answer.json() if answer.status == 400 else None


async def test_faults_are_ordered_and_withdrawn_over_http(sim: Simulator, me: Artist) -> None:
    other = {"name": "other_500", "body": "no", "workflow": "TestSampler"}
    assert (await order(me, [{"name": "hang_http", "count": 0}, {"name": "prompt_500"}, other]))[
        0
    ] == 200
    assert await me.get("/simulator/state") == {"pending": [], "running": []}
    async with me.session.delete("/simulator/faults?name=hang_http") as gone:
        assert gone.status == 204
    assert await me.post({}) != (500, "no")
    assert await me.post(sampler()) == (500, "no")
    assert sim.audit_log.find("accepted") is None
    assert (await me.post(sampler()))[0] == 500
    assert (await order(me, {"name": "foreign_prompt", "seconds": 20}))[0] == 200
    await sim.wait_for("started", client_id="foreign-client", timeout=PATIENCE)


@pytest.mark.parametrize("body", [{"name": "no"}, {}, [1], "x", {"name": "slow", "seconds": "x"}])
async def test_wrong_orders_over_http_are_refused(body: Any, me: Artist) -> None:
    status, answer = await order(me, body)
    assert status == 400
    assert answer["error"]


@pytest.fixture
def faults() -> Faults:
    def ignore(_fault: Fault, _facts: Mapping[str, Any]) -> None:
        pass

    return Faults(ignore)


@pytest.mark.parametrize(
    ("options", "taken"),
    [
        ({}, [1, 0, 0, 0, 0]),
        ({"count": 2, "after": 1}, [0, 1, 1, 0, 0]),
        ({"count": 0}, [1, 1, 1, 1, 1]),
    ],
)
def test_order_is_taken_so_often(
    faults: Faults, options: dict[str, int], taken: list[bool]
) -> None:
    faults.inject("lose_answer", **options)
    assert [faults.take("lose_answer") is not None for _ in range(5)] == taken


@pytest.mark.parametrize(
    ("options", "other", "facts"),
    [
        ({"prompt_id": "p"}, {"prompt_id": "q"}, {"prompt_id": "p"}),
        ({"client_id": "c"}, {}, {"client_id": "c"}),
        (
            {"mark": "child-7"},
            {"extra_data": {"director": {"child": "child-8"}}},
            {"extra_data": {"director": {"child": "child-7"}}},
        ),
    ],
)
def test_order_waits_for_the_prompt_that_its_filter_selects(
    faults: Faults, options: dict[str, Any], other: dict[str, Any], facts: dict[str, Any]
) -> None:
    faults.inject("slow", **options)
    assert faults.take("slow", **other) is None
    assert faults.take("slow", **facts) is not None


def test_route_is_a_prefix_and_method_is_exact(faults: Faults) -> None:
    faults.inject("html", route="/history", method="get", count=0)
    assert faults.take_route(method="GET", path="/history/x")
    assert not faults.take_route(method="POST", path="/history")
    assert not faults.take_route(method="GET", path="/queue")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("lose_anser", {}, "There is no fault 'lose_anser'. Known: crash"),
        ("slow", {"second": 1}, "Fault 'slow' has no option 'second'. Known: count"),
        ("slow", {"seconds": -1}, "seconds=-1 is no float from 0 up"),
        ("slow", {"count": 1.5j}, "is no int"),
        ("stuck", {"interruptible": "perhaps"}, "interruptible='perhaps' is no bool"),
        ("restart", {"at": "noon"}, "at is one of now, accepted"),
    ],
)
def test_impossible_orders_are_refused_with_the_possible_values(
    faults: Faults, name: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(FaultError) as error:
        faults.inject(name, **options)
    assert message in str(error.value)
    assert faults.take(name) is None


def test_command_line_form_is_read() -> None:
    assert parse_fault("crash") == ("crash", {})
    parsed = parse_fault("node_error:type=OOM,message=CUDA out of memory")
    assert parsed == ("node_error", {"type": "OOM", "message": "CUDA out of memory"})
    with pytest.raises(FaultError, match="write NAME:key=value"):
        parse_fault("slow:5")
