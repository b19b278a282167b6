"""What is written of a backend, without HTTP: DIRECTOR_BACKENDS and observations."""

from __future__ import annotations

import datetime as dt

import pytest

from backends import queries, services
from backends.models import Backend
from jobgroups.domain.clock import now
from tests.api.conftest import Made

pytestmark = pytest.mark.django_db


def test_missing_backends_are_created_and_none_is_changed() -> None:
    services.backend_create(url="localhost:8188", backend_id="mine", name="Mine", enabled=False)
    created = services.backends_ensure(
        ["127.0.0.1:8188", "192.168.100.6:8188", "http://192.168.100.6:8188/", "farm.invalid"]
    )
    assert created == ["192.168.100.6_8188", "farm.invalid_8188"]
    mine = Backend.objects.get(pk="mine")
    assert (mine.name, mine.enabled, mine.url) == ("Mine", False, "http://localhost:8188")
    assert services.backends_ensure(["192.168.100.6:8188"]) == []


def test_a_malformed_address_is_told_by_its_number_without_its_password() -> None:
    with pytest.raises(services.BackendInvalid) as caught:
        services.backends_ensure(["localhost:8188", "ftp://me:s3cret@farm.invalid"])
    assert caught.value.message.startswith("Address 2: ")
    assert "s3cret" not in str(caught.value)
    assert Backend.objects.count() == 1


def test_an_observation_of_a_backend_that_is_gone_is_no_error() -> None:
    assert services.backend_observed(backend_id="gone", reachable=True) is False


def test_the_clock_of_silence_starts_once_and_stops_with_the_first_answer(
    make_backend: Made,
) -> None:
    make_backend("gpu-1")
    times = [now() + dt.timedelta(seconds=second) for second in range(4)]

    def observe(at: dt.datetime, reachable: bool) -> Backend:
        services.backend_observed(backend_id="gpu-1", reachable=reachable, seen_at=at)
        return Backend.objects.get()

    assert observe(times[0], False).unreachable_since == times[0]
    assert observe(times[1], False).unreachable_since == times[0]
    seen = observe(times[2], True)
    assert (seen.unreachable_since, seen.last_seen_at) == (None, times[2])
    again = observe(times[3], False)
    assert (again.unreachable_since, again.last_seen_at) == (times[3], times[2])


def test_status_since_is_the_time_of_the_last_change_between_away_free_and_busy(
    make_backend: Made,
) -> None:
    make_backend("gpu-1")
    start = now()
    looks = [(True, 0), (True, 1), (True, 2), (True, 0), (True, 0), (False, 0), (False, 0)]
    since = []
    for second, (reachable, running) in enumerate(looks):
        services.backend_observed(
            backend_id="gpu-1",
            reachable=reachable,
            queue_running=running,
            queue_pending=0,
            seen_at=start + dt.timedelta(seconds=second),
        )
        moment = Backend.objects.get().status_since
        assert moment is not None
        since.append(max(0, (moment - start).total_seconds()))
    assert since == [0, 1, 1, 3, 3, 5, 5]


def test_status_since_of_an_offline_backend_stays_when_its_queue_counts_change(
    make_backend: Made,
) -> None:
    """A runner that starts anew has not read the queue that was lost with the backend."""
    make_backend("gpu-1")
    start = now()
    for second, (reachable, running) in enumerate([(True, 1), (False, 1), (False, 0)]):
        services.backend_observed(
            backend_id="gpu-1",
            reachable=reachable,
            queue_running=running,
            queue_pending=0,
            seen_at=start + dt.timedelta(seconds=second),
        )
    assert Backend.objects.get().status_since == start + dt.timedelta(seconds=1)


def test_what_was_not_looked_at_is_left_as_it_was(make_backend: Made) -> None:
    make_backend("gpu-1", version="0.3.64", devices=[{"name": "cpu"}])
    seen = {"queue_running": 1, "queue_pending": 2, "queue_foreign": 2}
    services.backend_observed(backend_id="gpu-1", reachable=True, **seen)
    services.backend_observed(backend_id="gpu-1", reachable=True)
    row = Backend.objects.get()
    assert (row.queue_running, row.queue_pending, row.queue_foreign) == (1, 2, 2)
    assert (row.comfyui_version, row.devices) == ("0.3.64", [{"name": "cpu"}])


def test_an_observation_changes_nothing_that_a_person_said(make_backend: Made) -> None:
    before = make_backend("gpu-1", tags=["a"], headers={"X-A": "1"})
    services.backend_update(backend_id="gpu-1", enabled=False, name="New")
    services.backend_observed(backend_id="gpu-1", reachable=True, reason="x" * 600)
    row = Backend.objects.get()
    assert (row.enabled, row.name, row.tags, row.url) == (False, "New", ["a"], before.url)
    assert len(row.status_reason) == 500


def test_a_named_header_wins_over_the_addresss_login() -> None:
    row = services.backend_create(
        url="http://me:pw@a.invalid", headers={"authorization": "Bearer t"}
    )
    assert row.headers == {"authorization": "Bearer t"}


def test_a_new_login_in_the_old_address_replaces_the_old_login_alone() -> None:
    services.backend_create(url="http://me:old@a.invalid", backend_id="a", headers={"X-A": "1"})
    services.backend_update(backend_id="a", url="http://me:new@a.invalid")
    assert Backend.objects.get().headers == {"Authorization": "Basic bWU6bmV3", "X-A": "1"}


def test_a_runner_is_told_where_every_backend_is(make_backend: Made) -> None:
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
