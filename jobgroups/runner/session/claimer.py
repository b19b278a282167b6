"""A session's claims: what waits for its backend is sent there while a place is free."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Final

from backends.comfyui.versions import keeps_prompt_id
from jobgroups.database.threads import TRANSIENT
from jobgroups.queries import work
from jobgroups.services import attempts, claims
from jobgroups.services.claims import Claim

if TYPE_CHECKING:
    from jobgroups.runner.session.session import BackendSession

logger = logging.getLogger(__name__)

#: Seconds: a database that was cut off in the middle of a commit may still carry it out.
_UNSURE_FOR: Final = 60.0


class Claimer:
    """Claims and sends for one session."""

    def __init__(self, session: BackendSession) -> None:
        self._session = session
        #: Set where there may be something to claim.
        self.work_available = asyncio.Event()
        #: Whether a child may wait for its pause to end; while nothing waits, nobody is asked.
        self._may_pause = True
        self._is_claiming = False
        #: Until when, in monotonic time, a claim may turn up whose answer was lost.
        self._unsure_until = float("-inf")
        #: Until when, in monotonic time, nothing is claimed since a prompt was refused.
        self._rests_until = float("-inf")

    def back_off(self) -> None:
        """Claim nothing for a moment: the backend has refused a prompt, and may refuse the next as fast."""
        self._rests_until = time.monotonic() + self._session.intervals.refusal_backoff

    async def run(self) -> None:
        """Claim and send while something waits and a place is free; else wait to be woken."""
        session = self._session
        while True:
            if time.monotonic() < self._unsure_until:
                await self._release_orphaned_claims()
            await self._claim_all()
            patience = await self._poll_delay() if self._may_pause else session.intervals.poll
            if (rest := self._rests_until - time.monotonic()) > 0:
                patience = min(patience, rest)
            try:
                async with asyncio.timeout(patience):
                    await self.work_available.wait()
            except TimeoutError:
                pass
            # Whoever has a child wait here rings, and the runner does so every few seconds after.
            self._may_pause = self.work_available.is_set() or patience < session.intervals.poll
            self.work_available.clear()

    @property
    def has_no_pending_claim(self) -> bool:
        """Whether every claim there is has its driver: none is being stored, or may be and is not known."""
        return not self._is_claiming and time.monotonic() >= self._unsure_until

    async def _poll_delay(self) -> float:
        """Return for how many seconds nothing is to be claimed unless somebody rings."""
        session = self._session
        patience = session.intervals.poll
        if self._may_claim():
            due_in = await session.database.run_with_retry(work.next_due_in, session.backend_id)
            if due_in is not None:
                return min(due_in, patience)
        return patience

    def _may_claim(self) -> bool:
        """Whether it is worth asking; what was said of the backend is decided under the fence."""
        session = self._session
        version = session.health.version
        return (
            not session.is_handing_over
            and time.monotonic() >= self._rests_until
            and session.reconciler.ran_once
            and session.desired_state.is_schedulable
            and session.health.is_known
            and keeps_prompt_id(version)
            and session.sockets.client_id is not None
            and session.is_reachable
            and session.lease_is_fresh
            and len(session.drivers) < session.context.depth
        )

    async def _claim_all(self) -> None:
        session = self._session
        while self._may_claim():
            client_id = session.sockets.client_id
            assert client_id is not None  # noqa: S101 see _may_claim
            claim = await self._claim(client_id)
            if claim is None:
                return
            try:
                session.start_attempt(session.specs.from_claim(claim))
            except Exception as error:
                logger.exception("%s cannot be made ready", claim.child_id)
                message = f"Its workflow cannot be made ready: {error}"
                await session.fail_broken(claim.attempt_id, message)

    async def _claim(self, client_id: str) -> Claim | None:
        """Claim a child; None: nothing is to be claimed, or the database does not say."""
        session = self._session
        self._is_claiming = True
        try:
            # Called, not stored: what repeats a claim that was taken claims another child.
            return await session.database.run(
                claims.child_claim,
                fence=session.fence,
                client_id=client_id,
                depth=session.context.depth,
            )
        except TRANSIENT as error:
            await self._on_unknown_commit(error)
            return None
        finally:
            self._is_claiming = False

    async def _on_unknown_commit(self, error: Exception) -> None:
        """Look soon, and for a while, whether the claim was stored and its answer lost."""
        session = self._session
        logger.warning(
            "%s: the database did not say whether it took a claim (%s); looking.",
            session.backend_id,
            str(error).strip() or type(error).__name__,
        )
        self._unsure_until = time.monotonic() + _UNSURE_FOR
        await asyncio.sleep(session.intervals.restart_pause)
        self.work_available.set()

    async def _release_orphaned_claims(self) -> None:
        """Let children wait again whose claim nobody here knows of: nothing of it was sent."""
        session = self._session
        stored = await session.database.run_with_retry(claims.stored_intents, fence=session.fence)
        for attempt_id in sorted(stored - session.owned_attempt_ids):
            await session.database.run_with_retry(
                attempts.attempt_not_sent, attempt_id=attempt_id, fence=session.fence
            )
