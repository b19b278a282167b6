"""Every pause and limit of the runner, in seconds of a monotonic clock."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True, kw_only=True)
class Intervals:
    """The runner's times. The sources are the traps in comfyui-protocol.md and the laws in docs/architecture.md.

    Attributes:
        heartbeat: between two heartbeats with which the leases are renewed.
        poll: between two polls for work without a notification.
        probe: between two probes of a backend; it is online for 10 s after its last response.
        store_unchanged_after: before an unchanged observation is stored again. With the next probe that is
            within the 10 s after which a backend counts as offline.
        system_stats: between two queries of a backend's version and memory.
        lookup_interval: between two look-ups of a prompt that is silent or uncertain.
        accept_timeout: an uncertain prompt that was absent for this long was never accepted.
        history_grace: how long the history of an ended prompt may be late or empty.
        stop_retry: after a delete or interrupt, before the next try.
        cancel_retry: after the first cancel of a running job, before the next; doubled up to
            ``stop_retry``.
        stalled_after: a prompt whose time was up and that goes on for so long after the first try to
            stop it hangs.
        collateral_window: an interrupted prompt without a stop request counts as interrupted by our stop of
            another prompt if it ended this soon after it.
        deaf_after: an accepted prompt must be followed by a status frame within this time.
        replace_every: between two replacements of a silent socket.
        stuck_after: the worker counts as dead after prompts were pending and none was running for this long.
        suspect_after: a fault is shown as suspected after so long.
        reconnect_first, reconnect_most: the first and the longest pause between two connects.
        progress_gap: between two progress frames of a child (contract: at most 10 a second).
        flush: between two stores of progress.
        refusal_backoff: before the next claim at a backend that refused a prompt. One that refuses at once
            what others render for minutes would have a hundred of them a second, at the others' cost.
        abandoned_ttl: how long an abandoned prompt id is kept.
        capture_first, capture_longest: the first and the longest pause before a file is copied again.
        clean: between two removals of expired assets and of files that killed processes left.
        restart_pause: before a session or the runner is started again after an unexpected error.
    """

    heartbeat: float = 2.0
    poll: float = 5.0
    probe: float = 4.0
    store_unchanged_after: float = 5.0
    system_stats: float = 30.0
    lookup_interval: float = 5.0
    accept_timeout: float = 30.0
    history_grace: float = 5.0
    stop_retry: float = 2.0
    cancel_retry: float = 0.1
    stalled_after: float = 60.0
    collateral_window: float = 2.0
    deaf_after: float = 2.0
    replace_every: float = 60.0
    stuck_after: float = 60.0
    suspect_after: float = 10.0
    reconnect_first: float = 0.5
    reconnect_most: float = 5.0
    progress_gap: float = 0.1
    flush: float = 0.25
    refusal_backoff: float = 0.1
    abandoned_ttl: float = 86_400.0
    capture_first: float = 5.0
    capture_longest: float = 600.0
    clean: float = 3_600.0
    restart_pause: float = 1.0

    @classmethod
    def scaled(cls, factor: float) -> Intervals:
        """Return the intervals multiplied by ``factor``; for tests."""
        whole = cls()
        return cls(**{field.name: getattr(whole, field.name) * factor for field in fields(cls)})
