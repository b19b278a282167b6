"""Clients that change priorities as fast as ``serve`` answers, beside jobs and other clients."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.harness import laws
from tests.harness.graphs import picture
from tests.harness.machines import Machines
from tests.harness.processes import PROCESSES, Served, stop_in_order
from tests.harness.servers import needs_servers

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

GPUS = {"count": 2, "seconds": 0.4}
CLIENTS, CHANGES = 16, 20  #: Clients, and changes by each.


@pytest.fixture(params=["SQLite", pytest.param("PostgreSQL", marks=needs_servers)])
def served(
    tmp_path: Path, gpus: Machines, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Served]:
    monkeypatch.setenv(PROCESSES, "3")
    url = request.getfixturevalue("url") if request.param == "PostgreSQL" else ""
    settings = {"DIRECTOR_DATABASE_URL": url} if url else {}
    served = Served(tmp_path, gpus.urls, arguments=("--port", "0"), environment=settings)
    served.wait_online()
    yield served
    served.close()


def change(url: str, group_id: str) -> tuple[Counter[int], int]:
    """Change the priority of a group without a pause; return the statuses, and what was stored
    last.
    """
    statuses, stored = Counter[int](), -1
    with httpx.Client(base_url=url, trust_env=False, timeout=60.0) as client:
        while statuses[200] < CHANGES:
            priority = statuses.total() % 100
            answer = client.patch(f"/api/job-groups/{group_id}", json={"priority": priority})
            statuses[answer.status_code] += 1
            if answer.status_code == 503:
                assert int(answer.headers["Retry-After"]) > 0
            else:
                assert answer.json()["priority"] == priority, answer.text
                stored = priority
    return statuses, stored


def test_priorities_that_change_all_the_time_keep_no_other_client_waiting(
    served: Served, gpus: Machines
) -> None:
    changed = [
        served.submit(picture(), ["*"], count=1, submitter=f"s{at}") for at in range(CLIENTS)
    ]
    many = served.submit(picture(), ["*"], count=10, submitter="anna", priority=0)
    one_job = {"workflow_json": picture(), "backend_ids": ["*"], "count": 1, "submitter": "zoe"}
    beside: list[httpx.Response] = []
    with ThreadPoolExecutor(CLIENTS) as threads:
        clients = [threads.submit(change, served.wait_url(), one) for one in changed]
        while not all(client.done() for client in clients):
            beside.append(served.ask("POST", "/api/job-group", json=one_job))
            assert served.group(many)["priority"] == 0
    results = [client.result() for client in clients]
    assert {status for statuses, _ in results for status in statuses} <= {200, 503}
    # A submission that waits for 5 s is refused.
    assert {answer.status_code for answer in beside} <= {201, 503}
    submitted = [answer.json()["job_group_id"] for answer in beside if answer.is_success]
    assert submitted
    for group_id, (_, stored) in zip(changed, results, strict=True):
        assert served.group(group_id)["priority"] == stored
    for backend_id in gpus.ids:
        served.ask("POST", f"/api/backends/{backend_id}/pause")
    usual = served.submit(picture(), ["*"], count=20, submitter="ben", priority=99)
    urgent = served.submit(picture(), ["*"], count=2, submitter="olga", priority=0)
    path = f"/api/job-groups/{urgent}"
    assert served.ask("PATCH", path, json={"priority": 100}).status_code == 200
    for backend_id in gpus.ids:
        served.ask("POST", f"/api/backends/{backend_id}/resume")
    groups = [
        served.wait_ended(one, within=200) for one in (*changed, *submitted, many, usual, urgent)
    ]
    group_of = {
        job["job_id"]: group["job_group_id"] for group in groups for job in group["child_jobs"]
    }
    assert {group["status"] for group in groups} == {"completed"}
    assert laws.executed_once(gpus.seen()) == sorted(group_of)
    seen = laws.Seen(gpus.seen())
    arrived = sorted((at, group_of[seen.job[prompt]]) for prompt, at in seen.arrived.items())
    order = [group_id for _, group_id in arrived if group_id in (usual, urgent)]
    # A runner reads the queue for a tenth of the time, so it may claim some jobs by the order before.
    assert urgent not in order[-5:], order
    stop_in_order(served)
