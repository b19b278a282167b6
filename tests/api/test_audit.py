"""The record of who did what: one entry for each action of a user, in its transaction."""

import csv
import datetime as dt
import io
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from director.accounts import people, principals
from director.security.sign_in import COOKIE
from jobgroups.domain.access import Role
from jobgroups.domain.clock import now
from jobgroups.models import AuditEntry
from jobgroups.services.audit import audit_forget
from jobgroups.services.cancellation import group_cancel
from jobgroups.services.sessions import sessions_forget
from tests.api.conftest import GRAPH, Api, Made, error_of
from tests.api.test_accounts import PASSWORD, accounts, bearer, browser, cookie, token_of  # noqa: F401 fixtures among them

pytestmark = pytest.mark.django_db


def entries(**filters: Any) -> list[tuple[str, str, str]]:
    rows = AuditEntry.objects.filter(**filters).order_by("id")
    return [(row.actor, row.action, row.target) for row in rows]


@pytest.mark.django_db(transaction=True)
def test_actions_of_accounts_are_recorded_once_each(
    api: Api, make_backend: Made, runner: Any
) -> None:
    make_backend("gpu-1")
    make_backend("gpu-2")
    anna, olga = bearer(token_of("anna")), bearer(token_of("olga", Role.OPERATOR))
    AuditEntry.objects.all().delete()
    body = {"workflow_json": GRAPH, "backend_ids": ["gpu-1"] * 3}
    made = api.post("/api/job-group", body, **anna, idempotency_key="k").json()
    api.post("/api/job-group", body, **anna, idempotency_key="k")  # the same group
    group, job = made["job_group_id"], made["child_jobs"][0]["job_id"]
    path = f"/api/job-groups/{group}"
    calls: list[tuple[str, str, dict[str, Any], dict[str, str]]] = [
        ("PATCH", path, {"name": "forest"}, anna),
        ("POST", f"{path}/jobs/{job}/move", {"backend_id": "gpu-2"}, olga),
        ("DELETE", f"{path}/jobs/{job}", {}, anna),
        ("DELETE", path, {}, anna),
        ("DELETE", path, {}, anna),  # changes nothing
        ("POST", f"{path}/retry", {}, olga),
        ("DELETE", path, {}, olga),
        ("POST", "/api/backends/gpu-1/pause", {"by": "eve", "reason": "dust"}, olga),
        ("POST", "/api/backends/gpu-1/resume", {}, olga),
        ("POST", "/api/backends/gpu-1/resume", {}, olga),  # changes nothing
        ("POST", "/api/backends/gpu-1/quarantine", {}, olga),
        ("POST", "/api/backends/gpu-1/release", {}, olga),
        ("PATCH", "/api/backends/gpu-2", {"headers": {"X-Key": "secret"}}, olga),
        ("POST", f"{path}/delete", {}, anna),
        ("POST", "/api/backends/gpu-1/pause", {}, anna),  # is refused
        ("DELETE", "/api/backends/gpu-2", {}, olga),
    ]
    for method, url, sent, who in calls:
        api.ask(method, url, sent, **who)
    assert entries() == [
        ("anna", "group.submitted", group),
        ("anna", "group.changed", group),
        ("olga", "job.moved", group),
        ("anna", "job.cancelled", group),
        ("anna", "group.cancelled", group),
        ("olga", "group.retried", group),
        ("olga", "group.cancelled", group),
        ("olga", "backend.paused", "gpu-1"),
        ("olga", "backend.resumed", "gpu-1"),
        ("olga", "backend.quarantined", "gpu-1"),
        ("olga", "backend.released", "gpu-1"),
        ("olga", "backend.changed", "gpu-2"),
        ("anna", "group.deleted", group),
        ("olga", "backend.removed", "gpu-2"),
    ]
    assert not AuditEntry.objects.filter(details_json__contains="secret").exists()
    first = AuditEntry.objects.get(action="group.submitted")
    assert first.token_id.startswith("tok_")
    assert first.address == "127.0.0.1"


def test_people_tokens_and_admin_are_recorded(api: Api, browser: Client) -> None:  # noqa: F811
    vera = cookie("vera", Role.ADMINISTRATOR)
    AuditEntry.objects.all().delete()
    api.post("/api/people", {"name": "anna", "role": "artist"}, **vera)
    api.patch("/api/people/anna", {"role": "operator"}, **vera)
    token = api.post("/api/tokens", {"name": "t", "scope": "read"}, **vera).json()["id"]
    api.delete(f"/api/tokens/{token}", **vera)
    assert entries() == [
        ("vera", "person.added", "anna"),
        ("vera", "person.link_made", "anna"),
        ("vera", "person.changed", "anna"),
        ("vera", "token.created", token),
        ("vera", "token.revoked", token),
    ]
    changed = AuditEntry.objects.get(action="person.changed")
    assert changed.details_json == '{"role":"operator"}'
    user = User.objects.get(username="vera")
    browser.cookies[COOKIE] = principals.new_session(user)
    browser.force_login(user, "django.contrib.auth.backends.ModelBackend")
    browser.handler.enforce_csrf_checks = False
    browser.post(
        f"/admin/auth/user/{User.objects.get(username='anna').pk}/delete/", {"post": "yes"}
    )
    assert entries(action="admin.changed") == [("vera", "admin.changed", "anna")]


def test_sign_ins_are_recorded_and_not_what_is_refused_unchecked(
    browser: Client,  # noqa: F811
    settings: Any,
) -> None:
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    people.password_set(people.person_add("anna", Role.ARTIST), PASSWORD)
    AuditEntry.objects.all().delete()
    browser.post("/sign-in", {"name": "anna", "password": PASSWORD})
    for _ in range(settings.AXES_FAILURE_LIMIT + 5):
        browser.post("/sign-in", {"name": "anna", "password": "wrong"})
    assert entries(action="sign_in") == [("anna", "sign_in", "anna")]
    failed = entries(action="sign_in.failed")
    assert set(failed) == {("", "sign_in.failed", "anna")}
    assert settings.AXES_FAILURE_LIMIT - 1 <= len(failed) <= settings.AXES_FAILURE_LIMIT


@pytest.mark.django_db(transaction=True)
def test_without_accounts_the_name_of_the_request_and_its_address_count(
    api: Api, make_backend: Made, runner: Any, settings: Any
) -> None:
    settings.DIRECTOR_ACCOUNTS = False
    make_backend("gpu-1")
    group = api.submit("gpu-1", submitter="anna@desk")["job_group_id"]
    api.delete(f"/api/job-groups/{group}")
    assert entries() == [("anna@desk", "group.submitted", group), ("", "group.cancelled", group)]
    assert {row.address for row in AuditEntry.objects.all()} == {"127.0.0.1"}
    listed = api.get("/api/audit").json()["results"]
    assert [one["actor"] for one in listed] == [None, "anna@desk"]
    assert listed[1]["details"] == {"jobs": 1, "submitter": "anna@desk"}
    assert group.encode() in Client(headers={"host": "localhost:9820"}).get("/audit").content


def test_what_the_director_does_by_itself_is_not_recorded(
    api: Api, make_backend: Made, runner: Any, settings: Any
) -> None:
    settings.DIRECTOR_ACCOUNTS = False
    make_backend("gpu-1")
    group = api.submit("gpu-1")["job_group_id"]
    group_cancel(group_id=group)
    assert [action for _, action, _ in entries()] == ["group.submitted"]


def test_record_is_filtered_paged_and_downloaded(api: Api) -> None:
    for number in range(5):
        AuditEntry.objects.create(
            created_at=now() - dt.timedelta(minutes=number),
            actor="anna" if number % 2 else "=boris",
            action="backend.paused" if number < 3 else "sign_in",
            target=f"t{number}",
        )
    olga = bearer(token_of("olga", Role.OPERATOR))
    AuditEntry.objects.filter(actor="").delete()

    def targets(query: str) -> list[str]:
        return [one["target"] for one in api.get(f"/api/audit?{query}", **olga).json()["results"]]

    assert targets("") == ["t0", "t1", "t2", "t3", "t4"]
    assert targets("actor=anna") == ["t1", "t3"]
    assert targets("action=backend&actor=anna") == ["t1"]
    assert targets("action=sign_in") == ["t3", "t4"]
    assert targets("target=t2") == ["t2"]
    before = (now() - dt.timedelta(minutes=2, seconds=30)).isoformat().replace("+", "%2B")
    assert targets(f"created_before={before}") == ["t3", "t4"]
    page = api.get("/api/audit?limit=3", **olga).json()
    following = api.get(page["next"].partition("9820")[2], **olga).json()
    assert [one["target"] for one in following["results"]] == ["t3", "t4"]
    error_of(api.get("/api/audit?action=nothing", **olga), 400, "invalid_request")
    answer = api.get("/api/audit?format=csv&limit=2", **olga)
    rows = list(csv.reader(io.StringIO(answer.content.decode())))
    assert [row[1] for row in rows] == ["actor", "'=boris", "anna"]
    assert 'rel="next"' in answer.headers["Link"]
    error_of(api.get("/api/audit", **bearer(token_of("anna"))), 403, "not_allowed")


def test_old_entries_are_deleted(settings: Any) -> None:
    for days in (1, 29, 31):
        moment = now() - dt.timedelta(days=days)
        AuditEntry.objects.create(created_at=moment, action="sign_in", target=str(days))
    settings.DIRECTOR_AUDIT_DAYS = 0
    assert audit_forget() is False
    assert AuditEntry.objects.count() == 3
    settings.DIRECTOR_AUDIT_DAYS = 30
    assert audit_forget() is False
    assert [target for _, _, target in entries()] == ["1", "29"]


def test_expired_sessions_are_deleted() -> None:
    for name, days in (("old", -1), ("new", 1)):
        Session.objects.create(session_key=name, expire_date=now() + dt.timedelta(days=days))
    assert sessions_forget() is False
    assert [row.session_key for row in Session.objects.all()] == ["new"]


def test_submission_of_many_jobs_is_one_entry_and_one_statement(
    api: Api, make_backend: Made, runner: Any
) -> None:
    make_backend("gpu-1")
    anna = bearer(token_of("anna"))
    body = {"workflow_json": GRAPH, "backend_ids": ["*"], "count": 300}
    with CaptureQueriesContext(connection) as queries:
        assert api.post("/api/job-group", body, **anna).status_code == 201
    table = AuditEntry._meta.db_table
    assert sum(table in query["sql"] for query in queries) == 1
    assert AuditEntry.objects.filter(action="group.submitted").count() == 1
