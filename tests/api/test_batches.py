"""POST /api/job-group with ``jobs`` or ``sweep``: what is answered and refused, and what it costs."""

import datetime as dt
import json
import time
import tracemalloc
from typing import Any

import pytest
from django.db import connection

from backends.models import Backend
from jobgroups.domain.clock import now
from jobgroups.models import ChildJob, JobGroup, Runner, Timing
from jobgroups.queries import pool
from jobgroups.workflow import build_template
from jobgroups.workflow.batch import jobs_of
from tests.api.conftest import GRAPH, Api, Made, error_of, wrong_fields
from tests.api.test_turns import put
from tests.api.test_workflow_check import FILE, graph_with, nothing_kept, two_machines  # noqa: F401 a fixture

PATH = "/api/job-group"
BODY: dict[str, Any] = {"workflow_json": GRAPH, "backend_ids": ["*"]}
CFG = {"input": "cfg", "values": [5, 7]}
BASE = graph_with()["4"]["inputs"]["ckpt_name"]
pytestmark = pytest.mark.django_db


@pytest.mark.django_db(transaction=True)
def test_jobs_show_variation_and_metadata_and_the_group_its_sweep(
    api: Api, farm: list[str]
) -> None:
    made = api.submit(
        "*",
        jobs=[{"parameters": {"cfg": 3}, "metadata": {"shot": 1}}, {"seed": 8}],
        metadata={"a": 1},
    )
    found = api.get(f"/api/job-groups/{made['job_group_id']}").json()
    assert [(one["variation"], one["metadata"]) for one in found["child_jobs"]] == [
        ({"cfg": 3}, {"shot": 1}),
        (None, None),
    ]
    assert found["child_jobs"][1]["seed"] == 8
    assert (found["sweep"], found["placement"], found["max_attempts"]) == (None, "pool", 2)
    swept = api.submit(
        "*",
        sweep={"axes": [CFG, {"input": "seed", "count": 2}]},
        base_seed=4,
        seed_strategy="sequential",
    )
    found = api.get(f"/api/job-groups/{swept['job_group_id']}").json()
    assert found["sweep"] == {"mode": "product", "axes": [CFG, {"input": "seed", "values": [4, 5]}]}
    assert [one["seed"] for one in found["child_jobs"]] == [4, 5, 4, 5]


def test_job_that_is_wrong_is_refused_with_the_other_errors(api: Api) -> None:
    wrong = {**BODY, "jobs": [{}, {"parameters": {"cfg": "x"}}], "max_attempts": 11}
    assert set(wrong_fields(api.post(PATH, wrong))) == {"max_attempts"}
    assert set(wrong_fields(api.post(PATH, {**wrong, "max_attempts": 1}))) == {
        "jobs.1.parameters.cfg"
    }
    both = {**BODY, "count": 2, "jobs": [{}], "sweep": {"axes": [CFG]}}
    message = "Cannot be combined with count; use one of them."
    assert wrong_fields(api.post(PATH, both)) == {"jobs": message, "sweep": message}


def test_asset_of_a_job_that_is_not_there_is_named_by_its_path(api: Api, farm: list[str]) -> None:
    missing = {"__type": "core/ASSET", "info": {"id": "nothing"}}
    graph = {**GRAPH, "1": {"class_type": "LoadImage", "inputs": {"image": "a.png"}}}
    for field, batch in {
        "sweep.axes.0.values.1": {
            "sweep": {"axes": [{"input": "image", "values": ["b.png", missing]}]}
        },
        "jobs.1.parameters.1.image": {"jobs": [{}, {"parameters": {"1.image": missing}}]},
    }.items():
        for path in (PATH, "/api/job-groups/plan"):
            wrong = wrong_fields(api.post(path, {**BODY, "workflow_json": graph, **batch}))
            assert wrong == {field: "There is no asset with this id."}
    assert not JobGroup.objects.exists()


def test_backends_that_lack_a_checkpoint_are_no_reason_to_refuse_the_jobs_of_others(
    api: Api, runner: Runner, make_backend: Made
) -> None:
    def sweep(*names: str) -> dict[str, Any]:
        return {"axes": [{"input": "ckpt_name", "values": list(names)}]}

    body = {"workflow_json": graph_with(), "backend_ids": ["*"]}
    with two_machines(make_backend):
        made = api.submit(
            "*", workflow_json=graph_with(ckpt_name="nowhere.safetensors"), sweep=sweep(BASE, FILE)
        )
        assert made["skipped_backends"] == []
        made = api.submit("*", workflow_json=graph_with(), sweep=sweep(FILE))
        [skipped] = made["skipped_backends"]
        assert skipped["backend_id"] == "gpu-1"
        assert skipped["reason"].startswith("Cannot run the workflow: node ")
        refused = error_of(
            api.post(PATH, {**body, "sweep": sweep(BASE, FILE, "gone.safetensors")}),
            400,
            "no_online_backends",
        )
    assert [one["backend_id"] for one in refused["skipped_backends"]] == ["gpu-1", "gpu-2"]
    assert refused["skipped_backends"][0]["reason"].startswith(
        'Job 2 {"ckpt_name":"gone.safetensors"}: Cannot run'
    )


@pytest.mark.parametrize("kind", ["jobs", "sweep"])
def test_10000_jobs_of_a_batch_are_answered_in_bounded_time_and_memory(
    api: Api, farm: list[str], kind: str
) -> None:
    jobs = [
        {"parameters": {"cfg": n / 7, "9.filename_prefix": f"{n} {'x' * 500}"}}
        for n in range(10_000)
    ]
    axes = [
        {"input": "cfg", "values": [*range(100)]},
        {"input": "3.steps", "values": [*range(1, 101)]},
    ]
    graph = {**GRAPH, "9": {**GRAPH["9"], "inputs": {"images": ["3", 0], "filename_prefix": "a"}}}
    batch = {"jobs": jobs} if kind == "jobs" else {"sweep": {"axes": axes}}
    body = json.dumps({**BODY, "workflow_json": graph, **batch}).encode()
    api.submit("*", count=1)
    ends: list[tuple[str, float]] = []

    def noted(execute: Any, sql: str, *given: Any) -> Any:
        done = execute(sql, *given)
        ends.append((sql, time.thread_time()))
        return done

    # CPU time, since other test processes share the cores, and three times of what an idle machine
    # takes.
    began = time.process_time()
    with connection.execute_wrapper(noted):
        answer = api.post(PATH, body)
    assert answer.status_code == 201, answer.content
    assert time.process_time() - began < 6.0
    first = next(
        moment for sql, moment in ends if sql.startswith('INSERT INTO "jobgroups_jobgroup"')
    )
    # In this time no other process can write to an SQLite.
    assert connection.vendor != "sqlite" or ends[-1][1] - first < 0.6
    assert ChildJob.objects.filter(variation_json__isnull=False).count() == 10_000
    began = time.process_time()
    assert api.post("/api/job-groups/plan", body).json()["total_count"] == 10_000
    assert time.process_time() - began < 3.0
    if kind == "sweep":
        return  # its jobs take less memory
    # tracemalloc takes long: a fifth of the jobs.
    body = json.dumps({**BODY, "workflow_json": graph, "jobs": jobs[:2_000]}).encode()
    tracemalloc.start()
    try:
        assert api.post(PATH, body).status_code == 201
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 13 * 2**20 + 5 * len(body)


@pytest.mark.parametrize(
    "size", [{"count": 3}, {"sweep": {"axes": [CFG, {"input": "seed", "count": 2}]}}, {}]
)
def test_plan_is_what_a_submission_with_its_base_seed_makes(
    api: Api, farm: list[str], size: dict[str, Any]
) -> None:
    named = ["*"] if size else ["gpu-1", "gpu-1", "nothing"]
    body = {**BODY, "backend_ids": named, **size}
    planned = api.post("/api/job-groups/plan", body).json()
    assert not JobGroup.objects.exists()
    made = api.submit(*named, **size, base_seed=planned["base_seed"])
    rows = list(ChildJob.objects.order_by("position"))
    assert [(one["seed"], one["backend_id"]) for one in planned["jobs"]] == [
        (one.seed, one.backend_id) for one in rows
    ]
    assert [one["variation"] for one in planned["jobs"]] == [
        json.loads(one.variation_json or "null") for one in rows
    ]
    assert planned["skipped_backends"] == made["skipped_backends"]
    assert planned["total_count"] == len(rows) == max(one["jobs"] for one in planned["backends"])
    assert planned["eta_seconds"] is None


def test_plan_expects_the_end_of_a_batch_by_the_learned_times_of_its_variants(
    api: Api, farm: list[str]
) -> None:
    batch = jobs_of(
        build_template(GRAPH),
        [{"parameters": {"steps": steps}} for steps in (9, 9, 30)],
        "random",
        1,
        9,
    )
    for (digest, _), seconds in zip(batch.variants, (4.0, 20.0), strict=True):
        learned = {"seconds": seconds, "load_seconds": 0.0, "runs": 3, "updated_at": now()}
        Timing.objects.bulk_create(
            Timing(workflow_digest=digest, backend_id=one, **learned) for one in farm
        )
    planned = api.post(
        "/api/job-groups/plan",
        {**BODY, "jobs": [{"parameters": job.variation} for job in batch.jobs]},
    )
    assert planned.json()["eta_seconds"] == 20.0


@pytest.mark.parametrize("of_submitter", [True, False])
def test_plan_counts_limits_of_groups_that_wait_and_of_its_own(
    api: Api, farm: list[str], of_submitter: bool
) -> None:
    if of_submitter:
        put(api, "/api/submitters/anna", {"max_running": 1})
    api.submit("*", count=4, submitter="anna", **({} if of_submitter else {"max_running": 1}))
    workflow = build_template(GRAPH).digests[0]
    learned = {"seconds": 20.0, "load_seconds": 0.0, "runs": 3, "updated_at": now()}
    Timing.objects.bulk_create(
        Timing(workflow_digest=workflow, backend_id=one, **learned) for one in farm
    )
    body = {**BODY, "count": 3}

    def expected(**fields: Any) -> float | None:
        answer = api.post("/api/job-groups/plan", body | fields)
        assert answer.status_code == 200, answer.content
        return answer.json()["eta_seconds"]

    # One of the four runs beside them.
    assert expected() == 40.0
    assert expected(max_running=3) == 40.0
    assert expected(max_running=2) is None


@pytest.mark.parametrize("size", [{"count": 2}, {"backend_ids": ["gpu-1", "gpu-2"]}])
def test_plan_expects_no_end_of_what_would_not_all_be_sent(
    api: Api, farm: list[str], size: dict[str, Any]
) -> None:
    workflow = build_template(GRAPH).digests[0]
    learned = {"seconds": 20.0, "load_seconds": 0.0, "runs": 3, "updated_at": now()}
    Timing.objects.bulk_create(
        Timing(workflow_digest=workflow, backend_id=one, **learned) for one in farm
    )

    def expected(**fields: Any) -> float | str:
        pool._cache.forget()
        body = {**BODY, "submitter": "anna", **size, **fields}
        answer = api.post("/api/job-groups/plan", body)
        assert answer.status_code == 200, answer.content
        seconds, reason = answer.json()["eta_seconds"], answer.json()["eta_reason"]
        assert (seconds is None) != (reason is None)
        return seconds or reason

    assert expected(max_running=2) == 20.0
    assert expected(max_running=1) == "At most 1 of the jobs may be at backends at once."
    assert expected(start_after="2020-01-01T00:00:00Z") == 20.0
    later = str(expected(start_after=(now() + dt.timedelta(hours=8)).isoformat()))
    assert later.startswith("Starts at ")
    put(api, "/api/submitters/anna", {"max_running": 1})
    assert expected() == "anna has a limit, and not all of the jobs fit beside its others."
    assert expected(submitter="bob") == 20.0
    put(api, "/api/submitters/anna", {"max_running": None, "paused": True})
    assert str(expected()).startswith("Everything of anna is paused")
    assert expected(submitter="bob") == 20.0
    Runner.objects.update(heartbeat_at=now() - dt.timedelta(minutes=1))
    assert str(expected(submitter="bob")).startswith("No runner has reported since ")


def test_plan_of_bound_jobs_waits_for_the_hours_and_the_queue_of_their_backend(
    api: Api, farm: list[str]
) -> None:
    workflow = build_template(GRAPH).digests[0]
    learned = {"seconds": 20.0, "load_seconds": 0.0, "runs": 3, "updated_at": now()}
    Timing.objects.bulk_create(
        Timing(workflow_digest=workflow, backend_id=one, **learned) for one in farm
    )

    def expected() -> float | None:
        pool._cache.forget()
        answer = api.post("/api/job-groups/plan", {**BODY, "backend_ids": ["gpu-1"]})
        assert answer.status_code == 200, answer.content
        return answer.json()["eta_seconds"]

    api.submit("gpu-1", "gpu-1")
    assert expected() == 60.0
    begins = (now() + dt.timedelta(hours=2)).strftime("%H:%M")
    ends = (now() + dt.timedelta(hours=3)).strftime("%H:%M")
    Backend.objects.filter(pk="gpu-1").update(hours=f"{begins}-{ends}")
    assert 6_000 < (expected() or 0) < 7_400
    Backend.objects.update(hours="", hold="pause")
    assert expected() is None
