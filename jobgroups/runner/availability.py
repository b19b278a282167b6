"""Availability of one backend: since when and why it can take no work, and whether it is offline.

The event sockets and the health probe write it; the other parts of the session read it. All times
are monotonic.
"""

import logging
import time
from collections.abc import MutableMapping

logger = logging.getLogger(__name__)


class Availability:
    """Whether a backend can take work.

    ``unavailable_since`` by backend id is shared by all sessions of the runner: a session that
    fails every second must not restart the clock.
    """

    def __init__(self, backend_id: str, unavailable_since: MutableMapping[str, float]) -> None:
        self._backend_id = backend_id
        self._unavailable_since = unavailable_since
        self.reason = ""  #: Why the backend is unavailable, as a clause.
        self.is_unfit = False  #: Whether the backend answers and can take no work all the same.
        #: Whether the last requests failed, or the backend is unfit: an open event socket proves
        #: nothing then.
        self.requests_fail = False
        self.last_frame_at = 0.0  #: When the last frame came, over any socket.
        self._offline_since: float | None = None

    @property
    def is_available(self) -> bool:
        return self._backend_id not in self._unavailable_since

    def unavailable_for(self) -> float | None:
        """Return for how many seconds the backend has been unavailable; None while it is available."""
        since = self._unavailable_since.get(self._backend_id)
        return None if since is None else time.monotonic() - since

    def offline_for(self) -> float | None:
        """Return for how many seconds neither an answer nor a frame came from the backend; else
        None.

        An unavailable backend may answer all the same: it is unfit, or its event socket does not
        open. Its prompts are followed then.
        """
        since = self._offline_since
        if since is None or self.last_frame_at > since:
            return None
        return time.monotonic() - since

    def mark_unavailable(self, reason: str) -> None:
        """Record that the backend cannot take work, and why, as a clause."""
        if self.is_available:
            self._unavailable_since[self._backend_id] = time.monotonic()
            logger.warning("%s is not reachable: %s", self._backend_id, reason)
        self.reason = reason

    def mark_available(self) -> None:
        self._unavailable_since.pop(self._backend_id, None)

    def connection_failed(self, reason: str) -> None:
        """Record that a connection failed: the backend is unavailable until a new one succeeds."""
        self.requests_fail = True
        self.mark_unavailable(reason)

    def socket_lost(self, reason: str) -> None:
        """Record that the main socket is lost; an error of the requests stays the reason."""
        if self.is_available or not self.requests_fail:
            self.mark_unavailable(reason)

    def probe_failed(self, reason: str, *, answers: bool) -> None:
        """Record a failed probe; ``answers``: the backend answered, though not completely."""
        self.is_unfit = False
        if answers:
            self._offline_since = None
        elif self.offline_for() is None:
            self._offline_since = time.monotonic()
        self.connection_failed(reason)

    def probe_answered(self, unfit: str | None) -> None:
        """Record an answered probe; ``unfit`` is a clause that says why the backend can take no
        work all the same.
        """
        self._offline_since = None
        self.is_unfit = self.requests_fail = unfit is not None
        if unfit is not None:
            self.mark_unavailable(unfit)

    def socket_opened(self) -> None:
        """Record that the main socket is open and the requests succeed."""
        if not self.is_available:
            logger.info("%s is back.", self._backend_id)
        self._offline_since = None
        self.mark_available()
