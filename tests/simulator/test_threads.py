"""Simulators beside tests that aren't async."""

from __future__ import annotations

import threading
from typing import Any

import httpx
import pytest

from backends.simulator import FaultError, PortInUse, SimulatorThread
from tests.simulator.graphs import sampler


def post(url: str, prompt_id: str) -> None:
    body: dict[str, Any] = {"prompt": sampler(), "prompt_id": prompt_id}
    httpx.post(f"{url}/prompt", json=body, timeout=10, trust_env=False).raise_for_status()


def test_three_servers_run_and_are_waited_for() -> None:
    before = set(threading.enumerate())
    with SimulatorThread(count=3) as sims:
        assert [sim.name for sim in sims.simulators] == ["gpu-1", "gpu-2", "gpu-3"]
        for number, url in enumerate(sims.urls):
            post(url, f"p{number}")
        for number in range(3):
            ended = sims.wait_for("ended", on=number, prompt_id=f"p{number}")
            assert ended["outcome"] == "success"
    left = set(threading.enumerate()) - before
    assert "simulators" not in {thread.name for thread in left}


def test_faults_and_restarts_reach_the_other_thread() -> None:
    with SimulatorThread() as sims:
        sims.fault("node_error", message="on order")
        post(sims.url, "p")
        assert sims.wait_for("ended")["message"] == "on order"
        sims.restart()
        assert sims.wait_for("restarted")["starts"] == 1
        with pytest.raises(FaultError):
            sims.fault("flood")


def test_failure_to_start_is_raised_in_the_calling_thread() -> None:
    with SimulatorThread() as taken, pytest.raises(PortInUse):
        SimulatorThread(port=taken[0].port).__enter__()
