"""``DIRECTOR_PRIVATE``: at every path and socket the work of others does not exist."""

import asyncio
import datetime as dt
import json
import re
from collections.abc import Iterator
from typing import Any, Final

import pytest
from blake3 import blake3
from channels.testing import WebsocketCommunicator
from django.contrib.auth.models import User
from django.urls import URLResolver, get_resolver

from director.accounts import people, principals
from director.accounts.models import Token
from director.asgi import application
from jobgroups.api.long_polls import long_polls
from jobgroups.api.views import base
from jobgroups.consumers.routing import websocket_urlpatterns
from jobgroups.consumers.socket import opened
from jobgroups.domain.access import EVERYBODY, Principal, Right, Role, Scope, Visibility
from jobgroups.domain.clock import now
from jobgroups.domain.failures import FailureClass
from jobgroups.domain.output_ids import output_uuid
from jobgroups.domain.states import AttemptState
from jobgroups.events import hub as hub_module, log
from jobgroups.events.hub import hub
from jobgroups.models import Asset, AssetRecord, JobGroup, WebhookDelivery
from jobgroups.queries.owners import object_name, owned_of
from jobgroups.services import asset_records
from jobgroups.services.groups import group_change
from tests.api.conftest import GRAPH, Api, Made, asgi_answer, error_of
from tests.api.test_accounts import METHODS, PUBLIC, bearer, token_of
from tests.harness import factories
from tests.harness.farm import in_thread
from tests.ws.clients import settled
from tests.ws.conftest import socket_threads  # noqa: F401 a fixture

pytestmark = pytest.mark.django_db(transaction=True)

#: In all that anna has.
SECRET: Final = "unmistakable-owl"
CONTENT: Final = SECRET.encode()
HASH: Final = f"blake3:{blake3(CONTENT).hexdigest()}"
DEADLINE: Final = 60.0


@pytest.fixture(autouse=True)
def private(settings: Any) -> Iterator[None]:
    settings.DIRECTOR_ACCOUNTS = settings.DIRECTOR_PRIVATE = True
    principals.kept.clear()
    yield
    principals.kept.clear()


def headers_of(name: str, role: Role = Role.ARTIST) -> dict[str, str]:
    return bearer(token_of(name, role))


def submit(api: Api, headers: dict[str, str], **fields: Any) -> str:
    body = {"workflow_json": GRAPH, "backend_ids": ["gpu-1"], **fields}
    answer = api.post("/api/job-group", body, **headers)
    assert answer.status_code == 201, answer.content
    group_id: str = answer.json()["job_group_id"]
    return group_id


class Work:
    """What anna has: a failed, a finished, a running and a waiting job, files and deliveries."""

    def __init__(self, api: Api) -> None:
        self.headers = headers_of("anna")
        self.user_id = User.objects.get(username="anna").pk
        fence = factories.lease("gpu-1")
        webhook = {"url": f"https://a.example/{SECRET}"}
        named: dict[str, Any] = {"name": SECRET, "metadata": {"scene": SECRET}, "webhook": webhook}
        failed = {"failure": FailureClass.NODE_ERROR, "error_message": SECRET}
        self.groups = []
        for state, fields in (
            (AttemptState.ERROR, failed),
            (AttemptState.SUCCESS, {"outputs": self._outputs()}),
            (None, {}),
        ):
            self.groups.append(submit(api, self.headers, **named))
            claim = factories.begin(fence)
            if state is not None:
                assert factories.finish(claim, fence, state, **fields)
        self.groups.append(submit(api, self.headers, **named, count=1))
        self.asset = factories.asset(CONTENT, f"{SECRET}.png", self.user_id)
        self.record, _ = asset_records.record_mint(
            content_hash=HASH,
            file_path=f"{SECRET}.png",
            principal=Principal(Right.SUBMIT, self.user_id, sees_all=False),
        )
        self.delivery = WebhookDelivery.objects.filter(group=self.groups[0]).first()
        assert self.delivery is not None

    @staticmethod
    def _outputs() -> dict[str, Any]:
        file = {"filename": f"{SECRET}.png", "subfolder": "", "type": "output"}
        return {"prompt_id": "p", "images": [{**file, "url": f"http://gpu/{SECRET}"}]}

    def values(self, group: int) -> dict[str, str]:
        """Return the values of the names in paths."""
        group_id = self.groups[group]
        (child,) = JobGroup.objects.get(pk=group_id).children.all()
        return {
            "group_id": group_id,
            "job_id": child.pk,
            "asset_id": self.asset.pk,
            "delivery_id": str(self.delivery.pk if self.delivery else 0),
            "backend_id": "gpu-1",
            "asset_hash": HASH,
            "number": "0",
        }

    def secrets(self) -> list[str]:
        jobs = [self.values(group)["job_id"] for group in range(len(self.groups))]
        return [SECRET, *self.groups, *jobs, self.asset.pk, self.record]


#: Ids of nothing, in the forms that ids have.
NOTHING: Final = {
    "group_id": "jg_000000000000",
    "job_id": "j_000000000000",
    "asset_id": "00000000-0000-4000-8000-000000000000",
    "delivery_id": "999999999",
}


@pytest.fixture
def work(api: Api, make_backend: Made, runner: Any) -> Work:
    make_backend("gpu-1")
    return Work(api)


def routes(resolver: Any = None, before: str = "/") -> Iterator[str]:
    """Yield every route that is served, with the names of its gaps."""
    for entry in (resolver or get_resolver()).url_patterns:
        route = str(entry.pattern).removeprefix("^").rstrip("$")
        if isinstance(entry, URLResolver):
            yield from routes(entry, before + route)
        else:
            yield before + route.replace("(?:/.*)?", "")


ROUTES: Final = sorted(
    {route.rstrip("/") or "/" for route in routes() if not PUBLIC.fullmatch(route.rstrip("/"))}
)


def filled(route: str, values: dict[str, str]) -> str:
    if route.startswith("/api/v2/jobs"):
        values = {**values, "job_id": values["group_id"]}  # there, a job is a group
    return re.sub(r"<(?:\w+:)?(\w+)>", lambda gap: values.get(gap[1], "x"), route)


def names_of(route: str) -> set[str]:
    return set(re.findall(r"<(?:\w+:)?(\w+)>", route))


def is_about_an_object(route: str) -> bool:
    return object_name(dict.fromkeys(names_of(route))) is not None


def text_of(answer: Any) -> str:
    if answer.streaming:
        return ""
    return answer.content.decode(errors="replace") + answer.headers.get("Location", "")


def without(text: str, ids: dict[str, str]) -> str:
    for value in ids.values():
        text = text.replace(value, "ID")
    return text


@pytest.mark.parametrize("role", [Role.ARTIST, Role.VIEWER])
def test_object_of_another_account_is_answered_as_one_that_does_not_exist(
    api: Api, work: Work, role: Role
) -> None:
    boris, wrong = headers_of("boris", role), []
    for route in filter(is_about_an_object, ROUTES):
        for method in ("GET", *(METHODS if route.startswith("/api") else ())):
            values = {name: work.values(0)[name] for name in NOTHING}
            answers = [
                api.client.generic(
                    method, filled(route, ids), b"{}", "application/json", headers=_sent(boris)
                )
                for ids in (work.values(0), {**work.values(0), **NOTHING})
            ]
            statuses = {answer.status_code for answer in answers}
            texts = {without(text_of(answers[0]), values), without(text_of(answers[1]), NOTHING)}
            if statuses not in ({404}, {405}) or (route.startswith("/api") and len(texts) > 1):
                wrong.append((method, route, statuses, texts))
    assert wrong == []


def _sent(headers: dict[str, str]) -> dict[str, str]:
    return {"host": "localhost:9820", "origin": "http://localhost:9820", **headers}


def answers_to(api: Api, headers: dict[str, str], work: Work) -> dict[str, str]:
    """Return what each path that names no object answers."""
    found = {}
    for route in ROUTES:
        if is_about_an_object(route):
            continue
        group = work.groups[0]
        queries = ["?groups=x", f"?group={group}"]
        if route == "/submit":
            queries.append(f"?from={group}")
        for query in queries:
            path = filled(route, work.values(0)) + query
            answer = api.client.get(path, headers=_sent(headers))
            assert re.search("private|no-cache", answer.headers["Cache-Control"]), path
            text = text_of(answer)
            # A page repeats the id that its URL has.
            found[path] = text.replace(group, "") if query.endswith(group) else text
    return found


def test_no_list_has_the_work_of_others(api: Api, work: Work) -> None:
    boris = answers_to(api, headers_of("boris"), work)
    leaks = [
        (path, secret)
        for path, text in boris.items()
        for secret in work.secrets()
        if secret in text
    ]
    assert leaks == []
    for name, role in (("anna", Role.ARTIST), ("olga", Role.OPERATOR)):
        seen = "".join(answers_to(api, headers_of(name, role), work).values())
        assert [one for one in work.secrets() if one not in seen and one != work.record] == []


def test_chosen_files_of_others_are_not_found(api: Api, work: Work) -> None:
    path = f"/api/outputs.zip?files={work.values(0)['job_id']}-99"
    error_of(api.get(path, **headers_of("boris")), 404, "job_not_found")
    error_of(api.get(path, **headers_of("anna")), 404, "output_not_found")


def test_place_of_the_work_of_others_is_shown(api: Api, work: Work) -> None:
    page = text_of(api.client.get("/backends", headers=_sent(headers_of("boris"))))
    assert "A job of another account" in page
    status = api.get("/api/backends/gpu-1/status", **headers_of("boris")).json()
    assert status["queue_ours"] == 1
    own = submit(api, headers_of("boris"))
    children = api.get(f"/api/job-groups/{own}", **headers_of("boris")).json()["child_jobs"]
    assert [child["status"] for child in children] == ["queued"]


def test_metrics_are_for_operators(api: Api, work: Work) -> None:
    error_of(api.get("/metrics", **headers_of("boris")), 403, "not_allowed")
    assert (
        api.client.get("/metrics", headers=_sent(headers_of("olga", Role.OPERATOR))).status_code
        == 200
    )


def test_names_of_submitters_are_for_operators_and_their_own(api: Api, work: Work) -> None:
    for path in ("anna", "nobody", "anna/customer", "boris-2"):
        refused = api.get(f"/api/submitters/{path}", **headers_of("boris"))
        error_of(refused, 403, "not_allowed")
    for name, headers in (
        ("anna", work.headers),
        ("anna/customer", work.headers),
        ("boris", headers_of("boris")),
        ("anna", headers_of("olga", Role.OPERATOR)),
    ):
        assert api.get(f"/api/submitters/{name}", **headers).json()["name"] == name


def test_owner_and_operator_see_a_group_and_others_when_it_is_shared(api: Api, work: Work) -> None:
    anna, boris, olga = work.headers, headers_of("boris"), headers_of("olga", Role.OPERATOR)
    group = work.groups[1]
    path = f"/api/job-groups/{group}"
    etag = api.get(path, **anna).headers["ETag"]
    assert api.get(path, **olga).status_code == 200
    error_of(api.get(path, if_none_match=etag, **boris), 404, "group_not_found")
    error_of(api.patch(path, {"visibility": "shared"}, **boris), 404, "group_not_found")
    page = f"/groups/{group}"
    assert "Share with every account" in text_of(api.client.get(page, headers=_sent(anna)))
    assert api.patch(path, {"visibility": "shared"}, **anna).json()["visibility"] == "shared"
    assert "Make private" in text_of(api.client.get(page, headers=_sent(anna)))
    etag = api.get(path, **boris).headers["ETag"]
    listed = api.get("/api/job-groups", **boris).json()["results"]
    assert [row["job_group_id"] for row in listed] == [group]
    error_of(api.delete(path, **boris), 403, "not_allowed")
    assert api.patch(path, {"visibility": "private"}, **anna).json()["visibility"] == "private"
    error_of(api.get(path, if_none_match=etag, **boris), 404, "group_not_found")
    shared = submit(api, anna, visibility="shared")
    assert api.get(f"/api/job-groups/{shared}", **boris).json()["visibility"] == "shared"


def test_address_of_a_webhook_is_not_shared_with_its_group(api: Api, work: Work) -> None:
    boris, olga = headers_of("boris"), headers_of("olga", Role.OPERATOR)
    group = work.groups[0]
    path, form = f"/api/job-groups/{group}", f"/submit?from={group}"
    address = f"https://a.example/{SECRET}"
    assert api.get(path, **work.headers).json()["webhook"]["url"] == address
    assert api.patch(path, {"visibility": "shared"}, **work.headers).status_code == 200
    for headers in (work.headers, boris, olga):
        assert api.get(path, **headers).json()["webhook"]["url"] == "https://a.example/…"
        (listed,) = [
            row
            for row in api.get("/api/job-groups", **headers).json()["results"]
            if row["job_group_id"] == group
        ]
        assert listed["webhook"]["url"] == "https://a.example/…"
        page = text_of(api.client.get(f"/groups/{group}", headers=_sent(headers)))
        assert "https://a.example/…" in page
        assert address not in page
        # Who gets its deliveries may submit it again with its webhook.
        page = text_of(api.client.get(form, headers=_sent(headers)))
        assert (address in page) is (headers is not boris)
        assert "a.example" in page or headers is boris
    api.patch(path, {"visibility": "private"}, **work.headers)
    assert api.get(path, **work.headers).json()["webhook"]["url"] == address


def test_group_from_before_accounts_is_seen_by_operators(api: Api, work: Work) -> None:
    JobGroup.objects.update(owner=None, submitter="anna")
    path = f"/api/job-groups/{work.groups[2]}"
    error_of(api.get(path, **headers_of("anton")), 404, "group_not_found")
    assert api.get(path, **headers_of("olga", Role.OPERATOR)).status_code == 200
    assert api.get("/api/job-groups", **work.headers).json()["results"] == []


def test_idempotency_key_of_a_group_without_an_owner_is_not_replayed(api: Api, work: Work) -> None:
    body = {"workflow_json": GRAPH, "backend_ids": ["gpu-1"]}
    api.post("/api/job-group", body, idempotency_key="one", **work.headers)
    JobGroup.objects.update(owner=None)
    again = api.post("/api/job-group", body, idempotency_key="one", **work.headers)
    error_of(again, 409, "idempotency_conflict")


# --- files
# -------------------------------------------------------------------------------------------


def _with_image(value: object) -> dict[str, Any]:
    return {**GRAPH, "1": {"class_type": "LoadImage", "inputs": {"image": value}}}


def _reference(asset_id: str) -> dict[str, Any]:
    return {"__type": "core/ASSET", "info": {"id": asset_id}}


def test_submission_refers_to_own_files_alone(api: Api, work: Work) -> None:
    boris = headers_of("boris")
    output = output_uuid(work.values(1)["job_id"], 0)
    body = {"workflow_json": _with_image(_reference(work.asset.pk)), "backend_ids": ["gpu-1"]}
    for path in ("/api/job-group", "/api/job-groups/plan", "/api/workflows/check"):
        assert "no asset with this id" in api.post(path, body, **boris).json()["detail"]
        assert api.post(path, body, **work.headers).status_code in (200, 201)
    for asset_id in (work.asset.pk, work.record, output):
        job = {"workflow": _with_image(_reference(asset_id))}
        assert api.post("/api/v2/jobs", job, **boris).json()["error"]["code"] == "missing_asset"
    job = {"workflow": _with_image(f"{SECRET}.png")}
    for headers, is_own in ((boris, False), (work.headers, True)):
        made = api.post("/api/v2/jobs", job, **headers).json()["id"]
        assert (work.asset.pk in JobGroup.objects.get(pk=made).workflow_json) is is_own
    minted = api.post("/api/v2/assets/from-hash", {"hash": HASH, "file_path": "a"}, **boris)
    assert minted.json()["error"]["code"] == "blob_not_found"
    error_of(api.get(f"/api/assets/by-hash/{HASH}", **boris), 404, "asset_not_found")


def test_shared_content_has_a_name_and_an_end_for_each_owner(api: Api, work: Work) -> None:
    boris = headers_of("boris")
    user_id = User.objects.get(username="boris").pk
    assert factories.asset(CONTENT, "other.png", user_id).pk == work.asset.pk
    path = f"/api/assets/{work.asset.pk}"
    assert api.get(path, **boris).json()["name"] == "other.png"
    assert api.get(path, **work.headers).json()["name"] == f"{SECRET}.png"
    assert api.delete(path, **work.headers).status_code == 204
    error_of(api.get(path, **work.headers), 404, "asset_not_found")
    assert not AssetRecord.objects.exists()
    assert api.get(path, **boris).status_code == 200
    assert api.delete(path, **boris).status_code == 204
    assert not Asset.objects.exists()


def test_content_that_an_open_group_of_another_account_needs_stays(api: Api, work: Work) -> None:
    boris = headers_of("boris")
    factories.asset(CONTENT, "other.png", User.objects.get(username="boris").pk)
    own = submit(api, boris, workflow_json=_with_image(_reference(work.asset.pk)))
    path = f"/api/assets/{work.asset.pk}"
    assert own in error_of(api.delete(path, **boris), 409, "asset_in_use")["detail"]
    JobGroup.objects.filter(pk=own).update(owner=None)
    assert api.delete(path, **boris).status_code == 204
    assert api.delete(path, **work.headers).status_code == 204
    assert Asset.objects.exists()


# --- sockets
# -----------------------------------------------------------------------------------------


#: A path of every WebSocket by its pattern, and the code with which it is closed for accounts that
#: see the group, and for those that do not; 0: it stays open.
SOCKETS: Final = {
    r"^ws/job-groups/(?P<group_id>[^/]+)/?$": ("/ws/job-groups/{group}", 0, 4404),
    r"^ws/monitor/?$": ("/ws/monitor?groups={group}&stars={group}", 0, 0),
    "": ("/ws/other", 4404, 4404),
}


def test_every_socket_is_in_the_table() -> None:
    assert {str(entry.pattern) for entry in websocket_urlpatterns} == set(SOCKETS)


async def _first_frames(path: str, headers: dict[str, str]) -> tuple[list[dict[str, Any]], int]:
    """Return the first frames, until the pong of a ping or the close, and the code of the close."""
    given = [(name.encode(), value.encode()) for name, value in headers.items()]
    socket = WebsocketCommunicator(application, path, headers=given)
    assert (await socket.connect(DEADLINE))[0]
    await socket.send_to(text_data="ping")
    frames: list[dict[str, Any]] = []
    code = 0
    while not frames or frames[-1]["type"] != "pong":
        message = await socket.receive_output(DEADLINE)
        if message["type"] == "websocket.close":
            code = message["code"]
            break
        frames.append(json.loads(message["text"]))
    await socket.disconnect()
    return frames, code


def ended_headers(how: str) -> dict[str, str]:
    """Return the headers of an operator's token that has expired or was revoked."""
    headers = headers_of(how, Role.OPERATOR)
    token = Token.objects.filter(owner__username=how)
    if how == "revoked":
        token.delete()
    else:
        token.update(expires_at=now() - dt.timedelta(seconds=1))
    return headers


async def test_each_socket_is_for_those_who_see_the_group(api: Api, work: Work) -> None:
    clients = {
        "stranger": {},
        "wrong": bearer("dt_wrong"),
        "expired": await in_thread(lambda: ended_headers("expired"))(),
        "revoked": await in_thread(lambda: ended_headers("revoked"))(),
        "reader": await in_thread(lambda: bearer(token_of("olga", Role.OPERATOR, Scope.READ)))(),
        "viewer": await in_thread(lambda: headers_of("viktor", Role.VIEWER))(),
        "other": await in_thread(lambda: headers_of("boris"))(),
        "anna": work.headers,
        "anna reads": await in_thread(lambda: bearer(token_of("anna", scope=Scope.READ)))(),
        "olga": await in_thread(lambda: headers_of("olga", Role.OPERATOR))(),
    }
    group = work.groups[2]
    for name, headers in clients.items():
        is_signed_in = name not in ("stranger", "wrong", "expired", "revoked")
        sees = name in ("anna", "anna reads", "olga", "reader")
        for path, code_of_seeing, code_of_others in SOCKETS.values():
            frames, code = await _first_frames(path.format(group=group), headers)
            expected = code_of_seeing if sees else code_of_others
            assert code == (expected if is_signed_in else 4401), (name, path)
            if path.startswith("/ws/job-groups"):
                assert (SECRET in json.dumps(frames)) is sees, name
            elif is_signed_in and path.startswith("/ws/monitor"):
                assert (frames[0]["seqs"] != {}) is sees, name
                assert bool(frames[0]["newest"]) is sees, name
                assert frames[0]["failed"] == int(sees), name
    await hub.aclose()


async def test_end_of_sharing_ends_streams_and_waits_without_a_notification(
    api: Api, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_module, "POLL_SECONDS", 0.1)
    group, boris = work.groups[0], await in_thread(lambda: headers_of("boris"))()

    async def change(visibility: Visibility) -> None:
        await in_thread(lambda: group_change(group_id=group, visibility=visibility.value))()

    await change(Visibility.SHARED)
    monkeypatch.setattr(log, "publish_changed", lambda _group_id: None)
    given = [(name.encode(), value.encode()) for name, value in boris.items()]
    socket = WebsocketCommunicator(application, f"/ws/job-groups/{group}", headers=given)
    assert (await socket.connect(DEADLINE))[0]
    assert SECRET in (await socket.receive_output(DEADLINE))["text"]
    path = f"/api/job-groups/{group}?children=0"
    seq = json.loads((await asgi_answer(application, "GET", path, None, boris))[2])["seq"]
    waiting = asyncio.create_task(
        asgi_answer(application, "GET", f"{path}&since={seq}&wait=60", None, boris)
    )
    await settled(lambda: long_polls._waiting)
    await change(Visibility.PRIVATE)
    while (message := await socket.receive_output(DEADLINE))["type"] != "websocket.close":
        last = json.loads(message["text"])
    assert (message["code"], last["code"]) == (4404, "group_not_found")
    assert (await waiting)[0] == 404
    await hub.aclose()


async def test_an_account_has_a_quarter_of_the_sockets(
    api: Api, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    boris = await in_thread(lambda: headers_of("boris"))()
    account = (await in_thread(User.objects.get)(username="boris")).pk
    monkeypatch.setattr(opened, "most", 8)
    with opened.opened(account):
        assert (await _first_frames("/ws/monitor", boris))[1] == 0
        with opened.opened(account):
            (frame,), code = await _first_frames("/ws/monitor", boris)
            assert (frame["code"], code) == ("too_many_sockets", 4029)
            assert frame["detail"].startswith("2 WebSockets of your account are open already.")
            assert (await _first_frames("/ws/monitor", work.headers))[1] == 0
    await hub.aclose()


async def test_socket_of_an_operator_ends_with_the_role(api: Api, work: Work) -> None:
    await in_thread(lambda: headers_of("vera", Role.ADMINISTRATOR))()
    olga = await in_thread(lambda: headers_of("olga", Role.OPERATOR))()
    headers = [(name.encode(), value.encode()) for name, value in olga.items()]
    socket = WebsocketCommunicator(application, "/ws/monitor", headers=headers)
    assert (await socket.connect(DEADLINE))[0]
    await in_thread(lambda: people.person_change("olga", role=Role.ARTIST))()
    while (message := await socket.receive_output(DEADLINE))["type"] != "websocket.close":
        last = json.loads(message["text"])
    assert (message["code"], last["code"]) == (4401, "sign_in_required")
    await hub.aclose()


def test_status_of_an_own_group_needs_no_query_for_its_owner(
    api: Api, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def counted(ids: Any) -> Any:
        asked.append(ids)
        return owned_of(ids)

    monkeypatch.setattr(base, "owned_of", counted)
    path = f"/api/job-groups/{work.groups[0]}"
    for _ in range(3):
        assert api.get(path, **work.headers).status_code == 200
    assert len(asked) == 1
    olga = headers_of("olga", Role.OPERATOR)
    assert api.get(path, **olga).status_code == 200
    assert len(asked) == 1


def test_without_the_setting_everybody_sees_all(api: Api, work: Work, settings: Any) -> None:
    settings.DIRECTOR_PRIVATE = False
    principals.kept.clear()
    path = f"/api/job-groups/{work.groups[0]}"
    assert api.get(path, **headers_of("boris")).status_code == 200
    assert EVERYBODY.sees_all
