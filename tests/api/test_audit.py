"""The record of who did what: one entry for each action of a user, in its transaction."""

import csv
import datetime as dt
import io
import json
from collections.abc import Iterator
from typing import Any, Final

import pytest
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import URLResolver, get_resolver, resolve

from backends.models import FoundBackend
from director.accounts import people, principals, tokens
from director.security.sign_in import COOKIE
from jobgroups.domain.access import Role, Scope
from jobgroups.domain.audit import Action, Actor, actor
from jobgroups.domain.clock import iso, now
from jobgroups.models import AuditEntry, Exclusion, JobGroup, WebhookDelivery
from jobgroups.services.audit import audit_forget
from jobgroups.services.cancellation import group_cancel
from jobgroups.services.sessions import sessions_forget
from tests.api.conftest import GRAPH, Api, Made, error_of
from tests.api.test_accounts import (
    METHODS,
    PASSWORD,
    accounts,  # noqa: F401 a fixture
    bearer,
    browser,  # noqa: F401 a fixture
    cookie,
    token_of,
)
from tests.harness import factories

pytestmark = pytest.mark.django_db


def entries(**filters: Any) -> list[tuple[str, str, str]]:
    rows = AuditEntry.objects.filter(**filters).order_by("id")
    return [(row.actor, row.action, row.target) for row in rows]


#: Paths whose changes are not recorded: they store nothing, or a mark. Uploads have a test below.
UNRECORDED: Final = {
    "api/assets": "POST",
    "api/v2/assets": "POST",
    "api/job-groups/plan": "POST",
    "api/job-groups/<str:group_id>/jobs/<str:job_id>/star": "PUT DELETE",
    "api/provenance": "POST",
    "api/workflows/check": "POST",
    "api/workflows/convert": "POST",
    "api/workflow-from-png": "POST",
    "api/webhooks/test": "POST",
    "api/backends/test": "POST PATCH DELETE",
    "api/backends/find": "POST PATCH DELETE",
}


def changes(resolver: Any = None, before: str = "") -> Iterator[tuple[str, str]]:
    """Yield the method and the route of every change of the API."""
    for entry in (resolver or get_resolver()).url_patterns:
        route = before + str(entry.pattern)
        if isinstance(entry, URLResolver):
            yield from changes(entry, route)
        elif route.startswith("api/") and not route.endswith("/"):
            view = getattr(entry.callback, "cls", None)
            yield from ((name, route) for name in METHODS if hasattr(view, name.lower()))


@pytest.mark.django_db(transaction=True)
def test_every_change_is_recorded_once(api: Api, make_backend: Made, runner: Any) -> None:
    make_backend("gpu-1")
    make_backend("gpu-2")
    anna, olga = bearer(token_of("anna")), bearer(token_of("olga", Role.OPERATOR))
    vera = cookie("vera", Role.ADMINISTRATOR)
    user_id = User.objects.get(username="anna").pk
    moment = now()
    for url in ("http://localhost:8198", "http://localhost:8199"):
        FoundBackend.objects.create(url=url, first_seen_at=moment, last_seen_at=moment)
    exclusions = [
        Exclusion.objects.create(
            backend_id="gpu-1", workflow_digest=digest, kind="missing", since=moment, last_at=moment
        ).pk
        for digest in "de"
    ]
    asset = factories.asset(b"an owl", "owl.png", user_id)
    AuditEntry.objects.all().delete()
    done: set[tuple[str, str]] = set()

    def act(
        method: str, path: str, body: Any, who: dict[str, str], *actions: str, **headers: str
    ) -> Any:
        """Send a change; check what is recorded of it."""
        before = AuditEntry.objects.count()
        answer = api.ask(method, path, body, **who, **headers)
        rows = AuditEntry.objects.order_by("id")[before:]
        assert [row.action for row in rows] == list(actions), (method, path, answer.content)
        names = {id(anna): "anna", id(olga): "olga", id(vera): "vera"}
        assert {row.actor for row in rows} <= {names[id(who)]}
        if actions:
            done.add((method, resolve(path).route))
        return answer.json() if answer.content else {}

    body = {
        "workflow_json": GRAPH,
        "backend_ids": ["gpu-1"] * 3,
        "webhook": {"url": "https://a.example/x"},
    }
    made = act("POST", "/api/job-group", body, anna, "group.submitted", idempotency_key="k")
    act("POST", "/api/job-group", body, anna, idempotency_key="k")  # the same group
    group, job = made["job_group_id"], made["child_jobs"][0]["job_id"]
    path = f"/api/job-groups/{group}"
    act("PATCH", path, {"name": "forest"}, anna, "group.changed")
    act("POST", f"{path}/next", {}, anna, "group.brought_forward")
    act("POST", f"{path}/pause", {"reason": "dust"}, anna, "group.paused")
    act("POST", f"{path}/resume", {}, anna, "group.resumed")
    act("POST", f"{path}/jobs/{job}/move", {"backend_id": "gpu-2"}, olga, "job.moved")
    act("DELETE", f"{path}/jobs/{job}", {}, anna, "job.cancelled")
    act("DELETE", path, {}, anna, "group.cancelled")
    act("DELETE", path, {}, anna)  # changes nothing
    act("POST", f"{path}/jobs/{job}/retry", {}, anna, "job.retried")
    act("DELETE", path, {}, anna, "group.cancelled")
    act("POST", f"{path}/retry", {}, olga, "group.retried")
    act("DELETE", path, {}, olga, "group.cancelled")
    act("PUT", "/api/submitters/anna", {"weight": 2}, olga, "submitter.changed")
    act("PUT", "/api/submitters/anna", {"paused": True}, olga, "submitter.paused")
    act("PUT", "/api/submitters/anna", {"paused": False}, olga, "submitter.resumed")
    act("POST", "/api/queue/pause", {}, olga, "queue.paused")
    act("POST", "/api/queue/resume", {}, olga, "queue.resumed")
    act("POST", "/api/backends/gpu-1/pause", {"by": "eve"}, olga, "backend.paused")
    act("POST", "/api/backends/gpu-1/resume", {}, olga, "backend.resumed")
    act("POST", "/api/backends/gpu-1/resume", {}, olga)  # changes nothing
    act("POST", "/api/backends/gpu-1/quarantine", {}, olga, "backend.quarantined")
    act("POST", "/api/backends/gpu-1/release", {}, olga, "backend.released")
    act("POST", "/api/backends/gpu-1/drain", {}, olga, "backend.drained")
    act("POST", "/api/backends/gpu-1/pause", {}, anna)  # is refused
    lifted = "/api/backends/gpu-1/exclusions"
    act("DELETE", f"{lifted}/{exclusions[0]}", {}, olga, "backend.exclusions_lifted")
    act("DELETE", lifted, {}, olga, "backend.exclusions_lifted")
    headers = {"headers": {"X-Key": "secret"}}
    act("PATCH", "/api/backends/gpu-2", headers, olga, "backend.changed")
    new = {"url": "http://gpu.invalid:1", "enabled": False}
    act("POST", "/api/backends", new, olga, "backend.added")
    found = {"url": "http://localhost:8198"}
    act("POST", "/api/backends/found/ignore", found, olga, "backend.ignored")
    act("POST", "/api/backends/found/unignore", found, olga, "backend.unignored")
    act("POST", "/api/backends/found/add", found, olga, "backend.added")
    delivery = WebhookDelivery.objects.filter(group=group).first()
    assert delivery is not None
    replay = f"/api/webhooks/deliveries/{delivery.pk}/replay"
    act("POST", replay, {}, anna, "delivery.replayed")
    act("POST", f"{path}/delete", {}, anna, "group.deleted")
    act("DELETE", "/api/backends/gpu-2", {}, olga, "backend.removed")
    minted = {"hash": f"blake3:{asset.hash}", "file_path": "bird.png"}
    record = act("POST", "/api/v2/assets/from-hash", minted, anna, "asset.uploaded")["id"]
    act("POST", "/api/v2/assets/from-hash", minted, anna)  # the same record
    act("DELETE", f"/api/v2/assets/{record}", None, anna, "asset.deleted")
    act("DELETE", f"/api/assets/{asset.pk}", None, anna, "asset.deleted")
    single = act("POST", "/api/v2/jobs", {"workflow": GRAPH}, anna, "group.submitted")["id"]
    act("POST", f"/api/v2/jobs/{single}/cancel", None, anna, "group.cancelled")
    act("POST", "/api/v2/jobs", {"workflow": GRAPH}, anna, "group.submitted")
    act("POST", "/api/job-groups/cancel", {}, anna, "group.cancelled")
    person = {"name": "karl", "role": "artist"}
    act("POST", "/api/people", person, vera, "person.added", "person.link_made")
    act("PATCH", "/api/people/karl", {"role": "operator"}, vera, "person.changed")
    act("POST", "/api/people/karl/password-link", {}, vera, "person.link_made")
    token = act("POST", "/api/tokens", {"name": "t", "scope": "read"}, anna, "token.created")["id"]
    act("DELETE", f"/api/tokens/{token}", None, anna, "token.revoked")

    unrecorded = {(method, route) for route in UNRECORDED for method in UNRECORDED[route].split()}
    assert set(changes()) == done | unrecorded
    recorded = set(AuditEntry.objects.values_list("action", flat=True))
    of_signing_in = {"sign_in", "sign_in.failed", "sign_out", "person.password_set"}
    elsewhere = {*of_signing_in, "admin.changed", "model.uploaded"}
    assert {action.value for action in Action} - recorded == elsewhere
    assert not AuditEntry.objects.filter(details_json__contains="secret").exists()
    first = AuditEntry.objects.get(action="group.submitted", target=group)
    assert first.token_id.startswith("tok_")
    assert first.address == "127.0.0.1"


def test_uploads_are_recorded() -> None:
    user = people.person_add("anna", Role.ARTIST)
    token = actor.set(Actor("anna"))
    try:
        asset = factories.asset(b"an owl", "owl.png", user.pk)
        again = factories.asset(b"an owl", "again.png", user.pk)
    finally:
        actor.reset(token)
    assert entries() == [("anna", "asset.uploaded", asset.pk)] * 2
    assert again.pk == asset.pk
    details = [row.details_json for row in AuditEntry.objects.order_by("id")]
    assert details == [f'{{"name":"{name}.png","bytes":6}}' for name in ("owl", "again")]


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


def test_admin_site_keeps_administrators_and_roles(browser: Client) -> None:  # noqa: F811
    vera = people.person_add("vera", Role.ADMINISTRATOR)
    browser.cookies[COOKIE] = principals.new_session(vera)
    browser.force_login(vera, "django.contrib.auth.backends.ModelBackend")
    browser.handler.enforce_csrf_checks = False
    group = vera.groups.get()
    path = f"/admin/auth/user/{vera.pk}"
    changed = {"username": "vera", "first_name": "Vera", "date_joined_0": "2026-01-01"}
    changed |= {"date_joined_1": "10:00:00"}
    assert browser.post(f"{path}/change/", changed).status_code == 302
    many = {"action": "delete_selected", "_selected_action": vera.pk, "post": "yes"}
    for url, sent in (
        (f"{path}/delete/", {"post": "yes"}),
        ("/admin/auth/user/", many),
        (f"/admin/auth/group/{group.pk}/change/", {"name": "other"}),
        (f"/admin/auth/group/{group.pk}/delete/", {"post": "yes"}),
        ("/admin/auth/group/", many | {"_selected_action": group.pk}),
    ):
        assert browser.post(url, sent).status_code in (200, 403)
    vera.refresh_from_db()
    assert (vera.first_name, vera.is_active) == ("Vera", True)
    assert people.role_of(vera) is Role.ADMINISTRATOR


def test_sign_ins_are_recorded_and_not_what_is_refused_unchecked(
    browser: Client,  # noqa: F811
    settings: Any,
) -> None:
    people.password_set(people.person_add("anna", Role.ARTIST), PASSWORD)
    AuditEntry.objects.all().delete()
    browser.post("/sign-in", {"name": "anna", "password": PASSWORD})
    browser.post("/sign-out")
    browser.post("/sign-out")  # is refused
    for _ in range(settings.AXES_FAILURE_LIMIT + 5):
        browser.post("/sign-in", {"name": "anna", "password": "wrong"})
    assert entries(action="sign_in") == [("anna", "sign_in", "anna")]
    assert entries(action="sign_out") == [("anna", "sign_out", "anna")]
    failed = entries(action="sign_in.failed")
    assert set(failed) == {("", "sign_in.failed", "anna")}
    assert settings.AXES_FAILURE_LIMIT - 1 <= len(failed) <= settings.AXES_FAILURE_LIMIT


@pytest.mark.django_db(transaction=True)
def test_without_accounts_the_name_of_the_request_and_its_address_count(
    api: Api, make_backend: Made, runner: Any, settings: Any
) -> None:
    settings.DIRECTOR_ACCOUNTS = False
    visitor = Client(headers={"host": "localhost:9820"})
    assert "No action is recorded yet." in visitor.get("/audit").text
    assert "No action is recorded that matches." in visitor.get("/audit?actor=anna").text
    make_backend("gpu-1")
    group = api.submit("gpu-1", submitter="anna@desk")["job_group_id"]
    api.delete(f"/api/job-groups/{group}")
    assert entries() == [("anna@desk", "group.submitted", group), ("", "group.cancelled", group)]
    assert {row.address for row in AuditEntry.objects.all()} == {"127.0.0.1"}
    listed = api.get("/api/audit").json()["results"]
    assert [one["actor"] for one in listed] == [None, "anna@desk"]
    assert listed[1]["details"] == {"jobs": 1, "submitter": "anna@desk"}
    page = visitor.get("/audit").text
    assert f'title="{group}">{JobGroup.objects.get(pk=group).title}</a>' in page


def test_page_of_the_record_has_names_of_targets_and_tokens_and_no_text_of_python(
    browser: Client,  # noqa: F811
) -> None:
    factories.backend("gpu-1", name="Left of the door")
    user = people.person_add("olga", Role.OPERATOR)
    token, _ = tokens.token_create(user, name="night shift", scope=Scope.OPERATE)
    AuditEntry.objects.create(
        created_at=now(),
        actor="olga",
        token_id=token.pk,
        action="backend.paused",
        target="gpu-1",
        details_json=json.dumps({"is_active": False, "now": True, "jobs": list(range(14))}),
    )
    browser.cookies[COOKIE] = principals.new_session(user)
    page = browser.get("/audit").content.decode()
    for text in (
        'title="gpu-1">Left of the door</a>',
        f'title="{token.pk}">token night shift</span>',
        "is active: no<",
        "now: yes<",
        "jobs: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 and 2 more<",
    ):
        assert text in page


@pytest.mark.django_db(transaction=True)
def test_times_and_numbers_of_the_record_are_those_of_the_api(
    api: Api, make_backend: Made, runner: Any, settings: Any
) -> None:
    settings.DIRECTOR_ACCOUNTS = False
    make_backend("gpu-1")
    group, later = api.submit("gpu-1")["job_group_id"], "2126-01-01T07:00:00.000Z"
    limits = {"max_running": 2, "start_after": iso(now() + dt.timedelta(hours=1))}
    assert api.patch(f"/api/job-groups/{group}", limits).status_code == 200
    assert api.post(f"/api/job-groups/{group}/pause", {"until": later}).status_code == 200
    assert api.patch(f"/api/job-groups/{group}", {"max_running": None}).status_code == 200
    details = [entry["details"] for entry in api.get("/api/audit").json()["results"]]
    assert details[:3] == [{"max_running": "none"}, {"until": later}, limits]


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
