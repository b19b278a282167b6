"""An answer is never older than a write that was acknowledged before its request began, on any web."""

import itertools
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.harness.graphs import picture
from tests.harness.machines import Machines
from tests.harness.process_farm import ProcessFarm
from tests.harness.processes import Served, serving
from tests.harness.servers import needs_servers

pytestmark = pytest.mark.timeout(300)

#: For which clients write and read.
SECONDS = 1.5
JOBS = 6
GPUS = {"count": 2, "seconds": 60.0}


class Writes:
    """Writes of one thread, and how many have begun and were acknowledged. What they lead to
    follows from the number.
    """

    def __init__(self, send: Callable[[int], None]) -> None:
        self.begun = self.acknowledged = 0
        self._send = send

    def next(self) -> None:
        self.begun += 1
        self._send(self.begun)
        self.acknowledged = self.begun


def repeat(step: Callable[[], None], until: float) -> None:
    step()
    while time.monotonic() < until:
        step()


class Client:
    """Requests of one thread about a group, to each web in turn."""

    def __init__(self, stack: ExitStack, webs: list[Served], group: dict[str, Any]) -> None:
        self._addresses = itertools.cycle(
            [f"{web.url}/api/job-groups/{group['job_group_id']}" for web in webs]
        )
        self._http = stack.enter_context(httpx.Client(trust_env=False, timeout=60.0))
        self._kept: dict[str, httpx.Response] = {}

    def send(self, method: str, path: str = "") -> None:
        answer = self._http.request(method, f"{next(self._addresses)}{path}")
        while "backend_unavailable" in answer.text:  # the simulators are slow on a busy machine
            time.sleep(0.1)
            answer = self._http.request(method, f"{next(self._addresses)}{path}")
        answer.raise_for_status()

    def get(self, path: str) -> dict[str, Any]:
        """Return an answer, from memory if it is 304."""
        url = f"{next(self._addresses)}{path}"
        kept = self._kept.get(url)
        answer = self._http.get(
            url, headers={"If-None-Match": kept.headers["ETag"]} if kept else {}
        )
        if kept is None or answer.status_code != 304:
            kept = self._kept[url] = answer.raise_for_status()
        return dict(kept.json())


def stars_fit(shown: dict[int, bool], number: int) -> bool:
    """Return whether positions have the stars of write ``number``: each write turns the next
    position's star.
    """
    return all(
        starred == bool((number + JOBS - 1 - at) // JOBS % 2) for at, starred in shown.items()
    )


def life_fits(shown: dict[str, Any], number: int) -> bool:
    """Return whether a group or its first job is as after write ``number``: of a cancel of that
    job, of all, a retry.
    """
    turn, phase = divmod(number, 3)
    if "run" in shown:
        ended = shown["completed_at"] is not None
        return (shown["run"], ended, shown["cancelled_count"]) == (
            turn + 1,
            phase == 2,
            (0, 1, JOBS)[phase],
        )
    return (shown["status"] == "cancelled") == (phase > 0)


def check_answers(webs: list[Served], gpus: Machines) -> None:
    made = (
        webs[0]
        .ask(
            "POST", "/api/job-group", json={"workflow_json": picture(), "backend_ids": gpus.ids * 3}
        )
        .json()
    )
    jobs = [one["job_id"] for one in made["child_jobs"]]

    def turn_star(client: Client, number: int) -> None:
        again, at = divmod(number - 1, JOBS)
        client.send("DELETE" if again % 2 else "PUT", f"/jobs/{jobs[at]}/star")

    def live(client: Client, number: int) -> None:
        client.send(
            *{1: ("DELETE", f"/jobs/{jobs[0]}"), 2: ("DELETE",), 0: ("POST", "/retry")}[number % 3]
        )

    newest = {"seq": 0, "revision": 0}

    def read(client: Client, path: str, positions: list[int]) -> None:
        before, known = (stars.acknowledged, life.acknowledged), dict(newest)
        answer = client.get(path)
        turns, steps = (
            range(first, one.begun + 1) for first, one in zip(before, (stars, life), strict=True)
        )
        rows = answer.get("child_jobs", [answer])
        starred = {at: row["starred"] for at, row in zip(positions, rows, strict=True)}
        assert any(stars_fit(starred, number) for number in turns), (path, starred, turns)
        assert any(life_fits(answer, number) for number in steps), (path, answer, steps)
        for name in newest.keys() & answer.keys():
            assert answer[name] >= known[name], (path, name, known)
            newest[name] = max(newest[name], answer[name])

    with ExitStack() as stack:
        threads = stack.enter_context(ThreadPoolExecutor(6))
        client = partial(Client, stack, webs, made)
        stars, life = Writes(partial(turn_star, client())), Writes(partial(live, client()))
        work = [
            stars.next,
            life.next,
            partial(read, client(), "", [*range(JOBS)]),
            partial(read, client(), "?children=0", []),
            partial(read, client(), "?limit=4&children_after=1", [2, 3, 4, 5]),
            partial(read, client(), f"/jobs/{jobs[0]}", [0]),
        ]
        end = time.monotonic() + SECONDS
        for one in [threads.submit(repeat, step, end) for step in work]:
            one.result()


@needs_servers
def test_answer_has_each_write_that_was_acknowledged_before_by_any_web(farm: ProcessFarm) -> None:
    farm.web.start()
    farm.runner("gpu-room")
    farm.web.wait_online()
    check_answers([farm.web, farm.another_web()], farm.gpus)


@pytest.mark.slow
def test_answer_of_an_embedded_director_has_each_acknowledged_write(
    tmp_path: Path, gpus: Machines
) -> None:
    with serving(tmp_path, gpus.urls) as served:
        check_answers([served], gpus)
