"""Backends held back through the typed client, both kinds, over a real connection."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator
from typing import Any

import pytest

from director import client
from tests.unit.client_driver import Driven, client_kinds
from tests.unit.client_server import FakeDirector

SINCE = "2026-02-01T07:00:00.000Z"
BACKEND = {
    "backend_id": "gpu-1",
    "name": "a",
    "url": "http://a:8188",
    "enabled": True,
    "status": "quarantined",
    "status_reason": "it smokes",
    "status_since": SINCE,
    "status_by": "anna",
    "hold": "pause",
    "evict": True,
    "changed_by": "ben",
    "changed_reason": None,
    "changed_at": SINCE,
    "quarantine": {"since": SINCE, "until": None, "reason": "it smokes", "by": "anna"},
    "on_probation": False,
}


@pytest.fixture
def server() -> Iterator[FakeDirector]:
    with FakeDirector() as fake:
        for word in ("pause", "drain", "resume", "quarantine", "release"):
            fake.answers["POST", f"/api/backends/gpu-1/{word}"] = (200, BACKEND)
        yield fake


@pytest.fixture(params=client_kinds())
def director(request: pytest.FixtureRequest, server: FakeDirector) -> Iterator[Driven]:
    with request.param(server.url) as driven:
        yield driven


@pytest.mark.parametrize(
    ("word", "said", "sent"),
    [
        ("pause", {}, {"now": False}),
        (
            "pause",
            {"now": True, "reason": "lunch", "by": "anna"},
            {"now": True, "reason": "lunch", "by": "anna"},
        ),
        ("drain", {"now": True}, {"now": True}),
        ("resume", {"by": "anna"}, {"by": "anna"}),
        ("quarantine", {"minutes": 5, "reason": "x"}, {"minutes": 5, "reason": "x"}),
        ("quarantine", {}, {}),
        ("release", {"by": "anna"}, {"by": "anna"}),
    ],
)
def test_a_backend_is_told(
    director: Driven, server: FakeDirector, word: str, said: dict[str, Any], sent: dict[str, Any]
) -> None:
    told = getattr(director, f"{word}_backend")("gpu-1", **said)
    since = dt.datetime(2026, 2, 1, 7, tzinfo=dt.UTC)
    assert (told.status, told.status_by, told.hold, told.evict) == (
        "quarantined",
        "anna",
        "pause",
        True,
    )
    assert told.quarantine == client.Quarantine(since=since, reason="it smokes", by="anna")
    [(_, body)] = server.sent("POST", f"/api/backends/gpu-1/{word}")
    assert json.loads(body) == sent


def test_what_an_older_director_does_not_say_is_none(
    director: Driven, server: FakeDirector
) -> None:
    known = ("backend_id", "name", "url", "enabled", "status")
    old = {name: BACKEND[name] for name in known}
    server.answers["GET", "/api/backends/gpu-1"] = (200, old)
    told = director.backend("gpu-1")
    assert (told.hold, told.quarantine, told.on_probation, told.changed_at) == (
        None,
        None,
        False,
        None,
    )
