"""Every list and every control of the ComfyUI listener is the owner's own, and no page of another
origin can use them.
"""

from __future__ import annotations

import base64
import itertools
import re
import uuid
from collections.abc import Iterator
from typing import Any, Final

import httpx
import pytest
from asgiref.sync import async_to_sync
from django.urls import get_resolver

from director.accounts import principals
from director.asgi import application
from jobgroups.api.listener import editor
from jobgroups.domain.states import ChildStatus
from jobgroups.models import ListenerPrompt
from tests.api.conftest import Api
from tests.api.listener.conftest import GRAPH, Program, group_of, job_of
from tests.api.test_accounts import bearer, token_of
from tests.api.test_queue import order
from tests.harness import factories

METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
PORT: Final = 9821
OWN: Final = f"http://localhost:{PORT}"
EVIL: Final = "https://evil.example"
SECRET: Final = "unmistakable-owl"
KINDS: Final = ("accounts", "addresses", "users")


def paths(**values: str) -> list[str]:
    """Return every path of the listener, with values in its gaps."""
    return [
        "/" + re.sub(r"<(?:\w+:)?(\w+)>", lambda gap: values.get(gap[1], "x"), str(entry.pattern))
        for entry in get_resolver("jobgroups.api.listener.urls").url_patterns
    ]


def two_owners(kind: str, settings: Any) -> tuple[Program, Program]:
    if kind == "addresses":
        return Program("10.0.0.1"), Program("10.0.0.2")
    if kind == "users":
        return Program(Comfy_User="anna"), Program(Comfy_User="ben")
    settings.DIRECTOR_ACCOUNTS = True
    principals.kept.clear()
    return Program(**bearer(token_of("anna"))), Program(**bearer(token_of("ben")))


@pytest.fixture(autouse=True)
def no_kept_principals() -> Iterator[None]:
    yield
    principals.kept.clear()


def state(program: Program) -> dict[str, Any]:
    return {path: program.get(path) for path in ("/queue", "/history", "/prompt", "/api/jobs")}


def content_of(answer: Any) -> bytes:
    if not answer.streaming:
        return bytes(answer.content)
    return async_to_sync(_joined)(answer) if answer.is_async else answer.getvalue()


async def _joined(answer: Any) -> bytes:
    return b"".join([chunk async for chunk in answer])


def prompts_of(program: Program, fence: Any) -> list[str]:
    """Return a prompt that has ended, one that runs and one that waits."""
    ids = [program.prompt(client_id="krita", extra_data={"note": SECRET}) for _ in range(3)]
    factories.finish(_start(ids[0], fence), fence)
    _start(ids[1], fence)
    return ids


# Some of the routes read in threads of their own.
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    "kind", ["accounts", *(pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS[1:])]
)
def test_no_route_shows_or_changes_what_another_owner_has(
    kind: str, settings: Any, farm: list[str]
) -> None:
    anna, ben = two_owners(kind, settings)
    ids = prompts_of(anna, factories.lease(farm[0]))
    before = state(anna)
    bodies = (
        *({"prompt_id": prompt_id} for prompt_id in ids),
        {"delete": ids, "job_ids": ids, "client_id": "krita"},
    )
    every = {path for one in ids for path in paths(prompt_id=one, job_id=one)}
    # The root stands for paths that the listener has not.
    for path, method in itertools.product(every - {"/"}, METHODS):
        for body in bodies if method != "GET" else (None,):
            answer = ben.ask(method, path, body)
            assert SECRET.encode() not in content_of(answer), (method, path)
            if answer.status_code == 405:
                break
    assert state(anna) == before


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("kind", KINDS)
def test_controls_reach_the_owners_own_prompts_alone(
    kind: str, settings: Any, farm: list[str]
) -> None:
    anna, ben = two_owners(kind, settings)
    fences = [factories.lease(backend_id) for backend_id in farm[:2]]
    done, running, waiting = prompts_of(anna, fences[0])
    before = state(anna)
    assert state(ben) != before
    for each in state(ben).values():
        assert SECRET not in str(each)
    ben.post("/api/jobs/cancel", {"job_ids": [running, waiting]})
    own = ben.prompt()
    _start(own, fences[1])
    assert ben.queue() == ([own], [])
    for path in ("/queue", "/history"):
        ben.post(path, {"clear": True})
    assert ben.queue() == ([own], [])
    ben.post("/interrupt")
    assert ben.queue() == ([], [])
    ben.post("/interrupt")
    assert state(anna) == before
    assert {job_of(running).status, job_of(waiting).status} == {
        ChildStatus.RUNNING,
        ChildStatus.QUEUED,
    }
    # The same id of another owner is another prompt.
    assert ben.prompt(prompt_id=done) == done
    assert ListenerPrompt.objects.filter(prompt_id=done).count() == 2
    assert ben.queue() == ([], [done])
    assert anna.queue() == ([running], [waiting])


def _start(prompt_id: str, fence: Any) -> Any:
    claimed = factories.claim_from_pool(fence, group_of(prompt_id))
    factories.start(claimed, fence)
    return claimed


@pytest.mark.django_db(transaction=True)
def test_front_and_number_order_the_owners_own_prompts_alone(api: Api, farm: list[str]) -> None:
    anna, ben = Program(Comfy_User="anna"), Program(Comfy_User="ben")
    own = [anna.prompt(), anna.prompt()]
    others = [ben.prompt(), ben.prompt()]
    own.append(anna.prompt())

    def ordered() -> list[str]:
        groups = [group_id for _, group_id in order(api)]
        rows = dict(ListenerPrompt.objects.values_list("group_id", "prompt_id"))
        return [rows[group_id] for group_id in groups]

    first, second, third = own
    assert ordered() == [first, second, *others, third]
    front = anna.prompt(front=True)
    assert ordered() == [front, first, *others, second, third]
    assert anna.queue() == ([], [front, first, second, third])
    last = anna.prompt(number=10**9)
    middle = anna.prompt(number=ListenerPrompt.objects.get(prompt_id=second).pk - 0.5)
    newest = anna.prompt()
    waiting = [front, first, middle, second, third, newest, last]
    assert ordered() == [front, first, *others, *waiting[2:]]
    assert anna.queue() == ([], waiting)
    assert ben.queue() == ([], others)
    # What a machine has keeps its place.
    factories.claim_from_pool(factories.lease(farm[0]), group_of(front))
    again = anna.prompt(front=True)
    assert ordered()[:2] == [front, again]
    for wrong in ("soon", "inf", "nan", [1]):
        answer = anna.ask("POST", "/prompt", {"prompt": GRAPH, "number": wrong})
        assert answer.json()["error"]["type"] == "invalid_number"


# --- pages of other origins
# -------------------------------------------------------------------------------------------------


async def _ask(method: str, path: str, headers: dict[str, str]) -> httpx.Response:
    transport = httpx.ASGITransport(application, client=("127.0.0.1", 50_000))
    async with httpx.AsyncClient(transport=transport, base_url=OWN) as client:
        return await client.request(method, path, content=b'{"clear": true}', headers=headers)


@pytest.mark.parametrize(
    ("headers", "statuses"),
    [
        # At every route; the others at each seventh, with each method.
        ({"origin": EVIL}, {403}),
        ({"origin": "null"}, {403}),
        ({"origin": f"http://192.168.1.5:{PORT}"}, {403}),
        ({"sec-fetch-site": "cross-site"}, {403}),
        ({"sec-fetch-site": "same-site"}, {403}),
        # The name of the page leads to this machine.
        ({"host": f"evil.example:{PORT}", "origin": f"http://evil.example:{PORT}"}, {400, 403}),
        ({"host": f"evil.example:{PORT}", "sec-fetch-site": "same-origin"}, {400, 403}),
    ],
)
@pytest.mark.django_db(transaction=True)
async def test_a_page_of_another_origin_can_use_no_route(
    headers: dict[str, str], statuses: set[int], settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(editor, "_folder", lambda _package, _name: None)
    settings.DIRECTOR_COMFYUI_PORT = PORT
    settings.DIRECTOR_TOKEN = "correct-horse-battery"
    browser = {"authorization": f"Basic {base64.b64encode(b'x:correct-horse-battery').decode()}"}
    wrong = []
    requests = itertools.product(paths(prompt_id=str(uuid.UUID(int=1))), METHODS)
    for path, method in itertools.islice(
        requests, 0, None, 1 if headers == {"origin": EVIL} else 7
    ):
        answer = await _ask(method, path, {**browser, **headers})
        if answer.status_code not in statuses:
            wrong.append((method, path, answer.status_code))
    assert wrong == []
    own = await _ask("POST", "/api/jobs/cancel", {**browser, "origin": OWN})
    assert "job_ids" in own.text
    # A link to the editor, which a page of the Director has, opens it.
    link = {**browser, "sec-fetch-site": "same-site", "sec-fetch-dest": "document"}
    assert (await _ask("GET", "/?template=jg_1&source=director", link)).status_code == 200
    assert (await _ask("GET", "/history", link)).status_code == 403


@pytest.mark.parametrize(
    ("headers", "status", "kind"),
    [
        ({}, 401, "sign_in_required"),
        ({"origin": EVIL}, 403, "origin_not_allowed"),
        (
            {"host": f"evil.example:{PORT}", "authorization": "Bearer correct-horse-battery"},
            400,
            "bad_request",
        ),
    ],
)
@pytest.mark.django_db(transaction=True)
async def test_refusal_before_the_view_has_the_shape_of_comfyui(
    headers: dict[str, str], status: int, kind: str, settings: Any
) -> None:
    settings.DIRECTOR_COMFYUI_PORT = PORT
    settings.DIRECTOR_TOKEN = "correct-horse-battery"
    answer = await _ask("POST", "/prompt", headers)
    body = answer.json()
    assert (answer.status_code, body["error"]["type"], body["node_errors"]) == (status, kind, {})
    assert body["error"]["message"].endswith(".")


@pytest.mark.django_db(transaction=True)
async def test_a_page_of_this_machine_uses_no_credentials_of_the_browser(settings: Any) -> None:
    settings.DIRECTOR_COMFYUI_PORT = PORT
    settings.DIRECTOR_TOKEN = "correct-horse-battery"
    browser = {"authorization": f"Basic {base64.b64encode(b'x:correct-horse-battery').decode()}"}
    page = {"origin": "http://localhost:3000"}
    for path in paths(prompt_id=str(uuid.UUID(int=1))):
        answer = await _ask("POST", path, {**browser, **page})
        assert answer.status_code in (401, 403), path
    program = {"authorization": "Bearer correct-horse-battery"}
    assert "job_ids" in (await _ask("POST", "/api/jobs/cancel", {**program, **page})).text
