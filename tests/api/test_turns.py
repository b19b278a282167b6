"""Priorities, the front of the queue, and the weights of submitters in the API."""

from typing import Any

import pytest
from pytest_django import Settings

from jobgroups.domain.access import Role
from jobgroups.models import JobGroup
from tests.api.conftest import GRAPH, Api, error_of, wrong_fields
from tests.api.test_accounts import bearer, token_of

pytestmark = pytest.mark.django_db(transaction=True)


def submit(api: Api, backend_id: str, priority: object, **headers: str) -> Any:
    body = {"workflow_json": GRAPH, "backend_ids": [backend_id], "priority": priority}
    return api.post("/api/job-group", body, **headers)


def put(api: Api, path: str, body: Any, **headers: str) -> Any:
    return api.ask("PUT", path, body, **headers)


@pytest.mark.parametrize("priority", [-1, 101, "60", 50.5, True])
def test_priority_that_is_none_is_refused_and_the_field_is_named(
    api: Api, farm: list[str], priority: object
) -> None:
    expected = {"priority": "Must be an integer from 0 to 100."}
    assert wrong_fields(submit(api, farm[0], priority)) == expected
    group = api.submit(farm[0])["job_group_id"]
    refused = api.patch(f"/api/job-groups/{group}", {"priority": priority})
    assert wrong_fields(refused) == expected


def test_priority_is_shown_and_changed(api: Api, farm: list[str]) -> None:
    group = api.submit(farm[0], priority=70)["job_group_id"]
    path = f"/api/job-groups/{group}"
    row = api.get(path).json()
    assert (row["priority"], row["level"]) == (70, 70)
    changed = api.patch(path, {"priority": 0}).json()
    assert (changed["priority"], changed["level"], changed["name"]) == (0, 0, None)
    assert api.get("/api/job-groups").json()["results"][0]["priority"] == 0


def test_group_is_brought_to_the_front_until_it_has_ended(api: Api, farm: list[str]) -> None:
    group = api.submit(farm[0])["job_group_id"]
    path = f"/api/job-groups/{group}"
    assert api.post(f"{path}/next", None).json()["job_group_id"] == group
    assert JobGroup.objects.get().front_at is not None
    error_of(api.post(f"{path}/next", {"by": 3}), 400, "invalid_request")
    api.delete(path)
    error_of(api.post(f"{path}/next", None), 409, "group_ended")
    error_of(api.post("/api/job-groups/jg_000000000000/next", None), 404, "group_not_found")


def test_share_is_that_of_the_submitter_or_of_the_address(api: Api, farm: list[str]) -> None:
    api.submit(farm[0], submitter="anna")
    api.submit(farm[0])
    assert {group.share_of for group in JobGroup.objects.all()} == {"anna", "127.0.0.1"}


def test_weight_of_a_submitter_is_set_and_shown(api: Api) -> None:
    path = "/api/submitters/anna@host"
    defaults = {"max_running": None, "max_queued": None, "paused": None}
    expected = {"name": "anna@host", "weight": 1.0, "used_seconds": 0.0, **defaults}
    assert api.get(path).json() == expected
    assert put(api, path, {"weight": 2}).json()["weight"] == 2.0
    assert api.get(f"{path}/").json()["weight"] == 2.0
    for weight in (0, -1, 101, "2", None, True):
        assert "weight" in wrong_fields(put(api, path, {"weight": weight}))
    assert "name" in wrong_fields(api.get(f"/api/submitters/{'x' * 151}"))


def test_role_has_a_highest_priority(api: Api, farm: list[str], settings: Settings) -> None:
    settings.DIRECTOR_ACCOUNTS = True
    anna, olga = token_of("anna"), token_of("olga", Role.OPERATOR)

    assert "priority" in wrong_fields(submit(api, farm[0], 61, **bearer(anna)))
    path = f"/api/job-groups/{submit(api, farm[0], 60, **bearer(anna)).json()['job_group_id']}"
    assert "priority" in wrong_fields(api.patch(path, {"priority": 61}, **bearer(anna)))
    assert api.patch(path, {"priority": 100}, **bearer(olga)).json()["priority"] == 100
    assert submit(api, farm[0], 100, **bearer(olga)).status_code == 201
    error_of(api.post(f"{path}/next", None, **bearer(token_of("boris"))), 403, "not_allowed")
    api.post(f"{path}/next", None, **bearer(anna))
    group = JobGroup.objects.get(priority=100, submitter="anna")
    assert (group.front_at, group.ordered_at is None) == (None, False)
    error_of(put(api, "/api/submitters/anna", {"weight": 9}, **bearer(anna)), 403, "not_allowed")
    assert put(api, "/api/submitters/anna", {"weight": 9}, **bearer(olga)).json()["weight"] == 9.0
