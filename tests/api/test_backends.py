"""/api/backends: registered, shown, changed, removed."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from backends.comfyui.destinations import allow_link_local
from backends.models import Backend
from backends.services import BackendInvalid, backend_observed, backends_ensure
from backends.simulator import SimulatorThread
from jobgroups.domain.clock import now
from jobgroups.domain.leases import FencingToken
from jobgroups.events import log
from jobgroups.models import Attempt, ChildJob
from jobgroups.services.claims import Claim
from tests.api.bad_servers import dead_port
from tests.api.conftest import Api, Made, error_of, wrong_fields
from tests.harness import factories

PATH = "/api/backends"
pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def notified(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Records the notifications of runners; nothing listens in these tests."""
    found: list[str] = []
    monkeypatch.setattr(log, "notify_runners_on_commit", lambda work_only=False: work_only or found.append("wake"))
    return found


def _claim(backend_id: str) -> tuple[FencingToken, Claim]:
    fence = factories.lease(backend_id)
    return fence, factories.claim(fence)


# --- registering ----------------------------------------------------------------------------------


def test_new_backend_is_registered_and_probed(api: Api, notified: list[str]) -> None:
    with SimulatorThread(vram_gb=24.0) as sims:
        answer = api.post(PATH, {"url": sims.url, "name": "Big one", "tags": ["flux", "flux"]})
        assert answer.status_code == 201
        shown = answer.json()
        port = sims[0].port
    assert shown["backend_id"] == f"localhost_{port}"
    assert shown["url"] == f"http://localhost:{port}"
    assert (shown["name"], shown["tags"], shown["enabled"]) == ("Big one", ["flux"], True)
    assert shown["status"] == "online"
    assert shown["status_reason"] is None
    assert shown["devices"][0]["vram_total"] > 20 * 2**30
    assert set(shown["devices"][0]) == {"name", "vram_total", "vram_free"}
    assert notified


def test_backend_is_named_by_its_chosen_id(api: Api) -> None:
    """Sentences name a backend by its id: its cards must show the same word."""
    with dead_port() as url:
        assert api.post(PATH, {"url": url, "backend_id": "attic"}).json()["name"] == "attic"


def test_offline_backend_is_registered_with_the_reason(api: Api) -> None:
    with dead_port() as url:
        shown = api.post(PATH, {"url": url}).json()
    assert shown["status"] == "offline"
    assert shown["status_reason"]
    assert shown["last_seen_at"] is None
    assert shown["name"] == shown["url"].removeprefix("http://")


def test_address_is_registered_once_in_any_spelling(api: Api) -> None:
    api.post(PATH, {"url": "http://0.0.0.0:8188", "enabled": False})
    hosts = ("localhost", "127.0.0.1", "[::1]", "127.0.0.2")
    spellings = [f"http://{host}:8188" for host in hosts]
    for url in (*spellings, "127.0.0.1:8188", "localhost", "HTTP://LocalHost:8188//"):
        body = error_of(api.post(PATH, {"url": url, "enabled": False}), 409, "backend_exists")
        assert body["backend_id"] == "localhost_8188"
    assert Backend.objects.count() == 1


def test_backend_id_is_unique(api: Api) -> None:
    api.post(PATH, {"url": "http://a.invalid:1", "backend_id": "big", "enabled": False})
    other = {"url": "http://b.invalid:1", "backend_id": "big", "enabled": False}
    assert error_of(api.post(PATH, other), 409, "backend_exists")["backend_id"] == "big"


def test_addresses_with_the_same_slug_get_different_ids(api: Api) -> None:
    urls = ["http://a.invalid:1/x/y", "http://a.invalid:1/x_y", "http://a.invalid:1/x%20y"]
    ids = [api.post(PATH, {"url": u, "enabled": False}).json()["backend_id"] for u in urls]
    assert ids == ["a.invalid_1_x_y", "a.invalid_1_x_y-2", "a.invalid_1_x-20y"]


NOT_URLS = "ftp://a|http://|http://a:99999|http://a/?x=1|http://a b|\u0663|http://[fe80::1]:8188"
LINK_LOCAL = "http://169.254.169.254|169.254.1:8188|http://[::ffff:169.254.169.254]:80"


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("url", [None, *NOT_URLS.split("|"), *LINK_LOCAL.split("|"), "http://a/" + "x" * 600]),
        ("backend_id", ["-x", "a b", "a/b", "ü"]),
        ("headers", [{"X A": "1"}, {"Host": "b"}, {"X-A": "1\r\nX-B: 2"}]),
        ("enable", [True]),
    ],
)
def test_wrong_field_of_a_backend_is_named(api: Api, field: str, values: list[Any]) -> None:
    for value in values:
        answer = api.post(PATH, {"url": "http://a.invalid", field: value})
        assert list(wrong_fields(answer)) == [field], value
    assert Backend.objects.count() == 0


def test_link_local_address_is_refused_wherever_it_is_given_unless_allowed(api: Api, make_backend: Made) -> None:
    make_backend("gpu-1")
    url = {"url": "http://169.254.169.254:8188"}
    for answer in (api.post(PATH, url), api.patch(f"{PATH}/gpu-1", url), api.post(f"{PATH}/test", url)):
        assert "DIRECTOR_ALLOW_LINK_LOCAL" in wrong_fields(answer)["url"]
    with pytest.raises(BackendInvalid, match="Address 1: The address is link-local"):
        backends_ensure([url["url"]])
    assert [row.id for row in Backend.objects.all()] == ["gpu-1"]
    allow_link_local(True)
    try:
        assert api.post(PATH, {**url, "enabled": False}).status_code == 201
    finally:
        allow_link_local(False)
    # One that is there already ends no start.
    assert backends_ensure([url["url"]]) == []


def test_headers_and_logins_are_stored_and_never_shown(api: Api) -> None:
    said = {"url": "https://artist:s3cret@farm.invalid/gpu1", "headers": {"X-Token": "t0ken"}, "enabled": False}
    answer = api.post(PATH, said)
    assert answer.json()["url"] == "https://farm.invalid/gpu1"
    row = Backend.objects.get()
    assert row.headers == {"Authorization": "Basic YXJ0aXN0OnMzY3JldA==", "X-Token": "t0ken"}
    path = f"{PATH}/{row.id}"
    shown = [answer, api.get(PATH), api.get(path), api.get(f"{path}/status")]
    shown += [api.patch(path, {"name": "x"}), api.get("/api/health")]
    for one in shown:
        text = one.content.decode()
        assert not any(secret in text for secret in ("s3cret", "YXJ0aXN0", "t0ken", "headers"))


# --- showing --------------------------------------------------------------------------------------


def test_backends_are_listed_by_id(api: Api, make_backend: Made) -> None:
    for name in ("b", "a", "c"):
        make_backend(name)
    shown = api.get(PATH).json()["backends"]
    assert [one["backend_id"] for one in shown] == ["a", "b", "c"]
    assert shown[0] == api.get(f"{PATH}/a").json()


def _status(api: Api, backend_id: str = "gpu-1") -> dict[str, Any]:
    shown: dict[str, Any] = api.get(f"{PATH}/{backend_id}/status").json()
    whole = api.get(f"{PATH}/{backend_id}").json()
    assert {name: whole[name] for name in shown} == shown
    return shown


def test_external_prompts_make_a_backend_busy(api: Api, make_backend: Made) -> None:
    make_backend("gpu-1", version="0.3.64")
    shown = _status(api)
    assert (shown["status"], shown["comfyui_version"]) == ("online", "0.3.64")
    seen = {"queue_running": 1, "queue_pending": 2, "queue_foreign": 3}
    backend_observed(backend_id="gpu-1", reachable=True, **seen)
    shown = _status(api)
    assert (shown["status"], shown["running"]) == ("busy", 1)
    assert (shown["queue_ours"], shown["queue_foreign"]) == (0, 3)


def test_own_prompts_make_a_backend_busy_when_they_are_claimed(api: Api, farm: list[str]) -> None:
    api.submit("gpu-1", "gpu-1", "gpu-1")
    assert _status(api)["status"] == "online"
    fence, claim = _claim("gpu-1")
    assert _status(api)["status"] == "busy"
    factories.start(claim, fence)
    factories.claim(fence)
    shown = _status(api)
    assert (shown["queue_ours"], shown["running"], shown["queue_foreign"]) == (2, 1, 0)


def test_offline_backend_shows_reason_and_time(api: Api, make_backend: Made) -> None:
    make_backend("gpu-1")
    moment = now() - dt.timedelta(seconds=100)
    later = now()
    for at in (moment, later):
        backend_observed(backend_id="gpu-1", reachable=False, reason="refused", seen_at=at)
    shown = _status(api)
    assert (shown["status"], shown["status_reason"]) == ("offline", "refused")
    assert Backend.objects.get().unreachable_since == moment
    assert Backend.objects.get().status_since == moment


def test_backend_without_a_recent_probe_is_offline(api: Api, make_backend: Made) -> None:
    make_backend("gpu-1")
    Backend.objects.update(last_seen_at=now() - dt.timedelta(seconds=31))
    assert _status(api)["status"] == "offline"
    assert "Not probed since" in _status(api)["status_reason"]


def test_disabled_backend_is_shown_as_disabled(api: Api, make_backend: Made) -> None:
    make_backend("gpu-1")
    assert api.patch(f"{PATH}/gpu-1", {"enabled": False}).json()["status"] == "disabled"
    backend_observed(backend_id="gpu-1", reachable=False, reason="refused")
    assert _status(api)["status"] == "disabled"


# --- changing -------------------------------------------------------------------------------------


def test_change_affects_only_the_named_fields(api: Api, make_backend: Made, notified: list[str]) -> None:
    make_backend("gpu-1", tags=["a"], headers={"X-A": "1"}, name="One")
    before = api.get(f"{PATH}/gpu-1").json()
    after = api.patch(f"{PATH}/gpu-1", {"tags": ["b", "c"], "name": None}).json()
    assert after == {**before, "tags": ["b", "c"]}
    assert Backend.objects.get().headers == {"X-A": "1"}
    assert notified


def test_change_of_nothing_is_allowed(api: Api, make_backend: Made) -> None:
    make_backend("gpu-1")
    before = api.get(f"{PATH}/gpu-1").json()
    assert api.patch(f"{PATH}/gpu-1", {}).json() == before
    same = {"backend_id": "gpu-1", "url": before["url"], "enabled": True}
    assert api.patch(f"{PATH}/gpu-1", same).json() == before


@pytest.mark.parametrize(
    ("said", "field"),
    [
        ({"backend_id": "other"}, "backend_id"),
        ({"url": "nonsense://x"}, "url"),
        ({"status": "online"}, "status"),
        ({"hold_now": True}, "hold_now"),
    ],
)
def test_wrong_change_is_refused(api: Api, make_backend: Made, said: Any, field: str) -> None:
    make_backend("gpu-1")
    assert list(wrong_fields(api.patch(f"{PATH}/gpu-1", said))) == [field]


def test_new_address_is_probed_without_the_old_headers(api: Api, make_backend: Made) -> None:
    make_backend("gpu-1", headers={"X-Token": "t"}, version="0.3.1")
    with SimulatorThread(version="0.9.9") as sims:
        shown = api.patch(f"{PATH}/gpu-1", {"url": sims.url}).json()
    assert (shown["status"], shown["comfyui_version"]) == ("online", "0.9.9")
    assert Backend.objects.get().headers == {}


def test_registered_address_is_refused(api: Api, make_backend: Made) -> None:
    make_backend("gpu-1", url="http://a.invalid:1")
    make_backend("gpu-2", url="http://b.invalid:1")
    answer = api.patch(f"{PATH}/gpu-2", {"url": "a.invalid:1"})
    assert error_of(answer, 409, "backend_exists")["backend_id"] == "gpu-1"
    assert Backend.objects.get(pk="gpu-2").url == "http://b.invalid:1"


def test_address_cannot_change_while_a_prompt_may_be_there(api: Api, farm: list[str]) -> None:
    api.submit("gpu-1")
    url = Backend.objects.get(pk="gpu-1").url
    fence, claim = _claim("gpu-1")
    move = {"url": "http://elsewhere.invalid:8188", "enabled": False}
    error_of(api.patch(f"{PATH}/gpu-1", move), 409, "backend_in_use")
    row = Backend.objects.get(pk="gpu-1")
    assert (row.url, row.enabled) == (url, True)
    assert api.patch(f"{PATH}/gpu-1", {"url": url, "name": "x"}).status_code == 200
    factories.finish(claim, fence)
    assert api.patch(f"{PATH}/gpu-1", move).status_code == 200


# --- removing -------------------------------------------------------------------------------------


def test_backend_with_open_jobs_cannot_be_removed(api: Api, farm: list[str]) -> None:
    group = api.submit("gpu-1")["job_group_id"]
    error_of(api.delete(f"{PATH}/gpu-1"), 409, "backend_in_use")
    api.delete(f"/api/job-groups/{group}")
    assert api.delete(f"{PATH}/gpu-1").status_code == 204


def test_offline_backend_is_removed_with_its_pending_stops(api: Api, farm: list[str]) -> None:
    group = api.submit("gpu-1")["job_group_id"]
    _claim("gpu-1")
    api.delete(f"/api/job-groups/{group}")
    assert ChildJob.objects.get().status == "cancelled"
    body = error_of(api.delete(f"{PATH}/gpu-1"), 409, "backend_in_use")
    assert "may still run there" in body["detail"]
    Backend.objects.filter(pk="gpu-1").update(unreachable_since=now())
    assert api.delete(f"{PATH}/gpu-1").status_code == 204
    assert Attempt.objects.get().state == "lost"
    assert ChildJob.objects.get().backend_id == "gpu-1"


def test_jobs_keep_the_id_of_a_removed_backend(api: Api, farm: list[str], notified: list[str]) -> None:
    group = api.submit("gpu-1")["job_group_id"]
    fence, claim = _claim("gpu-1")
    factories.finish(claim, fence)
    notified.clear()
    assert api.delete(f"{PATH}/gpu-1").content == b""
    assert notified
    body = error_of(api.get(f"{PATH}/gpu-1"), 404, "backend_not_found")
    assert body["detail"] == "Backend gpu-1 not found"
    skipped = api.submit("gpu-1", "gpu-2")["skipped_backends"]
    assert [one["backend_id"] for one in skipped] == ["gpu-1"]
    status = api.get(f"/api/job-groups/{group}").json()
    assert status["child_jobs"][0]["backend_id"] == "gpu-1"
    job = status["child_jobs"][0]["job_id"]
    child = api.get(f"/api/job-groups/{group}/jobs/{job}").json()
    assert child["attempts"][0]["backend_id"] == "gpu-1"
