"""A runner that lost its lease writes nothing more, not even what it saw or how far a child is."""

from __future__ import annotations

import pytest
from django.db import IntegrityError

from backends.models import Backend
from jobgroups.errors import LeaseLost
from jobgroups.models import ChildJob
from jobgroups.services import backends, leases
from jobgroups.services.progress import ProgressRow, progress_flush
from tests.harness.factories import backend, claim, lease, start, submit

pytestmark = pytest.mark.django_db


def test_progress_is_not_stored_under_a_lost_lease() -> None:
    backend()
    old = lease()
    submit()
    claimed = claim(old)
    start(claimed, old)
    new = lease()

    def flush(percent: float, fence: object) -> float:
        row = ProgressRow(
            claimed.child_id,
            claimed.attempt_id,
            percent,
            "KSampler",
            1,
            4,
            fence,  # type: ignore[arg-type]
        )
        progress_flush(rows=[row])
        return ChildJob.objects.get(pk=claimed.child_id).progress

    assert flush(75.0, new) == 75.0
    assert flush(25.0, old) == 75.0


def test_observation_is_not_stored_under_a_lost_lease() -> None:
    backend()
    old = lease()
    new = lease()
    backends.backend_observed(fence=new, reachable=True)
    with pytest.raises(LeaseLost):
        backends.backend_observed(fence=old, reachable=False, reason="refused")
    assert Backend.objects.get(pk="gpu-1").reachability == "online"


def test_lease_of_a_backend_that_is_deleted_meanwhile_is_not_acquired(monkeypatch: pytest.MonkeyPatch) -> None:
    def deleted_meanwhile(*_: object) -> None:
        # What PostgreSQL says where the row went between the look and the insert.
        raise IntegrityError("violates foreign key constraint")

    monkeypatch.setattr(leases, "_lease_acquire", deleted_meanwhile)
    assert leases.lease_acquire(backend_id="gpu-1", runner="runner") is None
