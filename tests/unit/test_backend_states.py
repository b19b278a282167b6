from __future__ import annotations

import datetime as dt
import itertools
from typing import Any

import pytest

from backends.states import (
    ATTENTION_ORDER,
    PRECEDENCE,
    STALE_AFTER,
    TAKES_CHILDREN,
    BackendObservation,
    BackendState,
    BackendStatus,
    Hold,
    derive_status,
    prompt_limit,
)

NOW = dt.datetime(2026, 2, 1, 12, tzinfo=dt.UTC)
BEFORE = NOW - dt.timedelta(minutes=5)

#: The columns that lead to each state.
TRUE_OF: dict[BackendState, dict[str, Any]] = {
    BackendState.DISABLED: {"enabled": False, "changed_at": BEFORE, "changed_by": "anna"},
    BackendState.QUARANTINED: {"quarantined_at": BEFORE, "quarantine_reason": "3 failures", "quarantine_by": ""},
    BackendState.DRAINING: {"hold": "drain", "changed_at": BEFORE, "changed_by": "anna"},
    BackendState.PAUSED: {"hold": "pause", "changed_at": BEFORE, "changed_by": "anna"},
    BackendState.OFFLINE: {"reachability": "offline", "status_reason": "connection refused", "status_since": BEFORE},
    BackendState.UNKNOWN: {},
    BackendState.BUSY: {"reachability": "online", "last_seen_at": NOW, "status_since": BEFORE, "is_busy": True},
    BackendState.ONLINE: {"reachability": "online", "last_seen_at": NOW, "status_since": BEFORE},
}


def status(**known: Any) -> BackendStatus:
    return derive_status(BackendObservation(**{"now": NOW, "created_at": BEFORE, **known}))


def test_every_state_has_a_rank() -> None:
    assert set(PRECEDENCE) == set(BackendState) == set(TRUE_OF) == set(ATTENTION_ORDER)
    assert len(PRECEDENCE) == len(ATTENTION_ORDER) == len(BackendState)


@pytest.mark.parametrize("state", BackendState)
def test_status_has_state_beginning_and_author(state: BackendState) -> None:
    found = status(**TRUE_OF[state])
    by_user = state in (BackendState.DISABLED, BackendState.DRAINING, BackendState.PAUSED)
    assert (found.state, found.since, found.by) == (state, BEFORE, "anna" if by_user else "")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (first, second)
        for first, second in itertools.combinations(PRECEDENCE, 2)
        # A backend has one hold and one reachability.
        if {first, second} != {BackendState.DRAINING, BackendState.PAUSED}
        and PRECEDENCE.index(first) < PRECEDENCE.index(BackendState.OFFLINE)
    ],
)
def test_status_is_the_stronger_of_two(first: BackendState, second: BackendState) -> None:
    assert status(**{**TRUE_OF[second], **TRUE_OF[first]}).state is first


def test_status_is_offline_when_the_observation_is_stale() -> None:
    old = NOW - STALE_AFTER - dt.timedelta(seconds=1)
    found = status(reachability="online", last_seen_at=old)
    assert (found.state, found.since) == (BackendState.OFFLINE, old)
    assert "is a runner alive?" in found.reason


def test_status_reason_names_the_probation() -> None:
    assert "On probation" in status(**TRUE_OF[BackendState.ONLINE], consecutive_quarantines=2).reason


@pytest.mark.parametrize("hold", Hold)
@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("quarantined", [True, False])
@pytest.mark.parametrize(("consecutive", "limit"), [(0, 2), (1, 1), (3, 1)])
def test_prompt_limit_is_zero_for_a_held_backend(
    hold: Hold, enabled: bool, quarantined: bool, consecutive: int, limit: int
) -> None:
    found = prompt_limit(
        enabled=enabled, hold=hold, quarantined=quarantined, consecutive_quarantines=consecutive, depth=2
    )
    works = enabled and hold is Hold.NONE and not quarantined
    assert found == (limit if works else 0)


def test_children_are_accepted_where_they_can_run_later() -> None:
    assert {BackendState.ONLINE, BackendState.BUSY, BackendState.PAUSED} == TAKES_CHILDREN
