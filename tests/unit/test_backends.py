import datetime as dt
import itertools
from typing import Any

import pytest
from hypothesis import given, strategies as st

from backends import queries
from backends.capabilities import BackendCapabilities, gpu_slug, missing_capabilities
from backends.models import Backend, Reachability
from backends.queries import backend_status
from backends.states import (
    ATTENTION_ORDER,
    LONGEST,
    STALE_AFTER,
    BackendState,
    BackendStatus,
    Hold,
    QuarantineRules,
    counts_since,
    prompt_limit,
    quarantine_for,
    reason_for,
)

NOW = dt.datetime(2026, 2, 1, 12, tzinfo=dt.UTC)
BEFORE = NOW - dt.timedelta(minutes=5)

#: The columns that lead to each state.
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
        "queue_running": 1,
    },
    BackendState.ONLINE: {"reachability": "online", "last_seen_at": NOW, "status_since": BEFORE},
}


def status(**known: Any) -> BackendStatus:
    return backend_status(Backend(created_at=BEFORE, **known), now=NOW)


def test_every_state_has_a_rank() -> None:
    assert set(BackendState) == set(TRUE_OF) == set(ATTENTION_ORDER)
    assert len(ATTENTION_ORDER) == len(BackendState)


@pytest.mark.parametrize("state", BackendState)
def test_status_has_state_beginning_and_author(state: BackendState) -> None:
    found = status(**TRUE_OF[state])
    by_user = state in (BackendState.DISABLED, BackendState.DRAINING, BackendState.PAUSED)
    assert (found.state, found.since, found.by) == (state, BEFORE, "anna" if by_user else "")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (first, second)
        for first, second in itertools.combinations(BackendState, 2)
        # A backend has one hold and one reachability.
        if {first, second} != {BackendState.DRAINING, BackendState.PAUSED}
        and list(BackendState).index(first) < list(BackendState).index(BackendState.OFFLINE)
    ],
)
def test_status_is_the_stronger_of_two(first: BackendState, second: BackendState) -> None:
    assert status(**{**TRUE_OF[second], **TRUE_OF[first]}).state is first


def test_status_is_offline_when_the_observation_is_stale() -> None:
    old = NOW - STALE_AFTER - dt.timedelta(seconds=1)
    found = status(reachability="online", last_seen_at=old)
    assert (found.state, found.since) == (BackendState.OFFLINE, old)
    assert "is a runner alive?" in found.reason


def test_backend_is_not_checked_yet_right_after_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queries, "STARTED_AT", NOW - dt.timedelta(seconds=5))
    row = Backend(reachability=Reachability.ONLINE, last_seen_at=NOW - dt.timedelta(hours=9))
    found = queries.backend_status(row, now=NOW)
    assert (found.state, found.reason) == ("unknown", "Not checked yet since the start.")
    # Later, nobody probes it.
    assert queries.backend_status(row, now=NOW + STALE_AFTER).state == "offline"
    # A runner was alive before, and probes no more.
    row.last_seen_at = NOW - dt.timedelta(seconds=4)
    monkeypatch.setattr(queries, "STARTED_AT", NOW - dt.timedelta(seconds=5))
    assert queries.backend_status(row, now=NOW).state == "online"


def test_status_reason_names_the_probation() -> None:
    assert (
        "On probation" in status(**TRUE_OF[BackendState.ONLINE], consecutive_quarantines=2).reason
    )


@pytest.mark.parametrize("hold", Hold)
@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("quarantined", [True, False])
@pytest.mark.parametrize(("consecutive", "limit"), [(0, 2), (1, 1), (3, 1)])
def test_prompt_limit_is_zero_for_a_held_backend(
    hold: Hold, enabled: bool, quarantined: bool, consecutive: int, limit: int
) -> None:
    found = prompt_limit(
        enabled=enabled,
        hold=hold,
        quarantined=quarantined,
        consecutive_quarantines=consecutive,
        depth=2,
    )
    works = enabled and hold is Hold.NONE and not quarantined
    assert found == (limit if works else 0)


BIG = BackendCapabilities(
    tags=["flux", "Studio A"],
    devices=[{"name": "cuda:0 NVIDIA GeForce RTX 4090 : cudaMallocAsync"}],
    comfyui_version="0.3.64",
)


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("cuda:0 NVIDIA GeForce RTX 4090 : cudaMallocAsync", "nvidia-geforce-rtx-4090"),
        ("cuda:1 NVIDIA RTX 6000 Ada Generation : native", "nvidia-rtx-6000-ada-generation"),
        ("cuda:0 AMD Radeon RX 7900 XTX : native", "amd-radeon-rx-7900-xtx"),
        ("mps", "mps"),
        ("cpu", ""),
        ("", ""),
    ],
)
def test_gpu_slug_of_a_device_name(name: str, slug: str) -> None:
    assert gpu_slug(name) == slug


@pytest.mark.parametrize(
    ("required", "missing"),
    [
        (["flux", "Studio A", "gpu:nvidia-geforce-rtx-4090", "gpu:RTX-4090", "gpu:4090"], []),
        (["comfyui:0.3.64", "comfyui:0.3", "comfyui:0"], []),
        (["Flux", "studio a", "vram:24", ""], ["Flux", "studio a", "vram:24", ""]),
        (["gpu:409", "gpu:090", "gpu:", "gpu:cpu"], ["gpu:409", "gpu:090", "gpu:", "gpu:cpu"]),
        (["comfyui:0.3.6", "comfyui:", "comfyui:1"], ["comfyui:0.3.6", "comfyui:", "comfyui:1"]),
        (["z", "flux", "a"], ["z", "a"]),
    ],
)
def test_missing_capabilities_in_the_order_given(required: list[str], missing: list[str]) -> None:
    assert missing_capabilities(BIG, required) == missing


def test_unknown_backend_has_its_tags_alone() -> None:
    unknown = BackendCapabilities(tags=["gpu:4090"], devices=[], comfyui_version="")
    required = ["gpu:4090", "gpu:3090", "comfyui:0.3"]
    assert missing_capabilities(unknown, required) == ["gpu:3090", "comfyui:0.3"]


MINUTE = dt.timedelta(minutes=1)
RULES = QuarantineRules(failures=3, window=10 * MINUTE, duration=15 * MINUTE)
OFF = QuarantineRules(failures=0, window=10 * MINUTE, duration=15 * MINUTE)


@pytest.mark.parametrize(
    ("rules", "failures", "consecutive", "minutes"),
    [
        *[(RULES, failures, 0, minutes) for failures, minutes in ((2, 0), (3, 15), (4, 15))],
        # On probation the first failure is enough.
        *[(RULES, 1, n, minutes) for n, minutes in ((1, 30), (2, 60), (4, 240), (10_000, 240))],
        *[(OFF, 100, consecutive, 0) for consecutive in (0, 1, 5)],
    ],
)
def test_quarantine_length(
    rules: QuarantineRules, failures: int, consecutive: int, minutes: int
) -> None:
    found = quarantine_for(rules, failures=failures, consecutive=consecutive)
    assert found == (minutes * MINUTE if minutes else None)


@given(st.integers(0, 1_000), st.integers(0, 1_000), st.integers(0, 10**6), st.integers(1, 240))
def test_quarantine_length_is_bounded(
    limit: int, failures: int, consecutive: int, minutes: int
) -> None:
    rules = QuarantineRules(failures=limit, window=10 * MINUTE, duration=minutes * MINUTE)
    lasts = quarantine_for(rules, failures=failures, consecutive=consecutive)
    assert lasts is None or (failures and rules.duration <= lasts <= LONGEST)


@pytest.mark.parametrize(("reset", "since"), [(None, 10), (5, 5), (20, 10)])
def test_failures_count_from_the_window_or_the_release(reset: int | None, since: int) -> None:
    reset_at = None if reset is None else NOW - reset * MINUTE
    assert counts_since(RULES, NOW, reset_at) == NOW - since * MINUTE


@pytest.mark.parametrize(
    ("failures", "window", "consecutive", "reason"),
    [
        (3, 10 * MINUTE, 0, "3 failures within 10 min; last: stalled."),
        (1, 10 * MINUTE, 0, "1 failure within 10 min; last: stalled."),
        (3, MINUTE / 2, 0, "3 failures within 30 s; last: stalled."),
        (1, 10 * MINUTE, 2, "It failed again on probation: stalled."),
    ],
)
def test_reason_names_count_window_and_last_failure(
    failures: int, window: dt.timedelta, consecutive: int, reason: str
) -> None:
    assert reason_for(failures, window, consecutive, "stalled.") == reason
