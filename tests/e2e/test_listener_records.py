"""Programs that poll the ComfyUI listener of a real ``serve``: the requests of two nodes of n8n, and
those of comfy-cli's ``jobs``.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.e2e.test_listener_sockets import Farm, farm_of
from tests.harness.graphs import sampler, text_to_image
from tests.harness.waits import NO_TLS, until

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farm]:
    speeds = [{"seconds": seconds} for seconds in (0.5, 0.8)]
    with farm_of(tmp_path_factory.mktemp("farm"), *speeds) as made:
        yield made


class Poller:
    """Requests of a program, each on a connection of its own."""

    def __init__(self, farm: Farm) -> None:
        self.url = farm.url

    def get(self, path: str) -> Any:
        answer = httpx.get(f"{self.url}{path}", trust_env=False, verify=NO_TLS, timeout=30.0)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def post(self, path: str, body: Any = None) -> Any:
        answer = httpx.post(
            f"{self.url}{path}", json=body, trust_env=False, verify=NO_TLS, timeout=30.0
        )
        assert answer.status_code == 200, answer.text
        return answer.json() if answer.content else None

    def queued(self) -> dict[str, list[Any]]:
        """Return the items of the queue by the ids of their prompts."""
        queue = self.get("/queue")
        return {item[1]: item for item in [*queue["queue_running"], *queue["queue_pending"]]}


class Watch(threading.Thread):
    """Reads the queue, then the history of what is not in it, all the time, as a node of n8n does,
    which fails a prompt that is in neither.
    """

    def __init__(self, farm: Farm) -> None:
        super().__init__()
        self.poller = Poller(farm)
        self.prompt_ids: list[str] = []
        self.lost: list[str] = []
        self.rounds = 0
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.is_set():
            sent = [*self.prompt_ids]
            queued = self.poller.queued()
            for prompt_id in sent:
                if prompt_id not in queued and not self.poller.get(f"/history/{prompt_id}"):
                    self.lost.append(prompt_id)
            self.rounds += 1

    def end(self) -> None:
        self._ended.set()
        self.join()


def entry_of(poller: Poller, prompt_id: str) -> dict[str, Any]:
    """Return the entry of a prompt once its history has one, by the requests of n8n-nodes-comfyui."""

    def ended() -> Any:
        if prompt_id in poller.queued():
            return None
        history = poller.get(f"/history/{prompt_id}")
        assert prompt_id in history, "neither in the queue nor in the history"
        return history[prompt_id]

    entry: dict[str, Any] = until(ended, 90.0)
    return entry


def test_a_prompt_is_always_in_the_queue_or_the_history_also_during_a_retry(farm: Farm) -> None:
    poller, watch = Poller(farm), Watch(farm)
    assert poller.get("/system_stats")["devices"][0]["vram_total"]
    farm.machines[0].fault("out_of_memory")
    watch.start()
    try:
        for seed in range(4):
            prompt_id = poller.post("/prompt", {"prompt": text_to_image(seed)})["prompt_id"]
            watch.prompt_ids.append(prompt_id)
        entries = [entry_of(poller, prompt_id) for prompt_id in watch.prompt_ids]
        before = watch.rounds
        until(lambda: watch.rounds > before + 1)
    finally:
        watch.end()
    assert watch.lost == []
    for entry in entries:
        assert entry["status"]["status_str"] == "success"
        # The other node reads these alone.
        (file,) = entry["outputs"]["9"]["images"]
        query = "&".join(f"{name}={file[name]}" for name in ("filename", "subfolder", "type"))
        answer = httpx.get(f"{farm.url}/view?{query}", trust_env=False, timeout=30.0)
        assert answer.content.startswith(b"\x89PNG"), (answer.status_code, file)
    groups = farm.served.ask("GET", "/api/job-groups").json()["results"]
    attempts = [
        farm.served.group(group["job_group_id"])["child_jobs"][0]["attempts"] for group in groups
    ]
    assert max(attempts) == 2, "one was retried on the other machine"


def test_an_error_of_a_node_is_in_the_history_as_its_reader_wants_it(farm: Farm) -> None:
    poller = Poller(farm)
    for machine in farm.machines:
        machine.fault("node_error", count=2, message="no such sampler", type="ValueError")
    prompt_id = poller.post("/prompt", {"prompt": text_to_image(77)})["prompt_id"]
    entry = entry_of(poller, prompt_id)
    assert entry["status"]["status_str"] == "error"
    errors = [data for kind, data in entry["status"]["messages"] if kind == "execution_error"]
    assert (errors[0]["node_id"], errors[0]["node_type"]) == ("3", "KSampler")
    assert errors[0]["exception_message"] == "no such sampler"
    for machine in farm.machines:
        machine.clear_faults()


def test_the_history_outlasts_a_restart(farm: Farm) -> None:
    poller = Poller(farm)
    prompt_id = str(uuid.uuid4())
    poller.post("/prompt", {"prompt": text_to_image(99), "prompt_id": prompt_id})
    entry = entry_of(poller, prompt_id)
    farm.served.stop()
    farm.served.start()
    farm.served.wait_online()
    assert poller.get(f"/history/{prompt_id}") == {prompt_id: entry}
    assert [*poller.get("/history?max_items=1")] == [prompt_id]


def test_comfy_cli_lists_watches_and_cancels_jobs(farm: Farm) -> None:
    poller = Poller(farm)
    long = sampler(seed=5, steps=200, delay=0.5)
    running = [poller.post("/prompt", {"prompt": long, "client_id": "cli"})["prompt_id"]]
    # One more than the machines have room for.
    for seed in range(6, 12):
        graph = sampler(seed=seed, steps=200, delay=0.5)
        running.append(poller.post("/prompt", {"prompt": graph, "client_id": "cli"})["prompt_id"])
    until(lambda: len(poller.get("/queue")["queue_running"]) == len(farm.machines))
    queue = poller.get("/queue")
    item = queue["queue_pending"][-1]
    assert item[1] == running[-1]
    assert item[2]["1"]["class_type"] == "TestSampler"
    assert item[3]["client_id"] == "cli"
    # jobs ls, jobs status, jobs cancel: of a waiting one, then of the one that runs.
    assert poller.get("/history?max_items=1").keys() - set(running)
    poller.post("/queue", {"delete": [item[1]]})
    assert item[1] not in poller.queued()
    status = poller.get(f"/history/{item[1]}")[item[1]]["status"]
    assert not status["completed"]
    assert status["messages"][-1][0] == "execution_interrupted"
    presented, other = (item[1] for item in queue["queue_running"])
    poller.post("/interrupt")
    assert presented not in poller.queued()
    assert other in poller.queued()
    jobs = poller.get("/api/jobs?status=in_progress,pending")
    assert {job["id"] for job in jobs["jobs"]} == set(poller.queued())
    poller.post("/queue", {"clear": True})
    assert poller.get("/queue")["queue_pending"] == []
    assert other in poller.queued()
    assert poller.post("/api/jobs/cancel", {"job_ids": running}) == {"cancelled": True}
    assert poller.queued() == {}
    # What was stopped is not executed again.
    until(lambda: all(_is_idle(machine) for machine in farm.machines))


def _is_idle(machine: Any) -> bool:
    queue = httpx.get(f"{machine.url}/queue", trust_env=False).json()
    return not queue["queue_running"] and not queue["queue_pending"]
