"""Why a queued child waits, in one sentence. Pure: a snapshot in, a sentence out."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendNow:
    """What is known of a backend that a child waits for."""

    backend_id: str
    enabled: bool
    #: Since when it has not been reachable, None while it is.
    away_since: dt.datetime | None
    reason: str
    #: Prompts there that are not ours.
    foreign: int


def waiting_reason(backend: BackendNow | None, *, state: str | None, runner_alive: bool) -> str:
    """Return the sentence.

    Args:
        backend: None: it is no longer registered.
        state: of the child's current attempt; None: it was not sent yet.
        runner_alive: whether anybody would send it.
    """
    if not runner_alive:
        return "No runner is alive to send it."
    if backend is None:
        return "Its backend is no longer registered."
    name = backend.backend_id
    if backend.away_since is not None:
        since = f"{backend.away_since.astimezone(dt.UTC):%H:%M:%S} UTC"
        return f"{name} has not been reachable since {since}: {backend.reason or 'no answer'}."
    if state is None and not backend.enabled:
        return f"{name} is disabled."
    verb = "is" if backend.foreign == 1 else "are"
    others = f", behind {backend.foreign} that {verb} not ours" if backend.foreign else ""
    return {
        None: f"Waits for a free place at {name}{others}.",
        "intent": f"Being sent to {name}.",
        "uncertain": f"{name} was asked and did not answer; looking whether it has it.",
    }.get(state, f"In the queue of {name}{others}.")
