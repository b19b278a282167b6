"""The sockets of the ComfyUI listener of a real ``serve`` over three machines of unequal speed."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import sqlite3
import struct
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect as async_connect

from tests.harness.comfy_script import ComfyScript, kinds
from tests.harness.graphs import Graph, sampler, text_to_image
from tests.harness.processes import Served
from tests.harness.servers import free_port
from tests.harness.simulator_thread import SimulatorThread
from tests.harness.waits import until

pytestmark = pytest.mark.timeout(300)

#: The frames of ``text_to_image`` but for those of its progress.
WHOLE = [
    "execution_start",
    "execution_cached",
    *["executing"] * 7,
    "executed",
    "execution_success",
    "executing",
]


class Farm:
    """A ``serve`` with the listener, which is there again at the same port after each start."""

    def __init__(self, folder: Path, machines: list[SimulatorThread], processes: str) -> None:
        self.machines = machines
        urls = [machine.url for machine in machines]
        port = str(free_port())
        arguments = ("--port", "0", "--comfyui-port", port, "--processes", processes)
        self.served = Served(folder, urls, arguments=arguments, keeps_port=True)
        self.served.wait_online()
        self.url = self.served.wait_printed(re.compile(r"As one ComfyUI: (http://\S+)"))[1]

    def backend_id(self, machine: int) -> str:
        rows = self.served.ask("GET", "/api/backends").json()["backends"]
        port = self.machines[machine].url.rpartition(":")[2]
        return next(str(row["backend_id"]) for row in rows if row["url"].endswith(f":{port}"))

    def group(self) -> dict[str, Any]:
        """Return the newest group."""
        rows = self.served.ask("GET", "/api/job-groups").json()["results"]
        return self.served.group(rows[0]["job_group_id"])


@contextmanager
def farm_of(folder: Path, *settings: dict[str, Any], processes: str = "1") -> Iterator[Farm]:
    with ExitStack() as stack:
        machines = [
            stack.enter_context(SimulatorThread(name=f"gpu-{number}", **own))
            for number, own in enumerate(settings, 1)
        ]
        farm = Farm(folder, machines, processes)
        stack.callback(farm.served.close)
        yield farm


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farm]:
    speeds = [{"seconds": seconds, "preview_fps": 10.0} for seconds in (0.8, 1.0, 1.2)]
    with farm_of(tmp_path_factory.mktemp("farm"), *speeds) as made:
        yield made


def hold(farm: Farm, step: int) -> None:
    """Stop each machine before a step of its next prompt, until :func:`release`."""
    for number in range(len(farm.machines)):
        farm.machines[number].fault("stuck", step=step)


def release(farm: Farm) -> None:
    for machine in farm.machines:
        machine.clear_faults()


def sent_as_frames(seed: int, pictures: int = 2) -> Graph:
    graph = text_to_image(seed, steps=2, side=64)
    graph["5"]["inputs"]["batch_size"] = pictures
    graph["9"] = {"class_type": "SaveImageWebsocket", "inputs": {"images": ["8", 0]}}
    return graph


def prompt_of(frame: Any) -> str | None:
    """Return the prompt of a frame, None of a status and of what names none."""
    return None if isinstance(frame, bytes) else frame["data"].get("prompt_id")


def test_script_reads_the_history_of_its_prompt_at_once(farm: Farm) -> None:
    with ComfyScript(farm.url) as script:
        prompt_id = script.queue(text_to_image(11, steps=2))
        frames = script.until_done(prompt_id)
        entry = script.get(f"/history/{prompt_id}").json()[prompt_id]
    assert kinds([frame for frame in frames if not isinstance(frame, bytes)]) == WHOLE
    assert frames[0]["data"]["sid"] == script.client_id
    assert all(
        prompt_of(frame) == prompt_id for frame in frames if kinds([frame]) in [[k] for k in WHOLE]
    )
    (image,) = entry["outputs"]["9"]["images"]
    executed = next(frame for frame in frames if kinds([frame]) == ["executed"])
    assert executed["data"]["output"]["images"] == [image]
    job_id = farm.group()["child_jobs"][0]["job_id"]
    assert image["subfolder"] == job_id
    assert script.get("/queue").json() == {"queue_running": [], "queue_pending": []}


@pytest.mark.parametrize(
    ("features", "head"), [(None, 1), ({"supports_preview_metadata": True}, 4)]
)
def test_pictures_of_frames_come_whole_and_previews_in_the_form_that_the_client_knows(
    farm: Farm, features: dict[str, Any] | None, head: int
) -> None:
    with ComfyScript(farm.url, features=features) as script:
        prompt_id = script.queue(sent_as_frames(20 + head))
        script.until_done(prompt_id)
    binary = [frame for frame in script.frames if isinstance(frame, bytes)]
    assert {struct.unpack_from(">I", frame)[0] for frame in binary} == {head}
    current, images = "", list[bytes]()
    for frame in script.frames:
        if isinstance(frame, bytes):
            start = 8 + (struct.unpack_from(">I", frame, 4)[0] if head == 4 else 0)
            images += [frame[start:]] if current == "9" else []
        elif frame["type"] == "executing":
            current = frame["data"]["node"]
    assert [image[:8] for image in images] == [b"\x89PNG\r\n\x1a\n"] * 2
    child = farm.group()["child_jobs"][0]
    stored = [farm.served.ask("GET", file["url"]).content for file in child["outputs"]["images"]]
    assert images == stored
    if head == 4:
        length = struct.unpack_from(">I", binary[-1], 4)[0]
        assert json.loads(binary[-1][8 : 8 + length])["prompt_id"] == prompt_id
        assert script.frames[1]["type"] == "feature_flags"
        assert script.frames[1]["data"] == script.get("/features").json()


def test_text_of_a_node_comes_as_its_frame(farm: Farm) -> None:
    with ComfyScript(farm.url) as script:
        script.until_done(script.queue({"1": {"class_type": "TestText", "inputs": {"text": "hé"}}}))
    (text,) = [frame for frame in script.frames if isinstance(frame, bytes)]
    assert text == struct.pack(">II", 3, 1) + b"1" + "hé".encode()


def test_four_prompts_of_one_client_run_side_by_side_and_never_interleave(farm: Farm) -> None:
    hold(farm, step=4)
    with ComfyScript(farm.url) as script:
        ids = [script.queue(text_to_image(30 + number, steps=8)) for number in range(4)]
        until(lambda: all(machine[0].state.queue.running for machine in farm.machines))
        release(farm)
        done = 0
        while done < len(ids):
            frame = script.receive()
            done += kinds([frame]) == ["executing"] and frame["data"]["node"] is None
    whose = [prompt for frame in script.frames if (prompt := prompt_of(frame))]
    runs = [prompt for at, prompt in enumerate(whose) if at == 0 or whose[at - 1] != prompt]
    assert sorted(runs) == sorted(ids)
    for prompt_id in ids:
        of_prompt = [frame for frame in script.frames if prompt_of(frame) == prompt_id]
        found = kinds(of_prompt)
        assert found[:2] == ["execution_start", "execution_cached"]
        assert found[-3:] == ["executed", "execution_success", "executing"]
        assert found.count("execution_start") == 1


def test_retry_on_another_machine_shows_one_start_and_no_error(tmp_path: Path) -> None:
    with farm_of(tmp_path, {"seconds": 0.4}, {"seconds": 0.4}) as farm:
        farm.machines[0].fault("cuda_fatal", count=0)
        farm.machines[0].fault("stuck")
        second = farm.backend_id(1)
        assert farm.served.ask("POST", f"/api/backends/{second}/pause", json={}).is_success
        with ComfyScript(farm.url) as script:
            prompt_id = script.queue(text_to_image(40, steps=2))
            while script.receive()["type"] != "execution_start":
                pass
            assert farm.served.ask("POST", f"/api/backends/{second}/resume", json={}).is_success
            release(farm)
            script.until_done(prompt_id)
        (child,) = farm.group()["child_jobs"]
    assert (child["attempts"], child["backend_id"]) == (2, second)
    found = kinds(script.frames)
    assert found.count("execution_start") == found.count("execution_cached") == 1
    assert found[-2:] == ["execution_success", "executing"]
    assert "execution_error" not in found


def test_error_comes_with_what_comfyui_said_of_it(farm: Farm) -> None:
    graph = sampler(50, 2)
    graph["3"] = {
        "class_type": "TestFail",
        "inputs": {"image": ["1", 0], "kind": "value", "after": 0.1},
    }
    graph["4"] = {"class_type": "PreviewImage", "inputs": {"images": ["3", 0]}}
    with ComfyScript(farm.url) as script:
        prompt_id = script.queue(graph)
        frames = script.until_done(prompt_id)
        entry = script.get(f"/history/{prompt_id}").json()[prompt_id]
    (error,) = [frame["data"] for frame in frames if kinds([frame]) == ["execution_error"]]
    assert kinds(frames)[-2:] == ["execution_error", "executing"]
    assert (error["node_id"], error["node_type"]) == ("3", "TestFail")
    assert error["traceback"]
    assert entry["status"]["status_str"] == "error"


def test_who_joins_later_gets_the_state_of_the_prompt_that_runs(farm: Farm) -> None:
    hold(farm, step=2)
    with ComfyScript(farm.url, "krita") as first:
        prompt_id = first.queue(sampler(60, 3))
        while kinds([first.receive()]) or first.frames[-1]["type"] != "progress":
            pass
        with ComfyScript(farm.url, "krita") as second:
            frames = [second.receive() for _ in range(4)]
            assert [frame["type"] for frame in frames[:3]] == [
                "status",
                "execution_start",
                "execution_cached",
            ]
            assert frames[0]["data"]["status"]["exec_info"] == {"queue_remaining": 1}
            assert {prompt_of(frame) for frame in frames[1:]} == {prompt_id}
            release(farm)
            second.until_done(prompt_id)
            first.until_done(prompt_id)
    with ComfyScript(farm.url, "krita") as third:
        # What was presented is not presented again.
        assert third.receive()["type"] == "status"
        with pytest.raises(TimeoutError):
            third.receive(2.0)


def test_end_that_no_socket_got_is_sent_to_the_next_one(farm: Farm) -> None:
    hold(farm, step=1)
    with ComfyScript(farm.url) as script:
        prompt_id = script.queue(sampler(70, 5))
        while script.receive()["type"] != "execution_start":
            pass
    release(farm)
    until(lambda: prompt_id in httpx.get(f"{farm.url}/history/{prompt_id}", trust_env=False).json())
    with ComfyScript(farm.url, script.client_id) as again:
        frames = again.until_done(prompt_id)
    assert kinds(frames) == [
        "execution_start",
        "execution_cached",
        "executed",
        "execution_success",
        "executing",
    ]


def test_client_that_waits_gets_a_status_every_ten_seconds(farm: Farm) -> None:
    with ComfyScript(farm.url) as script:
        farm.served.ask("POST", "/api/queue/pause", json={})
        try:
            script.queue(sampler(80, 1))
            moments = list[float]()
            while len(moments) < 3:
                frame = script.receive()
                if frame["data"]["status"]["exec_info"]["queue_remaining"]:
                    moments.append(time.monotonic())
        finally:
            farm.served.ask("POST", "/api/queue/resume", json={})
    # comfy-cli gives up after 30 s of silence.
    assert all(later - earlier < 20.0 for earlier, later in itertools.pairwise(moments))


@pytest.mark.parametrize("processes", ["1", pytest.param("3", marks=pytest.mark.slow)])
def test_prompt_of_a_killed_director_ends_for_the_client_that_connects_again(
    tmp_path: Path, processes: str
) -> None:
    with farm_of(tmp_path, {"seconds": 0.5}, processes=processes) as farm:
        (machine,) = farm.machines
        hold(farm, step=4)
        with ComfyScript(farm.url, "krita") as script:
            first = script.queue(text_to_image(90, steps=8))
            while kinds([script.receive()]) or script.frames[-1]["type"] != "progress":
                pass
            farm.served.kill()
        release(farm)
        farm.served.start()
        with ComfyScript(farm.url, "krita") as script:
            frames = script.until_done(first)
            assert first in script.get(f"/history/{first}").json()
            # Until that is stored, a Director that is killed sends the end again.
            until(lambda: not _unpresented(farm))
            machine.fault("late_history", seconds=60.0)
            second = script.queue(text_to_image(91, steps=2))
            machine.wait_for("ended")
            until(lambda: len(_ended(machine)) == 2)
            farm.served.kill()
        release(farm)
        _check_whole(frames, first)
        farm.served.start()
        with ComfyScript(farm.url, "krita") as script:
            frames = script.until_done(second)
            assert second in script.get(f"/history/{second}").json()
            assert script.get("/queue").json() == {"queue_running": [], "queue_pending": []}
        _check_whole(frames, second)
        until(lambda: not _unpresented(farm))
        assert len(_ended(machine)) == 2


def _ended(machine: SimulatorThread) -> list[Any]:
    return [entry for entry in machine[0].audit_log.entries if entry["kind"] == "ended"]


def _unpresented(farm: Farm) -> list[Any]:
    with sqlite3.connect(farm.served.data / "director.sqlite3") as database:
        query = "SELECT id FROM jobgroups_listenerprompt WHERE presented_at IS NULL"
        return database.execute(query).fetchall()


def _check_whole(frames: list[Any], prompt_id: str) -> None:
    found = kinds([frame for frame in frames if prompt_of(frame) == prompt_id])
    assert found[:2] == ["execution_start", "execution_cached"]
    assert found[-3:] == ["executed", "execution_success", "executing"]
    assert [found.count(kind) for kind in (*found[:2], "execution_success")] == [1, 1, 1]
    assert {prompt_of(frame) for frame in frames} <= {prompt_id, None}


def test_client_that_never_reads_holds_up_no_other(farm: Farm) -> None:
    with ComfyScript(farm.url, user="sleeper") as sleeper:
        graph = text_to_image(100, steps=2, side=1536)
        graph["5"]["inputs"]["batch_size"] = 6
        graph["9"] = {"class_type": "SaveImageWebsocket", "inputs": {"images": ["8", 0]}}
        asleep = sleeper.queue(graph)
        until(lambda: asleep in sleeper.get(f"/history/{asleep}").json())
        with ComfyScript(farm.url) as script:
            script.until_done(script.queue(text_to_image(101, steps=2)))
        images = sleeper.frame_images(asleep, "9")
    assert len(images) == 6


def test_too_many_sockets_of_one_program_leave_the_others_alone(farm: Farm) -> None:
    asyncio.run(_crowd(farm, "crowded", 16, 4008))
    asyncio.run(_crowd(farm, "", 256, 4029))


async def _crowd(farm: Farm, client_id: str, most: int, code: int) -> None:
    """Open more sockets of one owner than may be open, and check how many stay so while another one
    works.
    """
    url = f"ws{farm.url.removeprefix('http')}/ws?clientId={client_id}"

    def work() -> None:
        with ComfyScript(farm.url, user="worker") as script:
            script.until_done(script.queue(sampler(int(time.time()), 2, 0.1)))

    async with AsyncExitStack() as stack:
        crowd = [
            await stack.enter_async_context(
                async_connect(url, additional_headers={"Comfy-User": "crowd"}, proxy=None)
            )
            for _ in range(most + 20)
        ]
        async with asyncio.timeout(30.0):
            await asyncio.to_thread(work)
        closed = [socket for socket in crowd if socket.close_code is not None]
        assert len(closed) == 20
        assert {socket.close_code for socket in closed} == {code}
