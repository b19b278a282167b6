from __future__ import annotations

import datetime as dt

import pytest

from backends import queries, services
from backends.models import Backend
from jobgroups.domain.clock import now
from tests.api.conftest import Made

pytestmark = pytest.mark.django_db


def test_backends_ensure_creates_missing_backends_alone() -> None:
    services.backend_create(url="localhost:8188", backend_id="mine", name="Mine", enabled=False)
    created = services.backends_ensure(
        ["127.0.0.1:8188", "192.168.100.6:8188", "http://192.168.100.6:8188/", "farm.invalid"]
    )
    assert created == ["192.168.100.6_8188", "farm.invalid_8188"]
    mine = Backend.objects.get(pk="mine")
    assert (mine.name, mine.enabled, mine.url) == ("Mine", False, "http://localhost:8188")
    assert services.backends_ensure(["192.168.100.6:8188"]) == []


def test_malformed_address_is_reported_without_its_password() -> None:
    with pytest.raises(services.BackendInvalid) as caught:
        services.backends_ensure(["localhost:8188", "ftp://me:s3cret@farm.invalid"])
    assert caught.value.message.startswith("Address 2: ")
    assert "s3cret" not in str(caught.value)
    assert Backend.objects.count() == 1


START = now()


def _observe(second: int, *, reachable: bool, **observed: int) -> Backend:
    services.backend_observed(
        backend_id="gpu-1", reachable=reachable, seen_at=START + dt.timedelta(seconds=second), **observed
    )
    return Backend.objects.get()


def test_observation_of_a_deleted_backend_is_no_error() -> None:
    assert services.backend_observed(backend_id="gone", reachable=True) is False


def test_unreachable_since_starts_once_and_ends_with_a_response(make_backend: Made) -> None:
    make_backend("gpu-1")
    times = []
    for second, reachable in enumerate([False, False, True, False]):
        row = _observe(second, reachable=reachable)
        times.append((row.unreachable_since, row.last_seen_at))
    at = [START + dt.timedelta(seconds=second) for second in range(4)]
    assert [since for since, _ in times] == [at[0], at[0], None, at[3]]
    assert [seen for _, seen in times[2:]] == [at[2], at[2]]


@pytest.mark.parametrize(
    ("observations", "since"),
    [
        ([(True, 0), (True, 1), (True, 2), (True, 0), (True, 0), (False, 0), (False, 0)], [0, 1, 1, 3, 3, 5, 5]),
        # A runner that has just started did not read the queue that was lost with the backend.
        ([(True, 1), (False, 1), (False, 0)], [0, 1, 1]),
    ],
)
def test_status_since_is_the_last_change_between_offline_online_and_busy(
    make_backend: Made, observations: list[tuple[bool, int]], since: list[int]
) -> None:
    make_backend("gpu-1", seen=False)
    found = []
    for second, (reachable, running) in enumerate(observations):
        row = _observe(second, reachable=reachable, queue_running=running, queue_pending=0)
        assert row.status_since is not None
        found.append((row.status_since - START).total_seconds())
    assert found == since


def test_observation_without_a_value_keeps_the_column(make_backend: Made) -> None:
    make_backend("gpu-1", version="0.3.64", devices=[{"name": "cpu"}])
    seen = {"queue_running": 1, "queue_pending": 2, "queue_foreign": 2}
    services.backend_observed(backend_id="gpu-1", reachable=True, **seen)
    services.backend_observed(backend_id="gpu-1", reachable=True)
    row = Backend.objects.get()
    assert (row.queue_running, row.queue_pending, row.queue_foreign) == (1, 2, 2)
    assert (row.comfyui_version, row.devices) == ("0.3.64", [{"name": "cpu"}])


def test_observation_keeps_values_of_users(make_backend: Made) -> None:
    before = make_backend("gpu-1", tags=["a"], headers={"X-A": "1"})
    services.backend_update(backend_id="gpu-1", enabled=False, name="New")
    services.backend_observed(backend_id="gpu-1", reachable=True, reason="x" * 600)
    row = Backend.objects.get()
    assert (row.enabled, row.name, row.tags, row.url) == (False, "New", ["a"], before.url)
    assert len(row.status_reason) == 500


def test_given_header_overrides_credentials_of_the_address() -> None:
    row = services.backend_create(url="http://me:pw@a.invalid", headers={"authorization": "Bearer t"})
    assert row.headers == {"authorization": "Bearer t"}


def test_new_credentials_in_the_same_address_replace_the_old_ones() -> None:
    services.backend_create(url="http://me:old@a.invalid", backend_id="a", headers={"X-A": "1"})
    services.backend_update(backend_id="a", url="http://me:new@a.invalid")
    assert Backend.objects.get().headers == {"Authorization": "Basic bWU6bmV3", "X-A": "1"}


def test_desired_backends_have_address_and_desired_state(make_backend: Made) -> None:
    make_backend("b", url="http://b.invalid:1", enabled=False)
    make_backend("a", url="http://a.invalid:1", headers={"X-A": "1"})
    free = {
        "hold": "",
        "evict": False,
        "changed_by": "",
        "quarantined_at": None,
        "quarantine_until": None,
        "quarantine_by": "",
        "quarantine_reason": "",
    }
    assert queries.desired_backends() == [
        {"id": "a", "url": "http://a.invalid:1", "headers": {"X-A": "1"}, "enabled": True, **free},
        {"id": "b", "url": "http://b.invalid:1", "headers": {}, "enabled": False, **free},
    ]
