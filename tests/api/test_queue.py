"""The queue in the API: places, reasons, expected starts, and what principals see of it."""

import datetime as dt
import re
from typing import Any

import pytest
from pytest_django import Settings

from director.accounts import principals
from jobgroups.domain.access import Role
from jobgroups.domain.clock import now
from jobgroups.models import JobGroup, Timing
from jobgroups.queries import pool
from tests.api.conftest import Api, error_of, wrong_fields
from tests.api.test_accounts import bearer, token_of
from tests.harness import factories

pytestmark = pytest.mark.django_db(transaction=True)


def queue(api: Api, query: str = "", **headers: str) -> list[dict[str, Any]]:
    pool._cache.forget()
    answer = api.get(f"/api/queue{query}", **headers)
    assert answer.status_code == 200, answer.content
    items: list[dict[str, Any]] = answer.json()["items"]
    return items


def order(api: Api, query: str = "", **headers: str) -> list[tuple[int | None, str | None]]:
    return [(row["place"], row["job_group_id"]) for row in queue(api, query, **headers)]


def submit(api: Api, **fields: Any) -> str:
    return str(api.submit("*", count=2, **fields)["job_group_id"])


def learn(group_id: str, backend_id: str, seconds: float) -> None:
    digest = JobGroup.objects.get(pk=group_id).variants.get().workflow_digest
    Timing.objects.create(
        workflow_digest=digest, backend_id=backend_id, seconds=seconds, runs=3, updated_at=now()
    )


def test_queue_has_what_runs_and_what_waits_in_the_real_order(api: Api, farm: list[str]) -> None:
    anna, ben = submit(api, submitter="anna"), submit(api, submitter="ben", name="owl")
    urgent = submit(api, submitter="anna", priority=60)
    fence = factories.lease(farm[0])
    done = factories.claim_from_pool(fence, JobGroup.objects.get(pk=urgent))
    learn(urgent, farm[0], 100.0)
    rows = queue(api)
    assert [(row["place"], row["job_group_id"]) for row in rows] == [
        (1, urgent),
        (2, ben),
        (3, anna),
    ]
    first, second, third = rows
    assert (first["priority"], first["level"], first["queued"], first["running"]) == (60, 60, 1, 1)
    assert (second["title"], second["submitter"]) == ("owl", "ben")
    assert second["waiting_reason"] == "Place 2: 1 group has a higher priority."
    assert third["waiting_reason"] == (
        "Place 3: 1 group has a higher priority and ben has used less of the farm."
    )
    assert first["waiting_reason"].startswith("Place 1: ")
    starts = [dt.datetime.fromisoformat(row["expected_start"]) for row in rows]
    assert now() - dt.timedelta(seconds=9) < starts[0] <= starts[1] <= starts[2]
    child = api.get(f"/api/job-groups/{anna}").json()["child_jobs"][0]
    position, _, place = child["waiting_reason"].partition(", place ")
    assert position.startswith("3rd in line for any of ")
    assert place.startswith("3 in the queue: 1 group has a higher priority and ben has used less")
    factories.claim_from_pool(factories.lease(farm[1]), JobGroup.objects.get(pk=urgent))
    assert order(api) == [(None, urgent), (1, ben), (2, anna)]
    assert done.child.group_id == urgent


def test_group_that_no_backend_takes_has_the_cause(api: Api, farm: list[str]) -> None:
    bound = str(api.submit(farm[0])["job_group_id"])
    pooled = str(api.submit(farm[0], count=1)["job_group_id"])
    free = str(api.submit(farm[1], count=1)["job_group_id"])
    api.post(f"/api/backends/{farm[0]}/pause", {"reason": "a new card"})
    said = {row["job_group_id"]: row["waiting_reason"] for row in queue(api)}
    assert said[bound].startswith(f"{farm[0]} is paused")
    assert said[pooled].startswith("No backend can take it now.")
    assert said[free].startswith("Place 3: 2 groups of the same submitter come first")
    assert {row["job_group_id"]: row["expected_start"] for row in queue(api)}[bound] is None


def test_paused_and_limited_groups_say_so(api: Api, farm: list[str]) -> None:
    limited, paused, free = (
        str(api.submit("*", count=2, **fields)["job_group_id"])
        for fields in ({"max_running": 1}, {"name": "<b>owl</b>"}, {})
    )
    factories.claim_from_pool(factories.lease(farm[0]), JobGroup.objects.get(pk=limited))
    api.post(f"/api/job-groups/{paused}/pause", {"reason": "a new model"})
    rows = queue(api)
    assert [(row["place"], row["job_group_id"]) for row in rows] == [
        (1, limited),
        (2, free),
        (None, paused),
    ]
    assert rows[0]["waiting_reason"].startswith("Waits for the end of another job of its group")
    assert rows[2]["waiting_reason"] == "Paused: a new model."
    page = get_page(api, "/queue", {})
    runs, held = page.index('data-act="resume"'), page.index("Not sent now")
    assert held < runs
    assert "&lt;b&gt;owl" in page[held:]
    api.post("/api/queue/pause", {"reason": "a thunderstorm"})
    assert api.get("/api/queue").json()["paused"]["reason"] == "a thunderstorm"
    low = submit(api, priority=20)
    urgent = str(api.submit(farm[0], priority=70)["job_group_id"])
    assert order(api) == [(None, group) for group in (limited, urgent, paused, free, low)]
    page = get_page(api, "/queue", {})
    assert "The whole farm is paused: a thunderstorm." in page
    assert "Resume the queue" in page


def test_queue_is_filtered_and_has_pages(api: Api, farm: list[str]) -> None:
    groups = [submit(api, submitter=name) for name in ("anna", "ben", "anna")]
    alone = str(api.submit(farm[1], count=1, submitter="cleo")["job_group_id"])
    assert order(api, "?submitter=anna") == [(1, groups[0]), (4, groups[2])]
    assert {group for _, group in order(api, f"?backend={farm[1]}")} == {*groups, alone}
    assert alone not in {group for _, group in order(api, f"?backend={farm[0]}")}
    page = api.get("/api/queue?limit=3").json()
    assert len(page["items"]) == 3
    assert page["next"].endswith("/api/queue?limit=3&offset=3")
    rest = api.get("/api/queue?limit=3&offset=3").json()
    assert (len(rest["items"]), rest["next"]) == (1, None)
    assert set(wrong_fields(api.get("/api/queue?limit=0&mine=maybe&x=1"))) == {"limit", "mine", "x"}


def test_group_is_placed_before_another_one_of_its_submitter(api: Api, farm: list[str]) -> None:
    a, b, c, d = (submit(api, submitter="anna") for _ in "abcd")
    ben = submit(api, submitter="ben")

    def own() -> list[str | None]:
        return [group for _, group in order(api, "?submitter=anna")]

    def place(group: str, before: str) -> Any:
        return api.post(f"/api/job-groups/{group}/next", {"before": before})

    assert place(d, b).json()["job_group_id"] == d
    assert own() == [a, d, b, c]
    place(c, b)
    assert own() == [a, d, c, b]
    place(b, a)
    place(c, a)
    assert own() == [b, c, a, d]
    for other in (ben, a, "jg_000000000000"):
        assert "before" in wrong_fields(place(a, other))
    api.delete(f"/api/job-groups/{b}")
    assert "before" in wrong_fields(place(a, b))
    error_of(place(b, a), 409, "group_ended")
    assert own() == [c, a, d]


@pytest.fixture
def people(settings: Settings) -> dict[str, dict[str, str]]:
    settings.DIRECTOR_ACCOUNTS = True
    principals.kept.clear()
    roles = {"anna": Role.ARTIST, "ben": Role.ARTIST, "olga": Role.OPERATOR}
    return {name: bearer(token_of(name, role)) for name, role in roles.items()}


def test_others_are_a_place_and_a_time_where_work_is_private(
    api: Api, farm: list[str], people: dict[str, dict[str, str]], settings: Settings
) -> None:
    settings.DIRECTOR_PRIVATE = True
    groups = {}
    for name in ("anna", "ben"):
        body = {"workflow_json": factories.WORKFLOW, "backend_ids": ["*"], "count": 1}
        made = api.post("/api/job-group", body, **people[name])
        groups[name] = made.json()["job_group_id"]
    learn(groups["anna"], farm[0], 10.0)
    rows = queue(api, **people["ben"])
    assert [row["place"] for row in rows] == [1, 2]
    assert rows[0]["expected_start"]
    assert {
        value for name, value in rows[0].items() if name not in ("place", "expected_start")
    } == {None}
    assert rows[1]["submitter"] == "ben"
    assert rows[1]["waiting_reason"] == "Place 2: 1 other submitter comes first."
    assert order(api, "?mine=yes", **people["ben"]) == [(2, groups["ben"])]
    assert order(api, "?submitter=anna", **people["ben"]) == []
    page = get_page(api, "/queue", people["ben"])
    assert page.count("Another account") == page.count('data-group="') == 1
    assert order(api, **people["olga"]) == [(1, groups["anna"]), (2, groups["ben"])]
    said = api.get(f"/api/job-groups/{groups['ben']}", **people["ben"]).json()["child_jobs"][0]
    assert "anna" not in said["waiting_reason"]


def get_page(api: Api, path: str, headers: dict[str, str]) -> str:
    text: str = api.get(path, **headers).content.decode()
    return text


def test_page_has_actions_of_what_the_account_may_change(
    api: Api, farm: list[str], people: dict[str, dict[str, str]]
) -> None:
    for name in ("anna", "ben", "ben"):
        body = {"workflow_json": factories.WORKFLOW, "backend_ids": ["*"], "count": 1}
        api.post("/api/job-group", body, **people[name])
    for name, own, movable, most in (("anna", 1, 0, 60), ("ben", 2, 2, 60), ("olga", 3, 2, 100)):
        pool._cache.forget()
        page = get_page(api, "/queue", people[name])
        assert page.count('<li class="queued"') == 3
        assert page.count(" data-owned") == page.count('data-act="next"') == own
        assert page.count('draggable="true"') == movable
        assert page.count(f'max="{most}"') == own
        # What the list of groups lets an account choose.
        boxes = re.findall(
            r'name="pick" value="jg_\w+"( disabled)?', get_page(api, "/", people[name])
        )
        assert boxes.count("") == own
