import datetime as dt
from collections.abc import Callable
from typing import Any

import pytest

from backends import discovery, services
from backends.comfyui.answers import Device, SystemStats
from backends.models import Backend, Discovery, FoundBackend
from backends.states import Hold
from jobgroups.domain.clock import now
from jobgroups.models import JobGroup
from jobgroups.services import holds
from jobgroups.services.backends import adopted_depart, backend_delete
from jobgroups.services.cancellation import group_cancel
from tests.api.conftest import Api, error_of, wrong_fields
from tests.harness import factories

pytestmark = pytest.mark.django_db

URLS = [f"http://localhost:{port}" for port in (8188, 8189, 8190)]
NEW = "http://localhost:8198"


def answer(*urls: str) -> list[str]:
    """Have ComfyUIs answer one probe of discovery; return the ids that it registered."""
    gpu = Device(name="cuda:0 RTX", vram_total=2**34, vram_free=2**33)
    reports = {url: SystemStats(version="0.3.64", devices=(gpu,), arguments=()) for url in urls}
    return discovery.answers_store(answers=reports)


def offered() -> list[str]:
    return [row.url for row in discovery.found_list()]


def pass_time(seconds: float) -> None:
    gone = dt.timedelta(seconds=seconds)
    for row in Discovery.objects.all():
        Discovery.objects.update(adopts_until=row.adopts_until - gone)
    for one in FoundBackend.objects.all():
        FoundBackend.objects.filter(pk=one.pk).update(last_seen_at=one.last_seen_at - gone)


def leave(backend_id: str, seconds: float = 601) -> None:
    away_since = now() - dt.timedelta(seconds=seconds)
    services.backend_observed(backend_id=backend_id, reachable=False, seen_at=away_since)


def depart(url: str) -> bool:
    """Do as discovery does where a registered address does not answer."""
    backend_id = discovery.addresses_registered()[url]
    return backend_id != "" and adopted_depart(backend_id=backend_id)


def test_backends_that_start_one_by_one_in_an_empty_farm_are_adopted() -> None:
    for url in URLS:
        assert answer(url) == [url.removeprefix("http://").replace(":", "_")]
        pass_time(180)
    assert offered() == []


def test_found_comfyui_is_offered_after_ten_minutes(api: Api) -> None:
    answer(*URLS)
    pass_time(601)
    assert answer(*URLS, NEW) == []
    (found,) = api.get("/api/backends/found").json()["found"]
    assert (found["url"], found["comfyui_version"], found["ignored"]) == (NEW, "0.3.64", False)
    assert found["devices"] == [{"name": "cuda:0 RTX", "vram_total": 2**34, "vram_free": 2**33}]
    assert Backend.objects.count() == 3


@pytest.mark.parametrize(
    "act",
    [
        lambda: services.backend_create(url="192.168.100.6:8188"),
        lambda: services.backends_ensure(["192.168.100.6:8188"]),
        lambda: services.backend_update(backend_id="localhost_8188", name="Mine"),
        lambda: services.backend_update(backend_id="localhost_8188", enabled=False),
        lambda: holds.backend_hold(backend_id="localhost_8188", hold=Hold.PAUSE),
        lambda: backend_delete(backend_id="localhost_8188"),
    ],
)
def test_nothing_is_adopted_after_a_decision_by_a_user(act: Callable[[], Any]) -> None:
    answer(URLS[0])
    act()
    assert answer(*URLS) == []
    assert set(offered()) >= set(URLS[1:])


def test_farm_that_had_a_registered_backend_adopts_nothing() -> None:
    services.backends_ensure(["192.168.100.6:8188"])
    assert answer(NEW) == []
    backend_delete(backend_id="192.168.100.6_8188")
    assert answer(URLS[0]) == []
    assert offered() == [URLS[0], NEW]


def test_found_comfyui_is_removed_when_it_stops() -> None:
    services.backend_create(url="192.168.100.6:8188")
    answer(NEW)
    pass_time(41)
    assert offered() == []
    answer()
    assert not FoundBackend.objects.exists()


def test_ignored_comfyui_stays_ignored_until_unignored(api: Api) -> None:
    services.backend_create(url="192.168.100.6:8188")
    answer(NEW)
    ignored = api.post("/api/backends/found/ignore", {"url": "127.0.0.1:8198"}).json()
    assert (ignored["url"], ignored["ignored"]) == (NEW, True)
    pass_time(3600)
    answer()
    answer(NEW)
    (found,) = api.get("/api/backends/found").json()["found"]
    assert found["ignored_at"] == ignored["ignored_at"]
    again = api.post("/api/backends/found/unignore", {"url": NEW}).json()
    assert (again["ignored"], again["ignored_at"]) == (False, None)
    assert offered() == [NEW]


def test_ignored_comfyui_is_not_adopted_in_an_empty_farm() -> None:
    FoundBackend.objects.create(url=NEW, first_seen_at=now(), last_seen_at=now(), ignored_at=now())
    assert answer(NEW, URLS[0]) == ["localhost_8188"]


def test_found_comfyui_is_added(api: Api) -> None:
    services.backend_create(url="192.168.100.6:8188")
    answer(NEW)
    made = api.post("/api/backends/found/add", {"url": "localhost:8198"})
    assert made.status_code == 201
    assert (made.json()["backend_id"], made.json()["adopted_at"]) == ("localhost_8198", None)
    assert not FoundBackend.objects.exists()
    error_of(api.post("/api/backends/found/add", {"url": NEW}), 409, "backend_exists")


def test_address_that_was_not_found_is_refused(api: Api) -> None:
    for decision in ("add", "ignore", "unignore"):
        path = f"/api/backends/found/{decision}"
        error_of(api.post(path, {"url": NEW}), 404, "address_not_found")
        assert set(wrong_fields(api.post(path, {"url": "ftp://x"}))) == {"url"}
        assert set(wrong_fields(api.post(path, {"url": NEW, "name": "x"}))) == {"name"}


def test_backend_id_found_is_reserved(api: Api) -> None:
    wrong = wrong_fields(api.post("/api/backends", {"url": NEW, "backend_id": "found"}))
    assert set(wrong) == {"backend_id"}
    refused = error_of(api.patch("/api/backends/found", {"name": "x"}), 405, "method_not_allowed")
    assert refused["detail"] == "This path takes GET, HEAD."


def test_adopted_backend_without_jobs_is_removed_and_adopted_again(api: Api) -> None:
    answer(*URLS)
    assert api.get("/api/backends/localhost_8188").json()["adopted_at"] is not None
    leave("localhost_8188")
    assert depart(URLS[0])
    assert api.get("/api/backends/localhost_8188").status_code == 404
    assert offered() == []
    pass_time(86_400)
    services.backend_create(url="192.168.100.6:8188")
    assert answer(*URLS) == ["localhost_8188"]
    assert Backend.objects.get(pk="localhost_8188").adopted_at is not None


def test_adopted_backend_stays_for_ten_minutes() -> None:
    answer(URLS[0])
    leave("localhost_8188", seconds=590)
    assert not depart(URLS[0])
    leave("localhost_8188")
    services.backend_observed(backend_id="localhost_8188", reachable=True)
    assert not adopted_depart(backend_id="localhost_8188")


@pytest.mark.parametrize(
    "act",
    [
        lambda: services.backend_update(backend_id="localhost_8188", tags=["24gb"]),
        lambda: services.backend_update(backend_id="localhost_8188", headers={"X": "y"}),
        lambda: holds.backend_hold(backend_id="localhost_8188", hold=Hold.PAUSE),
        lambda: holds.backend_quarantine(backend_id="localhost_8188"),
    ],
)
def test_backend_that_a_user_changed_is_never_removed(act: Callable[[], Any]) -> None:
    answer(URLS[0])
    act()
    leave("localhost_8188")
    assert not depart(URLS[0])
    assert not adopted_depart(backend_id="localhost_8188")
    assert Backend.objects.count() == 1


def test_adopted_backend_with_jobs_is_never_removed(api: Api) -> None:
    answer(URLS[0])
    group_cancel(group_id=factories.submit("localhost_8188").id)
    leave("localhost_8188")
    assert not depart(URLS[0])
    page = api.client.get(
        "/backends/localhost_8188", headers={"host": "localhost:9820"}
    ).content.decode()
    assert "Remove it if it does not come back." in page
    assert 'data-act="remove"' in page
    assert JobGroup.objects.count() == 1


def test_pages_offer_found_comfyuis(api: Api) -> None:
    services.backend_create(url="192.168.100.6:8188")
    answer(NEW, URLS[0])
    discovery.found_ignore(url=URLS[0], ignored=True)
    home, backends = (
        api.client.get(path, headers={"host": "localhost:9820"}).content.decode()
        for path in ("/", "/backends")
    )
    assert "Found <strong>localhost:8198</strong>, which is not registered." in home
    assert "localhost:8188" not in home
    assert "Found <strong>localhost:8198</strong>" in backends
    assert "Ignored: <strong>localhost:8188</strong>" in backends
