"""Jobs of the Comfy API v2: what is refused, what is stored, and their statuses."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator
from typing import Any

import pytest
from pytest_django import Settings

from backends import inventory, probes
from backends.services import backend_observed
from jobgroups.domain.clock import now
from jobgroups.domain.states import AttemptState
from jobgroups.models import ChildJob, JobGroup
from jobgroups.runner.attempt.spec import AttemptSpec
from tests.api.conftest import GRAPH, Api, Made
from tests.harness import factories
from tests.harness.graphs import EDITOR_FILE, node, partner, picture
from tests.harness.simulator_thread import SimulatorThread

pytestmark = pytest.mark.django_db(transaction=True)
JOBS = "/api/v2/jobs"
KEY = "comfyui-0123456789abcdef0123456789abcdef"
EDITOR = json.loads(EDITOR_FILE.read_text(encoding="utf-8"))


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> None:
    settings.DIRECTOR_ACCEPT_WITHOUT_RUNNER = True
    monkeypatch.setattr(inventory, "_ANSWERS", inventory._Answers())


@pytest.fixture
def farm(make_backend: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two backends that describe nothing in time."""
    monkeypatch.setattr("jobgroups.api.submission._CHECK_SECONDS", 0.0)
    for number in (1, 2):
        make_backend(f"gpu-{number}")


def submit(api: Api, graph: Any = None, **more: Any) -> Any:
    headers = {"idempotency_key": more.pop("key")} if "key" in more else {}
    return api.post(JOBS, {"workflow": graph or picture(), **more}, **headers)


def refused(answer: Any, code: str) -> dict[str, Any]:
    error: dict[str, Any] = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (422, code), answer.content
    assert not JobGroup.objects.exists()
    return error


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        ({"workflow": EDITOR}, "workflow_format_ui", "Export (API)"),
        ({}, "invalid_workflow", "Must be an object"),
        ({"workflow": {}}, "invalid_workflow", "at least one node"),
        ({"workflow": {"3": {"class_type": "A"}}}, "invalid_workflow", "inputs"),
        ({"workflow": {"3": node("A", image=["9", 0])}}, "invalid_workflow", "node 9"),
        ({"webhook_url": "https://a.b"}, "invalid_request", "webhook_url"),
        ({"inputs": None}, "invalid_request", "inputs"),
        ({"extra_data": {}}, "invalid_request", "leave it out"),
        ({"extra_data": {"api_key_comfy_org": KEY, "a": 1}}, "invalid_request", "alone"),
        ({"extra_data": {"api_key_comfy_org": 'se"cret-key'}}, "invalid_request", "letters"),
        ({"extra_data": {"extra_pnginfo": None}}, "invalid_request", "workflow alone"),
        (
            {"extra_data": {"extra_pnginfo": {"workflow": {}, "a": 1}}},
            "invalid_request",
            "workflow alone",
        ),
        ({"extra_data": {"extra_pnginfo": {"workflow": None}}}, "invalid_request", "leave it out"),
        ({"metadata": "acme"}, "metadata_invalid", "object"),
        ({"metadata": {"shot": 3}}, "metadata_invalid", "'shot'"),
        ({"metadata": {"x" * 101: ""}}, "metadata_invalid", "100 characters"),
        ({"metadata": {"shot": "x" * 201}}, "metadata_invalid", "at most 200"),
        ({"metadata": {str(one): "" for one in range(17)}}, "metadata_invalid", "17 pairs"),
    ],
)
def test_invalid_submission_stores_nothing(
    api: Api, farm: None, body: Any, code: str, said: str
) -> None:
    error = refused(
        api.post(JOBS, {"workflow": GRAPH, **body} if "workflow" not in body and body else body),
        code,
    )
    assert said in error["message"]
    assert "cret-key" not in error["message"]


@pytest.fixture
def sims() -> Iterator[SimulatorThread]:
    with SimulatorThread(count=2, version="0.33.0") as found:
        yield found


def test_workflow_that_every_answering_backend_lacks_something_for_is_refused(
    api: Api, sims: SimulatorThread, make_backend: Made
) -> None:
    for url in sims.urls:
        make_backend(url=url, version="0.33.0")
    make_backend("away", seen=False)
    graph = picture() | {"10": node("NoSuchNode"), "11": node("SaveImage", images=["8", 0])}
    graph["3"]["inputs"]["steps"] = 0
    reasons = refused(submit(api, graph), "invalid_workflow")["details"]["node_errors"]
    assert {
        node_id: [(one["field"], one["reason"], one["class_type"]) for one in found]
        for node_id, found in reasons.items()
    } == {
        "3": [("steps", "value_invalid", "KSampler")],
        "10": [(None, "node_missing", "NoSuchNode")],
        "11": [("filename_prefix", "input_missing", "SaveImage")],
    }


@pytest.mark.parametrize("is_known", [True, False])
def test_job_waits_for_backends_that_are_all_away(
    api: Api, make_backend: Made, is_known: bool
) -> None:
    if is_known:
        make_backend("away", seen=False)
    made = submit(api)
    assert made.status_code == 201, made.content
    assert (made.json()["status"], made.json()["queue_position"]) == ("queued", 0)


def test_job_does_not_wait_for_backends_that_are_known_to_be_off(
    api: Api, make_backend: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    probed: list[str] = []
    monkeypatch.setattr(
        probes, "probe_backends", lambda rows, _: probed.extend(row.id for row in rows)
    )
    make_backend("off", seen=False)
    backend_observed(backend_id="off", reachable=False, reason="no answer")
    assert submit(api).status_code == 201
    assert probed == []


@pytest.mark.parametrize(
    ("allowed", "secret", "status"), [(True, KEY, 201), (True, "", 422), (False, KEY, 422)]
)
def test_partner_nodes_need_a_key_and_a_confirmed_backend(
    api: Api, sims: SimulatorThread, make_backend: Made, allowed: bool, secret: str, status: int
) -> None:
    make_backend(url=sims.url, version="0.33.0", partner_nodes_allowed=allowed)
    answer = submit(
        api, partner(), **({"extra_data": {"api_key_comfy_org": secret}} if secret else {})
    )
    assert answer.status_code == status
    if status == 422:
        message = refused(answer, "invalid_workflow")["message"]
        assert ("allow them" in message) is not allowed
        return
    group = JobGroup.objects.get()
    assert (group.has_secret, group.uses_partner_nodes) == (True, True)
    assert not any(
        KEY in str(row) for model in (JobGroup, ChildJob) for row in model.objects.values()
    )


@pytest.mark.parametrize("written", [{}, {"workflow": EDITOR}])
def test_workflow_for_pictures_is_sent_as_it_is(
    api: Api, farm: None, written: dict[str, Any]
) -> None:
    assert (
        submit(api, extra_data={"extra_pnginfo": written, "api_key_comfy_org": KEY}).status_code
        == 201
    )
    fence = factories.lease("gpu-1")
    spec = AttemptSpec.from_claim(factories.claim_from_pool(fence, JobGroup.objects.get()))
    sent = spec.extra_data(spec.workflow, marks_outputs=False, has_previews=False)
    assert sent.get("extra_pnginfo", {}) == written


def test_workflow_for_pictures_that_is_too_long_is_left_out(api: Api, farm: None) -> None:
    long = {"nodes": [], "links": [], "extra": "x" * 2**21}
    assert submit(api, extra_data={"extra_pnginfo": {"workflow": long}}).status_code == 201
    group = JobGroup.objects.get()
    assert group.editor_json is None
    assert "Pictures get no workflow of the editor" in group.warnings_json


def test_workflow_keeps_its_seeds(api: Api, farm: None) -> None:
    graph = picture() | {
        "20": node("KSampler", seed=2**64 - 1),
        "21": node("KSampler", noise_seed=7),
    }
    for number in ("20", "21"):
        graph[number]["inputs"] |= {"model": ["4", 0]}
    job = submit(api, graph).json()
    fence = factories.lease("gpu-1")
    claim = factories.claim_from_pool(fence, JobGroup.objects.get())
    assert AttemptSpec.from_claim(claim).workflow == graph
    assert claim.child.seed == graph["3"]["inputs"]["seed"]
    assert api.get(f"{JOBS}/{job['id']}/workflow").json() == {"workflow": graph, "format": "api"}


def test_repeated_key_is_refused_also_with_another_body_and_after_a_deletion(
    api: Api, farm: None
) -> None:
    job = submit(api, key="abc").json()
    again = [submit(api, key="abc"), submit(api, picture(2), key="abc")]
    api.post(f"{JOBS}/{job['id']}/cancel", None)
    assert api.post(f"/api/job-groups/{job['id']}/delete", {}).status_code == 200
    again.append(submit(api, key="abc"))
    assert {one.json()["error"]["code"] for one in again} == {"idempotency_key_reuse"}
    assert api.get(f"{JOBS}/{job['id']}").json()["error"]["code"] == "not_found"
    assert submit(api, {"1": {}}, key="new").status_code == 422
    assert submit(api, key="new").status_code == 201


def test_statuses_follow_the_job(api: Api, farm: None) -> None:
    def status() -> tuple[str, list[str]]:
        job = api.get(path).json()
        [listed] = api.get(JOBS).json()["jobs"]
        assert listed["status"] == job["status"]
        return job["status"], [one["name"] for one in job["outputs"]]

    path = f"{JOBS}/{submit(api).json()['id']}"
    group = JobGroup.objects.get()
    fence = factories.lease("gpu-1")
    claim = factories.claim_from_pool(fence, group)
    factories.start(claim, fence)
    assert status() == ("running", [])
    outputs = {"images": [{"filename": "a.png", "url": "http://gpu/view?filename=a.png"}]}
    assert factories.finish(claim, fence, outputs=outputs)
    # Its file is being copied; after 10 s it is shown without.
    assert status() == ("running", [])
    ChildJob.objects.update(completed_at=now() - dt.timedelta(seconds=11))
    JobGroup.objects.update(revision=99)
    assert status() == ("succeeded", ["a.png"])
    assert api.post(f"{path}/cancel", None).json()["status"] == "succeeded"


def test_cancelled_job_is_canceling_until_its_prompt_has_ended(api: Api, farm: None) -> None:
    path = f"{JOBS}/{submit(api).json()['id']}"
    fence = factories.lease("gpu-1")
    claim = factories.claim_from_pool(fence, JobGroup.objects.get())
    factories.start(claim, fence)
    job = api.post(f"{path}/cancel", None).json()
    assert (job["status"], job["completed_at"]) == ("canceling", None)
    ChildJob.objects.update(completed_at=now() - dt.timedelta(seconds=61))
    assert api.get(path).json()["status"] == "canceled"
    assert factories.finish(claim, fence, AttemptState.INTERRUPTED)
    assert api.get(path).json()["status"] == "canceled"


def test_timeout_is_a_failure_with_its_own_code(api: Api, farm: None) -> None:
    path = f"{JOBS}/{submit(api).json()['id']}"
    ChildJob.objects.update(
        status="timeout", failure_class="timeout", error_message="Too long", completed_at=now()
    )
    error = {
        "code": "timeout",
        "message": "Too long",
        "node_id": None,
        "class_type": None,
        "traceback": None,
    }
    job = api.get(path).json()
    assert (job["status"], job["error"]) == ("failed", error)


def test_list_has_single_jobs_of_the_pool_in_pages(api: Api, farm: None) -> None:
    api.submit("gpu-1")
    api.submit("*", count=2)
    ids = [
        submit(api, metadata={"client": "acme", "shot": str(one % 2)}).json()["id"]
        for one in range(3)
    ]
    own = api.submit("*", count=1, metadata={"take": 3})["job_group_id"]
    first = api.get(f"{JOBS}?limit=3").json()
    rest = api.get(f"{JOBS}?limit=3&cursor={first['next_cursor']}").json()
    assert [one["id"] for one in first["jobs"] + rest["jobs"]] == [own, *reversed(ids)]
    assert (rest["next_cursor"], first["jobs"][0]["metadata"]) == (None, {})
    found = api.get(f"{JOBS}?metadata[client]=acme&metadata%5Bshot%5D=0").json()["jobs"]
    assert [one["id"] for one in found] == [ids[2], ids[0]]
    assert found[0].keys() == {"id", "status", "create_time", "update_time", "metadata"}
    assert (
        api.get(
            f"{JOBS}/{api.get('/api/job-groups').json()['results'][-1]['job_group_id']}"
        ).status_code
        == 404
    )


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("metadata=a", "invalid_metadata_filter"),
        ("metadata[]=a", "invalid_metadata_filter"),
        ("metadata[a]=b&metadata[a]=c", "invalid_metadata_filter"),
        (f"metadata[a]={'x' * 201}", "invalid_metadata_filter"),
        ("metadata[a]=%00", "invalid_metadata_filter"),
        ("&".join(f"metadata[{one}]=1" for one in range(11)), "invalid_metadata_filter"),
        ("cursor=abc", "invalid_cursor"),
        ("limit=0", "invalid_request"),
    ],
)
def test_invalid_query_of_the_list_is_refused(api: Api, query: str, code: str) -> None:
    refused(api.get(f"{JOBS}?{query}"), code)
