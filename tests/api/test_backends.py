import datetime as dt
from functools import partial
from typing import Any

import pytest

from backends import queries, services
from backends.comfyui.destinations import allow_link_local
from backends.errors import FieldInvalid
from backends.models import Backend
from backends.services import backend_observed, backends_ensure
from director.server import startup
from jobgroups.domain.clock import now
from jobgroups.domain.leases import FencingToken
from jobgroups.models import Attempt, ChildJob
from tests.api.bad_servers import bad_server, dead_port
from tests.api.conftest import Api, Made, error_of, wrong_fields
from tests.harness import factories
from tests.harness.cable import Cable
from tests.harness.simulator_thread import SimulatorThread

PATH = "/api/backends"
pytestmark = pytest.mark.django_db


def _claim(backend_id: str) -> tuple[FencingToken, Attempt]:
    fence = factories.lease(backend_id)
    return fence, factories.claim(fence)


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


def test_offline_backend_is_registered_with_the_reason(api: Api) -> None:
    with dead_port() as url:
        shown = api.post(PATH, {"url": url}).json()
        assert (shown["status"], shown["last_seen_at"]) == ("offline", None)
        assert shown["status_reason"]
        assert shown["name"] == shown["url"].removeprefix("http://")
        api.delete(f"{PATH}/{shown['backend_id']}")
        # Sentences name a backend by its id: its cards must show the same word.
        assert api.post(PATH, {"url": url, "backend_id": "attic"}).json()["name"] == "attic"


def test_address_is_registered_once_in_any_spelling(api: Api) -> None:
    api.post(PATH, {"url": "http://0.0.0.0:8188", "enabled": False})
    for url in ("http://127.0.0.1:8188", "http://[::1]:8188", "HTTP://LocalHost:8188//"):
        body = error_of(api.post(PATH, {"url": url, "enabled": False}), 409, "backend_exists")
        assert body["backend_id"] == "localhost_8188"
    other = {"url": "http://b.invalid:1", "backend_id": "localhost_8188", "enabled": False}
    assert error_of(api.post(PATH, other), 409, "backend_exists")["backend_id"] == "localhost_8188"


def test_comfyui_is_registered_once_whatever_its_address(api: Api) -> None:
    with SimulatorThread(count=2) as sims:
        cable = Cable("127.0.0.1", sims[0].port)
        sims.call(cable.plug())
        first, second, other = (
            f"http://localhost:{port}" for port in (sims[0].port, sims[1].port, cable.port)
        )
        api.post(PATH, {"url": first, "backend_id": "gpu-1", "name": "Attic"})
        assert api.post(PATH, {"url": second, "backend_id": "gpu-2"}).status_code == 201
        again = api.patch(f"{PATH}/gpu-2", {"url": other})
        for answer in (api.post(PATH, {"url": other}), again):
            body = error_of(answer, 409, "backend_exists")
            assert body["backend_id"] == "gpu-1"
            assert body["detail"].endswith(f"registered already, as Attic ({first}).")
        printed: list[str] = []
        assert backends_ensure([other], partial(startup._check_address, printed.append)) == []
        assert printed[0].startswith(f"localhost:{cable.port} of DIRECTOR_BACKENDS is not added: ")
        assert api.patch(f"{PATH}/gpu-1", {"url": other}).json()["url"] == other
        sims.call(cable.cut())


def test_addresses_with_the_same_slug_get_different_ids(api: Api) -> None:
    urls = ["http://a.invalid:1/x/y", "http://a.invalid:1/x_y", "http://a.invalid:1/x%20y"]
    ids = [api.post(PATH, {"url": u, "enabled": False}).json()["backend_id"] for u in urls]
    assert ids == ["a.invalid_1_x_y", "a.invalid_1_x_y-2", "a.invalid_1_x-20y"]


def test_wrong_field_of_a_backend_is_named(api: Api) -> None:
    wrong: dict[str, list[Any]] = {
        "url": [None, "ftp://a", "http://a/" + "x" * 600],
        "backend_id": ["-x", "a b", "a/b", "ü"],
        "headers": [{"X A": "1"}, {"X-A": "1\r\nX-B: 2"}],
        "enable": [True],
    }
    for field, values in wrong.items():
        for value in values:
            answer = api.post(PATH, {"url": "http://a.invalid", field: value})
            assert list(wrong_fields(answer)) == [field], value
    assert Backend.objects.count() == 0


def test_link_local_address_is_refused_wherever_it_is_given_unless_allowed(
    api: Api, make_backend: Made
) -> None:
    make_backend("gpu-1")
    url = {"url": "http://169.254.169.254:8188"}
    for answer in (
        api.post(PATH, url),
        api.patch(f"{PATH}/gpu-1", url),
        api.post(f"{PATH}/test", url),
    ):
        assert "DIRECTOR_ALLOW_LINK_LOCAL" in wrong_fields(answer)["url"]
    with pytest.raises(FieldInvalid, match="Address 1: The address is link-local"):
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
    headers = {"X-Token": "t0ken"}
    url = "https://artist:s3cret@farm.invalid/gpu1"
    answer = api.post(PATH, {"url": url, "headers": headers, "enabled": False})
    assert answer.json()["url"] == "https://farm.invalid/gpu1"
    row = Backend.objects.get()
    assert row.headers == {"Authorization": "Basic YXJ0aXN0OnMzY3JldA==", **headers}
    path = f"{PATH}/{row.id}"
    shown = [answer, api.get(PATH), api.get(path), api.get(f"{path}/status")]
    for one in (*shown, api.patch(path, {"name": "x"}), api.get("/api/health")):
        text = one.content.decode()
        assert not any(secret in text for secret in ("s3cret", "YXJ0aXN0", "t0ken", "headers"))


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


def test_prompts_make_a_backend_busy(api: Api, farm: list[str]) -> None:
    seen = {"queue_running": 1, "queue_pending": 2, "queue_foreign": 3}
    backend_observed(backend_id="gpu-2", reachable=True, **seen)
    shown = _status(api, "gpu-2")
    assert (shown["status"], shown["running"]) == ("busy", 1)
    assert (shown["queue_ours"], shown["queue_foreign"]) == (0, 3)
    api.submit("gpu-1", "gpu-1", "gpu-1")
    assert _status(api)["status"] == "online"
    fence, claim = _claim("gpu-1")
    assert _status(api)["status"] == "busy"
    factories.start(claim, fence)
    factories.claim(fence)
    shown = _status(api)
    assert (shown["queue_ours"], shown["running"], shown["queue_foreign"]) == (2, 1, 0)


def test_offline_backend_shows_reason_and_time(
    api: Api, make_backend: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_backend("gpu-1")
    monkeypatch.setattr(queries, "STARTED_AT", now() - dt.timedelta(minutes=1))
    Backend.objects.update(last_seen_at=now() - dt.timedelta(seconds=31))
    assert _status(api)["status"] == "offline"
    assert "Not probed since" in _status(api)["status_reason"]
    backend_observed(backend_id="gpu-1", reachable=False, reason="refused")
    shown = _status(api)
    assert (shown["status"], shown["status_reason"]) == ("offline", "refused")
    api.patch(f"{PATH}/gpu-1", {"enabled": False})
    assert _status(api)["status"] == "disabled"


def test_change_affects_only_the_named_fields(
    api: Api, make_backend: Made, notified: list[str]
) -> None:
    make_backend("gpu-1", tags=["a"], headers={"X-A": "1"}, name="One")
    before = api.get(f"{PATH}/gpu-1").json()
    same = {"backend_id": "gpu-1", "url": before["url"], "enabled": True}
    assert api.patch(f"{PATH}/gpu-1", same).json() == before
    after = api.patch(f"{PATH}/gpu-1", {"tags": ["b", "c"], "name": None}).json()
    assert after == {**before, "tags": ["b", "c"]}
    assert Backend.objects.get().headers == {"X-A": "1"}
    assert notified


def test_wrong_change_is_refused(api: Api, make_backend: Made) -> None:
    make_backend("gpu-1")
    for field, value in {"backend_id": "other", "url": "nonsense://x", "hold_now": True}.items():
        assert list(wrong_fields(api.patch(f"{PATH}/gpu-1", {field: value}))) == [field]


def test_new_address_is_probed_without_the_old_headers(api: Api, make_backend: Made) -> None:
    make_backend("gpu-1", headers={"X-Token": "t"}, version="0.3.1")
    with SimulatorThread(version="0.9.9") as sims:
        shown = api.patch(f"{PATH}/gpu-1", {"url": sims.url}).json()
    assert (shown["status"], shown["comfyui_version"]) == ("online", "0.9.9")
    assert shown["limitations"] == ["A job is stopped in several steps (before 0.26.0)."]
    assert Backend.objects.get().headers == {}


def test_registered_address_is_refused(api: Api, farm: list[str]) -> None:
    first, second = Backend.objects.order_by("pk")[:2]
    answer = api.patch(f"{PATH}/gpu-2", {"url": first.url})
    assert error_of(answer, 409, "backend_exists")["backend_id"] == "gpu-1"
    assert Backend.objects.get(pk="gpu-2").url == second.url


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


@pytest.mark.django_db(transaction=True)
def test_backend_with_open_jobs_cannot_be_removed(api: Api, farm: list[str]) -> None:
    group = api.submit("gpu-1", "gpu-1", name="Robots")["job_group_id"]
    body = error_of(api.delete(f"{PATH}/gpu-1"), 409, "backend_in_use")
    assert body["detail"] == (
        f"2 jobs are not final, of Robots ({group}); cancel them or wait for them."
    )
    api.delete(f"/api/job-groups/{group}")
    assert api.delete(f"{PATH}/gpu-1").status_code == 204


@pytest.mark.django_db(transaction=True)
def test_offline_backend_is_removed_with_its_pending_stops(api: Api, farm: list[str]) -> None:
    group = api.submit("gpu-1")["job_group_id"]
    _claim("gpu-1")
    api.delete(f"/api/job-groups/{group}")
    assert ChildJob.objects.get().status == "cancelled"
    body = error_of(api.delete(f"{PATH}/gpu-1"), 409, "backend_in_use")
    assert f"Prompts of ours may still run there, of {group};" in body["detail"]
    Backend.objects.filter(pk="gpu-1").update(unreachable_since=now())
    assert api.delete(f"{PATH}/gpu-1").status_code == 204
    assert Attempt.objects.get().state == "lost"
    assert ChildJob.objects.get().backend_id == "gpu-1"


@pytest.mark.django_db(transaction=True)
def test_jobs_keep_the_id_of_a_removed_backend(
    api: Api, farm: list[str], notified: list[str]
) -> None:
    group = api.submit("gpu-1")["job_group_id"]
    fence, claim = _claim("gpu-1")
    factories.finish(claim, fence)
    notified.clear()
    assert api.delete(f"{PATH}/gpu-1").content == b""
    assert notified
    body = error_of(api.get(f"{PATH}/gpu-1"), 404, "backend_not_found")
    assert body["detail"] == "Backend gpu-1 not found"
    [child] = api.get(f"/api/job-groups/{group}").json()["child_jobs"]
    job = api.get(f"/api/job-groups/{group}/jobs/{child['job_id']}").json()
    assert child["backend_id"] == job["attempts"][0]["backend_id"] == "gpu-1"


def test_backends_ensure_creates_missing_backends_alone() -> None:
    services.backend_create(url="localhost:8188", backend_id="mine", name="Mine", enabled=False)
    created = services.backends_ensure(
        ["127.0.0.1:8188", "192.168.100.6:8188", "http://192.168.100.6:8188/", "farm.invalid"]
    )
    assert created == ["192.168.100.6_8188", "farm.invalid_8188"]
    mine = Backend.objects.get(pk="mine")
    assert (mine.name, mine.enabled, mine.url) == ("Mine", False, "http://localhost:8188")
    assert services.backends_ensure(["192.168.100.6:8188"]) == []


START = now()


def _observe(second: int, *, reachable: bool, **observed: int) -> Backend:
    services.backend_observed(
        backend_id="gpu-1",
        reachable=reachable,
        seen_at=START + dt.timedelta(seconds=second),
        **observed,
    )
    return Backend.objects.get()


def test_unreachable_since_starts_once_and_ends_with_a_response(make_backend: Made) -> None:
    make_backend("gpu-1")
    times = []
    for second, reachable in enumerate([False, False, True, False]):
        row = _observe(second, reachable=reachable)
        times.append((row.unreachable_since, row.last_seen_at))
    at = [START + dt.timedelta(seconds=second) for second in range(4)]
    assert [since for since, _ in times] == [at[0], at[0], None, at[3]]
    assert [seen for _, seen in times[2:]] == [at[2], at[2]]


def test_status_since_is_the_last_change_between_offline_online_and_busy(
    make_backend: Made,
) -> None:
    make_backend("gpu-1", seen=False)
    observations = [(True, 0), (True, 1), (True, 2), (True, 0), (True, 0), (False, 0), (True, 1)]
    # A runner that has just started did not read the queue that was lost with the backend.
    observations += [(False, 1), (False, 0)]
    found = []
    for second, (reachable, running) in enumerate(observations):
        row = _observe(second, reachable=reachable, queue_running=running, queue_pending=0)
        found.append((row.status_since - START).total_seconds())
    assert found == [0, 1, 1, 3, 3, 5, 6, 7, 7]


def test_observation_keeps_what_it_does_not_have(make_backend: Made) -> None:
    before = make_backend("gpu-1", version="0.3.64", devices=[{"name": "cpu"}], tags=["a"])
    services.backend_update(backend_id="gpu-1", enabled=False, name="New")
    seen = {"queue_running": 1, "queue_pending": 2, "queue_foreign": 2}
    services.backend_observed(backend_id="gpu-1", reachable=True, **seen)
    services.backend_observed(backend_id="gpu-1", reachable=True, reason="x" * 600)
    row = Backend.objects.get()
    assert (row.queue_running, row.queue_pending, row.queue_foreign) == (1, 2, 2)
    assert (row.comfyui_version, row.devices) == ("0.3.64", [{"name": "cpu"}])
    assert (row.enabled, row.name, row.tags, row.url) == (False, "New", ["a"], before.url)
    assert len(row.status_reason) == 500
    assert services.backend_observed(backend_id="gone", reachable=True) is False


def test_credentials_of_the_address_are_replaced_by_a_header_and_by_new_ones() -> None:
    url, header = "http://me:pw@a.invalid", {"authorization": "Bearer t"}
    assert services.backend_create(url=url, headers=header).headers == header
    services.backend_create(url="http://me:old@b.invalid", backend_id="b", headers={"X-A": "1"})
    services.backend_update(backend_id="b", url="http://me:new@b.invalid")
    headers = {"Authorization": "Basic bWU6bmV3", "X-A": "1"}
    assert Backend.objects.get(pk="b").headers == headers


def _named(name: str) -> dict[str, object]:
    return {"id": name, "name": name, "url": f"http://{name}.invalid:1"}


def test_desired_backends_have_address_and_desired_state(make_backend: Made) -> None:
    make_backend("b", url="http://b.invalid:1", enabled=False)
    make_backend("a", url="http://a.invalid:1", headers={"X-A": "1"})
    holds = dict.fromkeys(["hold", "changed_by", "quarantine_by", "quarantine_reason"], "")
    free = {**holds, "evict": False, "quarantined_at": None, "quarantine_until": None}
    free |= {"hours": "", "time_zone": ""}
    assert queries.desired_backends() == [
        {**free, **_named("a"), "headers": {"X-A": "1"}, "enabled": True},
        {**free, **_named("b"), "headers": {}, "enabled": False},
    ]


def test_probe_of_a_comfyui_registers_nothing(api: Api) -> None:
    with SimulatorThread(vram_gb=24) as sims:
        said = api.post("/api/backends/test", {"url": sims.url}).json()
        known = api.post("/api/backends", {"url": sims.url, "backend_id": "mine"})
        again = api.post("/api/backends/test", {"url": sims.url}).json()
    assert (said["ok"], said["reason"], said["backend_id"]) == (True, None, None)
    assert said["comfyui_version"] == "0.3.64"
    assert said["devices"]
    assert said["url"].startswith("http://localhost:")
    assert known.status_code == 201
    assert again["backend_id"] == "mine"
    assert Backend.objects.count() == 1


def test_probe_returns_what_is_wrong(api: Api) -> None:
    with dead_port() as dead, bad_server("html") as wrong, bad_server("hang up") as silent:
        for url in (dead, wrong, silent):
            said = api.post("/api/backends/test", {"url": url}).json()
            assert (said["ok"], said["comfyui_version"]) == (False, None)
            assert said["reason"].endswith(".")
            assert said["reason"].startswith("No connection") is (url == dead)


def test_malformed_probe_is_refused(api: Api) -> None:
    assert set(wrong_fields(api.post(f"{PATH}/test", {}))) == {"url"}
    assert set(wrong_fields(api.post(f"{PATH}/test", {"url": "ftp://x"}))) == {"url"}
    body = {"url": "localhost:1", "headers": {"A b": "c"}}
    assert set(wrong_fields(api.post(f"{PATH}/test", body))) == {"headers"}


def test_local_comfyuis_are_found_and_not_registered(api: Api, settings: Any) -> None:
    with SimulatorThread(count=2) as sims, dead_port() as dead:
        ports = sorted(int(url.rsplit(":", 1)[1]) for url in sims.urls)
        api.post("/api/backends", {"url": f"localhost:{ports[1]}", "backend_id": "mine"})
        settings.DIRECTOR_DISCOVER_PORTS = [*ports, int(dead.rsplit(":", 1)[1])]
        found = api.post("/api/backends/find", None).json()["found"]
    assert [one["url"] for one in found] == [f"http://localhost:{port}" for port in ports]
    assert [one["backend_id"] for one in found] == [None, "mine"]
    assert Backend.objects.count() == 1


def test_backend_ids_test_and_find_are_allowed(make_backend: Made, api: Api) -> None:
    for name in ("test", "find"):
        make_backend(name)
        assert api.get(f"/api/backends/{name}").json()["backend_id"] == name
        assert api.patch(f"/api/backends/{name}", {"name": "N"}).json()["name"] == "N"
        assert api.delete(f"/api/backends/{name}").status_code == 204
    error_of(api.post("/api/backends/other", {}), 405, "method_not_allowed")


def test_backend_has_hours(api: Api) -> None:
    body = {"url": "http://127.0.0.1:1", "backend_id": "night", "hours": "mon-fri 19:00-07:00"}
    made = api.post("/api/backends", {**body, "time_zone": "Europe/Berlin"})
    assert made.status_code == 201
    assert (made.json()["hours"], made.json()["time_zone"]) == (body["hours"], "Europe/Berlin")
    for field, value in (("hours", "monday"), ("hours", 5), ("time_zone", "Berlin")):
        assert field in wrong_fields(api.patch("/api/backends/night", {field: value}))
    never = api.patch("/api/backends/night", {"hours": "mon 07:00-07:00"}).json()
    assert "Its hours never open: it gets no job." in never["limitations"]
    assert never["status"] == "paused"
    always = api.patch("/api/backends/night", {"hours": "", "time_zone": ""}).json()
    assert (always["hours"], always["time_zone"], always["opens_at"]) == (None, None, None)
