import asyncio
import contextlib
import datetime as dt
import json
import time
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.db import connection

from backends import probes
from backends.models import Backend, Reachability
from backends.services import backend_observed
from director.web.threaded_handler import ThreadedHandler
from jobgroups.domain.clock import now
from jobgroups.models import JobGroup, Runner
from tests.api.bad_servers import WRONGS, bad_server, dead_port
from tests.api.conftest import GRAPH, Api, Made, asgi_answer, error_of
from tests.harness.simulator_thread import SimulatorThread

PATH = "/api/job-group"
pytestmark = pytest.mark.django_db


def _set_last_response(backend_id: str, seconds_ago: float) -> None:
    moment = now() - dt.timedelta(seconds=seconds_ago)
    Backend.objects.filter(pk=backend_id).update(last_seen_at=moment)


def _reason(answer: Any) -> str:
    [skipped] = error_of(answer, 400, "no_online_backends")["skipped_backends"]
    return str(skipped["reason"])


def _post(api: Api, *backend_ids: str, **fields: Any) -> Any:
    return api.post(PATH, {"workflow_json": GRAPH, "backend_ids": list(backend_ids), **fields})


def test_new_backend_is_probed_and_the_result_is_stored(api: Api, runner: Runner, make_backend: Made) -> None:
    with SimulatorThread(vram_gb=24.0, version="0.9.1") as sims:
        make_backend("gpu-1", url=sims.url, seen=False)
        api.submit("gpu-1", required_capabilities=["comfyui:0.9"])
    row = Backend.objects.get()
    assert (row.reachability, row.comfyui_version) == (Reachability.ONLINE, "0.9.1")
    assert row.last_seen_at is not None
    assert row.devices[0]["vram_total"] > 20 * 2**30


def test_backend_is_probed_ten_seconds_after_its_last_response(api: Api, runner: Runner, make_backend: Made) -> None:
    with dead_port() as url:
        make_backend("gpu-1", url=url)
        _set_last_response("gpu-1", 9)
        api.submit("gpu-1")
        _set_last_response("gpu-1", 10)
        assert _reason(_post(api, "gpu-1")).startswith("Offline: ")


def test_unreachable_backend_is_probed_and_an_unfit_one_is_not(api: Api, runner: Runner, make_backend: Made) -> None:
    with SimulatorThread() as sims:
        make_backend("gpu-1", url=sims.url)
        _set_last_response("gpu-1", 2)
        backend_observed(backend_id="gpu-1", reachable=False, reason="connection refused")
        api.submit("gpu-1")
        assert Backend.objects.get().unreachable_since is None
        backend_observed(backend_id="gpu-1", reachable=False, responded=True, reason="nothing runs")
        assert _reason(_post(api, "gpu-1")) == "Offline: nothing runs"


def test_silent_backends_are_probed_side_by_side(api: Api, runner: Runner, make_backend: Made) -> None:
    """Together with servers that answer wrongly, each in one way."""
    with contextlib.ExitStack() as stack:
        wrong = [*WRONGS, *["nothing"] * 20]
        for number, kind in enumerate(wrong):
            make_backend(f"gpu-{number}", url=stack.enter_context(bad_server(kind)), seen=False)
        make_backend("good")
        names = [row.id for row in Backend.objects.all()]
        began = time.monotonic()
        made = api.submit(*names)
        # One after the other would take a second for each.
        assert time.monotonic() - began < 10.0
    assert [one["backend_id"] for one in made["child_jobs"]] == ["good"]
    assert len(made["skipped_backends"]) == len(wrong)
    assert all(one["reason"].startswith("Offline: ") for one in made["skipped_backends"])
    for row in Backend.objects.exclude(pk="good"):
        assert row.reachability == Reachability.OFFLINE
        assert row.status_reason
        assert row.unreachable_since is not None


def test_disabled_backend_is_not_probed(api: Api, runner: Runner, make_backend: Made) -> None:
    with dead_port() as url:
        make_backend("gpu-1", url=url, seen=False, enabled=False)
        assert _reason(_post(api, "gpu-1")) == "Disabled."
        assert Backend.objects.get().reachability == Reachability.UNKNOWN


def test_backend_without_a_required_capability_is_skipped(api: Api, runner: Runner, make_backend: Made) -> None:
    rtx = [{"name": "cuda:0 NVIDIA GeForce RTX 4090 : cudaMallocAsync"}]
    make_backend("big", tags=["flux", "sdxl"], devices=rtx, version="0.3.64")
    make_backend("small", tags=["sdxl"], version="0.3.10")
    needed = ["sdxl", "flux", "gpu:rtx-4090", "comfyui:0.3"]
    made = api.submit("big", "small", required_capabilities=needed)
    assert [one["backend_id"] for one in made["child_jobs"]] == ["big"]
    assert made["skipped_backends"] == [{"backend_id": "small", "reason": "Lacks flux, gpu:rtx-4090."}]
    assert JobGroup.objects.get().required_capabilities == needed


@pytest.mark.django_db(transaction=True)
async def test_event_loop_is_not_blocked_by_a_probe(
    runner: Runner, make_backend: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The view waits in a thread; its probes run in the server's loop."""
    monkeypatch.setattr(probes, "_PROBE_TIMEOUT", 0.5)
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.02)
            ticks += 1

    def prepare() -> None:
        make_backend("gpu-1", url=silent, seen=False)
        make_backend("gpu-2", url=sims.url, seen=False)
        connection.close()

    with bad_server("nothing") as silent, SimulatorThread() as sims:
        await sync_to_async(prepare)()
        body = {"workflow_json": GRAPH, "backend_ids": ["gpu-1", "gpu-2"]}
        async with asyncio.TaskGroup() as tasks:
            ticking = tasks.create_task(tick())
            status, _, made = await asgi_answer(ThreadedHandler(), "POST", PATH, body, {})
            ticking.cancel()
    assert status == 201
    assert [one["backend_id"] for one in json.loads(made)["child_jobs"]] == ["gpu-2"]
    assert ticks > 8
