"""Every pause and limit of the runner, in seconds of a monotonic clock."""

import asyncio
import contextlib
from dataclasses import dataclass

from jobgroups.domain.deliveries import Scaled


@dataclass(frozen=True, slots=True, kw_only=True)
class Intervals(Scaled):
    """The runner's times. The sources are the traps in comfyui-protocol.md and the laws in
    docs/architecture.md.
    """

    heartbeat: float = 2.0  #: Between two heartbeats with which the leases are renewed.
    poll: float = 5.0  #: Between two polls for work without a notification.
    #: Between two probes of a backend; it is online for 10 s after its last response.
    probe: float = 4.0
    #: Before an unchanged observation is stored again. With the next probe that is within the 10 s
    #: after which a backend counts as offline.
    store_unchanged_after: float = 5.0
    system_stats: float = 30.0  #: Between two queries of a backend's version and memory.
    lookup_interval: float = 5.0  #: Between two look-ups of a prompt that is silent or uncertain.
    #: An uncertain prompt that was absent for this long was never accepted.
    accept_timeout: float = 30.0
    history_grace: float = 5.0  #: How long the history of an ended prompt may be late or empty.
    #: How long pictures may come as frames after the history has the end of their prompt, and may
    #: wait for the storage.
    frames_grace: float = 60.0
    stop_retry: float = 2.0  #: After a delete or interrupt, before the next try.
    #: After the first stop of a running prompt by its id, before the next; doubled up to
    #: ``stop_retry``.
    targeted_retry: float = 0.1
    #: A prompt that still runs so long after its first stop request hangs.
    stalled_after: float = 60.0
    #: An interrupted prompt without a stop request counts as interrupted by our stop of another
    #: prompt if it ended this soon after it.
    collateral_window: float = 2.0
    #: An accepted prompt must be followed by a status frame within this time.
    deaf_after: float = 2.0
    replace_every: float = 60.0  #: Between two replacements of a silent socket.
    #: The worker is dead after prompts were pending and none was running for this long.
    stuck_after: float = 60.0
    suspect_after: float = 10.0  #: A fault is shown as suspected after so long.
    reconnect_first: float = 0.5  #: The first pause between two connects.
    reconnect_most: float = 5.0  #: The longest one.
    #: Between two progress frames of a child (contract: at most 10 a second).
    progress_gap: float = 0.1
    key_wait: float = 3.0  #: How long a prompt waits for the key of its submitter.
    flush: float = 0.25  #: Between two stores of progress.
    #: Before the next claim at a backend that refused a prompt. One that refuses at once what
    #: others render for minutes would have a hundred of them a second, at the others' cost.
    refusal_backoff: float = 0.1
    abandoned_ttl: float = 86_400.0  #: How long an abandoned prompt id is kept.
    #: Between two reads of the captures that are due: those of a second share them.
    capture_gap: float = 1.0
    capture_first: float = 5.0  #: The first pause before a file is copied again.
    capture_longest: float = 600.0  #: The longest one.
    #: For how long a process of `files` claims a file; it renews the claim while it lives.
    capture_claim: float = 60.0
    #: Between two searches for files without a SHA-256 that another process has stored.
    hash_search: float = 60.0
    #: Between two removals of expired assets and of files that killed processes left.
    clean: float = 3_600.0
    #: Before a session or the runner is started again after an unexpected error.
    restart_pause: float = 1.0


async def wait_set(event: asyncio.Event, *, within: float) -> bool:
    """Wait at most so many seconds until an event is set; return whether it is."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within):
            await event.wait()
    return event.is_set()
