"""What was said of a session's backend, carried out; and what waits for it too long.

All of it is read from rows and repeated until it is done: a runner that dies between somebody's word
and the deed leaves nothing behind that the next one does not see.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from backends.comfyui.errors import AnswerTooLarge, BackendError
from backends.states import Hold
from jobgroups.domain.clock import monotonic_now, now
from jobgroups.domain.failures import FailureClass
from jobgroups.domain.text import sentence
from jobgroups.services import expiry, holds, outages

if TYPE_CHECKING:
    from jobgroups.runner.session.session import BackendSession

logger = logging.getLogger(__name__)

#: Seconds between two looks for what waits too long; sooner where the limit is short.
_OLD_EVERY: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DesiredState:
    """What a backend's row says that its session is to do."""

    enabled: bool = True
    hold: Hold = Hold.NONE
    #: Whether what runs there is given back.
    evict: bool = False
    by: str = ""
    quarantined_at: dt.datetime | None = None
    #: When it is tried again; None: when a person says so.
    quarantine_until: dt.datetime | None = None
    #: Who said so; "": the Director itself.
    quarantine_by: str = ""
    quarantine_reason: str = ""

    @property
    def quarantined(self) -> bool:
        """Whether it is set aside."""
        return self.quarantined_at is not None

    @property
    def is_schedulable(self) -> bool:
        """Whether anything may be sent there."""
        return self.enabled and not self.hold and not self.quarantined


def desired_state(row: Mapping[str, Any]) -> DesiredState:
    """Return the orders out of a backend's row's values."""
    return DesiredState(
        enabled=row["enabled"],
        hold=Hold(row["hold"]),
        evict=row["evict"],
        by=row["changed_by"],
        quarantined_at=row["quarantined_at"],
        quarantine_until=row["quarantine_until"],
        quarantine_by=row["quarantine_by"],
        quarantine_reason=row["quarantine_reason"],
    )


class Reconciler:
    """Carries out one session's desired, and ends or moves what waits for its backend too long."""

    def __init__(self, session: BackendSession) -> None:
        self._session = session
        #: Set where the orders changed, or something ended that they wait for.
        self.work_available = asyncio.Event()
        #: Whether what waited too long before this session began was ended: it is not to be sent.
        self.ran_once = False
        #: When it was last looked for what waits too long, and whether all drivers had looked by then.
        self._looked_at, self._was_known = float("-inf"), False

    async def run(self) -> None:
        """Look on every ring, and every few seconds without one, until cancelled."""
        while True:
            self.work_available.clear()
            await self._apply_desired_state()
            await self._move_what_was_sent()
            await self._expire_queued()
            if not self.ran_once:
                self.ran_once = True
                self._session.notify()
            try:
                async with asyncio.timeout(self._session.intervals.poll):
                    await self.work_available.wait()
            except TimeoutError:
                pass

    async def end_waits(self) -> None:
        """Move or end what has waited too long for a backend at which this session does nothing else."""
        if self._session.desired_state.enabled:
            await self._move_what_waits()
            await self._expire_queued()
        else:
            await self._store(expiry.children_fail_disabled)

    # --- orders -----------------------------------------------------------------------------------

    async def _apply_desired_state(self) -> None:
        desired = self._session.desired_state
        if not desired.enabled:
            await self._store(expiry.children_fail_disabled)
            return
        if desired.hold and desired.evict:
            self._session.stop_attempts(await self._store(holds.prompts_evict))
        if desired.quarantined and _is_over(desired):
            await self._probe()
        await self._move_what_waits()
        if desired.hold is Hold.DRAIN and await self._store(holds.backend_finish_drain):
            logger.info("%s is drained, and disabled.", self._session.backend_id)

    async def _probe(self) -> None:
        """Let the backend out of quarantine if it answers; else it is asked again soon."""
        client = self._session.client
        try:
            await client.system_stats()
            await client.queue()
        except AnswerTooLarge:
            pass
        except BackendError as error:
            logger.info("%s stays set aside: %s", self._session.backend_id, error.detail)
            return
        if await self._store(holds.quarantine_expire):
            logger.info("%s is on probation.", self._session.backend_id)
            free = replace(self._session.desired_state, quarantined_at=None, quarantine_until=None)
            self._session.set_desired_state(free)

    async def _move_what_waits(self) -> None:
        """Have what waits here and may go elsewhere go, where nothing is sent here for a while."""
        session, desired = self._session, self._session.desired_state
        name, away = session.backend_id, session.health.unavailable_for()
        if desired.quarantined:
            await self._store(expiry.children_reassign, reason=f"{name} is quarantined.")
        elif desired.hold is Hold.DRAIN:
            by = f" by {desired.by}" if desired.by else ""
            await self._store(expiry.children_reassign, reason=f"{name} is being drained{by}.")
        elif away is not None and away >= session.context.move_after_s:
            unfit = session.health.is_unfit
            kind = FailureClass.STALLED if unfit else FailureClass.UNREACHABLE
            reason = self._away_reason(away)
            await self._store(expiry.children_reassign, reason=reason, kind=kind)

    async def _move_what_was_sent(self) -> None:
        """Have what was sent to an offline backend go elsewhere, also where that is held or disabled."""
        session = self._session
        offline = session.health.offline_for()
        if offline is not None and offline >= session.context.move_after_s:
            reason = self._away_reason(offline)
            session.stop_attempts(await self._store(outages.attempts_move, reason=reason))

    def _away_reason(self, seconds: float) -> str:
        session = self._session
        away = f"{session.backend_id} has been away for {seconds:.0f} s"
        return sentence(f"{away}: {session.health.away_reason}")

    # --- too long ---------------------------------------------------------------------------------

    async def _expire_queued(self) -> None:
        """End the children that wait too long: for a backend that is away, or for a day."""
        session = self._session
        # What was rendered while nobody looked has its picture: it does not end before its driver asked.
        is_known = all(driver.was_looked_up for driver in session.drivers.values())
        away = session.health.unavailable_for()
        if away is not None and away >= session.context.move_after_s:
            await self._store(expiry.children_unblock)
        if is_known and away is not None and away >= session.context.give_up_s:
            unfit = session.health.is_unfit
            await self._store(
                expiry.children_fail_unavailable,
                away_s=away,
                reason=session.health.away_reason,
                kind=FailureClass.STALLED if unfit else FailureClass.UNREACHABLE,
            )
        await self._end_what_waits_for_a_quarantine()
        limit = session.context.queued_limit_s
        # A day's wait is not measured by the second, and hundreds of backends would ask.
        every = min(_OLD_EVERY, limit / 100)
        if is_known != self._was_known or time.monotonic() >= self._looked_at + every:
            self._was_known, self._looked_at = is_known, time.monotonic()
            await self._store(expiry.children_expire, limit_s=limit, unsent_only=not is_known)

    async def _end_what_waits_for_a_quarantine(self) -> None:
        """End the children that have waited too long for a backend that the Director itself set aside.

        One that a person set aside keeps them: an operator request, which the queued limit bounds.
        """
        desired, give_up_s = self._session.desired_state, self._session.context.give_up_s
        if desired.quarantined_at is None or desired.quarantine_by:
            return
        lasts = (monotonic_now() - desired.quarantined_at).total_seconds()
        if lasts >= give_up_s:
            name, reason = self._session.backend_id, desired.quarantine_reason
            message = f"{name} has been quarantined for {lasts:.0f} s: {reason}"
            await self._store(expiry.children_fail_quarantined, message=message)

    async def _store(self, work: Any, **fields: Any) -> Any:
        return await self._session.database.run_with_retry(
            work, fence=self._session.fence, **fields
        )


def _is_over(desired: DesiredState) -> bool:
    return desired.quarantine_until is not None and desired.quarantine_until <= now()
