"""Limits, start times and pauses in the API."""

import datetime as dt
from typing import Any

import pytest
from django.contrib.auth.models import User
from pytest_django import Settings

from director.security import sign_in
from jobgroups.api import sse
from jobgroups.api.long_polls import long_polls
from jobgroups.domain.access import Role
from jobgroups.domain.clock import iso, now
from jobgroups.models import AuditEntry, JobGroup
from jobgroups.queries.pauses import current_pauses
from tests.api.conftest import GRAPH, Api, error_of, wrong_fields
from tests.api.test_accounts import bearer, token_of
from tests.api.test_turns import put

pytestmark = pytest.mark.django_db(transaction=True)


def ahead(**of: float) -> str:
    return iso(now() + dt.timedelta(**of))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("max_running", value) for value in (0, -1, 1_000_001, "2", 1.5, True)),
        *(("start_after", value) for value in ("tomorrow", "", 5, True, "2199-01-01")),
    ],
)
def test_wrong_limit_is_refused_and_the_field_is_named(
    api: Api, farm: list[str], field: str, value: object
) -> None:
    body = {"workflow_json": GRAPH, "backend_ids": farm, field: value}
    assert field in wrong_fields(api.post("/api/job-group", body))
    group = api.submit(farm[0])["job_group_id"]
    assert field in wrong_fields(api.patch(f"/api/job-groups/{group}", {field: value}))
    assert not JobGroup.objects.filter(max_running__isnull=False).exists()


def test_limits_are_shown_changed_and_ended(api: Api, farm: list[str]) -> None:
    start = ahead(hours=1)
    group = api.submit(farm[0], max_running=2, start_after=start)["job_group_id"]
    path = f"/api/job-groups/{group}"
    row = api.get(path).json()
    assert (row["max_running"], row["start_after"], row["paused"]) == (2, start, None)
    assert "at the earliest" in row["child_jobs"][0]["waiting_reason"]
    changed = api.patch(path, {"max_running": 3}).json()
    assert (changed["max_running"], changed["start_after"]) == (3, start)
    changed = api.patch(path, {"max_running": None, "start_after": None}).json()
    assert (changed["max_running"], changed["start_after"]) == (None, None)
    past = api.submit(farm[0], start_after="2020-01-01")["job_group_id"]
    assert "earliest" not in str(api.get(f"/api/job-groups/{past}").json()["child_jobs"])


def test_group_is_paused_and_resumed(api: Api, farm: list[str]) -> None:
    group = api.submit(farm[0])["job_group_id"]
    path, until = f"/api/job-groups/{group}", ahead(hours=1)
    paused = api.post(f"{path}/pause", {"reason": "review", "until": until, "by": "olga"}).json()
    shown = {"of": "group", "until": until, "by": "olga", "reason": "review"}
    assert {key: paused["paused"][key] for key in shown} == shown
    assert api.post(f"{path}/resume", None).json()["paused"] is None
    assert api.post(f"{path}/pause", None).json()["paused"]["until"] is None
    actions = list(AuditEntry.objects.order_by("id").values_list("action", flat=True))
    assert actions[1:] == ["group.paused", "group.resumed", "group.paused"]
    for wrong in ({"until": "2020-01-01"}, {"until": 5}, {"reason": 3}, {"hours": 1}):
        assert wrong_fields(api.post(f"{path}/pause", wrong)).keys() == wrong.keys()
    api.delete(path)
    error_of(api.post(f"{path}/pause", None), 409, "group_ended")
    error_of(api.post("/api/job-groups/jg_000000000000/pause", None), 404, "group_not_found")


def test_farm_is_paused_and_resumed(api: Api, farm: list[str]) -> None:
    group = api.submit(farm[0])["job_group_id"]
    state = api.post("/api/queue/pause", {"reason": "power"}).json()["paused"]
    assert (state["of"], state["reason"]) == ("farm", "power")
    assert api.get(f"/api/job-groups/{group}").json()["paused"] == state
    page = api.get("/api/queue").json()
    assert page["paused"] == state
    (row,) = page["items"]
    assert (row["place"], row["queued"], row["job_group_id"]) == (None, 1, group)
    assert row["waiting_reason"] == "The whole farm is paused: power."
    # The pause of a group does not end with that of the farm.
    api.post(f"/api/job-groups/{group}/pause", None)
    assert api.post("/api/queue/resume", None).json() == {"paused": None}
    assert current_pauses().by_target.keys() == {group}


def test_submitter_has_limits_and_a_pause(api: Api, farm: list[str]) -> None:
    path = "/api/submitters/anna"
    changed = put(api, path, {"max_running": 4, "max_queued": 2}).json()
    assert (changed["max_running"], changed["max_queued"], changed["weight"]) == (4, 2, 1.0)
    assert put(api, path, {"weight": 2}).json()["max_queued"] == 2
    paused = put(api, path, {"paused": {"reason": "holidays", "until": ahead(days=1)}}).json()
    assert paused["paused"]["reason"] == "holidays"
    assert put(api, path, {"paused": True}).json()["paused"]["until"] is None
    assert put(api, path, {"paused": False}).json()["paused"] is None
    changed = put(api, path, {"max_running": None}).json()
    assert (changed["max_running"], changed["max_queued"]) == (None, 2)
    for field, value in (
        *(("max_running", value) for value in (0, "4", True)),
        *(("max_queued", value) for value in (0, 1.5)),
        *(("paused", value) for value in (1, "yes", {"until": "2020-01-01"}, {"why": "x"})),
    ):
        named = wrong_fields(put(api, path, {field: value}))
        assert {name.partition(".")[0] for name in named} == {field}
    assert wrong_fields(put(api, path, {})) != {}


def test_submission_beyond_the_queued_jobs_is_refused_with_the_number(
    api: Api, farm: list[str]
) -> None:
    put(api, "/api/submitters/anna", {"max_queued": 2})
    api.submit(farm[0], submitter="anna")
    body: dict[str, Any] = {"workflow_json": GRAPH, "backend_ids": ["*"], "count": 2}
    answer = api.post("/api/job-group", {**body, "submitter": "anna"})
    refused = error_of(answer, 429, "queue_full")
    assert (refused["queued"], refused["max_queued"]) == (1, 2)
    assert "when others have started" in refused["detail"]
    assert int(answer.headers["Retry-After"]) > 0
    assert api.post("/api/job-group", {**body, "submitter": "ben"}).status_code == 201
    # A repetition would never be accepted.
    answer = api.post("/api/job-group", {**body, "submitter": "anna", "count": 3})
    assert "fewer jobs" in error_of(answer, 429, "queue_full")["detail"]
    assert "Retry-After" not in answer.headers


def test_artists_pause_their_own_groups_and_operators_everything(
    api: Api, farm: list[str], settings: Settings
) -> None:
    settings.DIRECTOR_ACCOUNTS = True
    anna, boris, olga = token_of("anna"), token_of("boris"), token_of("olga", Role.OPERATOR)
    body = {"workflow_json": GRAPH, "backend_ids": farm}
    group = api.post("/api/job-group", body, **bearer(anna)).json()["job_group_id"]
    path = f"/api/job-groups/{group}"
    assert api.post(f"{path}/pause", None, **bearer(anna)).json()["paused"]["by"] == "anna"
    for refused in (
        api.post(f"{path}/resume", None, **bearer(boris)),
        api.post(f"{path}/pause", None, **bearer(boris)),
        api.patch(path, {"max_running": 1}, **bearer(boris)),
        api.post("/api/queue/pause", None, **bearer(anna)),
        api.post("/api/queue/resume", None, **bearer(anna)),
        put(api, "/api/submitters/anna", {"paused": False}, **bearer(anna)),
    ):
        error_of(refused, 403, "not_allowed")
    assert api.post(f"{path}/resume", None, **bearer(olga)).json()["paused"] is None
    paused = put(api, "/api/submitters/anna", {"paused": True}, **bearer(olga)).json()["paused"]
    assert (paused["of"], paused["by"]) == ("submitter", "olga")
    assert api.post("/api/queue/pause", None, **bearer(olga)).json()["paused"]["by"] == "olga"


def test_requests_of_a_token_are_bounded_within_a_minute(
    api: Api, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.DIRECTOR_ACCOUNTS = True
    anna, ben = token_of("anna"), token_of("ben")
    settings.DIRECTOR_REQUESTS_PER_MINUTE = 3
    counted = sign_in.Throttle(lambda: settings.DIRECTOR_REQUESTS_PER_MINUTE)
    monkeypatch.setattr(sign_in, "token_requests", counted)

    def ask(token: str) -> Any:
        return api.get("/api/backends", **bearer(token))

    assert [ask(anna).status_code for _ in range(3)] == [200] * 3
    refused = ask(anna)
    error_of(refused, 429, "too_many_requests")
    assert 0 < int(refused.headers["Retry-After"]) <= 60
    assert ask(ben).status_code == 200
    settings.DIRECTOR_REQUESTS_PER_MINUTE = 0
    assert ask(anna).status_code == 200


def test_an_account_has_a_quarter_of_the_requests_that_stay_open(
    api: Api, farm: list[str], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.DIRECTOR_ACCOUNTS = True
    anna, ben = token_of("anna"), token_of("ben")
    body = {"workflow_json": GRAPH, "backend_ids": farm}
    path = (
        f"/api/job-groups/{api.post('/api/job-group', body, **bearer(anna)).json()['job_group_id']}"
    )
    seq = api.get(path, **bearer(anna)).json()["seq"]
    account = User.objects.get(username="anna").pk
    for kind, url, code in (
        (sse._streams._open, f"{path}/events/stream", "too_many_streams"),
        (long_polls._open, f"{path}?since={seq}&wait=1", "too_many_waiting"),
    ):
        monkeypatch.setattr(kind, "most", 8)
        with kind.opened(account):
            assert api.get(url, **bearer(anna)).status_code in (200, 304)
            with kind.opened(account):
                detail = error_of(api.get(url, **bearer(anna)), 429, code)["detail"]
                assert detail.startswith("2 ")
                assert " of your account " in detail
                assert api.get(url, **bearer(ben)).status_code in (200, 304)
