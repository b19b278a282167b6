import datetime as dt
import json
from base64 import urlsafe_b64encode
from typing import Any

import pytest
from django.db import connection

from backends.states import LEFT_RUNNING
from jobgroups.domain.access import EVERYBODY
from jobgroups.domain.clock import iso, now
from jobgroups.domain.states import AttemptState
from jobgroups.models import Attempt, ChildJob, JobEvent, JobGroup
from jobgroups.queries.groups import GroupFilter, filter_groups
from jobgroups.services import backends, cancellation
from tests.api.conftest import GRAPH, Api, error_of, play, play_to_the_end, wrong_fields
from tests.harness import factories

pytestmark = pytest.mark.django_db(transaction=True)


METADATA = {"scene": "shot_001", "panel_id": 3, "nested": {"z": 1, "a": [None, 1.5, "ü"]}}


@pytest.fixture
def mixed(api: Api, farm: list[str]) -> dict[str, Any]:
    """A group of three jobs: completed, running, failed."""
    made = api.submit(*farm, base_seed=42, metadata=METADATA, timeout_seconds=60)
    play_to_the_end("gpu-1")
    play("gpu-2")
    play_to_the_end("gpu-3", AttemptState.ERROR)
    return made


def _path(made: dict[str, Any], job: int | None = None) -> str:
    path = f"/api/job-groups/{made['job_group_id']}"
    return path if job is None else f"{path}/jobs/{made['child_jobs'][job]['job_id']}"


def _counts(answer: Any) -> tuple[Any, ...]:
    """Return the counts of a cancellation: cancelled, interrupted, already complete and failed."""
    assert answer.status_code == 200, answer.content
    assert list(answer.json()) == ["cancelled", "interrupted", "already_complete", "already_failed"]
    return tuple(answer.json().values())


def test_fields_of_a_queued_job_are_null_where_nothing_is_known(api: Api, farm: list[str]) -> None:
    group = api.submit("gpu-1", base_seed=42)["job_group_id"]
    job = api.get(f"/api/job-groups/{group}").json()["child_jobs"][0]
    known = {"job_id", "backend_id", "status", "queued_at", "waiting_reason"}
    expected = {"seed": 42, "progress": 0.0, "attempts": 0, "warnings": [], "starred": False}
    expected["outputs_reused"] = False
    assert {name: value for name, value in job.items() if name not in known} == {
        **dict.fromkeys(job.keys() - known),
        **expected,
    }


def test_status_shows_the_submission_and_the_results(api: Api, mixed: dict[str, Any]) -> None:
    status = api.get(_path(mixed)).json()
    assert (status["status"], status["completed_at"]) == ("partial_complete", None)
    assert (status["completed_count"], status["failed_count"], status["total_count"]) == (1, 1, 3)
    completed, running, failed = status["child_jobs"]
    assert (completed["status"], completed["progress"]) == ("completed", 100.0)
    assert completed["outputs"]["images"][0]["filename"] == "a.png"
    assert running["status"] == "running"
    assert (failed["status"], failed["error_type"]) == ("failed", "ComfyUIError")
    assert failed["error_message"] == "CUDA out of memory"
    assert (status["base_seed"], status["timeout_seconds"], status["run"]) == (42, 60, 1)
    assert status["seed_strategy"] == "random"
    assert status["seq"] == JobEvent.objects.count()
    assert json.dumps(status["metadata"]) == json.dumps(METADATA)


def test_workflow_comes_back_equal_in_key_order(api: Api, farm: list[str]) -> None:
    graph = {
        "9": {"class_type": "B", "inputs": {"z": 1.0, "a": [None, True, "ü", 1e22, 2**60]}},
        "3": {"class_type": "A", "inputs": {"seed": 7}, "_meta": {"title": "x"}, "extra": {}},
    }
    group = api.submit("gpu-1", workflow_json=graph, parameters={"seed": 1})["job_group_id"]
    answer = api.get(f"/api/job-groups/{group}/workflow")
    assert answer.headers["Content-Type"] == "application/json"
    assert json.dumps(answer.json()) == json.dumps(graph)


def test_events_are_listed_in_order_after_since(api: Api, farm: list[str]) -> None:
    path = f"{_path(api.submit('gpu-1'))}/events"
    play_to_the_end("gpu-1")
    whole = api.get(path).json()
    types = ["group_created", "child_started", "child_completed", "group_complete"]
    assert [(one["seq"], one["type"]) for one in whole["events"]] == [*enumerate(types, 1)]
    assert whole["next"] is None
    assert api.get(f"{path}?since=2").json()["events"] == whole["events"][2:]
    assert api.get(f"{path}?since=99").json()["events"] == []


def test_events_have_pages(api: Api, farm: list[str]) -> None:
    made = api.submit(*["gpu-1"] * 600)
    cancellation.group_cancel(group_id=made["job_group_id"])
    path, seen = f"{_path(made)}/events", []
    while path:
        page = api.get(path).json()
        seen += [one["seq"] for one in page["events"]]
        path = page["next"] and page["next"].removeprefix("http://localhost:9820")
    assert seen == list(range(1, 603))


def test_job_is_shown_with_its_attempts(api: Api, mixed: dict[str, Any]) -> None:
    job = api.get(_path(mixed, 2)).json()
    (attempt,) = job["attempts"]
    assert (job["status"], attempt["error_message"]) == ("failed", "CUDA out of memory")
    assert (attempt["number"], attempt["run"], attempt["outcome"]) == (1, 1, "error")
    assert attempt["prompt_id"] == Attempt.objects.get(child_id=job["job_id"]).prompt_id


def test_job_of_another_group_is_not_found(api: Api, farm: list[str]) -> None:
    group, other = api.submit("gpu-1"), api.submit("gpu-1")
    path = _path({**group, "child_jobs": other["child_jobs"]}, 0)
    error_of(api.get(path), 404, "job_not_found")
    error_of(api.delete(path), 404, "job_not_found")
    assert api.get(_path(other, 0)).json()["status"] == "queued"


def test_cancel_of_all_groups_leaves_what_has_ended_and_the_rest_to_the_next_request(
    api: Api, farm: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = api.submit("gpu-1")["job_group_id"]
    play_to_the_end("gpu-1")
    newest = [api.submit("gpu-1", "gpu-2")["job_group_id"] for _ in range(3)][-1]
    play_to_the_end("gpu-1")  # a group that is open has a completed job
    path = "/api/job-groups/cancel"
    open_ = {"groups": 3, "jobs": 5, "running": 0, "remaining": 0}
    assert api.get(path).json() == open_
    error_of(api.post(path, {"all": True}), 400, "invalid_request")
    monkeypatch.setattr(cancellation, "_SECONDS", -1.0)
    assert api.post(path, None).json() == {"groups": 1, "jobs": 2, "running": 0, "remaining": 2}
    assert api.get(f"/api/job-groups/{newest}").json()["status"] == "cancelled"
    monkeypatch.undo()
    assert api.post(path, None).json() == {"groups": 2, "jobs": 3, "running": 0, "remaining": 0}
    assert api.post(path, None).json()["groups"] == 0
    assert api.get(f"/api/job-groups/{ended}").json()["status"] == "completed"


def test_cancel_of_one_job_leaves_the_others(api: Api, farm: list[str]) -> None:
    made = api.submit("gpu-1", "gpu-2")
    assert _counts(api.delete(_path(made, 0))) == (True, 1, 0, 0)
    assert _counts(api.delete(_path(made, 0))) == (True, 0, 0, 0)
    status = api.get(_path(made)).json()
    assert [one["status"] for one in status["child_jobs"]] == ["cancelled", "queued"]
    assert status["status"] == "running"


def test_cancel_counts_jobs_and_requests_the_stop_of_a_running_one(
    api: Api, mixed: dict[str, Any]
) -> None:
    assert _counts(api.delete(_path(mixed))) == (True, 1, 1, 1)
    assert Attempt.objects.get(ended_at=None).stop_requested_at is not None
    status = api.get(_path(mixed)).json()
    assert status["status"] == "cancelled"
    assert _counts(api.delete(_path(mixed))) == (True, 0, 1, 1)
    assert api.get(_path(mixed)).json() == status


def _ids(answer: Any) -> list[str]:
    assert answer.status_code == 200, answer.content
    return [one["job_group_id"] for one in answer.json()["results"]]


def _spread(group_ids: list[str]) -> dt.datetime:
    start = dt.datetime(2026, 2, 1, 7, tzinfo=dt.UTC)
    for minute, group_id in enumerate(group_ids):
        moment = start + dt.timedelta(minutes=minute)
        JobGroup.objects.filter(pk=group_id).update(created_at=moment)
        ChildJob.objects.filter(group=group_id).update(group_created_at=moment)
    return start


def test_list_has_links_to_next_and_previous_page(api: Api, farm: list[str]) -> None:
    # Groups of one moment are in the order of their ids.
    made = sorted(api.submit("gpu-1")["job_group_id"] for _ in range(3))
    moment = now()
    JobGroup.objects.update(created_at=moment)
    ChildJob.objects.update(group_created_at=moment)
    whole = api.get("/api/job-groups").json()
    assert [one["job_group_id"] for one in whole["results"]] == made[::-1]
    assert (whole["next"], whole["previous"]) == (None, None)
    assert "child_jobs" not in whole["results"][0]
    assert whole["results"][0]["total_count"] == 1
    first = api.get("/api/job-groups?limit=2&backend=gpu-1")
    assert _ids(first) == made[:0:-1]
    second = api.get(_followed(first.json()["next"]))
    assert (_ids(second), second.json()["next"]) == (made[:1], None)
    back = _followed(second.json()["previous"])
    assert "backend=gpu-1" in back
    assert _ids(api.get(back)) == made[:0:-1]


def _followed(link: str) -> str:
    assert link.startswith("http://localhost:9820/api/job-groups?")
    return link.removeprefix("http://localhost:9820")


def test_list_is_filtered_by_status_backend_metadata_and_time(api: Api, farm: list[str]) -> None:
    key, value = "k" * 100, "v" * 200  # the longest that are stored for searches
    first = api.submit("gpu-1", metadata={"scene": "a", "take": 3, "ok": True})["job_group_id"]
    second = api.submit("gpu-2", metadata={"scene": "b", key: value})["job_group_id"]
    third = api.submit("gpu-1", "gpu-2", metadata={"scene": "a", "take": "3"})["job_group_id"]
    start = _spread([first, second, third])
    api.delete(f"/api/job-groups/{second}")
    wanted = {
        "status=cancelled": [second],
        "status=": [third, second, first],
        "backend=gpu-2": [third, second],
        "backend=nobody": [],
        "metadata.scene=a&metadata.take=3": [third, first],
        "metadata.ok=true": [first],
        "metadata.nothing=a": [],
        f"metadata.{key}={value}": [second],
        "metadata.scene=a&backend=gpu-2&status=running": [third],
        f"created_after={iso(start)}": [third, second],
        "created_after=2026-02-01T07:00:30Z&created_before=2026-02-01T07:01:30Z": [second],
        "created_before=2026-02-01T08:01:00%2B01:00": [first],
        "created_before=2026-02-01T08:01:00.000+01:00": [first],
        "created_before=2026-02-01": [],
        "created_after=2026-02-01 07:00:30": [third, second],
    }
    assert {query: _ids(api.get(f"/api/job-groups?{query}")) for query in wanted} == wanted


def test_group_is_renamed_and_archived(api: Api, farm: list[str]) -> None:
    path = _path(api.submit("gpu-1", name="first", metadata=METADATA))
    before = api.get(path).json()
    named = api.patch(path, {"name": " owl, second take "}).json()
    assert named["child_jobs"] == []
    assert (named["name"], named["title"], named["archived_at"]) == (
        *["owl, second take"] * 2,
        None,
    )
    assert (named["seq"], named["revision"]) == (before["seq"], before["revision"] + 1)
    archived = api.patch(path, {"archived": True}).json()
    assert archived["name"] == "owl, second take"
    again = api.patch(path, {"archived": True, "name": ""}).json()
    assert (again["archived_at"], again["name"]) == (archived["archived_at"], None)
    assert again["title"] == "shot_001 · panel 3"
    assert archived["archived_at"] is not None
    assert api.patch(path, {"archived": False}).json()["archived_at"] is None
    assert api.get(path).json()["revision"] == before["revision"] + 4
    named = {"name": "x"}
    for body, field in (
        ({}, "name"),
        ({"name": "x" * 201}, "name"),
        ({**named, "archived": 1}, "archived"),
    ):
        assert list(wrong_fields(api.patch(path, body))) == [field]
    assert list(wrong_fields(api.patch(path, {**named, "title": "x"}))) == ["title"]
    error_of(api.patch("/api/job-groups/jg_000000000000", named), 404, "group_not_found")
    error_of(api.patch(path, named, content_type="text/plain"), 415, "unsupported_media_type")


def test_deleted_group_is_unknown_everywhere(api: Api, farm: list[str]) -> None:
    fields = {"workflow_json": GRAPH, "backend_ids": ["gpu-1"]}
    made = api.post("/api/job-group", fields, idempotency_key="take-1").json()
    path, page = _path(made), f"/groups/{made['job_group_id']}"
    error_of(api.post(f"{path}/delete", {}), 409, "group_open")
    play("gpu-1")
    api.delete(path)
    assert (
        "may still run at gpu-1"
        in error_of(api.get(f"{path}/delete"), 409, "group_stopping")["detail"]
    )
    Attempt.objects.update(ended_at=now(), state="interrupted")
    etag = api.get(path).headers["ETag"]
    what = {"jobs": 1, "starred": 0, "files": 0, "bytes": 0, "kept_at_backends": False}
    assert api.get(f"{path}/delete").json() == what
    assert list(wrong_fields(api.post(f"{path}/delete", {"force": True}))) == ["force"]
    assert api.post(f"{path}/delete", None).json() == what
    tails = (
        "",
        "?children=0",
        "?limit=1",
        "/workflow",
        "/events",
        "/delete",
        "/outputs.zip",
        "/sheet.webp",
    )
    for answer in [
        api.get(path, if_none_match=etag),
        *(api.get(f"{path}{tail}") for tail in tails),
    ]:
        assert (answer.status_code, answer.json()["code"]) in (
            (404, "group_not_found"),
            (404, "no_outputs"),
        ), answer
    error_of(api.get(_path(made, 0)), 404, "group_not_found")
    job = f"{page}/parts/cards/{made['child_jobs'][0]['job_id']}"
    for shown in (page, f"{page}/parts/head", job, f"/parts{page}"):
        assert api.get(shown).status_code == 404
    error_of(api.post("/api/job-group", fields, idempotency_key="take-1"), 410, "group_deleted")
    error_of(
        api.post("/api/job-group", fields | {"count": 1}, idempotency_key="take-1"),
        409,
        "idempotency_conflict",
    )


def test_list_finds_words_and_seeds_and_leaves_out_archived_groups(
    api: Api, farm: list[str]
) -> None:
    graph = GRAPH | {
        "6": {
            "class_type": "CLIPTextEncode",
            "inputs": {"text": 'A "red" fox,\nat night', "clip": ["4", 1]},
        }
    }
    fox = api.submit("gpu-1", workflow_json=graph, base_seed=4242)["job_group_id"]
    named = api.submit("gpu-1", "gpu-2", name="Owl 50%", base_seed=7, seed_strategy="sequential")[
        "job_group_id"
    ]
    tagged = api.submit(
        "gpu-1", metadata={"scene": 'the "old" house'}, submitter="ann", base_seed=1
    )["job_group_id"]
    hidden = api.submit("gpu-1", name="hidden owl", base_seed=8)["job_group_id"]
    _spread([fox, named, tagged, hidden])
    api.patch(f"/api/job-groups/{hidden}", {"archived": True})
    wanted = {
        "": [tagged, named, fox],
        "archived=no": [tagged, named, fox],
        "archived=yes": [hidden],
        "archived=any&text=owl": [hidden, named],
        "text=owl": [named],
        "text=50%25": [named],
        'text=night+"RED"': [fox],
        'text="old"': [tagged],
        "text=ann": [tagged],
        "text=fox+owl": [],
        "text=4242": [fox],
        "text=8": [named],
        f"text={tagged}": [tagged],
        "text=99999999999999999999": [],
    }
    pages = {query: _ids(api.get(f"/api/job-groups?{query}")) for query in wanted}
    # A digit may also be in the id of a group.
    pages["text=8"] = [one for one in pages["text=8"] if "8" not in one or one == named]
    assert pages == wanted
    assert list(wrong_fields(api.get("/api/job-groups?archived=maybe"))) == ["archived"]
    shown = api.client.get("/?archived=yes", headers={"host": "localhost"}).context["listing"][
        "rows"
    ]
    assert [row["id"] for row in shown] == [hidden]


def test_lists_of_archived_and_of_other_groups_use_their_indexes() -> None:
    if connection.vendor == "postgresql":
        pytest.skip("PostgreSQL chooses indexes by statistics, which an empty table lacks")
    for archived, index in ((False, "group_listed"), (True, "group_archived")):
        assert (
            index
            in filter_groups(GroupFilter(principal=EVERYBODY, archived=archived))
            .order_by("-created_at", "-id")
            .explain()
        )


def test_wrong_query_is_refused(api: Api) -> None:
    forged = urlsafe_b64encode(b"f|2026-13-01T00:00:00.000Z|jg_0123456789ab").decode()
    without_time, with_nul = (
        "ZnwyMDI2LTAxLTAxfGpnXzAxMjM0NTY3ODlhYg==",
        "ZnwyMDI2LTAxLTAxVDAwOjAwOjAwLjAwMFp8amdfMDEyMzQ1Njc4OWEA",
    )
    wrong = {
        f"?cursor={one}": "cursor" for one in ("nonsense", "%ff", without_time, with_nul, forged)
    }
    for query, field in {"?page=2": "page", "/jg_1/events?page=2": "page", **wrong}.items():
        assert list(wrong_fields(api.get(f"/api/job-groups{query}"))) == [field]


def test_cancelled_job_shows_why_its_prompt_still_runs(api: Api, farm: list[str]) -> None:
    group = api.submit("gpu-1")["job_group_id"]
    job = api.get(f"/api/job-groups/{group}").json()["child_jobs"][0]["job_id"]
    fence, claim = play("gpu-1")
    why = "ComfyUI 0.3.56 cannot stop one prompt by its id"
    backends.backend_observed(fence=fence, reachable=True, reason=f"{LEFT_RUNNING}{why}")
    card = f"/groups/{group}/parts/cards/{job}"
    assert why not in api.get(card).content.decode()
    assert api.delete(f"/api/job-groups/{group}").json()["cancelled"] is True
    (attempt,) = api.get(f"/api/job-groups/{group}/jobs/{job}").json()["attempts"]
    note = f"It still renders: {why}."
    assert (attempt["outcome"], attempt["left_running"]) == ("running", note)
    assert f">{note}</p>" in api.get(card).content.decode()
    # The page reads the card again while it has this mark.
    assert " data-stopping" in api.get(card).content.decode()

    factories.finish(claim, fence)
    (attempt,) = api.get(f"/api/job-groups/{group}/jobs/{job}").json()["attempts"]
    assert (attempt["outcome"], attempt["left_running"]) == ("success", None)
    assert note not in api.get(card).content.decode()
    assert " data-stopping" not in api.get(card).content.decode()


def test_list_of_outputs_has_the_facts_of_files_jobs_and_groups(api: Api, farm: list[str]) -> None:
    group = api.submit("gpu-1", submitter="anna", name="owl", base_seed=7)
    play_to_the_end("gpu-1")
    answer = api.get("/api/outputs?kind=image&submitter=anna").json()
    (output,) = answer["results"]
    wanted = {
        "job_group_id": group["job_group_id"],
        "title": "owl",
        "index": 1,
        "number": 0,
        "filename": "a.png",
        "media_type": "image/png",
        "backend_id": "gpu-1",
        "submitter": "anna",
        "starred": False,
    }
    assert wanted.items() <= output.items()
    assert output["seed"] == group["child_jobs"][0]["seed"]
    assert answer["next"] is None
    wrong = wrong_fields(api.get("/api/outputs?kind=audio&size=big&limit=0&starred=1"))
    assert wrong.keys() == {"kind", "size", "limit", "starred"}
    for cursor in ("x", "MjAyNi0wMi0zMVQwMDowMDowMC4wMDBafGp8MA"):
        assert wrong_fields(api.get(f"/api/outputs?cursor={cursor}")).keys() == {"cursor"}
