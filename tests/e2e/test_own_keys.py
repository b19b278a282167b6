"""A key of Comfy.org that comes with a job of the Comfy API v2: in memory alone, in one process and
in several.
"""

from pathlib import Path
from typing import Any

import pytest

from tests.harness.graphs import partner
from tests.harness.machines import Machines
from tests.harness.process_farm import ProcessFarm
from tests.harness.processes import Served
from tests.harness.servers import needs_servers
from tests.harness.waits import until

pytestmark = pytest.mark.timeout(300)
GPUS = {"count": 1}
KEY = "comfyui-fedcba9876543210fedcba9876543210"


def submit(director: Served, seed: int) -> str:
    body = {"workflow": partner(seed), "extra_data": {"api_key_comfy_org": KEY}}
    answer = director.ask("POST", "/api/v2/jobs", json=body)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def ended(director: Served, job_id: str) -> Any:
    def job() -> Any:
        found = director.ask("GET", f"/api/v2/jobs/{job_id}").json()
        return found if found["status"] in ("succeeded", "failed") else None

    return until(job, within=90.0)


def allow(director: Served, backend_id: str) -> None:
    director.wait_online()
    director.ask(
        "PATCH", f"/api/backends/{backend_id}", json={"partner_nodes_allowed": True}
    ).raise_for_status()


def test_job_whose_key_was_lost_in_a_restart_says_so_and_nothing_stores_a_key(
    tmp_path: Path, gpus: Machines
) -> None:
    settings = {"DIRECTOR_TIME_SCALE": "0.3", "DIRECTOR_LOG_LEVEL": "DEBUG"}
    director = Served(tmp_path, gpus.urls, environment=settings)
    try:
        of_backend = f"/api/backends/{gpus.ids[0]}"
        allow(director, gpus.ids[0])
        assert ended(director, submit(director, 1))["status"] == "succeeded"
        director.ask("POST", f"{of_backend}/pause", json={}).raise_for_status()
        waiting = submit(director, 2)
        director.kill()
        logs = director.printed()
        director.start()
        director.ask("POST", f"{of_backend}/resume", json={}).raise_for_status()
        for _ in range(2):
            error = ended(director, waiting)["error"]
            assert (error["code"], "Submit the job again" in error["message"]) == ("key_lost", True)
            director.ask("POST", f"/api/job-groups/{waiting}/retry", json={}).raise_for_status()
        files = [one.read_bytes() for one in director.data.rglob("*") if one.is_file()]
        logs += director.printed()
    finally:
        director.close()
    assert any(waiting.encode() in one for one in files)
    assert not any(KEY.encode() in one for one in (*files, logs.encode()))


@pytest.mark.slow
@needs_servers
def test_key_reaches_the_runner_of_another_process(farm: ProcessFarm) -> None:
    farm.web.start()
    farm.runner("gpu-room")
    allow(farm.web, farm.gpus.ids[0])
    assert ended(farm.web, submit(farm.web, 1))["status"] == "succeeded"
