"""Accounts: who may do what at every path, tokens, passwords and one-time links."""

import asyncio
import datetime as dt
import json
import re
import time
from collections.abc import Iterator
from typing import Any, Final

import pytest
from axes.models import AccessAttempt
from django.contrib.auth.models import Group, User
from django.contrib.sessions.models import Session
from django.core import signing
from django.core.management import CommandError, call_command
from django.test import Client

from director.accounts import people, principals, tokens
from director.accounts.models import Token
from director.security import sign_in
from director.security.sign_in import COOKIE, guard_sockets
from jobgroups.api.views import base
from jobgroups.domain.access import Right, Role, Scope, may
from jobgroups.domain.clock import now
from jobgroups.errors import RangeNotSatisfiable
from jobgroups.models import JobGroup
from jobgroups.services import sessions
from tests.api.conftest import GRAPH, Api, Made, error_of, served_paths
from tests.harness import factories

pytestmark = pytest.mark.django_db

PASSWORD: Final = "a quiet harbour"
HERE: Final = "http://localhost:9820"


@pytest.fixture(autouse=True)
def accounts(settings: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    settings.DIRECTOR_ACCOUNTS = True
    monkeypatch.setattr(sign_in, "throttle", sign_in.Throttle())
    principals.kept.clear()
    yield
    principals.kept.clear()


def token_of(name: str, role: Role = Role.ARTIST, scope: Scope | None = None, **fields: Any) -> str:
    """Return a token of an account, which is made unless it exists."""
    user = User.objects.filter(username=name).first() or people.person_add(name, role)
    wanted = (
        scope
        or {Role.VIEWER: Scope.READ}.get(role)
        or (Scope.OPERATE if role in (Role.OPERATOR, Role.ADMINISTRATOR) else Scope.SUBMIT)
    )
    return tokens.token_create(user, name="test", scope=wanted, **fields)[1]


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def cookie(name: str, role: Role = Role.ARTIST) -> dict[str, str]:
    user = User.objects.filter(username=name).first() or people.person_add(name, role)
    return {"cookie": f"{COOKIE}={principals.new_session(user)}", "origin": HERE}


@pytest.fixture
def browser() -> Client:
    return Client(headers={"host": "localhost:9820", "origin": HERE}, enforce_csrf_checks=True)


# --- every path
# --------------------------------------------------------------------------------------

#: What each change needs, by path. A path that is neither here nor in ``READ_ONLY`` fails the test.
CHANGES: Final = {
    Right.SEE: {"/api/provenance", "/api/tokens", "/api/tokens/x", "/sign-out"},
    Right.SUBMIT: {
        "/api/job-group",
        "/api/job-groups/plan",
        "/api/job-groups/cancel",
        "/api/workflows/check",
        "/api/workflows/convert",
        "/api/workflow-from-png",
        "/api/assets",
        "/api/webhooks/test",
        "/api/v2/assets",
        "/api/v2/assets/from-hash",
        "/api/v2/jobs",
    },
    Right.OPERATE: {
        "/api/job-groups/x",
        "/api/job-groups/x/delete",
        "/api/job-groups/x/next",
        "/api/job-groups/x/pause",
        "/api/job-groups/x/resume",
        "/api/queue/pause",
        "/api/queue/resume",
        "/api/submitters/x",
        "/api/job-groups/x/retry",
        "/api/job-groups/x/jobs/x",
        "/api/job-groups/x/jobs/x/retry",
        "/api/job-groups/x/jobs/x/move",
        "/api/job-groups/x/jobs/x/star",
        "/api/assets/x",
        "/api/v2/assets/x",
        "/api/v2/jobs/x/cancel",
        "/api/webhooks/deliveries/x/replay",
        "/api/backends",
        "/api/backends/x",
        "/api/backends/test",
        "/api/backends/find",
        "/api/backends/found/add",
        "/api/backends/found/ignore",
        "/api/backends/found/unignore",
        "/api/backends/x/pause",
        "/api/backends/x/drain",
        "/api/backends/x/resume",
        "/api/backends/x/quarantine",
        "/api/backends/x/release",
        "/api/backends/x/exclusions",
        "/api/backends/x/exclusions/x",
    },
    Right.ADMINISTER: {"/api/people", "/api/people/x", "/api/people/x/password-link"},
}
#: What reading needs, where it is more than the right to see.
READS: Final = {
    Right.OPERATE: {"/api/audit", "/audit"},
    Right.ADMINISTER: {"/api/people", "/people"},
}
#: Paths that need no account, and the admin site, whose own table is Django's.
PUBLIC: Final = re.compile(r"/sign-in(/.*)?|/admin(/.*)?")
READ_ONLY: Final = re.compile(
    r"/|/(account|people|audit|metrics|usage|submit|gallery|queue|assets|webhooks|failures|backends|groups|parts|docs)(/.*)?"
    r"|/api/(docs|schema|health|whoami|audit|seeds|usage|queue|outputs|outputs.zip|failures|failures/jobs|job-groups|webhooks/deliveries)"
    r"|/api/(assets/by-hash/x|assets/x/content|backends/found|backends/x/status)"
    r"|/api/job-groups/x/(workflow|events|events/stream|outputs.zip|sheet.webp)"
    r"|/api/job-groups/x/jobs/x/(provenance.json|outputs/x)"
    r"|/api/v2/(assets/by-hash/x|assets/x/content|jobs/x|jobs/x/workflow|jobs/x/events)"
)


PATHS: Final = sorted(
    {path for one in served_paths() if not PUBLIC.fullmatch(path := one.rstrip("/") or "/")}
)
LISTED: Final = {path: right for right, paths in CHANGES.items() for path in paths}


def test_every_path_is_in_the_table() -> None:
    assert [path for path in PATHS if path not in LISTED and not READ_ONLY.fullmatch(path)] == []
    assert set(LISTED) - set(PATHS) == set()


RIGHTS: Final = {
    Role.VIEWER: Right.SEE,
    Role.ARTIST: Right.SUBMIT,
    Role.SERVICE: Right.SUBMIT,
    Role.OPERATOR: Right.OPERATE,
    Role.ADMINISTRATOR: Right.ADMINISTER,
}


METHODS: Final = ("POST", "PUT", "PATCH", "DELETE")


@pytest.fixture
def instead_of_views(monkeypatch: pytest.MonkeyPatch) -> None:
    def decided(*args: Any, **fields: Any) -> bool:
        if may(*args, **fields):
            raise RangeNotSatisfiable  # no view of a change answers so
        return False

    monkeypatch.setattr(base, "may", decided)


@pytest.mark.parametrize("role", RIGHTS)
def test_role_decides_at_every_path(role: Role, browser: Client, instead_of_views: None) -> None:
    browser.cookies[COOKIE] = principals.new_session(people.person_add("someone", role))
    wrong = []
    for path in PATHS:
        reads = next((right for right, paths in READS.items() if path in paths), Right.SEE)
        answer = browser.get(path)
        if (answer.status_code == 403) is (RIGHTS[role] >= reads):
            wrong.append(("GET", path, answer.status_code))
        if path in LISTED and path != "/sign-out":
            # A method that the path does not have is 405 for everybody.
            answers = {browser.generic(method, path, b"{}").status_code for method in METHODS} - {
                405
            }
            if answers != ({416} if RIGHTS[role] >= LISTED[path] else {403}):
                wrong.append(("change", path, answers))
    assert wrong == []


@pytest.mark.parametrize(
    ("role", "scope", "right"),
    [
        (Role.ADMINISTRATOR, Scope.READ, Right.SEE),
        (Role.ADMINISTRATOR, Scope.SUBMIT, Right.SUBMIT),
        (Role.ADMINISTRATOR, Scope.OPERATE, Right.OPERATE),
        (Role.SERVICE, Scope.DELEGATE, Right.SUBMIT),
    ],
)
def test_scope_decides_at_every_path(
    role: Role, scope: Scope, right: Right, browser: Client, instead_of_views: None
) -> None:
    headers = bearer(token_of("someone", role, scope))
    wrong = []
    for path in PATHS:
        reads = next((needed for needed, paths in READS.items() if path in paths), Right.SEE)
        if reads > Right.SEE and (browser.get(path, headers=headers).status_code == 403) is (
            right >= reads
        ):
            wrong.append(("GET", path))
        # A method that the path does not have is 405 for everybody.
        methods = METHODS if path in LISTED and path != "/sign-out" else ()
        answers = (browser.generic(method, path, b"{}", headers=headers) for method in methods)
        status = next((answer.status_code for answer in answers if answer.status_code != 405), 0)
        if methods and status != (416 if right >= LISTED[path] else 403):
            wrong.append(("change", path, status))
    assert wrong == []


def test_stranger_and_invalid_tokens_are_refused_everywhere(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sign_in, "ALLOWED", 10**9)
    monkeypatch.setattr(sign_in, "throttle", sign_in.Throttle())
    expired = token_of("anna", expires_at=now() + dt.timedelta(hours=1))
    Token.objects.update(expires_at=now() - dt.timedelta(seconds=1))
    revoked = token_of("anna")
    tokens.token_revoke(tokens.tokens_of(User.objects.get().pk).get().pk, owner_id=None)
    wrong = []
    for path in PATHS:
        for headers in (
            {},
            bearer(expired),
            bearer(revoked),
            bearer(f"dt_{'x' * 43}"),  # of another installation
            {"cookie": f"{COOKIE}=wrong"},
        ):
            for method in ("GET", "POST"):
                answer = api.ask(method, path, b"{}", origin=HERE, **headers)
                is_form = answer.headers.get("Location", "").startswith("/sign-in?next=")
                if answer.status_code != 401 and not is_form:
                    wrong.append((method, path, headers))
    assert wrong == []


@pytest.mark.parametrize("scope", [Scope.READ, Scope.SUBMIT, Scope.OPERATE])
def test_no_token_manages_people(api: Api, scope: Scope) -> None:
    token = token_of("vera", Role.ADMINISTRATOR, scope)
    detail = error_of(api.get("/api/people", **bearer(token)), 403, "not_allowed")["detail"]
    assert detail.startswith("No token permits it")


def test_scope_is_the_limit_of_a_token(api: Api, make_backend: Made) -> None:
    make_backend("gpu-1")
    reading = bearer(token_of("olga", Role.OPERATOR, Scope.READ))
    assert api.get("/api/backends", **reading).status_code == 200
    detail = error_of(api.post("/api/job-group", {}, **reading), 403, "not_allowed")["detail"]
    assert "scope" in detail
    submitting = bearer(token_of("olga", Role.OPERATOR, Scope.SUBMIT))
    error_of(api.post("/api/backends/gpu-1/pause", {}, **submitting), 403, "not_allowed")
    operating = bearer(token_of("olga", Role.OPERATOR, Scope.OPERATE))
    assert (
        api.post("/api/backends/gpu-1/pause", {"by": "else@host"}, **operating).json()["status_by"]
        == "olga"
    )


# --- own work
# ----------------------------------------------------------------------------------------


def _submit(api: Api, token: str, **fields: Any) -> Any:
    body = {"workflow_json": GRAPH, "backend_ids": ["gpu-1"], **fields}
    return api.post(
        "/api/job-group",
        body,
        **bearer(token),
        **({"idempotency_key": "k"} if "key" in fields else {}),
    )


@pytest.mark.django_db(transaction=True)
def test_artist_manages_own_groups_and_not_those_of_others(
    api: Api, make_backend: Made, runner: Any
) -> None:
    make_backend("gpu-1")
    anna, boris, olga = token_of("anna"), token_of("boris"), token_of("olga", Role.OPERATOR)
    group = _submit(api, anna, submitter="anna").json()["job_group_id"]
    path = f"/api/job-groups/{group}"
    assert api.get(path, **bearer(boris)).json()["job_group_id"] == group
    for method, one in (
        ("PATCH", path),
        ("DELETE", path),
        ("POST", f"{path}/retry"),
        ("POST", f"{path}/delete"),
    ):
        detail = error_of(api.ask(method, one, {}, **bearer(boris)), 403, "not_allowed")["detail"]
        assert "boris has the role artist" in detail
    assert api.patch(path, {"name": "forest"}, **bearer(anna)).json()["name"] == "forest"
    assert api.patch(path, {"name": "wood"}, **bearer(olga)).json()["name"] == "wood"
    assert api.delete(path, **bearer(anna)).json()["cancelled"] is True


def test_cancel_of_all_groups_is_of_the_own_ones_and_for_operators_of_all(
    api: Api, make_backend: Made, runner: Any
) -> None:
    make_backend("gpu-1")
    anna, boris, olga = token_of("anna"), token_of("boris"), token_of("olga", Role.OPERATOR)
    for token in (anna, anna, boris):
        assert _submit(api, token).status_code == 201
    path = "/api/job-groups/cancel"
    groups = {
        name: api.get(path, **bearer(token)).json()["groups"]
        for name, token in (("boris", boris), ("olga", olga))
    }
    assert groups == {"boris": 1, "olga": 3}
    assert api.post(path, None, **bearer(boris)).json()["groups"] == 1
    assert dict(JobGroup.objects.values_list("submitter", "status")) == {
        "anna": "running",
        "boris": "cancelled",
    }
    assert api.post(path, None, **bearer(olga)).json()["jobs"] == 2
    assert set(JobGroup.objects.values_list("status", flat=True)) == {"cancelled"}


def test_identity_counts_and_not_the_body(api: Api, make_backend: Made, runner: Any) -> None:
    make_backend("gpu-1")
    anna = token_of("anna")
    assert _submit(api, anna).status_code == 201
    assert _submit(api, anna, submitter="someone@host").status_code == 201
    error_of(_submit(api, anna, submitter="boris"), 403, "not_allowed")
    assert {group.submitter for group in JobGroup.objects.all()} == {"anna"}
    assert {group.owner_id for group in JobGroup.objects.all()} == {User.objects.get().pk}


@pytest.mark.django_db(transaction=True)
def test_delegate_submits_for_customers_who_are_no_accounts(
    api: Api, make_backend: Made, runner: Any
) -> None:
    make_backend("gpu-1")
    anna = token_of("anna")
    bot = token_of("bot", Role.SERVICE, Scope.DELEGATE)
    assert api.get("/api/whoami", **bearer(bot)).json()["scope"] == "delegate"
    group = _submit(api, bot, submitter=" anna ").json()["job_group_id"]
    assert _submit(api, bot, submitter="a@b").status_code == 201
    assert _submit(api, bot).status_code == 201
    error_of(_submit(api, bot, submitter="c" * 147), 400, "invalid_request")
    error_of(_submit(api, token_of("bot"), submitter="anna"), 403, "not_allowed")
    names = {"bot/anna", "bot/a@b", "bot"}
    assert {one.submitter for one in JobGroup.objects.all()} == names
    assert {one.owner.username for one in JobGroup.objects.all()} == {"bot"}
    path = f"/api/job-groups/{group}"
    error_of(api.patch(path, {"name": "mine"}, **bearer(anna)), 403, "not_allowed")
    assert api.patch(path, {"name": "theirs"}, **bearer(bot)).status_code == 200


def test_customers_have_idempotency_keys_of_their_own(
    api: Api, make_backend: Made, runner: Any
) -> None:
    make_backend("gpu-1")
    bot = bearer(token_of("bot", Role.SERVICE, Scope.DELEGATE))
    body = {"workflow_json": GRAPH, "backend_ids": ["gpu-1"]}
    groups = [
        api.post(
            "/api/job-group", {**body, "submitter": customer}, **bot, idempotency_key="one"
        ).json()["job_group_id"]
        for customer in ("c1", "c1", "c2")
    ]
    assert groups[0] == groups[1] != groups[2]


def test_scope_delegate_is_made_by_no_other_scope() -> None:
    made_by = {one: {other for other in Scope if one.includes(other)} for one in Scope}
    read, submit = {Scope.READ}, {Scope.READ, Scope.SUBMIT}
    assert made_by == {
        Scope.READ: read,
        Scope.SUBMIT: submit,
        Scope.OPERATE: submit | {Scope.OPERATE},
        Scope.DELEGATE: submit | {Scope.DELEGATE},
    }


def test_idempotency_key_belongs_to_the_account(api: Api, make_backend: Made, runner: Any) -> None:
    make_backend("gpu-1")
    body = {"workflow_json": GRAPH, "backend_ids": ["gpu-1"]}
    made_by = [
        api.post("/api/job-group", body, **bearer(token_of(name)), idempotency_key="one").json()[
            "job_group_id"
        ]
        for name in ("anna", "anna", "boris")
    ]
    assert made_by[0] == made_by[1] != made_by[2]


@pytest.mark.django_db(transaction=True)
def test_groups_of_a_deleted_account_are_for_operators(
    api: Api, make_backend: Made, runner: Any
) -> None:
    make_backend("gpu-1")
    body = {"workflow_json": GRAPH, "backend_ids": ["gpu-1"]}
    former = bearer(token_of("anna"))
    made = api.post("/api/job-group", body, **former, idempotency_key="one").json()
    path = f"/api/job-groups/{made['job_group_id']}"
    vera = people.person_add("vera", Role.ADMINISTRATOR)
    admin = Client(headers={"host": "localhost:9820", "origin": HERE})
    admin.force_login(vera)  # the admin site has sessions of its own
    admin.cookies[COOKIE] = principals.new_session(vera)
    anna = people.person_named("anna")
    admin.post(f"/admin/auth/user/{anna.pk}/delete/", {"post": "yes"})
    principals.kept.clear()
    error_of(api.get(path, **former), 401, "sign_in_required")
    namesake = bearer(token_of("anna"))
    error_of(api.delete(path, **namesake), 403, "not_allowed")
    again = api.post("/api/job-group", body, **namesake, idempotency_key="one")
    assert "another account" in error_of(again, 409, "idempotency_conflict")["detail"]
    cancelled = api.delete(path, **bearer(token_of("olga", Role.OPERATOR)))
    assert cancelled.json()["interrupted"] == 1


@pytest.mark.django_db(transaction=True)
def test_group_from_before_accounts_is_for_operators(
    api: Api, make_backend: Made, runner: Any, settings: Any
) -> None:
    make_backend("gpu-1")
    settings.DIRECTOR_ACCOUNTS = False
    group = api.submit("gpu-1", submitter="anna")["job_group_id"]
    settings.DIRECTOR_ACCOUNTS = True
    error_of(api.delete(f"/api/job-groups/{group}", **bearer(token_of("anna"))), 403, "not_allowed")
    assert (
        api.delete(
            f"/api/job-groups/{group}", **bearer(token_of("olga", Role.OPERATOR))
        ).status_code
        == 200
    )


# --- tokens
# ------------------------------------------------------------------------------------------


def test_token_is_shown_once_and_makes_only_smaller_ones_that_end_with_it(api: Api) -> None:
    session = cookie("anna")
    ends = (now() + dt.timedelta(days=1)).isoformat()
    body = {"name": "nightly", "scope": "submit", "expires_at": ends}
    first = api.post("/api/tokens", body, **session).json()
    assert api.get("/api/whoami", **bearer(first["token"])).json() == {
        "name": "anna",
        "role": "artist",
        "right": "submit",
        "token_id": first["id"],
        "scope": "submit",
    }
    assert first["token"] not in json.dumps(api.get("/api/tokens", **session).json())
    api.post("/api/tokens", {"name": "other", "scope": "read"}, **session)
    wide = api.post("/api/tokens", {"name": "n", "scope": "operate"}, **bearer(first["token"]))
    error_of(wide, 400, "invalid_request")
    second = api.post(
        "/api/tokens", {"name": "n", "scope": "read"}, **bearer(first["token"])
    ).json()
    assert second["expires_at"] == first["expires_at"]
    narrow = api.post("/api/tokens", {"name": "n", "scope": "submit"}, **bearer(second["token"]))
    error_of(narrow, 400, "invalid_request")
    for path in (f"/api/tokens/{first['id']}", f"/api/tokens/{Token.objects.get(name='other').pk}"):
        error_of(api.delete(path, **bearer(second["token"])), 404, "token_not_found")
    assert api.delete(f"/api/tokens/{first['id']}", **session).status_code == 204
    for token in (first["token"], second["token"]):
        error_of(api.get("/api/whoami", **bearer(token)), 401, "sign_in_required")


@pytest.fixture
def kept_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(principals.kept, "seconds", 600.0)


@pytest.mark.usefixtures("kept_for_long")
def test_token_that_is_revoked_during_its_request_makes_none(api: Api) -> None:
    token = token_of("anna")
    assert api.get("/api/whoami", **bearer(token)).status_code == 200
    Token.objects.all().delete()
    made = api.post("/api/tokens", {"name": "n", "scope": "read"}, **bearer(token))
    error_of(made, 404, "token_not_found")
    assert not Token.objects.exists()


def test_token_of_another_account_is_not_found(api: Api) -> None:
    token_of("anna")
    path = f"/api/tokens/{Token.objects.get().pk}"
    error_of(api.delete(path, **cookie("boris")), 404, "token_not_found")
    vera = cookie("vera", Role.ADMINISTRATOR)
    assert api.delete(path, **vera).status_code == 204
    # PostgreSQL would refuse it.
    error_of(api.delete("/api/tokens/a%00b", **vera), 404, "not_found")
    error_of(api.patch("/api/people/a%00b", {"is_active": True}, **vera), 404, "not_found")


def test_disabled_account_and_a_smaller_role_count_at_once_for_the_next_read(
    api: Api, make_backend: Made
) -> None:
    make_backend("gpu-1")
    token = token_of("olga", Role.OPERATOR)
    token_of("vera", Role.ADMINISTRATOR)
    assert api.post("/api/backends/gpu-1/pause", {}, **bearer(token)).status_code == 200
    administrator = cookie("vera")
    assert (
        api.patch("/api/people/olga", {"role": "artist"}, **administrator).json()["role"]
        == "artist"
    )
    error_of(api.post("/api/backends/gpu-1/resume", {}, **bearer(token)), 403, "not_allowed")
    assert (
        api.patch("/api/people/olga", {"is_active": False}, **administrator).json()["is_active"]
        is False
    )
    error_of(api.get("/api/backends", **bearer(token)), 401, "sign_in_required")
    last = api.patch("/api/people/vera", {"role": "viewer"}, **administrator)
    error_of(last, 409, "last_administrator")


@pytest.mark.usefixtures("kept_for_long")
def test_token_is_read_once_within_some_seconds(api: Api, django_assert_num_queries: Any) -> None:
    token = token_of("anna")
    api.get("/api/whoami", **bearer(token))
    with django_assert_num_queries(0):
        assert api.get("/api/whoami", **bearer(token)).status_code == 200


def test_wrong_tokens_lock_out_no_right_one_of_their_address(
    api: Api, django_assert_num_queries: Any
) -> None:
    token = token_of("anna")
    api.get("/api/whoami", **bearer(token))
    with django_assert_num_queries(1):  # none for what has not the form of a token
        for given in [f"dt_{0:043}", *(f"wrong {number}" for number in range(9))]:
            error_of(api.get("/api/whoami", **bearer(given)), 401, "sign_in_required")
        answer = api.get("/api/whoami", **bearer("wrong"))
    error_of(answer, 429, "too_many_requests")
    assert int(answer.headers["Retry-After"]) > 0
    assert api.get("/api/whoami", **bearer(token)).json()["name"] == "anna"
    principals.kept.clear()
    assert api.get("/api/whoami", **bearer(token)).json()["name"] == "anna"


def test_results_of_wrong_tokens_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(principals.kept, "most", 3)
    for number in range(10):
        assert principals.principal_of(f"dt_{number:043}", None) is None
    assert len(principals.kept) == 3


# --- people and passwords
# ----------------------------------------------------------------------------


def _path(link: str) -> str:
    return "/" + link.split("/", 3)[3]


def test_link_sets_a_password_once_and_signs_in(browser: Client) -> None:
    path = _path(people.password_link(people.person_add("anna", Role.ARTIST)))
    assert b"Password of anna" in browser.get(path).content
    short = browser.post(path, {"password": "short", "again": "short"})
    assert short.status_code == 400
    assert b"at least 10 characters" in short.content
    assert browser.post(path, {"password": PASSWORD, "again": "other"}).status_code == 400
    assert browser.post(path, {"password": PASSWORD, "again": PASSWORD}).headers["Location"] == "/"
    assert b">anna</h1>" in browser.get("/account").content
    assert browser.get(path).status_code == 404
    browser.post("/sign-out")
    assert browser.get("/account").headers["Location"] == "/sign-in?next=/account"
    given = {"name": "anna", "password": PASSWORD, "next": "/account"}
    assert browser.post("/sign-in", given).headers["Location"] == "/account"


def test_sign_out_ends_the_session_and_copies_of_its_cookie_alone(
    browser: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = people.person_add("anna", Role.ARTIST)
    second = signing.b62_encode(int(time.time()))
    with monkeypatch.context() as patch:
        patch.setattr(signing.TimestampSigner, "timestamp", lambda _: second)
        copied, other = principals.new_session(user), principals.new_session(user)
    browser.cookies[COOKIE] = copied
    assert browser.post("/sign-out").status_code == 302
    for cleared in (False, True):
        if cleared:  # as in another process, and after some seconds
            principals.kept.clear()
        for session, status in ((copied, 302), (other, 200)):
            browser.cookies[COOKIE] = session
            assert browser.get("/account").status_code == status
    assert principals.refreshed([(None, copied)]) == {(None, copied): None}
    Session.objects.update(expire_date=now() - dt.timedelta(seconds=1))
    sessions.sessions_forget()
    assert Session.objects.count() == 0


def test_new_password_ends_sessions(browser: Client) -> None:
    user = people.person_add("anna", Role.ARTIST)
    browser.cookies[COOKIE] = principals.new_session(user)
    assert browser.get("/account").status_code == 200
    user.set_password(PASSWORD)
    user.save()
    principals.kept.clear()
    assert browser.get("/account").status_code == 302


def test_person_changes_the_own_password(browser: Client) -> None:
    user = people.person_add("anna", Role.ARTIST)
    token = tokens.token_create(user, name="t", scope=Scope.SUBMIT)[1]
    browser.cookies[COOKIE] = principals.new_session(user)
    assert browser.get("/account/password").status_code == 404  # it has none
    people.password_set(user, PASSWORD)
    old = browser.cookies[COOKIE] = principals.new_session(user)
    assert b'href="/account/password"' in browser.get("/account").content
    assert b"Present password" in browser.get("/account/password").content
    new = {"present": PASSWORD, "password": "a loud harbour", "again": "a loud harbour"}
    for wrong in ({"present": "wrong"}, {"again": "other"}, {"password": "x", "again": "x"}):
        assert browser.post("/account/password", new | wrong).status_code == 400
    by_token = browser.post("/account/password", new, headers=bearer(token))
    assert by_token.status_code == 404
    foreign = browser.post("/account/password", new, headers={"origin": "http://localhost:1"})
    assert foreign.status_code == 403
    assert browser.post("/account/password", new).headers["Location"] == "/account"
    principals.kept.clear()
    assert browser.get("/account").status_code == 200
    browser.cookies[COOKIE] = old
    assert browser.get("/account").status_code == 302
    given = {"name": "anna", "password": "a loud harbour"}
    assert browser.post("/sign-in", given).status_code == 302


def test_wrong_passwords_are_stored_nowhere(browser: Client) -> None:
    user = people.person_add("anna", Role.ARTIST)
    people.password_set(user, PASSWORD)
    browser.cookies[COOKIE] = principals.new_session(user)
    forms = {
        "/account/password": {"present": "secret", "password": "secret", "again": "secret"},
        "/sign-in": {"name": "anna", "password": "secret"},
    }
    for path, form in forms.items():
        # Each program has a row of its own.
        answer = browser.post(path, form, headers={"user-agent": path})
        assert answer.status_code in (400, 403)
    stored = list(AccessAttempt.objects.values())
    assert {row["path_info"] for row in stored} == set(forms)
    assert "secret" not in str(stored)


@pytest.mark.parametrize("name", ["x" * 300, "a\0b"])
def test_name_that_no_account_can_have_is_a_wrong_one(browser: Client, name: str) -> None:
    assert browser.post("/sign-in", {"name": name, "password": "wrong"}).status_code == 403
    assert re.fullmatch(r"[^\0]{1,255}", AccessAttempt.objects.get().username)


def test_first_administrator_is_made_by_the_code_and_only_once(browser: Client) -> None:
    path = f"/sign-in/first/{people.first_code()}"
    assert browser.get("/sign-in/first/other").status_code == 404
    taken = browser.post(path, {"name": "v/v", "password": PASSWORD, "again": PASSWORD})
    assert taken.status_code == 400
    answer = browser.post(path, {"name": "vera", "password": PASSWORD, "again": PASSWORD})
    assert answer.headers["Location"] == "/"
    assert b"vera" in browser.get("/people").content
    assert (
        browser.post(path, {"name": "eve", "password": PASSWORD, "again": PASSWORD}).status_code
        == 404
    )


def test_wrong_passwords_are_slowed_for_the_account_in_every_process(
    browser: Client, settings: Any
) -> None:
    user = people.person_add("anna", Role.ARTIST)
    user.set_password(PASSWORD)
    user.save()
    wrong = {"name": "anna", "password": "wrong"}
    for number in range(settings.AXES_FAILURE_LIMIT - 1):
        answer = browser.post("/sign-in", wrong, REMOTE_ADDR=f"10.0.0.{number}")
        assert answer.status_code == 403
    browser.post("/sign-in", wrong, REMOTE_ADDR="10.0.1.1")
    right = {"name": "anna", "password": PASSWORD}
    locked = browser.post("/sign-in", right, REMOTE_ADDR="10.0.1.2")
    assert (locked.status_code, locked.headers["Retry-After"]) == (429, "60")
    settings.AXES_COOLOFF_TIME = dt.timedelta(0)
    assert browser.post("/sign-in", right, REMOTE_ADDR="10.0.1.2").status_code == 302


def test_service_and_unknown_person_cannot_sign_in(browser: Client) -> None:
    service = people.person_add("bot", Role.SERVICE)
    service.set_password(PASSWORD)
    service.save()
    for name in ("bot", "nobody", ""):
        assert browser.post("/sign-in", {"name": name, "password": PASSWORD}).status_code == 403


def test_filter_of_own_groups_is_in_its_place_before_the_script_runs(
    browser: Client, make_backend: Made, runner: Any
) -> None:
    make_backend("gpu-1")
    factories.submit("gpu-1", submitter="anna")
    browser.cookies[COOKIE] = principals.new_session(people.person_add("anna", Role.ARTIST))
    for path in ("/", "/gallery"):
        page = browser.get(path).content.decode()
        assert '<label class="check"><input type="checkbox" id="mine" value="anna">' in page


def test_page_says_what_the_role_may_not_do(browser: Client) -> None:
    rights = {Role.VIEWER: b"see", Role.ARTIST: b"submit"}
    for role in (*rights, Role.OPERATOR, Role.ADMINISTRATOR):
        right = rights.get(role)
        browser.cookies[COOKIE] = principals.new_session(people.person_add(role.value, role))
        page = browser.get("/").content
        assert (b"data-right=" in page) is (right is not None)
        assert right is None or b'data-right="' + right in page
        assert f"its role: {role}".encode() in page
        assert (b'href="/admin/"' in page) is (role is Role.ADMINISTRATOR)
        assert (b'href="/audit"' in page) is (right is None)
        refused = browser.get("/people").content
        is_refused = f"for administrators; {role} has the role {role}".encode() in refused
        assert is_refused is (role is not Role.ADMINISTRATOR)
        assert b"</html>" in refused
        # No page leads to one that the role may not open.
        pages = "".join(browser.get(path).content.decode() for path in ("/", "/account"))
        links = set(re.findall(r'<a [^>]*href="(/[^"#?]*)', pages)) - {"/docs/", "/docs/api"}
        assert {link for link in links if browser.get(link).status_code == 403} == set(), role


def test_session_needs_an_own_origin_for_a_change_and_for_a_socket(api: Api) -> None:
    headers = cookie("vera", Role.ADMINISTRATOR)
    body = {"name": "t", "scope": "read"}
    error_of(api.post("/api/tokens", body, cookie=headers["cookie"]), 403, "origin_not_allowed")
    assert api.post("/api/tokens", body, **headers).status_code == 201


@pytest.mark.django_db(transaction=True)
async def test_socket_needs_an_account(settings: Any) -> None:
    token = await asyncio.to_thread(token_of, "anna")

    async def application(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})

    async def connect(headers: list[tuple[bytes, bytes]]) -> list[dict[str, Any]]:
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return {"type": "websocket.connect"}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        scope = {
            "type": "websocket",
            "path": "/ws/monitor",
            "query_string": b"",
            "client": ["127.0.0.1", 1],
        }
        await guard_sockets(application)({**scope, "headers": headers}, receive, send)
        return sent

    assert (await connect([(b"authorization", b"Bearer " + token.encode())]))[-1][
        "type"
    ] == "websocket.accept"
    assert (await connect([]))[-1] == {"type": "websocket.close", "code": 4401}


# --- commands
# ----------------------------------------------------------------------------------------


def test_commands_make_people_and_tokens(
    api: Api, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("director.server.startup.open_tables", lambda _: None)
    monkeypatch.setenv("DIRECTOR_URL", "studio.example:9821/")
    call_command("people", "add", "anna", "--role", "artist")
    link = capsys.readouterr().out.splitlines()[-1]
    assert link.startswith("http://studio.example:9821/sign-in/password/")
    call_command("people", "add", "bot", "--role", "service")
    assert capsys.readouterr().out == ""
    call_command("tokens", "create", "bot", "--scope", "submit", "--name", "nightly", "--days", "3")
    token = capsys.readouterr().out.splitlines()[-1]
    assert api.get("/api/whoami", **bearer(token)).json()["name"] == "bot"
    call_command("tokens", "list")
    token_id = capsys.readouterr().out.split()[0]
    call_command("tokens", "revoke", token_id)
    with pytest.raises(CommandError, match="no such token"):
        call_command("tokens", "revoke", token_id)
    call_command("people", "role", "anna", "administrator")
    with pytest.raises(CommandError, match="last administrator"):
        call_command("people", "disable", "anna")
    with pytest.raises(CommandError, match="already"):
        call_command("people", "add", "ANNA", "--role", "viewer")
    with pytest.raises(CommandError, match="cannot sign in"):
        call_command("people", "link", "bot")
    call_command("people", "list")
    assert capsys.readouterr().out.splitlines() == ["anna  administrator", "bot  service"]
    with pytest.raises(CommandError, match="does not permit the scope operate"):
        call_command("tokens", "create", "bot", "--scope", "operate", "--name", "n")


def test_role_that_does_not_exist_is_refused(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("director.server.startup.open_tables", lambda _: None)
    vera = cookie("vera", Role.ADMINISTRATOR)
    token = token_of("anna")
    for method, path in (("POST", "/api/people"), ("PATCH", "/api/people/anna")):
        sent = {"role": "king"} | ({"name": "karl"} if method == "POST" else {})
        answer = api.ask(method, path, sent, **vera)
        assert "role" in error_of(answer, 400, "invalid_request")["detail"]
    with pytest.raises(CommandError, match="invalid choice: 'king'"):
        call_command("people", "role", "anna", "king")
    # Of a group that a user of the admin site made.
    anna = User.objects.get(username="anna")
    anna.groups.set([Group.objects.create(name="king")])
    principals.kept.clear()
    error_of(api.get("/api/whoami", **bearer(token)), 401, "sign_in_required")


def test_other_modes_have_no_accounts(api: Api, settings: Any) -> None:
    settings.DIRECTOR_ACCOUNTS = False
    assert api.get("/api/whoami").json()["name"] is None
    error_of(api.get("/api/tokens"), 403, "not_allowed")
    assert api.get("/account").status_code == 404
