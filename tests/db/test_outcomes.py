"""Ends of attempts: each is recorded against its backend, in the transaction that stores it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

import pytest

from jobgroups.domain.clock import now
from jobgroups.domain.states import ATTEMPT_ENDED, AttemptState
from jobgroups.models import Attempt, ChildJob
from jobgroups.services import attempts, quarantine
from tests.harness import factories

pytestmark = pytest.mark.django_db

END = {
    AttemptState.SUCCESS: lambda **owner: attempts.attempt_ended(**owner, end=factories.end()),
    AttemptState.ERROR: lambda **owner: attempts.attempt_ended(**owner, end=factories.end(AttemptState.ERROR)),
    AttemptState.INTERRUPTED: lambda **owner: attempts.attempt_ended(
        **owner, end=factories.end(AttemptState.INTERRUPTED)
    ),
    AttemptState.TIMEOUT: lambda **owner: (
        attempts.attempt_timed_out(**owner)
        and attempts.attempt_ended(**owner, end=factories.end(AttemptState.INTERRUPTED))
    ),
    AttemptState.REFUSED: lambda **owner: attempts.attempt_refused(**owner, message="no such node", details={}),
    AttemptState.NOT_SENT: attempts.attempt_not_sent,
    AttemptState.NEVER_ACCEPTED: lambda **owner: (
        attempts.attempt_uncertain(**owner)
        and attempts.attempt_never_accepted(**owner, remember_until=now() + dt.timedelta(hours=1))
    ),
    AttemptState.LOST: lambda **owner: attempts.attempt_lost(**owner, reason="it restarted"),
}


def test_each_final_state_is_tested() -> None:
    assert set(END) == ATTEMPT_ENDED


@pytest.mark.parametrize("state", list(END))
def test_end_of_an_attempt_is_recorded_before_its_child_is_decided(
    state: AttemptState, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded: list[tuple[str, bool]] = []

    def record(attempt: Attempt) -> None:
        stored = Attempt.objects.get(pk=attempt.pk)
        is_decided = ChildJob.objects.get().completed_at is not None
        recorded.append((stored.state, is_decided))

    factories.backend()
    fence = factories.lease()
    factories.submit()
    claim = factories.claim(fence)
    if state in (AttemptState.LOST, AttemptState.TIMEOUT):
        factories.start(claim, fence)
    monkeypatch.setattr(quarantine, "record_result", record)
    end: Callable[..., Any] = END[state]
    assert end(attempt_id=claim.attempt_id, fence=fence)
    if state is AttemptState.TIMEOUT:
        # Recorded once, when its stop was requested: the attempt failed then.
        assert recorded == [(AttemptState.RUNNING, False)]
    else:
        assert recorded == [(state, False)]
