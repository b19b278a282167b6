"""A key for partner nodes that comes with a prompt at the ComfyUI listener: in memory alone, to a
confirmed machine alone.
"""

import uuid
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.test_comfyui_listener import Listener
from tests.harness.graphs import partner
from tests.harness.machines import Machines
from tests.harness.process_farm import ProcessFarm
from tests.harness.processes import Served
from tests.harness.servers import free_port, needs_servers
from tests.harness.waits import until

pytestmark = pytest.mark.timeout(400)
GPUS = {"count": 1}
NAME = "auth_token_comfy_org"
TOKEN = "eyJhbGciOi.JIUzI1NiJ9-fedcba9876543210.fedcba9876543210"
PORTS = ("--port", "0", "--comfyui-port", "0")


def post(listener: Listener, seed: int, **extra_data: str) -> httpx.Response:
    prompt_id = str(uuid.UUID(int=seed))
    body = {"prompt": partner(seed), "prompt_id": prompt_id, "extra_data": extra_data}
    return listener.post("/prompt", json=body)


def submit(listener: Listener, seed: int) -> str:
    answer = post(listener, seed, **{NAME: TOKEN})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["prompt_id"])


def ended(listener: Listener, prompt_id: str) -> Any:
    return until(lambda: listener.get(f"/history/{prompt_id}").json().get(prompt_id), within=120.0)


def allow(director: Served, backend_id: str) -> None:
    director.wait_online()
    director.ask(
        "PATCH", f"/api/backends/{backend_id}", json={"partner_nodes_allowed": True}
    ).raise_for_status()


@pytest.mark.parametrize("processes", ["1", pytest.param("3", marks=pytest.mark.slow)])
def test_secret_goes_to_a_confirmed_machine_and_is_stored_and_shown_nowhere(
    tmp_path: Path, gpus: Machines, processes: str
) -> None:
    settings = {"DIRECTOR_TIME_SCALE": "0.3", "DIRECTOR_LOG_LEVEL": "DEBUG"}
    arguments = ("--processes", processes, *PORTS)
    director = Served(tmp_path, gpus.urls, arguments=arguments, environment=settings)
    try:
        director.wait_ready()
        director.wait_online()
        listener = Listener(director)
        # No machine is confirmed for partner nodes.
        refused = post(listener, 1, **{NAME: TOKEN})
        assert refused.status_code == 400
        assert "Not confirmed for partner nodes" in refused.text
        wrong = post(listener, 1, **{NAME: 'a "quoted" one'})
        assert (wrong.status_code, wrong.json()["error"]["type"]) == (400, "invalid_secret")
        allow(director, gpus.ids[0])
        prompt_id = submit(listener, 2)
        shown = [str(ended(listener, prompt_id))]
        assert "'status_str': 'success'" in shown[0]
        of_backend = f"/api/backends/{gpus.ids[0]}"
        director.ask("POST", f"{of_backend}/pause", json={}).raise_for_status()
        waiting = submit(listener, 3)
        shown += [listener.get(path).text for path in ("/queue", "/history", "/api/jobs")]
        shown += [refused.text, wrong.text, director.ask("GET", "/api/job-groups").text]
        assert any(waiting in text for text in shown)
        director.kill()
        logs = director.printed()
        director.start()
        director.wait_ready()
        listener = Listener(director)
        director.ask("POST", f"{of_backend}/resume", json={}).raise_for_status()
        failed = ended(listener, waiting)
        assert failed["status"]["status_str"] == "error"
        assert "Submit the job again with its key." in str(failed["status"]["messages"])
        files = [path.read_bytes() for path in director.data.rglob("*") if path.is_file()]
        logs += director.printed()
    finally:
        director.close()
    assert any(waiting.encode() in content for content in files)
    contents = (*files, logs.encode(), *(text.encode() for text in shown))
    assert not any(TOKEN.encode() in content for content in contents)


@pytest.mark.slow
@needs_servers
def test_secret_reaches_the_runner_of_another_process(farm: ProcessFarm) -> None:
    farm.web.start(DIRECTOR_COMFYUI_PORT=str(free_port()))
    for name in ("first", "second"):
        farm.runner(name)
    allow(farm.web, farm.gpus.ids[0])
    listener = Listener(farm.web)
    entry = ended(listener, submit(listener, 1))
    assert entry["status"]["status_str"] == "success"
