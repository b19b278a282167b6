"""Reconciles one backend with its desired state, and ends or moves children that wait there too
long.

Everything is read from rows and repeated until it is done: the next runner continues what a killed
one had not finished.
"""

import logging
import time
from dataclasses import replace
from typing import Final

from backends.comfyui.errors import AnswerTooLarge, BackendError
from backends.states import Hold
from jobgroups.domain.clock import monotonic_now, now
from jobgroups.domain.failures import FailureClass
from jobgroups.domain.text import sentence
from jobgroups.runner.context import SessionContext
from jobgroups.runner.intervals import wait_set
from jobgroups.runner.session.attempts import ActiveAttempts
from jobgroups.services import expiry, holds, outages

logger = logging.getLogger(__name__)

_OLD_EVERY: Final = 60.0  #: Seconds between two expirations by age; less if the limit is short.


class Reconciler:
    """Applies the desired state of one session's backend, and expires its queued children."""

    def __init__(self, context: SessionContext, attempts: ActiveAttempts) -> None:
        self._context = context
        self._attempts = attempts
        self._store = context.store
        #: Whether children that waited too long before this session were ended: they must not be
        #: sent.
        self.ran_once = False
        #: When queued children were last expired by age, and whether all prompts had been looked up
        #: by then.
        self._expired_at, self._was_known = float("-inf"), False

    async def run(self) -> None:
        """Reconcile on every notification and every few seconds, until cancelled."""
        while True:
            self._context.reconcile_now.clear()
            await self._apply_desired_state()
            await self._move_what_was_sent()
            await self._expire_queued()
            if not self.ran_once:
                self.ran_once = True
                self._context.work_available.set()
            await wait_set(self._context.reconcile_now, within=self._context.intervals.poll)

    async def end_waits(self) -> None:
        """Move or end the children that wait too long, for a session that cannot do more."""
        if self._context.desired_state.enabled:
            await self._move_what_waits()
            await self._expire_queued()
        else:
            await self._store(expiry.children_fail_disabled)

    async def _apply_desired_state(self) -> None:
        desired = self._context.desired_state
        if not desired.enabled:
            await self._store(expiry.children_fail_disabled)
            return
        if desired.hold and desired.evict:
            self._attempts.request_stop(await self._store(holds.prompts_evict))
        until = desired.quarantine_until
        if desired.quarantined and until is not None and until <= now():
            await self._probe()
        await self._move_what_waits()
        if desired.hold is Hold.DRAIN and await self._store(holds.backend_finish_drain):
            logger.info("%s is drained, and disabled.", self._context.backend_id)

    async def _probe(self) -> None:
        """End the quarantine if the backend answers; else probe it again soon."""
        client = self._context.client
        try:
            await client.system_stats()
            await client.queue()
        except AnswerTooLarge:
            pass
        except BackendError as error:
            logger.info("%s stays quarantined: %s", self._context.backend_id, error.detail)
            return
        if await self._store(holds.quarantine_expire):
            logger.info("%s is on probation.", self._context.backend_id)
            free = replace(self._context.desired_state, quarantined_at=None, quarantine_until=None)
            self._context.set_desired_state(free)

    async def _move_what_waits(self) -> None:
        """Move queued children to other backends if this one takes no prompts for a while."""
        context, desired = self._context, self._context.desired_state
        name, away = desired.name, context.availability.unavailable_for()
        if desired.quarantined:
            await self._store(expiry.children_reassign, reason=f"{name} is quarantined.")
        elif desired.hold is Hold.DRAIN:
            by = f" by {desired.changed_by}" if desired.changed_by else ""
            await self._store(expiry.children_reassign, reason=f"{name} is being drained{by}.")
        elif away is not None and away >= context.runner.settings.move_after_s:
            reason = self._away_reason(away)
            await self._store(expiry.children_reassign, reason=reason, kind=self._away_kind)

    async def _move_what_was_sent(self) -> None:
        """Move the children of sent prompts if the backend is offline, held or disabled or not."""
        context = self._context
        offline = context.availability.offline_for()
        if offline is not None and offline >= context.runner.settings.move_after_s:
            reason = self._away_reason(offline)
            self._attempts.request_stop(await self._store(outages.attempts_move, reason=reason))

    @property
    def _away_kind(self) -> FailureClass:
        return (
            FailureClass.STALLED
            if self._context.availability.is_unfit
            else FailureClass.UNREACHABLE
        )

    def _away_reason(self, seconds: float) -> str:
        context = self._context
        away = f"{context.desired_state.name} has been away for {seconds:.0f} s"
        return sentence(f"{away}: {context.availability.reason}")

    async def _expire_queued(self) -> None:
        """Fail the children that wait too long: for an unavailable backend, or for a day."""
        context = self._context
        # A prompt that completed while no runner was alive has a result: its driver looks it up
        # first.
        is_known = all(machine.was_looked_up for machine in self._attempts.machines)
        away = context.availability.unavailable_for()
        if away is not None and away >= context.runner.settings.move_after_s:
            await self._store(expiry.children_unblock)
        if is_known and away is not None and away >= context.runner.settings.give_up_s:
            reason = context.availability.reason
            await self._store(
                expiry.children_fail_unavailable, away_s=away, reason=reason, kind=self._away_kind
            )
        await self._end_what_waits_for_a_quarantine()
        limit = context.runner.settings.queued_limit_s
        # The limit is a day; a query per second of each backend would be wasted.
        every = min(_OLD_EVERY, limit / 100)
        if is_known != self._was_known or time.monotonic() >= self._expired_at + every:
            self._was_known, self._expired_at = is_known, time.monotonic()
            await self._store(expiry.children_expire, limit_s=limit, unsent_only=not is_known)

    async def _end_what_waits_for_a_quarantine(self) -> None:
        """Fail the children that have waited too long for a backend that the Director itself
        quarantined.

        A quarantine by a user keeps them: an operator request, which the queued limit bounds.
        """
        desired, give_up_s = self._context.desired_state, self._context.runner.settings.give_up_s
        if desired.quarantined_at is None or desired.quarantine_by:
            return
        lasts = (monotonic_now() - desired.quarantined_at).total_seconds()
        if lasts >= give_up_s:
            name, reason = desired.name, desired.quarantine_reason
            message = f"{name} has been quarantined for {lasts:.0f} s: {reason}"
            await self._store(expiry.children_fail_unsent, message=message)
