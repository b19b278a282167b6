"""Reading groups, listing them, cancelling them: /api/job-groups and below."""

from __future__ import annotations

import base64
import datetime as dt
import json
from typing import Any
from urllib.parse import urlsplit

import pytest

from backends.states import LEFT_RUNNING
from jobgroups.domain.clock import iso, now
from jobgroups.domain.states import AttemptState, ErrorType
from jobgroups.models import Attempt, ChildJob, JobEvent, JobGroup
from jobgroups.services import attempts, claims, groups, runners
from jobgroups.services.attempts import End
from jobgroups.services.writing import Fence
from tests.api.conftest import Api, error_of, wrong_fields

pytestmark = pytest.mark.django_db

CHILD_FIELDS = [
    "job_id",
    "backend_id",
    "seed",
    "status",
    "progress",
    "current_step",
    "outputs",
    "error_message",
    "error_type",
    "failure_class",
    "queued_at",
    "started_at",
    "completed_at",
    "attempts",
    "waiting_reason",
    "error_details",
    "warnings",
    "starred",
]


def _play(backend_id: str) -> tuple[Fence, int]:
    """Play the runner: claim the oldest child of a backend and start it."""
    fence = runners.lease_take(backend_id=backend_id, runner="runner-1")
    assert fence is not None
    claim = claims.child_claim(fence=fence, client_id="c-1", depth=2)
    assert claim is not None
    attempts.attempt_started(attempt_id=claim.attempt_id, fence=fence)
    return fence, claim.attempt_id


def _complete(backend_id: str) -> None:
    fence, attempt_id = _play(backend_id)
    outputs = {"images": [{"filename": "a.png", "url": "http://x/view?filename=a.png"}]}
    end = End(state=AttemptState.SUCCESS, outputs=outputs)
    assert attempts.attempt_ended(attempt_id=attempt_id, fence=fence, end=end)


def _fail(backend_id: str) -> None:
    fence, attempt_id = _play(backend_id)
    end = End(
        state=AttemptState.ERROR,
        outputs={"images": []},
        error_message="CUDA out of memory",
        error_type=ErrorType.COMFYUI,
        error_details={"node_id": "3"},
    )
    assert attempts.attempt_ended(attempt_id=attempt_id, fence=fence, end=end)


# --- one group ------------------------------------------------------------------------------------


def test_a_child_carries_all_its_fields_null_where_nothing_is_known(
    api: Api, farm: list[str]
) -> None:
    group = api.submit("gpu-1", base_seed=42)["job_group_id"]
    child = api.get(f"/api/job-groups/{group}").json()["child_jobs"][0]
    assert list(child) == CHILD_FIELDS
    assert child["progress"] == 0.0
    assert isinstance(child["waiting_reason"], str)
    null = ["current_step", "outputs", "error_message", "error_type", "started_at"]
    assert [child[name] for name in [*null, "completed_at", "error_details"]] == [None] * 7


def test_a_group_shows_what_was_asked_and_what_became_of_it(api: Api, farm: list[str]) -> None:
    metadata = {"scene": "shot_001", "panel_id": 3, "nested": {"z": 1, "a": [None, 1.5, "ü"]}}
    made = api.submit(
        "gpu-1", "gpu-2", "gpu-3", base_seed=42, metadata=metadata, timeout_seconds=60
    )
    _complete("gpu-1")
    _play("gpu-2")
    _fail("gpu-3")
    status = api.get(f"/api/job-groups/{made['job_group_id']}").json()
    assert status["status"] == "partial_complete"
    assert status["completed_at"] is None
    assert (status["completed_count"], status["failed_count"], status["total_count"]) == (1, 1, 3)
    assert [one["status"] for one in status["child_jobs"]] == ["completed", "running", "failed"]
    assert status["child_jobs"][0]["outputs"]["images"][0]["filename"] == "a.png"
    assert status["child_jobs"][0]["progress"] == 100.0
    assert status["child_jobs"][2]["error_message"] == "CUDA out of memory"
    assert status["child_jobs"][2]["error_type"] == "ComfyUIError"
    assert (status["base_seed"], status["timeout_seconds"], status["run"]) == (42, 60, 1)
    assert status["seed_strategy"] == "random"
    assert status["seq"] == JobEvent.objects.count()
    assert json.dumps(status["metadata"]) == json.dumps(metadata)


def test_an_unknown_group_is_named_in_the_references_words(api: Api) -> None:
    body = error_of(api.get("/api/job-groups/jg_abc123"), 404, "group_not_found")
    assert body["detail"] == "Job group jg_abc123 not found"


def test_the_workflow_comes_back_equal_key_order_kept(api: Api, farm: list[str]) -> None:
    graph = {
        "9": {"class_type": "B", "inputs": {"z": 1.0, "a": [None, True, "ü", 1e22, 2**60]}},
        "3": {"class_type": "A", "inputs": {"seed": 7}, "_meta": {"title": "x"}, "extra": {}},
    }
    group = api.submit("gpu-1", workflow_json=graph, parameters={"seed": 1})["job_group_id"]
    answer = api.get(f"/api/job-groups/{group}/workflow")
    assert answer.headers["Content-Type"] == "application/json"
    assert json.dumps(answer.json()) == json.dumps(graph)


# --- events ---------------------------------------------------------------------------------------


def test_events_are_the_frames_in_order_from_since_on(api: Api, farm: list[str]) -> None:
    group = api.submit("gpu-1")["job_group_id"]
    _complete("gpu-1")
    whole = api.get(f"/api/job-groups/{group}/events").json()
    assert [one["seq"] for one in whole["events"]] == [1, 2, 3, 4]
    assert [one["type"] for one in whole["events"]] == [
        "group_created",
        "child_started",
        "child_completed",
        "group_complete",
    ]
    assert whole["next"] is None
    rest = api.get(f"/api/job-groups/{group}/events?since=2").json()
    assert rest["events"] == whole["events"][2:]
    assert api.get(f"/api/job-groups/{group}/events?since=99").json()["events"] == []


def test_many_events_come_in_pages_that_follow_one_another(api: Api, farm: list[str]) -> None:
    group = api.submit(*["gpu-1"] * 600)["job_group_id"]
    groups.group_cancel(group_id=group)
    path, seen = f"/api/job-groups/{group}/events", []
    while path:
        page = api.get(path).json()
        seen += [one["seq"] for one in page["events"]]
        path = page["next"] and page["next"].removeprefix("http://localhost:9820")
    assert seen == list(range(1, 603))


@pytest.mark.parametrize("since", ["-1", "x", "1.0", "true", "9" * 30, "²", "0x1"])
def test_a_since_that_is_no_number_is_refused(api: Api, farm: list[str], since: str) -> None:
    group = api.submit("gpu-1")["job_group_id"]
    answer = api.get(f"/api/job-groups/{group}/events?since={since}")
    assert list(wrong_fields(answer)) == ["since"]


# --- one child ------------------------------------------------------------------------------------


def test_a_child_is_shown_with_its_attempts(api: Api, farm: list[str]) -> None:
    made = api.submit("gpu-1")
    _fail("gpu-1")
    job = made["child_jobs"][0]["job_id"]
    child = api.get(f"/api/job-groups/{made['job_group_id']}/jobs/{job}").json()
    assert child["status"] == "failed"
    attempt = child["attempts"][0]
    assert (attempt["number"], attempt["run"], attempt["outcome"]) == (1, 1, "error")
    assert attempt["prompt_id"] == Attempt.objects.get().prompt_id
    assert attempt["error_message"] == "CUDA out of memory"


def test_a_child_of_another_group_is_not_found_in_this_one(api: Api, farm: list[str]) -> None:
    group, other = api.submit("gpu-1"), api.submit("gpu-1")
    job = other["child_jobs"][0]["job_id"]
    path = f"/api/job-groups/{group['job_group_id']}/jobs/{job}"
    error_of(api.get(path), 404, "job_not_found")
    error_of(api.delete(path), 404, "job_not_found")
    assert ChildJob.objects.get(pk=job).status == "queued"


def test_cancelling_one_child_leaves_the_others(api: Api, farm: list[str]) -> None:
    made = api.submit("gpu-1", "gpu-2")
    group, job = made["job_group_id"], made["child_jobs"][0]["job_id"]
    answer = api.delete(f"/api/job-groups/{group}/jobs/{job}").json()
    nothing_else = {"already_complete": 0, "already_failed": 0}
    assert answer == {"cancelled": True, "interrupted": 1, **nothing_else}
    again = api.delete(f"/api/job-groups/{group}/jobs/{job}").json()
    assert again == {"cancelled": True, "interrupted": 0, **nothing_else}
    status = api.get(f"/api/job-groups/{group}").json()
    assert [one["status"] for one in status["child_jobs"]] == ["cancelled", "queued"]
    assert status["status"] == "running"


def test_cancelling_a_child_that_has_ended_changes_nothing(api: Api, farm: list[str]) -> None:
    made = api.submit("gpu-1", "gpu-2")
    _complete("gpu-1")
    _fail("gpu-2")
    group = made["job_group_id"]
    done, failed = (one["job_id"] for one in made["child_jobs"])
    first = api.delete(f"/api/job-groups/{group}/jobs/{done}").json()
    second = api.delete(f"/api/job-groups/{group}/jobs/{failed}").json()
    assert first["cancelled"] is second["cancelled"] is False
    assert (first["already_complete"], second["already_failed"]) == (1, 1)


# --- cancelling a group ---------------------------------------------------------------------------


def test_a_cancel_counts_what_it_found_and_owes_the_stop_of_what_runs(
    api: Api, farm: list[str]
) -> None:
    group = api.submit("gpu-1", "gpu-2", "gpu-3")["job_group_id"]
    _complete("gpu-1")
    _play("gpu-2")
    _fail("gpu-3")
    answer = api.delete(f"/api/job-groups/{group}")
    assert answer.status_code == 200
    assert answer.json() == {
        "cancelled": True,
        "interrupted": 1,
        "already_complete": 1,
        "already_failed": 1,
    }
    assert Attempt.objects.get(ended_at=None).stop_requested_at is not None
    assert api.get(f"/api/job-groups/{group}").json()["status"] == "cancelled"


def test_repeating_a_cancel_changes_nothing(api: Api, farm: list[str]) -> None:
    group = api.submit("gpu-1", "gpu-2")["job_group_id"]
    api.delete(f"/api/job-groups/{group}")
    seq = JobGroup.objects.get().seq
    assert api.delete(f"/api/job-groups/{group}").json() == {
        "cancelled": True,
        "interrupted": 0,
        "already_complete": 0,
        "already_failed": 0,
    }
    assert JobGroup.objects.get().seq == seq


def test_a_group_that_finished_otherwise_is_not_cancelled(api: Api, farm: list[str]) -> None:
    group = api.submit("gpu-1")["job_group_id"]
    _complete("gpu-1")
    answer = api.delete(f"/api/job-groups/{group}").json()
    assert (answer["cancelled"], answer["already_complete"]) == (False, 1)
    assert api.get(f"/api/job-groups/{group}").json()["status"] == "completed"


# --- the list -------------------------------------------------------------------------------------


def _ids(answer: Any) -> list[str]:
    assert answer.status_code == 200, answer.content
    return [one["job_group_id"] for one in answer.json()["results"]]


def test_the_list_is_newest_first_and_has_no_children(api: Api, farm: list[str]) -> None:
    made = [api.submit("gpu-1")["job_group_id"] for _ in range(3)]
    _spread(made)
    answer = api.get("/api/job-groups")
    assert _ids(answer) == made[::-1]
    assert set(answer.json()) == {"results", "next", "previous"}
    assert "child_jobs" not in answer.json()["results"][0]
    assert answer.json()["results"][0]["total_count"] == 1


def _spread(group_ids: list[str]) -> dt.datetime:
    """Make the groups one minute apart, from the returned time on."""
    start = dt.datetime(2026, 2, 1, 7, tzinfo=dt.UTC)
    for minute, group_id in enumerate(group_ids):
        moment = start + dt.timedelta(minutes=minute)
        JobGroup.objects.filter(pk=group_id).update(created_at=moment)
    return start


def test_pages_lead_to_one_another_forwards_and_back(api: Api, farm: list[str]) -> None:
    made = [api.submit("gpu-1")["job_group_id"] for _ in range(5)]
    _spread(made[:3])  # the last two were made within the same moment or so
    newest_first = _ids(api.get("/api/job-groups"))
    forwards: list[list[str]] = []
    path = "/api/job-groups?limit=2&backend=gpu-1"
    last = path
    while path:
        answer = api.get(path)
        forwards.append(_ids(answer))
        last, path = path, _path(answer.json()["next"])
    assert forwards == [newest_first[:2], newest_first[2:4], newest_first[4:]]
    back = _path(api.get(last).json()["previous"])
    assert _ids(api.get(back)) == newest_first[2:4]
    assert "backend=gpu-1" in back
    assert api.get("/api/job-groups?limit=2").json()["previous"] is None


def _path(link: str | None) -> str:
    if link is None:
        return ""
    assert link.startswith("http://localhost:9820/api/job-groups?")
    parts = urlsplit(link)
    return f"{parts.path}?{parts.query}"


def test_the_list_is_narrowed_by_status_backend_metadata_and_time(
    api: Api, farm: list[str]
) -> None:
    first = api.submit("gpu-1", metadata={"scene": "a", "take": 3, "ok": True})["job_group_id"]
    second = api.submit("gpu-2", metadata={"scene": "b"})["job_group_id"]
    third = api.submit("gpu-1", "gpu-2", metadata={"scene": "a", "take": "3"})["job_group_id"]
    start = _spread([first, second, third])
    api.delete(f"/api/job-groups/{second}")
    wanted = {
        "status=running": [third, first],
        "status=cancelled": [second],
        "status=": [third, second, first],
        "backend=gpu-2": [third, second],
        "backend=nobody": [],
        "metadata.scene=a": [third, first],
        "metadata.scene=a&metadata.take=3": [third, first],
        "metadata.ok=true": [first],
        "metadata.nothing=a": [],
        "metadata.scene=a&backend=gpu-2&status=running": [third],
        f"created_after={iso(start)}": [third, second],
        "created_after=2026-02-01T07:00:30Z&created_before=2026-02-01T07:01:30Z": [second],
        "created_before=2026-02-01T08:01:00%2B01:00": [first],
        "created_before=2026-02-01T08:01:00+01:00": [first],
        "created_before=2026-02-01T08:01:00.000+01:00": [first],
        "created_before=2026-02-01": [],
        "created_after=2026-02-01 07:00:30": [third, second],
    }
    assert {query: _ids(api.get(f"/api/job-groups?{query}")) for query in wanted} == wanted


def _forged(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("limit=-1", "limit"),
        ("limit=ten", "limit"),
        ("limit=1.0", "limit"),
        ("status=done", "status"),
        ("created_after=yesterday", "created_after"),
        ("created_before=0001-01-01T00:00:00%2B23:59", "created_before"),
        ("created_before=9999-12-31T23:59:59-23:59", "created_before"),
        ("cursor=nonsense", "cursor"),
        ("cursor=%ff", "cursor"),
        ("cursor=%C3%BC", "cursor"),
        (f"cursor={_forged('f|2026-01-01|jg_0123456789ab')}", "cursor"),
        (f"cursor={_forged('f|2026-01-01T00:00:00.000Z|jg_0123456789a' + chr(0))}", "cursor"),
        (f"cursor={_forged('f|2026-13-01T00:00:00.000Z|jg_0123456789ab')}", "cursor"),
        (f"cursor={_forged('f|9999-12-31T23:59:59-23:59|jg_0123456789ab')}", "cursor"),
        ("page=2", "page"),
        ("metadata=a", "metadata"),
        ("backend=%00", "backend"),
        ("metadata.a=%00", "metadata.a"),
        ("metadata.%00=a", "query"),
        ("%00=a", "query"),
        ("&".join(f"metadata.k{n}=1" for n in range(11)), "metadata"),
        (f"metadata.{'k' * 101}=a", f"metadata.{'k' * 55}"),
        (f"metadata.scene={'v' * 201}", "metadata.scene"),
        ("status=completed&status=failed", "status"),
        ("metadata.scene=a&metadata.scene=a", "metadata.scene"),
        ("limit=&limit=7", "limit"),
        ("cursor=%00", "cursor"),
    ],
)
def test_a_query_that_makes_no_sense_is_refused_with_its_name(
    api: Api, query: str, field: str
) -> None:
    answer = api.get(f"/api/job-groups?{query}")
    assert list(wrong_fields(answer)) == [field]
    assert len(answer.json()["errors"]) == 1


def test_the_longest_metadata_that_is_kept_can_be_searched_for(api: Api, farm: list[str]) -> None:
    key, value = "k" * 100, "v" * 200
    made = api.submit("gpu-1", metadata={key: value})
    assert _ids(api.get(f"/api/job-groups?metadata.{key}={value}")) == [made["job_group_id"]]


def test_a_page_has_at_most_200_groups(api: Api, farm: list[str]) -> None:
    moment = now()
    JobGroup.objects.bulk_create(
        JobGroup(
            id=f"jg_{number:012x}",
            created_at=moment,
            status="running",
            seed_strategy="random",
            base_seed=1,
            timeout_seconds=300,
            total_count=1,
            workflow_json="{}",
        )
        for number in range(201)
    )
    first = api.get("/api/job-groups?limit=200")
    assert len(_ids(first)) == 200
    assert _ids(api.get(_path(first.json()["next"]))) == ["jg_000000000000"]
    assert len(_ids(api.get("/api/job-groups"))) == 50


def test_cancelled_job_says_why_its_prompt_still_renders(api: Api, farm: list[str]) -> None:
    group = api.submit("gpu-1")["job_group_id"]
    job = api.get(f"/api/job-groups/{group}").json()["child_jobs"][0]["job_id"]
    fence, attempt_id = _play("gpu-1")
    why = "ComfyUI 0.3.56 cannot stop one prompt by its id"
    runners.backend_seen(fence=fence, reachable=True, reason=f"{LEFT_RUNNING}{why}")
    card = f"/groups/{group}/parts/cards/{job}"
    assert why not in api.get(card).content.decode()
    assert api.delete(f"/api/job-groups/{group}").json()["cancelled"] is True
    (attempt,) = api.get(f"/api/job-groups/{group}/jobs/{job}").json()["attempts"]
    note = f"It still renders: {why}."
    assert (attempt["outcome"], attempt["left_running"]) == ("running", note)
    assert f'<p class="note">{note}</p>' in api.get(card).content.decode()
    # The page reads the card again while it has this mark.
    assert " data-stopping" in api.get(card).content.decode()

    end = End(state=AttemptState.SUCCESS, outputs={})
    attempts.attempt_ended(attempt_id=attempt_id, fence=fence, end=end)
    (attempt,) = api.get(f"/api/job-groups/{group}/jobs/{job}").json()["attempts"]
    assert (attempt["outcome"], attempt["left_running"]) == ("success", None)
    assert note not in api.get(card).content.decode()
    assert " data-stopping" not in api.get(card).content.decode()
