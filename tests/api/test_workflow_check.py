"""POST /api/workflows/check, and what a submission to the pool makes of it."""

import contextlib
import copy
import http.server
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from backends import inventory
from backends.comfyui.exchange import Timeouts
from backends.models import Backend
from backends.services import backend_observed
from backends.simulator.config import DEFAULT_CHECKPOINTS
from director.demo.workflow import text_to_image
from jobgroups import workflow
from jobgroups.api import workflow_check
from jobgroups.api.workflow_check import JobKinds
from jobgroups.domain.clock import now
from jobgroups.models import Exclusion, JobGroup, Runner, Timing
from tests.api.bad_servers import WRONGS, bad_server
from tests.api.conftest import GRAPH, Api, Made, error_of, wrong_fields
from tests.harness import factories
from tests.harness.graphs import EDITOR_FILE, png
from tests.harness.simulator_thread import SimulatorThread
from tests.harness.waits import until

PATH = "/api/workflows/check"
FILE = "sd_xl_bose.safetensors"
pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inventory, "_ANSWERS", inventory._Answers())


def graph_with(**inputs: Any) -> dict[str, Any]:
    """Return a workflow that the simulators execute, with changed inputs of its loader."""
    graph = copy.deepcopy(text_to_image())
    [loader] = [one for one in graph.values() if one["class_type"] == "CheckpointLoaderSimple"]
    loader["inputs"].update(inputs)
    return graph


def check(api: Api, graph: dict[str, Any], **fields: Any) -> dict[str, Any]:
    answer = api.post(PATH, {"workflow_json": graph, **fields})
    assert answer.status_code == 200, answer.content
    found: dict[str, Any] = answer.json()
    assert found["can_run"] == sum(one["can_run"] for one in found["backends"])
    return found


def entries(api: Api, graph: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {one["backend_id"]: one for one in check(api, graph, **fields)["backends"]}


@contextlib.contextmanager
def two_machines(make_backend: Made, **options: Any) -> Iterator[SimulatorThread]:
    """Register gpu-1 with the usual checkpoint, and gpu-2 with another one."""
    with SimulatorThread(**options) as first, SimulatorThread(checkpoints=(FILE,)) as second:
        make_backend("gpu-1", url=first.url)
        make_backend("gpu-2", url=second.url)
        yield first


def test_check_names_the_missing_file_and_stores_nothing(api: Api, make_backend: Made) -> None:
    with two_machines(make_backend):
        found = entries(api, graph_with(), parameters={"steps": 0})
        one, two = found["gpu-1"]["reasons"], found["gpu-2"]["reasons"]
        [steps] = one
        assert steps["message"] == "Value 0 smaller than min of 1"
        [ckpt] = [reason for reason in two if reason["code"] == "file_missing"]
        assert (ckpt["class_type"], ckpt["input"]) == ("CheckpointLoaderSimple", "ckpt_name")
        usual = graph_with(ckpt_name="sd_xl_base.safetensors")
        assert entries(api, usual)["gpu-2"]["reasons"][0]["nearest"] == [FILE]
        found = entries(api, graph_with())
    assert found["gpu-1"] == {
        "backend_id": "gpu-1",
        "can_run": True,
        "known": True,
        "state_reason": None,
        "reasons": [],
    }
    assert (found["gpu-2"]["can_run"], found["gpu-2"]["known"]) == (False, True)
    assert not JobGroup.objects.exists()


def test_check_lists_choices_and_the_usual_time(api: Api, make_backend: Made) -> None:
    with two_machines(make_backend):
        assert check(api, graph_with())["usual_seconds"] is None
        name = workflow.build_template(graph_with(), {}).digests[0]
        Timing.objects.create(
            workflow_digest=name, backend_id="gpu-1", seconds=42, updated_at=now()
        )
        found = check(api, graph_with())
        one = check(api, graph_with(), backend_ids=["gpu-2"])
    files = found["choices"]["4.ckpt_name"]
    assert {FILE, *DEFAULT_CHECKPOINTS} == set(files)
    assert len(files) == len(DEFAULT_CHECKPOINTS) + 1
    assert found["usual_seconds"] == 42.0
    # The other lists are equal, and an input without a list has no choices.
    assert found["choice_backends"] == {"4.ckpt_name": dict.fromkeys(files, 1)}
    assert {"euler", "dpmpp_2m"} <= set(found["choices"]["3.sampler_name"])
    assert found["choices"].keys() == {"3.sampler_name", "3.scheduler", "4.ckpt_name"}
    assert (one["choices"]["4.ckpt_name"], one["choice_backends"]) == ([FILE], {})


def test_values_that_have_never_run_take_the_time_of_the_nearest_that_have(
    api: Api, make_backend: Made
) -> None:
    with two_machines(make_backend):
        for steps, seconds in ((10, 5), (40, 20), (41, 90)):
            graph = graph_with()
            graph["3"]["inputs"]["steps"] = steps
            if steps == 41:  # nearer, but with other links
                graph["3"]["inputs"]["latent_image"] = ["9", 0]
            # The workflow of a job of the pool has its values in its variant.
            submit = factories.submit_to_pool if steps == 40 else factories.submit
            submit(*([1] if steps == 40 else ["gpu-1"]), workflow=graph)
            digest = workflow.build_template(graph, {}).digests[0]
            learned = {"workflow_digest": digest, "backend_id": "gpu-1", "seconds": seconds}
            Timing.objects.create(**learned, updated_at=now())
        times = {}
        for steps in (10, 14, 38, 41):
            times[steps] = check(api, graph_with(), parameters={"3.steps": steps})["usual_seconds"]
    assert times == {10: 5, 14: 5, 38: 20, 41: 20}


def test_check_names_missing_nodes_and_knows_replaced_ones(api: Api, make_backend: Made) -> None:
    graph = graph_with() | {"90": {"class_type": "Mine", "inputs": {}}}
    renamed = graph_with() | {"90": {"class_type": "ConditioningAverage ", "inputs": {}}}
    with two_machines(make_backend, version="0.33.0"):
        assert check(api, graph)["can_run"] == 0
        found = entries(api, renamed)
    assert (found["gpu-1"]["can_run"], found["gpu-1"]["known"]) == (True, False)
    assert "node_missing" in [reason["code"] for reason in found["gpu-2"]["reasons"]]


def test_state_and_capabilities_are_reasons(api: Api, make_backend: Made) -> None:
    with SimulatorThread(3) as sims:
        for number, url in enumerate(sims.urls, 1):
            make_backend(f"gpu-{number}", url=url, tags=["fast"] if number == 1 else [])
        api.patch("/api/backends/gpu-2", {"enabled": False})
        backend_observed(backend_id="gpu-3", reachable=False, responded=True, reason="stuck")
        named = {"backend_ids": ["tag:fast", "tag:slow", "gpu-2", "gpu-3", "gpu-9"]}
        found = entries(api, graph_with(), **named, required_capabilities=["fast"])
        assert sorted(entries(api, graph_with())) == ["gpu-1", "gpu-3"]
    assert found["gpu-1"]["can_run"]
    reasons = {
        name: [(reason["code"], reason["message"]) for reason in one["reasons"]]
        for name, one in found.items()
    }
    lacks = ("capability_missing", "Lacks fast.")
    assert reasons == {
        "gpu-1": [],
        "gpu-2": [("unavailable", "Disabled."), lacks],
        "gpu-3": [("unavailable", "Offline: stuck"), lacks],
        "gpu-9": [("unavailable", "Unknown: no backend has this id.")],
        "tag:slow": [("unavailable", "No backend has this tag.")],
    }
    assert found["gpu-2"]["state_reason"] == "Disabled."


def test_editor_format_is_converted_by_the_backends_descriptions(
    api: Api, runner: Runner, make_backend: Made
) -> None:
    editor = EDITOR_FILE.read_text(encoding="utf-8")
    body = {
        "workflow_json": json.loads(editor),
        "backend_ids": ["*"],
        "count": 1,
        "submitter": " ann ",
    }
    with SimulatorThread() as sim:
        make_backend("gpu-1", url=sim.url)
        found = api.post("/api/workflows/convert", {"workflow_json": body["workflow_json"]}).json()
        assert (found["workflow"], found["warnings"]) == (text_to_image(), [])
        from_png = api.ask(
            "POST", "/api/workflow-from-png", png(workflow=editor), content_type="image/png"
        )
        assert from_png.json() == {"workflow_json": text_to_image()}
        assert check(api, body["workflow_json"], parameters={"steps": 3})["can_run"] == 1
        assert api.post("/api/job-groups/plan", body).json()["total_count"] == 1
        made = api.post("/api/job-group", body, idempotency_key="a")
        assert made.status_code == 201, made.content
        group = made.json()["job_group_id"]
        assert api.get(f"/api/job-groups/{group}/workflow").json() == text_to_image()
        body["workflow_json"]["nodes"][0]["type"] = "Mine"
        wrong = api.post("/api/job-group", body)
        # No class is described, and the check is answered.
        [field] = wrong_fields(wrong)
        assert (field, "Mine: No backend has this node class." in wrong.json()["detail"]) == (
            "workflow_json.4",
            True,
        )
    backend_observed(backend_id="gpu-1", reachable=False, responded=False, reason="gone")
    error_of(
        api.post("/api/workflows/convert", {"workflow_json": json.loads(editor)}),
        503,
        "nothing_described",
    )
    again = api.post(
        "/api/job-group", body | {"workflow_json": json.loads(editor)}, idempotency_key="a"
    )
    assert (again.json()["job_group_id"], again["Idempotency-Replayed"]) == (group, "true")


def test_long_names_are_cut(api: Api, runner: Runner, make_backend: Made) -> None:
    long = "x" * 10_000
    graph = {long: {"class_type": long, "inputs": {long: [f"{long}y", 0]}}}
    make_backend("gpu-1")
    [reason] = entries(api, graph)["gpu-1"]["reasons"]
    assert {len(reason[name]) for name in ("node_id", "class_type", "input")} == {200}
    assert len(reason["message"]) < 500
    answer = api.post("/api/job-group", {"workflow_json": graph, "backend_ids": ["*"], "count": 1})
    [skipped] = error_of(answer, 400, "no_online_backends")["skipped_backends"]
    assert len(skipped["reason"]) < 1_000


def test_exclusion_from_the_workflow_is_a_reason(api: Api, make_backend: Made) -> None:
    make_backend("gpu-1")
    digest = workflow.build_template(GRAPH, {}).digests[0]
    Exclusion.objects.create(
        backend_id="gpu-1", workflow_digest=digest, kind="missing", since=now(), last_at=now()
    )
    found = entries(api, GRAPH)["gpu-1"]
    assert [reason["code"] for reason in found["reasons"]] == ["excluded"]
    assert (found["can_run"], found["state_reason"]) == (False, None)


def test_wrong_fields_are_refused_as_in_a_submission(api: Api) -> None:
    body = {
        "workflow_json": {"3": {"class_type": "X"}},
        "backend_ids": ["*", "gpu-1"],
        "required_capabilities": "fast",
        "count": 3,
    }
    assert wrong_fields(api.post(PATH, body)) == {
        "workflow_json.3.inputs": "Must be an object, empty for a node without any.",
        "backend_ids": "* is every backend; leave the other entries out.",
        "required_capabilities": "Must be a list of strings.",
        "count": "Is not a field of a check.",
    }
    wrong = wrong_fields(api.post(PATH, {"workflow_json": GRAPH, "parameters": {"3.cfg": [1]}}))
    assert list(wrong) == ["parameters.3.cfg"]
    assert api.get(PATH).status_code == 405


def test_new_file_is_found_although_the_list_is_kept(api: Api, make_backend: Made) -> None:
    graph = graph_with()
    graph["90"] = {"class_type": "LoadImage", "inputs": {"image": "late.png"}}
    graph["91"] = {"class_type": "PreviewImage", "inputs": {"images": ["90", 0]}}
    with SimulatorThread() as sims:
        make_backend("gpu-1", url=sims.url)
        [reason] = entries(api, graph)["gpu-1"]["reasons"]
        # The other output is executed.
        assert (reason["code"], reason["node_id"]) == ("file_missing", "90")
        assert entries(api, graph)["gpu-1"]["can_run"]
        uploaded = {"image": ("late.png", b"late")}
        httpx.post(f"{sims.url}/upload/image", files=uploaded, trust_env=False).raise_for_status()
        assert entries(api, graph)["gpu-1"]["reasons"] == []


@pytest.mark.parametrize("wrong", list(WRONGS))
def test_backend_that_answers_wrongly_is_not_known_and_may_run(
    wrong: str, api: Api, runner: Runner, make_backend: Made
) -> None:
    with bad_server(wrong) as url:
        make_backend("gpu-1", url=url)
        start = time.monotonic()
        api.submit("*", count=2)
        assert time.monotonic() - start < 20.0
        if wrong == "nothing":
            return
        found = entries(api, GRAPH)["gpu-1"]
    assert (found["can_run"], found["known"], found["reasons"]) == (True, False, [])


def test_threads_that_check_at_once_read_each_class_once() -> None:
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            time.sleep(0.2)
            body = json.dumps({self.path.rpartition("/")[2]: {"input": {}, "output_node": True}})
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        serving = threading.Thread(target=server.serve_forever, args=(0.02,))
        serving.start()
        backend = Backend(id="gpu-1", url=f"http://127.0.0.1:{server.server_port}")
        start = time.monotonic()
        with ThreadPoolExecutor(8) as pool:
            found = list(
                pool.map(
                    lambda _: inventory.node_classes(
                        {backend: ["A", "B"]}, since=start, until=start + 60
                    ),
                    range(8),
                )
            )
        server.shutdown()
        serving.join()
    assert all(sorted(one["gpu-1"]) == ["A", "B"] for one in found)
    assert sorted(asked) == ["/object_info/A", "/object_info/B"]


def test_backend_that_was_read_is_free_for_other_threads_at_once() -> None:
    with bad_server("nothing") as silent, SimulatorThread() as sims, ThreadPoolExecutor(2) as pool:
        rows = [Backend(id="silent", url=silent), Backend(id="good", url=sims.url)]
        start = time.monotonic()

        def read(backends: list[Backend]) -> dict[str, inventory.Classes]:
            return inventory.node_classes(
                dict.fromkeys(backends, ("KSampler",)), since=start, until=start + 60
            )

        both = pool.submit(read, rows)
        until(lambda: "silent" in inventory._READERS._busy, 60)
        assert pool.submit(read, rows[1:]).result()["good"]["KSampler"]
        assert not both.done()
    assert not inventory._READERS._busy


def test_submission_uses_an_answer_for_ten_minutes_and_a_check_for_one(
    api: Api, runner: Runner, make_backend: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobgroups.api.submission._CHECK_SECONDS", 60.0)

    def ages() -> list[float]:
        return [time.monotonic() - read_at for read_at, _ in inventory._ANSWERS._kept.values()]

    with SimulatorThread() as sims:
        make_backend("gpu-1", url=sims.url)
        assert check(api, graph_with())["can_run"] == 1
        for key, (read_at, answer) in inventory._ANSWERS._kept.items():
            inventory._ANSWERS._kept[key] = (read_at - 300.0, answer)
        api.submit("*", workflow_json=graph_with(), count=2)
        assert min(ages()) >= 300.0
        assert check(api, graph_with())["can_run"] == 1
        assert max(ages()) < 300.0


def test_submission_to_the_pool_leaves_out_what_cannot_run_it(
    api: Api, runner: Runner, make_backend: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobgroups.api.submission._CHECK_SECONDS", 60.0)
    with two_machines(make_backend):
        made = api.submit("*", workflow_json=graph_with(), count=3)
        [skipped] = made["skipped_backends"]
        assert skipped["backend_id"] == "gpu-2"
        assert skipped["reason"].startswith("Cannot run the workflow: node ")
        body = {"workflow_json": graph_with(ckpt_name="no.ckpt"), "backend_ids": ["*"]}
        answer = api.post("/api/job-group", {**body, "count": 3})
        refused = error_of(answer, 400, "no_online_backends")
        assert [one["backend_id"] for one in refused["skipped_backends"]] == ["gpu-1", "gpu-2"]
        # Jobs that are bound to a backend are refused by ComfyUI, as before.
        api.submit("gpu-1", workflow_json=body["workflow_json"])


def test_sixty_four_backends_are_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    all_wait = threading.Barrier(64)
    monkeypatch.setattr(
        inventory, "_TIMEOUTS", Timeouts(connect_s=60.0, silence_s=60.0, total_s=60.0)
    )

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            # No response before each backend has its request.
            all_wait.wait(30.0)
            body = json.dumps({"A": {"input": {}, "output_node": True}})
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: Any) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        request_queue_size = 64

    with Server(("127.0.0.1", 0), Handler) as server:
        serving = threading.Thread(target=server.serve_forever, args=(0.02,))
        serving.start()
        url, start = f"http://127.0.0.1:{server.server_port}", time.monotonic()
        backends = [Backend(id=f"gpu-{number}", url=f"{url}/{number}") for number in range(64)]
        found = inventory.node_classes(
            {one: ["A"] for one in backends}, since=start, until=start + 60.0
        )
        server.shutdown()
        serving.join()
    assert [list(classes) for classes in found.values()] == [["A"]] * 64


def test_silent_backend_leaves_time_for_the_verdict_on_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = 0.0

    def node_classes(wanted: Any, *, since: float, until: float) -> dict[str, Any]:
        nonlocal clock
        missing = {
            row.id: dict.fromkeys(names) if row.id == "answers" else {}
            for row, names in wanted.items()
        }
        if "silent" in missing:
            clock = until
        return missing

    monkeypatch.setattr(inventory, "node_classes", node_classes)
    monkeypatch.setattr(workflow_check, "time", SimpleNamespace(monotonic=lambda: clock))
    rows = [Backend(id="answers"), Backend(id="silent")]
    verdicts = JobKinds(workflow.build_template(GRAPH, {})).verdicts(rows, 2.0, in_part=False)
    assert {name: list(verdict.refused) for name, verdict in verdicts.items()} == {
        "answers": [0],
        "silent": [],
    }
