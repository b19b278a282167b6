"""The one word for a backend, and how many prompts it takes."""

from __future__ import annotations

import datetime as dt
import itertools
from typing import Any

import pytest

from backends.states import (
    PRECEDENCE,
    STALE,
    TAKES_CHILDREN,
    TROUBLE_FIRST,
    BackendState,
    Facts,
    Hold,
    backend_state,
    is_on_probation,
    places,
)

NOW = dt.datetime(2026, 2, 1, 12, tzinfo=dt.UTC)
BEFORE = NOW - dt.timedelta(minutes=5)

#: What makes each word true.
TRUE_OF: dict[BackendState, dict[str, Any]] = {
    BackendState.DISABLED: {"enabled": False, "changed_at": BEFORE, "changed_by": "anna"},
    BackendState.QUARANTINED: {
        "quarantined_at": BEFORE,
        "quarantine_reason": "3 failures",
        "quarantine_by": "",
    },
    BackendState.DRAINING: {"hold": "drain", "changed_at": BEFORE, "changed_by": "anna"},
    BackendState.PAUSED: {"hold": "pause", "changed_at": BEFORE, "changed_by": "anna"},
    BackendState.OFFLINE: {
        "reachability": "offline",
        "status_reason": "connection refused",
        "status_since": BEFORE,
    },
    BackendState.UNKNOWN: {},
    BackendState.BUSY: {
        "reachability": "online",
        "last_seen_at": NOW,
        "status_since": BEFORE,
        "stands": True,
    },
    BackendState.ONLINE: {"reachability": "online", "last_seen_at": NOW, "status_since": BEFORE},
}


def facts(**known: Any) -> Facts:
    return Facts(**{"now": NOW, "created_at": BEFORE, **known})


def test_every_state_has_its_rank_and_its_facts() -> None:
    assert set(PRECEDENCE) == set(BackendState) == set(TRUE_OF) == set(TROUBLE_FIRST)
    assert len(PRECEDENCE) == len(TROUBLE_FIRST) == len(BackendState)


@pytest.mark.parametrize("state", BackendState)
def test_what_is_true_of_it_gives_its_word_since_when_and_by_whom(state: BackendState) -> None:
    standing = backend_state(facts(**TRUE_OF[state]))
    assert standing.state is state
    assert standing.since == BEFORE
    said = state in (BackendState.DISABLED, BackendState.DRAINING, BackendState.PAUSED)
    assert standing.by == ("anna" if said else "")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (first, second)
        for first, second in itertools.combinations(PRECEDENCE, 2)
        # A backend has one hold, and was seen one way.
        if {first, second} != {BackendState.DRAINING, BackendState.PAUSED}
        and PRECEDENCE.index(first) < PRECEDENCE.index(BackendState.OFFLINE)
    ],
)
def test_of_two_that_are_true_the_stronger_is_shown(
    first: BackendState, second: BackendState
) -> None:
    assert backend_state(facts(**{**TRUE_OF[second], **TRUE_OF[first]})).state is first


def test_an_answer_that_nobody_renewed_is_none() -> None:
    old = NOW - STALE - dt.timedelta(seconds=1)
    standing = backend_state(facts(reachability="online", last_seen_at=old))
    assert standing.state is BackendState.OFFLINE
    assert standing.since == old
    assert "is a runner alive?" in standing.reason


def test_a_probation_is_said_of_a_backend_that_works() -> None:
    freed = facts(**TRUE_OF[BackendState.ONLINE], consecutive_quarantines=2)
    assert is_on_probation(freed)
    assert "On probation" in backend_state(freed).reason
    assert not is_on_probation(facts(quarantined_at=BEFORE, consecutive_quarantines=1))
    assert not is_on_probation(facts())


@pytest.mark.parametrize("hold", Hold)
@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("quarantined", [True, False])
@pytest.mark.parametrize(("in_a_row", "free"), [(0, 2), (1, 1), (3, 1)])
def test_only_a_backend_that_nothing_holds_back_takes_prompts(
    hold: Hold, enabled: bool, quarantined: bool, in_a_row: int, free: int
) -> None:
    found = places(
        enabled=enabled,
        hold=hold,
        quarantined=quarantined,
        consecutive_quarantines=in_a_row,
        depth=2,
    )
    works = enabled and hold is Hold.NONE and not quarantined
    assert found == (free if works else 0)


def test_children_are_accepted_where_they_will_be_sent_some_time() -> None:
    assert BackendState.PAUSED in TAKES_CHILDREN
    refused = set(BackendState) - TAKES_CHILDREN
    assert refused == {
        BackendState.DISABLED,
        BackendState.QUARANTINED,
        BackendState.DRAINING,
        BackendState.OFFLINE,
        BackendState.UNKNOWN,
    }
