"""Queue, history, interrupt and jobs of the ComfyUI listener."""

from __future__ import annotations

import copy
import datetime as dt
import re
import uuid
from typing import Any

import pytest
from django.db import connection
from django.test import Client

from jobgroups.domain.clock import now
from jobgroups.domain.failures import FailureClass
from jobgroups.domain.leases import FencingToken
from jobgroups.domain.states import AttemptState, StopReason
from jobgroups.models import Attempt, ChildJob, JobGroup, ListenerPrompt
from jobgroups.queries.listener_prompts import history_prompts, open_prompts
from jobgroups.services import purge
from jobgroups.services.cancellation import group_cancel
from jobgroups.services.retries import group_retry
from jobgroups.streams.listener import listener
from tests.api.conftest import Api
from tests.api.listener.conftest import GRAPH, Program, group_of, job_of
from tests.harness import factories

OUTPUT = {"9": {"images": [{"filename": "a_00001_.png", "subfolder": "x", "type": "output"}]}}


@pytest.fixture
def fence(farm: list[str]) -> FencingToken:
    return factories.lease("gpu-1")


def claim(prompt_id: str, fence: FencingToken) -> Attempt:
    return factories.claim_from_pool(fence, group_of(prompt_id))


def start(prompt_id: str, fence: FencingToken) -> Attempt:
    claimed = claim(prompt_id, fence)
    factories.start(claimed, fence)
    return claimed


def render(prompt_id: str, fence: FencingToken, **fields: Any) -> None:
    fields = {"node_outputs": OUTPUT, **fields}
    assert factories.finish(start(prompt_id, fence), fence, **fields)


def test_a_prompt_goes_from_the_queue_to_the_history(program: Program, fence: FencingToken) -> None:
    prompt_id = program.prompt(client_id="krita", extra_data={"extra_pnginfo": {"workflow": {}}})
    (number, shown_id, graph, extra_data, targets), *others = program.get("/queue")["queue_pending"]
    assert (shown_id, graph, targets, others) == (prompt_id, GRAPH, ["9"], [])
    assert isinstance(number, int)
    created = extra_data.pop("create_time")
    assert extra_data == {"client_id": "krita", "extra_pnginfo": {"workflow": {}}}
    assert program.get(f"/history/{prompt_id}") == program.get("/history") == {}
    claimed = start(prompt_id, fence)
    assert program.queue() == ([prompt_id], [])
    execution = {"cached_nodes": ["3"]}
    assert factories.finish(claimed, fence, node_outputs=OUTPUT, execution=execution)
    assert program.queue() == ([], [])
    entry = program.get(f"/api/history/{prompt_id}")[prompt_id]
    extra_data |= {"create_time": created}
    assert entry["prompt"] == [number, prompt_id, GRAPH, extra_data, ["9"]]
    file = {"filename": "a_00001_.png", "subfolder": f"{job_of(prompt_id).pk}/x", "type": "output"}
    assert entry["outputs"] == {"9": {"images": [file]}}
    assert entry["meta"]["9"]["display_node"] == "9"
    status = entry["status"]
    assert (status["status_str"], status["completed"]) == ("success", True)
    kinds = [kind for kind, _ in status["messages"]]
    assert kinds == ["execution_start", "execution_cached", "execution_success"]
    assert all(data["prompt_id"] == prompt_id for _, data in status["messages"])
    assert status["messages"][1][1]["nodes"] == ["3"]
    times = [data["timestamp"] for _, data in status["messages"]]
    assert created <= times[0] <= times[-1]
    assert program.get("/history") == {prompt_id: entry}


def test_interrupt_stops_the_presented_prompt_alone_and_no_retry_follows(
    program: Program, farm: list[str]
) -> None:
    fences = [factories.lease(backend_id) for backend_id in farm]
    first, second, third = (program.prompt(client_id="krita") for _ in range(3))
    order = (second, first, third)
    claims = {
        prompt_id: start(prompt_id, fence) for prompt_id, fence in zip(order, fences, strict=True)
    }
    assert program.queue() == ([*order], [])
    # It waits for a retry, so no end of it was shown: it is presented.
    factories.fail(claims[second], fences[0], FailureClass.OUT_OF_MEMORY)
    assert program.queue() == ([first, third], [second])
    assert program.get(f"/history/{second}") == {}
    program.post("/interrupt", {})
    assert program.queue() == ([first, third], [])
    program.post("/api/interrupt")
    assert program.queue() == ([third], [])
    assert claims[first].child.current_attempt_id == claims[first].pk
    claims[first].refresh_from_db()
    assert claims[first].stop_reason == StopReason.CANCEL
    # A retry would follow the end of a prompt that was stopped at its machine.
    factories.finish(claims[first], fences[1], AttemptState.INTERRUPTED)
    assert program.queue() == ([third], [])
    for prompt_id, kinds in (
        (second, ["execution_interrupted"]),
        (first, ["execution_start", "execution_cached", "execution_interrupted"]),
    ):
        status = program.get(f"/history/{prompt_id}")[prompt_id]["status"]
        assert [kind for kind, _ in status["messages"]] == kinds
        assert (status["status_str"], status["completed"]) == ("error", False)


def test_a_failed_prompt_has_the_error_of_its_node(program: Program, fence: FencingToken) -> None:
    prompt_id = program.prompt()
    claimed = start(prompt_id, fence)
    details = {
        "node_id": "3",
        "node_type": "KSampler",
        "exception_type": "ValueError",
        "traceback": ["line 1"],
    }
    failed = {"failure": FailureClass.WORKFLOW_REFUSED, "error_message": "too large"}
    factories.finish(claimed, fence, AttemptState.ERROR, error_details=details, **failed)
    entry = program.get(f"/history/{prompt_id}")[prompt_id]
    assert (entry["status"]["status_str"], entry["status"]["completed"]) == ("error", False)
    kind, data = entry["status"]["messages"][-1]
    assert kind == "execution_error"
    assert data.pop("timestamp") >= entry["status"]["messages"][0][1]["timestamp"]
    assert data == {
        "prompt_id": prompt_id,
        "node_id": "3",
        "node_type": "KSampler",
        "executed": [],
        "exception_message": "too large",
        "exception_type": "ValueError",
        "traceback": ["line 1"],
        "current_inputs": {},
        "current_outputs": [],
    }
    job = program.get(f"/api/jobs/{prompt_id}")
    assert (job["status"], job["execution_error"]["node_id"]) == ("failed", "3")


def test_a_failure_without_a_node_names_an_output(program: Program, fence: FencingToken) -> None:
    prompt_id = program.prompt()
    factories.fail(start(prompt_id, fence), fence, FailureClass.WORKFLOW_REFUSED)
    status = program.get(f"/history/{prompt_id}")[prompt_id]["status"]
    kind, data = status["messages"][-1]
    assert kind == "execution_error"
    assert (data["node_id"], data["node_type"]) == ("9", "SaveImage")
    assert data["exception_message"]
    assert data["exception_type"]


def test_pictures_of_frames_are_no_files_of_the_history(
    program: Program, fence: FencingToken
) -> None:
    prompt_id = program.prompt()
    sent = {"images": [{"filename": "a.png", "subfolder": "", "type": "websocket"}]}
    empty = {"text": [], "value": [7]}
    render(prompt_id, fence, node_outputs={"5": sent, "7": empty, **OUTPUT})
    outputs = program.get(f"/history/{prompt_id}")[prompt_id]["outputs"]
    assert outputs.keys() == {"7", "9"}
    assert outputs["7"] == empty
    assert program.get(f"/api/jobs/{prompt_id}")["outputs_count"] == 1


def test_a_deleted_prompt_never_runs_and_a_running_one_goes_on(
    program: Program, fence: FencingToken
) -> None:
    running, sent, waiting, kept = (program.prompt() for _ in range(4))
    start(running, fence)
    claimed = claim(sent, fence)
    ids = [running, sent, waiting, str(uuid.uuid4()), "no id", 7]
    assert program.ask("POST", "/queue", {"delete": ids}).content == b""
    assert program.queue() == ([running], [kept])
    assert job_of(waiting).attempts.count() == 0
    # What a machine has in its queue is removed there.
    claimed.refresh_from_db()
    assert claimed.stop_reason == StopReason.CANCEL
    assert program.get(f"/history/{waiting}")[waiting]["status"]["messages"][0][0] == (
        "execution_interrupted"
    )
    assert program.get("/api/jobs?status=cancelled")["pagination"]["total"] == 2
    program.post("/api/queue", {"clear": True})
    assert program.queue() == ([running], [])
    assert factories.idle(fence)


def test_a_deleted_prompt_that_runs_beside_the_presented_one_is_stopped(
    program: Program, farm: list[str]
) -> None:
    # comfy-cli's `jobs cancel`: delete, and an interrupt without an id while the prompt is in
    # `queue_running`.
    presented, beside, kept = (program.prompt() for _ in range(3))
    for prompt_id, backend_id in zip((presented, beside, kept), farm, strict=False):
        start(prompt_id, factories.lease(backend_id))
    program.post("/queue", {"clear": True, "delete": [beside]})
    assert program.queue() == ([presented, beside, kept], [])
    program.post("/queue", {"delete": [beside, presented]})
    assert program.queue() == ([presented, kept], [])
    program.post("/interrupt")
    assert program.queue() == ([kept], [])


def test_interrupt_by_id_stops_that_prompt_once_it_has_started(
    program: Program, farm: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fences = [factories.lease(backend_id) for backend_id in farm[:3]]
    first, second = (program.prompt(client_id="a") for _ in range(2))
    for prompt_id, fence in zip((first, second), fences, strict=False):
        start(prompt_id, fence)
    waiting = program.prompt()
    program.post("/interrupt", {"prompt_id": second})
    assert program.queue() == ([first], [waiting])
    program.post("/interrupt", {"prompt_id": waiting})
    program.post("/interrupt", {"prompt_id": str(uuid.uuid4())})
    refused = program.ask("POST", "/interrupt", b"nonsense")
    assert refused.status_code == 400
    assert program.queue() == ([first], [waiting])
    # A program may have the frame of the start before that is stored.
    claimed = claim(waiting, fences[2])
    monkeypatch.setattr(
        "jobgroups.api.listener.queue.sleep", lambda _: factories.start(claimed, fences[2])
    )
    program.post("/interrupt", {"prompt_id": waiting})
    assert program.queue() == ([first], [])


def test_interrupt_without_a_running_prompt_changes_nothing(
    program: Program, fence: FencingToken
) -> None:
    waiting = program.prompt()
    claim(waiting, fence)
    program.post("/interrupt")
    assert program.queue() == ([], [waiting])


def test_interrupt_without_an_id_waits_for_a_start_that_is_shown_and_not_stored(
    program: Program, farm: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fences = [factories.lease(backend_id) for backend_id in farm[:2]]
    shown, sent = program.prompt(), program.prompt()
    claimed = [claim(one, fence) for one, fence in zip((shown, sent), fences, strict=True)]
    row = ListenerPrompt.objects.get(prompt_id=shown)
    monkeypatch.setattr(listener, "started", lambda owner: {row.pk} if owner == row.owner else None)
    monkeypatch.setattr(
        "jobgroups.api.listener.queue.sleep", lambda _: factories.start(claimed[0], fences[0])
    )
    program.post("/interrupt")
    assert program.queue() == ([], [sent])
    # A second press does not wait for the start of the next one.
    monkeypatch.setattr(
        "jobgroups.api.listener.queue.sleep", lambda _: factories.start(claimed[1], fences[1])
    )
    program.post("/interrupt")
    assert program.queue() == ([], [sent])


def test_history_lists_the_newest_and_pages_from_the_oldest(
    program: Program, fence: FencingToken
) -> None:
    ids = [program.prompt() for _ in range(4)]
    # In another order than they were sent.
    for prompt_id in (ids[0], ids[2], ids[1]):
        render(prompt_id, fence)
    assert program.history() == ids[:3]
    assert program.history("?max_items=1") == [ids[2]]
    assert program.history("?max_items=2") == ids[1:3]
    assert program.history("?max_items=0") == []
    assert program.history("?offset=1") == ids[1:3]
    assert program.history("?max_items=1&offset=1") == [ids[1]]
    assert program.history("?max_items=1&offset=-1") == [ids[2]]
    assert program.history("?offset=3") == []
    for query in ("max_items=x", "offset=9999999999", "max_items="):
        refused = program.ask("GET", f"/history?{query}")
        assert (refused.status_code, refused.json()["error"]["type"]) == (400, "invalid_request")


def test_history_removed_by_its_owner_is_hidden_and_the_groups_stay(
    program: Program, fence: FencingToken
) -> None:
    ids = [program.prompt() for _ in range(4)]
    for prompt_id in ids[:3]:
        render(prompt_id, fence)
    program.post("/history", {"delete": [ids[0], ids[3], str(uuid.uuid4())]})
    assert program.history() == ids[1:3]
    assert program.get(f"/history/{ids[0]}") == {}
    assert program.ask("GET", f"/api/jobs/{ids[0]}").status_code == 404
    assert ids[0] not in [job["id"] for job in program.get("/api/jobs")["jobs"]]
    program.post("/api/history", {"clear": True})
    assert program.history() == []
    assert JobGroup.objects.count() == 4
    # One that had not ended is listed when it ends, and so is one that is retried.
    failing = ids[3]
    factories.fail(start(failing, fence), fence, FailureClass.WORKFLOW_REFUSED)
    assert program.history() == [failing]
    program.post("/history", {"clear": True})
    assert program.history() == []
    group_retry(group_id=group_of(failing).pk)
    assert program.queue() == ([], [failing])
    render(failing, fence)
    assert program.history() == [failing]


def test_a_group_cancelled_or_retried_at_the_director_shows_at_the_listener(
    program: Program, fence: FencingToken
) -> None:
    prompt_id = program.prompt()
    group_id = group_of(prompt_id).pk
    claimed = start(prompt_id, fence)
    group_cancel(group_id=group_id)
    assert program.queue() == ([], [])
    entry = program.get(f"/history/{prompt_id}")[prompt_id]
    assert entry["status"]["messages"][-1][0] == "execution_interrupted"
    factories.finish(claimed, fence, AttemptState.INTERRUPTED)
    group_retry(group_id=group_id)
    assert program.queue() == ([], [prompt_id])
    assert program.get(f"/history/{prompt_id}") == {}
    # Its start in the run before is none of this one.
    program.post("/interrupt")
    assert program.queue() == ([], [prompt_id])
    render(prompt_id, fence)
    assert program.queue() == ([], [])
    entry = program.get(f"/history/{prompt_id}")[prompt_id]
    assert entry["status"]["status_str"] == "success"


def test_a_group_that_the_retention_deleted_is_unknown(
    program: Program, fence: FencingToken
) -> None:
    deleted, kept = program.prompt(), program.prompt()
    for prompt_id in (deleted, kept):
        render(prompt_id, fence)
    old = now() - dt.timedelta(days=3)
    JobGroup.objects.filter(pk=group_of(deleted).pk).update(
        created_at=old, completed_at=old, retention_days=1
    )
    list(purge.groups_purge(purge.Limits()))
    assert program.history() == [kept]
    assert program.get(f"/history/{deleted}") == {}
    assert program.ask("GET", f"/api/jobs/{deleted}").status_code == 404
    assert program.post(f"/api/jobs/{deleted}/cancel") == {"cancelled": False}


def test_jobs_are_filtered_sorted_and_paged(program: Program, fence: FencingToken) -> None:
    of_editor = {"extra_pnginfo": {"workflow": {"id": "w-1"}}}
    quick, slow = program.prompt(extra_data=of_editor), program.prompt(extra_data={"note": "w-1"})
    for prompt_id, seconds in ((quick, 1), (slow, 60)):
        render(prompt_id, fence)
        child = job_of(prompt_id)
        assert child.completed_at is not None
        ChildJob.objects.filter(pk=child.pk).update(
            started_at=child.completed_at - dt.timedelta(seconds=seconds)
        )
    running, waiting = program.prompt(), program.prompt()
    start(running, fence)

    def listed(query: str) -> list[str]:
        return [job["id"] for job in program.get(f"/api/jobs{query}")["jobs"]]

    assert listed("") == [waiting, running, slow, quick]
    assert listed("?sort_order=asc") == [quick, slow, running, waiting]
    assert listed("?status=completed&sort_by=execution_duration") == [slow, quick]
    assert listed("?status=pending, in_progress&limit=200") == [waiting, running]
    assert listed("?status=failed,cancelled") == []
    assert listed("?workflow_id=w-1") == [quick]
    page = program.get("/api/jobs?limit=3&offset=1")
    assert [job["id"] for job in page["jobs"]] == [running, slow, quick]
    assert page["pagination"] == {"offset": 1, "limit": 3, "total": 4, "has_more": False}
    assert program.get("/api/jobs?limit=1")["pagination"]["has_more"]
    assert program.get("/api/jobs?limit=5000")["pagination"]["limit"] == 200
    for query in ("status=lost", "sort_by=id", "sort_order=up", "limit=0", "limit=x", "offset=x"):
        refused = program.ask("GET", f"/api/jobs?{query}")
        assert refused.status_code == 400, query
        assert refused.json()["error"]
    job = program.get(f"/api/jobs/{quick}")
    file = {"filename": "a_00001_.png", "subfolder": f"{job_of(quick).pk}/x", "type": "output"}
    assert job["preview_output"] == {**file, "nodeId": "9", "mediaType": "images"}
    assert (job["outputs_count"], job["previewable_outputs_count"]) == (1, 1)
    assert job["execution_end_time"] - job["execution_start_time"] == 1000
    assert job["workflow"]["prompt"] == GRAPH
    assert job["workflow"]["extra_data"]["extra_pnginfo"] == of_editor["extra_pnginfo"]
    assert job["outputs"] == {"9": {"images": [file]}}
    assert job["execution_status"]["status_str"] == "success"
    assert (job["workflow_id"], job["status"]) == ("w-1", "completed")
    pending = program.get(f"/api/jobs/{waiting}")
    assert pending.keys() == {
        "id",
        "status",
        "priority",
        "create_time",
        "outputs_count",
        "previewable_outputs_count",
    }


def test_jobs_are_cancelled_by_their_ids(program: Program, fence: FencingToken) -> None:
    done, running, waiting, other = (program.prompt() for _ in range(4))
    render(done, fence)
    start(running, fence)
    assert program.post(f"/api/jobs/{running}/cancel") == {"cancelled": True}
    assert program.post(f"/api/jobs/{running}/cancel") == {"cancelled": False}
    ids = [done, waiting, str(uuid.uuid4())]
    refused = program.ask("POST", "/api/jobs/cancel", {"job_ids": [*ids, "x", {"a": 1}]})
    assert refused.status_code == 400
    assert len(refused.json()["invalid_ids"]) == 2
    assert program.queue() == ([], [waiting, other])
    assert program.post("/api/jobs/cancel", {"job_ids": ids}) == {"cancelled": True}
    assert program.post("/api/jobs/cancel", {"job_ids": [done]}) == {"cancelled": False}
    assert program.queue() == ([], [other])
    for body in ({}, {"job_ids": "x"}, None):
        assert program.ask("POST", "/api/jobs/cancel", body).status_code == 400
    assert program.ask("GET", "/jobs").status_code == 404


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/queue", {"delete": "x"}),
        ("/history", {"delete": {"a": 1}}),
        ("/queue", ["clear"]),
        ("/queue", b"{"),
        ("/history", b"\xff"),
        ("/interrupt", [1]),
    ],
)
def test_a_malformed_body_is_refused_with_a_reason(program: Program, path: str, body: Any) -> None:
    waiting = program.prompt()
    answer = program.ask("POST", path, body)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]
    assert program.queue() == ([], [waiting])


@pytest.mark.parametrize("unknown", [str(uuid.UUID(int=1)), "x", "%00", "a%0ab", "é" * 300, "%FF"])
def test_an_unknown_id_is_in_no_view(program: Program, unknown: str) -> None:
    answer = program.ask("GET", f"/history/{unknown}")
    assert (answer.status_code, answer.content) == (200, b"{}")
    assert program.ask("GET", f"/api/jobs/{unknown}").status_code == 404
    assert program.post(f"/api/jobs/{unknown}/cancel") == {"cancelled": False}


def test_groups_of_the_listener_have_a_sign_with_the_name_of_the_program(
    farm: list[str], api: Api, client: Client
) -> None:
    named = Program(User_Agent="krita-ai/1.40 <b>")
    pages = {
        group_of(named.prompt()).pk: "ComfyUI: krita-ai/1.40 &lt;b&gt;",
        group_of(Program().prompt()).pk: "ComfyUI</span>",
    }
    programs = [api.get(f"/parts/groups/{group_id}").content.decode() for group_id in pages]
    programs += [api.get(f"/groups/{group_id}").content.decode() for group_id in pages]
    for text, sign in zip(programs, [*pages.values()] * 2, strict=True):
        assert sign in text
    listed = {row["job_group_id"]: row for row in api.get("/api/job-groups").json()["results"]}
    assert [listed[group_id]["program"] for group_id in pages] == ["krita-ai/1.40 <b>", ""]
    queue = client.get("/queue").content.decode()
    assert all(sign in queue for sign in pages.values())
    other = api.submit("gpu-1")
    assert other["job_group_id"] not in pages
    assert JobGroup.objects.get(pk=other["job_group_id"]).program is None
    assert "ComfyUI listener" not in client.get(f"/groups/{other['job_group_id']}").content.decode()


@pytest.fixture
def many(program: Program, fence: FencingToken) -> Program:
    """A program that has sent 3,000 prompts, of which two have not ended."""
    prompt_id = program.prompt()
    render(prompt_id, fence)
    group, child = group_of(prompt_id), job_of(prompt_id)
    prompt = ListenerPrompt.objects.get()
    groups, children, prompts = list[JobGroup](), list[ChildJob](), list[ListenerPrompt]()
    for number in range(3_000):
        group.pk, child.pk = f"jg_{number:012x}", f"j_{number:012x}"
        child.group_id = prompt.group_id = group.pk
        prompt.pk, prompt.prompt_id = None, str(uuid.UUID(int=number))
        for row, rows in ((group, groups), (child, children), (prompt, prompts)):
            rows.append(copy.copy(row))
    JobGroup.objects.bulk_create(groups, batch_size=500)
    ChildJob.objects.bulk_create(children, batch_size=500)
    ListenerPrompt.objects.bulk_create(prompts, batch_size=500)
    for _ in range(2):
        program.prompt()
    if connection.vendor == "postgresql":  # SQLite gets no statistics
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE")
    return program


def test_a_poll_reads_few_rows_of_a_long_history(many: Program) -> None:
    owner = ListenerPrompt.objects.values_list("owner", flat=True)[0]
    newest = history_prompts(owner).order_by("-id")[:1].explain()
    # In the order of an index, so that it ends with the first entry.
    assert not re.search(r"Sort|TEMP B-TREE|SCAN jobgroups_jobgroup|Seq Scan", newest), newest
    waiting = open_prompts(owner).explain()
    assert "group_status_newest" in waiting or "group_pool_open" in waiting, waiting
    assert not re.search(r"SCAN|Seq Scan", waiting.replace("SCAN CONSTANT ROW", "")), waiting
    assert many.history("?max_items=1") == [str(uuid.UUID(int=2_999))]
    assert len(many.queue()[1]) == 2
    assert many.get("/prompt")["exec_info"]["queue_remaining"] == 2
    assert many.history() == [str(uuid.UUID(int=number)) for number in range(2_800, 3_000)]
    assert many.get("/api/jobs?limit=1")["pagination"]["total"] == 3_003
