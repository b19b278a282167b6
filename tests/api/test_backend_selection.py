"""Which backends a submission may name, and exclusions: listed, lifted, respected by the pool."""

import contextlib
import datetime as dt
import threading
import time
from collections.abc import Collection
from typing import Any

import pytest

from backends import probes
from backends.models import Backend, Reachability
from backends.services import backend_observed
from jobgroups.api import backend_selection
from jobgroups.domain.clock import now
from jobgroups.models import Exclusion, JobGroup, Runner
from tests.api.bad_servers import WRONGS, bad_server, dead_port
from tests.api.conftest import GRAPH, Api, Made, error_of
from tests.harness.simulator_thread import SimulatorThread

pytestmark = pytest.mark.django_db

PATH = "/api/job-group"


def _set_last_response(backend_id: str, seconds_ago: float) -> None:
    moment = now() - dt.timedelta(seconds=seconds_ago)
    Backend.objects.filter(pk=backend_id).update(last_seen_at=moment)


def _reason(answer: Any) -> str:
    [skipped] = error_of(answer, 400, "no_online_backends")["skipped_backends"]
    return str(skipped["reason"])


def _post(api: Api, *backend_ids: str, **fields: Any) -> Any:
    return api.post(PATH, {"workflow_json": GRAPH, "backend_ids": list(backend_ids), **fields})


def test_new_backend_is_probed_and_the_result_is_stored(
    api: Api, runner: Runner, make_backend: Made
) -> None:
    with SimulatorThread(vram_gb=24.0, version="0.9.1") as sims:
        make_backend("gpu-1", url=sims.url, seen=False)
        api.submit("gpu-1", required_capabilities=["comfyui:0.9"])
    row = Backend.objects.get()
    assert (row.reachability, row.comfyui_version) == (Reachability.ONLINE, "0.9.1")
    assert row.last_seen_at is not None
    assert row.devices[0]["vram_total"] > 20 * 2**30


def test_backend_is_probed_ten_seconds_after_its_last_response(
    api: Api, runner: Runner, make_backend: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    with dead_port() as url:
        row = make_backend("gpu-1", url=url)
        moment = row.last_seen_at + dt.timedelta(seconds=10)
        monkeypatch.setattr(backend_selection, "now", lambda: moment)
        # A refusal that comes late on a busy machine is one all the same.
        monkeypatch.setattr(probes, "_SILENT", 100.0)
        api.submit("gpu-1")
        moment += dt.timedelta(milliseconds=1)
        assert _reason(_post(api, "gpu-1")).startswith("Offline: ")


def test_unreachable_backend_is_probed_and_an_unfit_one_is_not(
    api: Api, runner: Runner, make_backend: Made
) -> None:
    with SimulatorThread() as sims:
        make_backend("gpu-1", url=sims.url)
        _set_last_response("gpu-1", 2)
        backend_observed(backend_id="gpu-1", reachable=False, reason="connection refused")
        api.submit("gpu-1")
        assert Backend.objects.get().unreachable_since is None
        backend_observed(backend_id="gpu-1", reachable=False, responded=True, reason="nothing runs")
        assert _reason(_post(api, "gpu-1")) == "Offline: nothing runs"


def test_silent_backends_are_probed_side_by_side(
    api: Api, runner: Runner, make_backend: Made
) -> None:
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
        assert time.monotonic() - began < 15.0
    assert [one["backend_id"] for one in made["child_jobs"]] == ["good"]
    assert len(made["skipped_backends"]) == len(wrong)
    assert all(one["reason"].startswith("Offline: ") for one in made["skipped_backends"])
    for row in Backend.objects.exclude(pk="good"):
        assert row.reachability == Reachability.OFFLINE
        assert row.status_reason
        assert row.unreachable_since is not None


def test_silence_beside_a_recent_response_proves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy host 200 probes of a submission marked healthy backends as offline: the process
    itself was late.
    """
    monkeypatch.setattr(probes, "_PROBE_TIMEOUT", 0.3)
    stored: list[probes.Observation] = []
    with bad_server("nothing") as url:
        seen_at = now() - dt.timedelta(seconds=12)
        row = Backend(id="gpu-1", url=url, reachability=Reachability.ONLINE, last_seen_at=seen_at)
        probes.probe_backends([row], stored.extend)
        assert stored == []
        row.last_seen_at = seen_at - dt.timedelta(seconds=30)
        probes.probe_backends([row], stored.extend)
    assert [(seen["backend_id"], seen["reachable"]) for seen in stored] == [("gpu-1", False)]


def test_pool_does_not_probe_backends_that_were_online(
    api: Api, runner: Runner, make_backend: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobgroups.api.submission._CHECK_SECONDS", 0.0)
    with dead_port() as url:
        make_backend("gpu-1", url=url)
        _set_last_response("gpu-1", 12)
        assert api.submit("*", count=2)["skipped_backends"] == []
        assert Backend.objects.get().reachability == Reachability.ONLINE


def test_pool_does_not_wait_for_a_backend_that_is_known_to_be_off_beside_another_one(
    api: Api, runner: Runner, make_backend: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobgroups.api.submission._CHECK_SECONDS", 0.0)
    probed: list[str] = []
    monkeypatch.setattr(
        probes, "probe_backends", lambda rows, _: probed.extend(row.id for row in rows)
    )
    make_backend("off", seen=False)
    make_backend("new", seen=False)
    backend_observed(backend_id="off", reachable=False, reason="no answer")
    assert _reason(_post(api, "off", count=1)) == "Offline: no answer"
    assert probed == ["off"]
    make_backend("good")
    skipped = api.submit("*", count=1)["skipped_backends"]
    assert {"backend_id": "off", "reason": "Offline: no answer"} in skipped
    assert probed == ["off", "new"]


def test_probes_at_the_same_time_are_one_and_are_stored_in_one_write(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(probes, "_PROBE_TIMEOUT", 0.3)
    stored: list[Collection[probes.Observation]] = []
    with dead_port() as url:
        rows = [Backend(id=f"gpu-{number}", url=url) for number in range(20)]
        again = threading.Thread(target=probes.probe_backends, args=(rows[:2], stored.append))

        def store(observations: Collection[probes.Observation]) -> None:
            stored.append(observations)
            again.start()
            again.join()

        probes.probe_backends(rows, store)
    assert [len(observations) for observations in stored] == [20]
    assert not probes._running


def test_disabled_backend_is_not_probed(api: Api, runner: Runner, make_backend: Made) -> None:
    with dead_port() as url:
        make_backend("gpu-1", url=url, seen=False, enabled=False)
        assert _reason(_post(api, "gpu-1")) == "Disabled."
        assert Backend.objects.get().reachability == Reachability.UNKNOWN


def test_backend_without_a_required_capability_is_skipped(
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


EXCLUSIONS = "/api/backends/gpu-1/exclusions"
LACKS = "Value not in list: ckpt_name"


def exclude(backend_id: str, digest: str = "d", **fields: Any) -> Exclusion:
    moment = now()
    fields = {"kind": "missing", "reason": LACKS, "since": moment, "last_at": moment, **fields}
    return Exclusion.objects.create(backend_id=backend_id, workflow_digest=digest, **fields)


def test_exclusions_are_listed_and_lifted(api: Api, farm: list[str], notified: list[str]) -> None:
    first, second = exclude("gpu-1"), exclude("gpu-1", kind="out_of_memory", count=2)
    exclude("gpu-1", "other", kind="out_of_memory", count=1)
    exclude("gpu-2")
    listed = api.get(EXCLUSIONS).json()["exclusions"]
    assert [one["exclusion_id"] for one in listed] == [first.id, second.id]
    assert listed[0]["reason"] == LACKS
    assert (listed[0]["kind"], listed[0]["group_id"], listed[0]["count"]) == ("missing", None, 1)
    assert listed[0]["since"] == listed[0]["last_at"] < listed[0]["until"]
    assert api.delete(f"{EXCLUSIONS}/{first.id}").status_code == 204
    assert notified
    for gone in (first.id, "x", "9" * 30):
        error_of(api.delete(f"{EXCLUSIONS}/{gone}"), 404, "exclusion_not_found")
    assert [one["exclusion_id"] for one in api.get(EXCLUSIONS).json()["exclusions"]] == [second.id]
    assert api.delete(EXCLUSIONS).status_code == 204
    assert api.get(EXCLUSIONS).json() == {"exclusions": []}
    assert Exclusion.objects.get().backend_id == "gpu-2"


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_an_unknown_backend_has_no_exclusions(api: Api, method: str) -> None:
    error_of(api.ask(method, "/api/backends/none/exclusions"), 404, "backend_not_found")


def test_a_submission_skips_excluded_candidates_and_needs_one_that_is_left(
    api: Api, farm: list[str]
) -> None:
    digest = JobGroup.objects.get(pk=api.submit("gpu-1")["job_group_id"]).workflow_digest
    exclude("gpu-1", digest)
    made = api.submit("gpu-1", "gpu-2", count=2)
    reason = f"Cannot run this workflow: {LACKS}."
    assert made["skipped_backends"] == [{"backend_id": "gpu-1", "reason": reason}]
    body = {"workflow_json": GRAPH, "backend_ids": ["gpu-1"], "count": 2}
    refused = error_of(api.post("/api/job-group", body), 400, "no_online_backends")
    assert refused["skipped_backends"] == [{"backend_id": "gpu-1", "reason": reason}]
    assert not api.submit("gpu-1")["skipped_backends"], "a person named it, without the pool"
