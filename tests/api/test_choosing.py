"""Which backends get a child: real servers answer here, or fail to."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import json
import time
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.db import connection

from backends.models import Backend, Reachability
from backends.services import backend_observed
from backends.simulator import SimulatorThread
from jobgroups.domain.clock import now
from jobgroups.models import JobGroup, Runner
from tests.api.asgi import post_in_pieces
from tests.api.bad_servers import WRONGS, bad_server, dead_port
from tests.api.conftest import GRAPH, Api, Made, error_of

PATH = "/api/job-group"
pytestmark = pytest.mark.django_db


def _heard(backend_id: str, seconds_ago: float) -> None:
    moment = now() - dt.timedelta(seconds=seconds_ago)
    Backend.objects.filter(pk=backend_id).update(last_seen_at=moment)


def _reason(answer: Any) -> str:
    skipped = error_of(answer, 400, "no_online_backends")["skipped_backends"]
    assert len(skipped) == 1
    reason: str = skipped[0]["reason"]
    return reason


def _post(api: Api, *backend_ids: str, **fields: Any) -> Any:
    return api.post(PATH, {"workflow_json": GRAPH, "backend_ids": list(backend_ids), **fields})


def test_a_backend_never_heard_from_is_asked_and_what_it_says_is_stored(
    api: Api, runner: Runner, make_backend: Made
) -> None:
    with SimulatorThread(vram_gb=24.0) as sims:
        make_backend("gpu-1", url=sims.url, seen=False)
        api.submit("gpu-1")
        seen = Backend.objects.get()
        assert seen.reachability == Reachability.ONLINE
        assert seen.last_seen_at is not None
        assert seen.comfyui_version == sims[0].config.version
        assert seen.devices[0]["vram_total"] > 20 * 2**30


def test_one_heard_from_ten_seconds_ago_is_asked_and_a_fresher_one_is_not(
    api: Api, runner: Runner, make_backend: Made
) -> None:
    with dead_port() as url:
        make_backend("gpu-1", url=url)
        _heard("gpu-1", 9)
        api.submit("gpu-1")
        _heard("gpu-1", 10)
        assert _reason(_post(api, "gpu-1")).startswith("Offline: ")


def test_one_that_fell_silent_is_asked_again_even_if_it_was_heard_just_before(
    api: Api, runner: Runner, make_backend: Made
) -> None:
    with SimulatorThread() as sims:
        make_backend("gpu-1", url=sims.url)
        _heard("gpu-1", 2)
        backend_observed(backend_id="gpu-1", reachable=False, reason="connection refused")
        api.submit("gpu-1")
        assert Backend.objects.get().unreachable_since is None


def test_one_that_answers_but_is_unfit_is_left_to_the_runners_judgement(
    api: Api, runner: Runner, make_backend: Made
) -> None:
    with SimulatorThread() as sims:
        make_backend("gpu-1", url=sims.url)
        backend_observed(backend_id="gpu-1", reachable=False, responded=True, reason="nothing runs")
        assert _reason(_post(api, "gpu-1")) == "Offline: nothing runs"


@pytest.mark.parametrize("wrong", list(WRONGS))
def test_a_backend_that_answers_wrongly_gets_no_child_and_costs_no_more_than_two_seconds(
    api: Api, runner: Runner, make_backend: Made, wrong: str
) -> None:
    with bad_server(wrong) as url:
        make_backend("gpu-1", url=url, seen=False)
        make_backend("gpu-2")
        began = time.monotonic()
        made = api.submit("gpu-1", "gpu-2")
        assert time.monotonic() - began < 2.0
    assert [one["backend_id"] for one in made["child_jobs"]] == ["gpu-2"]
    assert made["skipped_backends"][0]["reason"].startswith("Offline: ")
    stored = Backend.objects.get(pk="gpu-1")
    assert stored.reachability == Reachability.OFFLINE
    assert stored.status_reason
    assert stored.unreachable_since is not None


def test_twenty_silent_backends_are_asked_side_by_side(
    api: Api, runner: Runner, make_backend: Made
) -> None:
    with contextlib.ExitStack() as stack:
        names = [f"gpu-{number}" for number in range(20)]
        for name in names:
            url = stack.enter_context(bad_server("nothing"))
            make_backend(name, url=url, seen=False)
        began = time.monotonic()
        error_of(_post(api, *names), 400, "no_online_backends")
        assert time.monotonic() - began < 2.0


def test_a_disabled_backend_is_not_asked(api: Api, runner: Runner, make_backend: Made) -> None:
    with dead_port() as url:
        make_backend("gpu-1", url=url, seen=False, enabled=False)
        assert _reason(_post(api, "gpu-1")) == "Disabled."
        assert Backend.objects.get().reachability == Reachability.UNKNOWN


def test_a_backend_that_lacks_a_capability_is_left_out_with_what_it_lacks(
    api: Api, runner: Runner, make_backend: Made
) -> None:
    rtx = [{"name": "cuda:0 NVIDIA GeForce RTX 4090 : cudaMallocAsync"}]
    make_backend("big", tags=["flux", "sdxl"], devices=rtx, version="0.3.64")
    make_backend("small", tags=["sdxl"], version="0.3.10")
    needed = ["sdxl", "flux", "gpu:rtx-4090", "comfyui:0.3"]
    made = api.submit("big", "small", required_capabilities=needed)
    assert [one["backend_id"] for one in made["child_jobs"]] == ["big"]
    assert made["skipped_backends"] == [
        {"backend_id": "small", "reason": "Lacks flux, gpu:rtx-4090."}
    ]
    assert JobGroup.objects.get().required_capabilities == needed


def test_what_a_backend_just_said_of_itself_counts(
    api: Api, runner: Runner, make_backend: Made
) -> None:
    with SimulatorThread(version="0.9.1") as sims:
        make_backend("gpu-1", url=sims.url, seen=False)
        api.submit("gpu-1", required_capabilities=["comfyui:0.9"])


@pytest.mark.django_db(transaction=True)
async def test_under_an_asgi_server_the_loop_goes_on_while_a_silent_backend_is_asked(
    runner: Runner, make_backend: Made
) -> None:
    """The view waits in a thread, its questions run in the server's loop."""
    with bad_server("nothing") as silent, SimulatorThread() as sims:

        def prepare() -> None:
            make_backend("gpu-1", url=silent, seen=False)
            make_backend("gpu-2", url=sims.url, seen=False)
            connection.close()

        await sync_to_async(prepare)()
        body = {"workflow_json": GRAPH, "backend_ids": ["gpu-1", "gpu-2"]}
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.02)
                ticks += 1

        async with asyncio.TaskGroup() as tasks:
            ticking = tasks.create_task(tick())
            status, made = await post_in_pieces(PATH, [json.dumps(body).encode()])
            ticking.cancel()
    assert status == 201
    assert [one["backend_id"] for one in made["child_jobs"]] == ["gpu-2"]
    assert ticks > 20
